"""The fused node, specified once: what it computes, what it is called, what it carries.

The rewriter that emits the fused node, the ONNX function body, the kernels and the TensorRT plugin have to agree about
it.  All of them take its names and its meaning from here.  ``docs/specification.md`` is the same text for people.

Meaning, in exact arithmetic, for every batch ``b``, head ``h`` and query row ``i``::

    score[j]  = scale * dot(query[b, h, i], key[b, h // G, j]) + slopes[h] * d(i, j)
                + mask[b, h, i, j] + key_bias[b, h, j]
    output    = sum_j softmax_j(score) * value[b, h // G, j]             over the visible keys j

with ``G = H / H_kv`` and ``row(i) = i + (S_kv - S_q)``, the key index of query row ``i`` (queries are
aligned with the *last* keys, so a KV cache needs no special case):

===========  =========================================================================
``linear``     d(i, j) = p(j) - p(row(i));  p(j) = j, or key_positions[b, j] when that input is present
               (row(i) is clamped to 0 .. S_kv - 1 when it indexes key_positions)
``symmetric``  d(i, j) = -abs(row(i) - j)
any other      what its record in ``patterns/forms`` says, of j - row(i)
===========  =========================================================================

The linear form is written relative to the row.  A constant added to a whole row of scores is free
(softmax is invariant under it), but the absolute form ``slope * j`` loses the scores in 16 bits.

Members with ``key_lengths`` have a number of keys per batch.  With ``L = min(max(key_lengths[b], 0), S_kv)``, L stands
in for S_kv in all of this.  Keys L and later of batch b do not exist, are in no sum and in no mean, and what lies there
does not matter.  Only the extent of the mask stays S_kv.  ``rows = "last"`` aligns the queries with the last of the L
keys, ``rows = "first"`` with the first ones, so that ``row(i) = i``.  Without any key every row yields zeros.

How the four lie in the tensors of a graph is a matter of views (``layout.py``) and changes nothing of this.

A key ``j`` is *visible* to row ``i`` when all of these hold: ``causal == 0`` or ``j <= row(i)``;
``window_left == -1`` or ``row(i) - j <= window_left``; ``window_right == -1`` or ``j - row(i) <=
window_right``; a boolean mask is True; an additive mask, ``key_bias`` and the sum of both are above the
lowest finite float32.  A row without any visible key yields the mean of ``value`` over all S_kv keys
(``empty_rows = "mean"``: what a decomposed Softmax gives when every score of the row is ``finfo.min``) or
zeros (``empty_rows = "zero"``: what ONNX ``Attention`` gives).  Neither is NaN, so such a row can never
reach a valid token: there its weight is an exact zero, and zero times a finite number is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from ..patterns.forms import BY_NAME, FORMS, LINEAR, Form
from .layout import BHSD, PLAIN, VIEWS, Layout

if TYPE_CHECKING:
    from onnx import NodeProto

DOMAIN = "alibi"
DOMAIN_VERSION = 1
PLUGIN_NAMESPACE = "alibi"
PLUGIN_VERSION = "1"
FAMILY = "AlibiAttention"

LOWEST_FLOAT32 = -3.4028234663852886e38
"""An additive mask or key bias at or below this hides its key; also a hidden key's score in the function body."""

UNBOUNDED = -1
"""A window that does not end on this side."""

LARGEST_WINDOW = (1 << 24) - 1
"""Distances up to this one are exact in float32, and so is a comparison with it."""


class MaskKind(Enum):
    """The optional mask input, broadcastable to [B, H, S_q, S_kv], always of rank 4."""

    NONE = "none"
    BOOLEAN = "boolean"
    ADDITIVE = "additive"


class EmptyRows(Enum):
    """What a row without any visible key yields."""

    MEAN = "mean"
    ZERO = "zero"


class Alignment(Enum):
    """Which keys the queries of a node with key lengths belong to: the node's attribute ``rows``."""

    LAST = "last"
    """row(i) = i + L - S_q: the last query is the last key, as in decoders and caches."""
    FIRST = "first"
    """row(i) = i: rows are keys, as in encoders whose batches are padded on the right."""


@dataclass(frozen=True, order=True)
class Variant:
    """One member of the family: everything that decides the node's inputs and its function body.

    TensorRT's ONNX parser finds plugins and functions by ``op_type`` alone and takes no empty inputs,
    so every input signature and every distinct body needs an ``op_type`` of its own.

    Attributes:
        form: Name of a :class:`Form`.
        causal: Keys after the row are hidden.
        positions: There is an input ``key_positions``.
        mask: Value of a :class:`MaskKind`.
        key_bias: There is an input ``key_bias``.
        window: The node has attributes ``window_left`` and ``window_right``.
        lengths: There is an input ``key_lengths``, and an attribute ``rows``.
    """

    form: str
    causal: bool
    positions: bool
    mask: str
    key_bias: bool = False
    window: bool = False
    lengths: bool = False

    @property
    def op_type(self) -> str:
        """The node's op_type, e.g. ``AlibiAttentionCausalPositionsBooleanMask``."""
        name = "".join(part.capitalize() for part in self.form.split("_"))
        causal = "Causal" if self.causal else ""
        # The causal linear bias is what people know as ALiBi, so it goes by that alone.
        shape = causal if causal and self.form == LINEAR.name else f"{causal}{name}"
        positions = "Positions" if self.positions else ""
        key_bias = "KeyBias" if self.key_bias else ""
        window = "Window" if self.window else ""
        lengths = "Lengths" if self.lengths else ""
        mask = "" if self.mask == MaskKind.NONE.value else f"{self.mask.capitalize()}Mask"
        return f"{FAMILY}{shape}{positions}{key_bias}{window}{lengths}{mask}"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the node's inputs, in order."""
        names = ["query", "key", "value", "slopes"]
        if self.mask != MaskKind.NONE.value:
            names.append("mask")
        if self.positions:
            names.append("key_positions")
        if self.key_bias:
            names.append("key_bias")
        if self.lengths:
            names.append("key_lengths")
        return tuple(names)

    @property
    def bias(self) -> Form:
        """The form of the bias."""
        return BY_NAME[self.form]

    @property
    def can_hide(self) -> bool:
        """Whether a node of this member can have a row without any visible key."""
        hides = self.causal or self.window or self.key_bias or self.mask != MaskKind.NONE.value
        return hides or self.lengths


