"""Number types that do not hold what a bias needs.  They refuse a site where they round or wrap."""

from __future__ import annotations

from onnx import TensorProto

from ...algebra import Poly, Read, render
from ..interpret import Interpreter
from ..interpret.rounding import NARROW, exact_below, rounding_in
from ..interpret.types import limit_of
from ..records.reading import Attention
from ..verdicts import Code, Refuser, Stage

_refuse = Refuser(Stage.BIAS)


def check_types(interpreter: Interpreter, attention: Attention, term: Poly) -> None:
    """Refuse a term of a bias that a narrower type has changed.

    Raises:
        Refusal: The term is rounded, or made of integers that wrap around.
    """
    rounding = rounding_in(term)
    if rounding is not None and any(a.depends_on(attention.frame.key) for a in rounding.arguments):
        kind = rounding.function.removeprefix("round_")
        what = render(rounding.arguments[0])[:120]
        raise _refuse(
            Code.NARROW_TYPE,
            attention,
            f"{what} is rounded to {kind}, which holds integers up to {exact_below(rounding)} only",
            term=term,
        )
    if not interpreter.wrapping:
        return
    for read in sorted(a for a in term.all_atoms() if isinstance(a, Read)):
        visited = dict.fromkeys(tensor for (tensor, _), _ in interpreter.visited(read.tensor, read.indices))
        wrapped = [tensor for tensor in visited if tensor in interpreter.wrapping]
        if not wrapped:
            continue
        # Wider types behind a narrow one hold what it made of the elements, so the narrowest is where it happened.
        tensor = min(reversed(wrapped), key=lambda t: _bits(interpreter.wrapping[t]))
        raise _refuse(
            Code.NARROW_TYPE,
            attention,
            f"{_name(interpreter.wrapping[tensor])} does not hold its elements at every length",
            tensor=tensor,
            term=term,
        )


def rounding_step(interpreter: Interpreter) -> list[str]:
    """What a proof says where the scores are of a narrow type themselves."""
    return [
        f"computed in {NARROW[dtype][0]} as the scores are: positions beyond {1 << NARROW[dtype][1]} round as they did"
        for dtype in sorted(interpreter.inexact)[-1:]
    ]


def limits(interpreter: Interpreter, attention: Attention) -> list[str]:
    """Below which length narrow integers hold what a site's scores are computed from, as one assumption for all."""
    if not interpreter.limited:
        return []
    lowest: tuple[int, str, int] | None = None
    for (tensor, _), value in interpreter.visited(attention.scores, attention.scores_index):
        dtype = interpreter.limited.get(tensor)
        if dtype is not None:
            limit = limit_of(value, dtype)
            lowest = min(lowest, (limit, tensor, dtype)) if lowest is not None else (limit, tensor, dtype)
    if lowest is None:
        return []
    limit, tensor, dtype = lowest
    return [f"sizes and integers at run time stay below {limit}, or {_name(dtype)} wraps around in '{tensor}'"]


def _name(dtype: int) -> str:
    return TensorProto.DataType.Name(dtype).lower()


def _bits(dtype: int) -> int:
    """The bits of an integer type, as its name says."""
    return int("".join(c for c in _name(dtype) if c.isdigit()) or 1)
