"""A site as algebra, with the model's own tensor names."""

from __future__ import annotations

from ..algebra import Index, Poly, render
from ..fused.family import UNBOUNDED
from ..patterns.layouts import Axis
from ..rewriter.records.binding import Binding
from ..rewriter.records.proof import Proof
from ..rewriter.records.reading import Attention, View

WIDTH = 400
"""Characters of one formula.  A term of a thousand characters explains nothing."""


def short(text: str, limit: int = WIDTH) -> str:
    """The text, cut where it is too long to be read."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def view_text(view: View) -> str:
    """``tensor[b, h, i, d]``; ``(b h)`` where an axis holds several indices."""
    axes = [" ".join(_index_name(i) for i in axis) if axis else "0" for axis in view.axes]
    return f"{view.tensor}[{', '.join(f'({a})' if ' ' in a else a for a in axes)}]"


def _index_name(index: Index) -> str:
    # The index that a product sums over is named after its result as well.
    return Axis.FEATURE.value if index.role is Axis.FEATURE else index.name


def number(value: float) -> str:
    """Six significant digits."""
    return f"{value:.6g}"


def extents(attention: Attention) -> str:
    """``b < s43, h < 6, i < S_q = s53, j < S_kv = s53``."""
    sizes = {attention.frame.row: "S_q = ", attention.frame.key: "S_kv = "}
    return ", ".join(f"{i.name} < {sizes.get(i, '')}{short(repr(i.bound), 80)}" for i in attention.frame.order)


def indices(attention: Attention) -> str:
    """The names of the site's axes: ``b, h, i, j``."""
    return ", ".join(i.name for i in attention.frame.order)


def formula(binding: Binding) -> tuple[str, ...]:
    """What a proven site computes, line by line."""
    proof = binding.proof
    attention = proof.attention
    score = f"score[{indices(attention)}]"
    factor = "" if attention.factor is None else f" * {short(repr(attention.factor), 80)}"
    lines = [
        f"{view_text(binding.output)} = sum_j softmax_j({score}) * {view_text(attention.value)}",
        f"{score} = {number(float(attention.scale))}{factor} * "
        f"sum_d {view_text(attention.query)} * {view_text(attention.key)}",
    ]
    if not proof.rounded.terms:
        lines.append(_term(bias_text(proof)))
    if proof.rest.terms:
        lines.append(_term(short(render(proof.rest))))
    conditions = visibility(proof)
    if conditions:
        lines.append(f"    over the keys j with {' and '.join(conditions)}")
    if proof.rounded.terms:
        lines.append(f"before it was rounded, the bias is {bias_text(proof)}")
    if proof.positions is not None:
        lines.append(f"position[b, j] = {short(render(proof.positions.value))}")
    if proof.runtime_slopes is not None:
        lines.append(f"slope[h] = {short(render(proof.runtime_slopes))}")
    lines.append(f"where {extents(attention)}")
    return tuple(lines)


def _term(text: str) -> str:
    """A line that adds a term."""
    return f"    - {text[1:]}" if text.startswith("-") else f"    + {text}"


def bias_text(proof: Proof) -> str:
    """The bias, up to what is constant along a row."""
    head = "[h]" if proof.attention.frame.head is not None else ""
    if proof.positions is not None:
        return f"slope{head} * position[b, j]"
    return proof.form.text(f"slope{head}", proof.parameters)


def visibility(proof: Proof) -> list[str]:
    """The conditions under which a key is visible."""
    own = ["j <= i + (S_kv - S_q)"] if proof.causal else []
    if proof.window.left != UNBOUNDED:
        own.append(f"i + (S_kv - S_q) - j <= {proof.window.left}")
    if proof.window.right != UNBOUNDED:
        own.append(f"j - i - (S_kv - S_q) <= {proof.window.right}")
    return own + [short(c.text) for c in proof.hidden]


def reading(attention: Attention) -> tuple[str, ...]:
    """What a site that is not proven computes, as far as it is known."""
    terms: Poly = attention.terms
    scale = number(float(attention.scale))
    product = f"sum_d {view_text(attention.query)} * {view_text(attention.key)}"
    lines = [f"score[{indices(attention)}] = {scale} * {product}"]
    if terms.terms:
        lines.append(_term(short(render(terms))))
    if attention.visible:
        lines.append(f"    over the keys j with {' and '.join(short(c.text) for c in attention.visible)}")
    lines.append(f"where {extents(attention)}")
    return tuple(lines)
