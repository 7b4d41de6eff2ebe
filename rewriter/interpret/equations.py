"""The equation of an Einsum as one letter per axis: an ellipsis is spelled out, an implicit result is written."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from ...graph.index import attribute

FIRST_BROADCAST = 0x1000
"""Axes under an ellipsis get letters that no equation has, counted from the last such axis."""


def einsum_labels(node: NodeProto, ranks: Sequence[int | None]) -> tuple[list[str], str | None]:
    """Letters of the operands and of the result; ([], None) where an axis is repeated or a rank does not fit.

    Args:
        node: The Einsum.
        ranks: Of its operands, None where unknown.
    """
    equation = attribute(node, "equation", b"")
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    left, arrow, result = text.partition("->")
    operands = left.split(",")
    if not text or len(operands) != len(ranks):
        return [], None
    spread = [_broadcast(term, rank) for term, rank in zip(operands, ranks, strict=True)]
    if any(s is None for s in spread):
        return [], None
    terms = [t.replace("...", s or "") for t, s in zip(operands, spread, strict=True)]
    widest = max((s for s in spread if s is not None), key=len, default="")
    letters = "".join(operands).replace("...", "")
    if not arrow:
        result = widest + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    elif "..." in result:
        result = result.replace("...", widest, 1)
    elif widest:
        return [], None  # what is under an ellipsis is kept; the standard has no sum over it
    whole = (*terms, result)
    if any("." in t or len(set(t)) != len(t) for t in whole) or set(result) - set("".join(terms)):
        return [], None
    return terms, result


def _broadcast(term: str, rank: int | None) -> str | None:
    """The letters of the axes under the ellipsis of an operand; None where its rank does not fit the term."""
    named = len(term.replace("...", ""))
    if "..." not in term:
        return "" if rank is None or rank == named else None
    if rank is None or rank < named or term.count("...") > 1:
        return None
    return "".join(chr(FIRST_BROADCAST + k) for k in reversed(range(rank - named)))