def family_of(forms: Sequence[Form]) -> tuple[Variant, ...]:
    """The members of these forms, in their fixed order.

    Raises:
        ValueError: Two of them would have the same op_type.
    """
    members = tuple(
        Variant(form.name, each.causal, each.positions, mask.value, key_bias, window, lengths)
        for lengths, key_bias in ((False, False), (False, True), (True, False))
        for window in (False, True)
        for form in forms
        for each in form.members
        for mask in MaskKind
        if not (lengths and each.positions)
    )
    names = [member.op_type for member in members]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two forms in patterns/forms have the same op_type: {', '.join(twice)}")
    return members


FAMILY_MEMBERS: tuple[Variant, ...] = family_of(FORMS)
"""The closed family: 78 members, those with key lengths last."""

KERNEL_MEMBERS: tuple[Variant, ...] = tuple(m for m in FAMILY_MEMBERS if m.bias.kernels)
"""The members that have kernels.  Native libraries register exactly these, and function bodies compute the others."""

PREFER_KEY_BIAS = False
"""The one switch between an additive mask [B, 1, 1, S_kv] and a key bias, which say the same: what is emitted where
either would do.  Masks are what all kernels take."""

BY_OP_TYPE: dict[str, Variant] = {member.op_type: member for member in FAMILY_MEMBERS}


def is_fused(node: NodeProto) -> bool:
    """Whether a node belongs to the family."""
    return node.domain == DOMAIN and node.op_type in BY_OP_TYPE


@dataclass(frozen=True)
class FusedAttention:
    """The attributes of one fused node.

    Attributes:
        variant: Decides ``op_type``, inputs and body.
        scale: Multiplies the dot products, before the bias is added.
        empty_rows: What a row without any visible key yields.
        window_left: Keys further before the row are hidden; -1 for no bound.  Members with a window only.
        window_right: Keys further after the row are hidden; -1 for no bound.  Members with a window only.
        parameters: The parameters of the form, in its order.
        layout: How its tensors lie in those of the graph.
        views: The node says so by attributes even where all of its tensors are [B, H, S, D], because another node uses
            the same function body.
        rows: Which keys the queries belong to.  Members with key lengths only; all nodes of one op_type in a file have
            the same, because they share a function body.

    Raises:
        ValueError: A window is given to a member without one, or is below -1; the form has other parameters; or rows
            are aligned with the first keys in a member without key lengths.
    """

    variant: Variant
    scale: float
    empty_rows: EmptyRows = EmptyRows.MEAN
    window_left: int = UNBOUNDED
    window_right: int = UNBOUNDED
    parameters: tuple[float, ...] = ()
    layout: Layout = PLAIN
    views: bool = False
    rows: Alignment = Alignment.LAST

    def __post_init__(self) -> None:
        sides = (self.window_left, self.window_right)
        if min(sides) < UNBOUNDED or max(sides) > LARGEST_WINDOW:
            raise ValueError(f"a window has from 0 to {LARGEST_WINDOW} keys on a side, or -1: {sides}")
        if not self.variant.window and sides != (UNBOUNDED, UNBOUNDED):
            raise ValueError(f"{self.variant.op_type} has no window")
        if not self.variant.lengths and self.rows is not Alignment.LAST:
            raise ValueError(f"{self.variant.op_type} has no key lengths; its rows are aligned with the last keys")
        wanted = self.variant.bias.attributes
        if len(self.parameters) != len(wanted):
            raise ValueError(f"{self.variant.op_type} takes the parameters {wanted}, not {self.parameters}")

    def attributes(self) -> dict[str, float | int | str | list[int]]:
        """The node's ONNX attributes; every one is present on every node (no defaults to guess)."""
        window = {"window_left": self.window_left, "window_right": self.window_right}
        views = self.views or not self.layout.plain
        return {
            "bias": self.variant.form,
            "causal": int(self.variant.causal),
            "empty_rows": self.empty_rows.value,
            "layout": VIEWS if views else BHSD,
            "plugin_namespace": PLUGIN_NAMESPACE,
            "plugin_version": PLUGIN_VERSION,
            **({"rows": self.rows.value} if self.variant.lengths else {}),
            "scale": self.scale,
            **(self.layout.attributes() if views else {}),
            **(window if self.variant.window else {}),
            **dict(zip(self.variant.bias.attributes, self.parameters, strict=True)),
        }
