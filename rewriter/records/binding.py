"""Which existing tensors stand for the inputs of a fused node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from ...algebra import Number
from ...fused.layout import AS_IT_IS, OPERANDS, RESULT, Layout, OperandView, OutputView
from ...patterns.masks import HIDDEN_BELOW
from .proof import Proof, Slopes
from .reading import View
from .rows import NOWHERE, RowsWithoutKeys


@dataclass(frozen=True)
class Leaf:
    """An existing tensor used in a mask; ``test`` says how to make a condition of it.

    ``test``: ``""`` as it is (additive or boolean), ``nonzero``: cast to bool, ``visible``: greater than
    ``limit``, which lies between what hidden keys and what visible ones score.
    """

    view: View
    test: str = ""
    limit: float = HIDDEN_BELOW


@dataclass(frozen=True)
class Op:
    """An operation on masks in canonical [B, H, S_q, S_kv] layout: ``and or not add sub mul where``."""

    kind: str
    parts: tuple[Mask, ...]
    factor: Number = 1


Mask = Leaf | Op


def leaves(mask: Mask | None) -> Iterator[Leaf]:
    """The tensors that a mask is made of, from left to right."""
    if isinstance(mask, Leaf):
        yield mask
    elif mask is not None:
        for part in mask.parts:
            yield from leaves(part)


Factors = npt.NDArray[np.float64]
"""A number per head."""


@dataclass(frozen=True)
class Located:
    """An operand where the graph has it.

    Attributes:
        tensor: The tensor that it is a part of.
        view: Which part.
        copies: Nodes between the tensor and [B, H, S, D] that copy.
        group: Heads of queries that use one of its heads, where the model repeats it for each.
        nearer: The next tensor on the way down that it can be read from; None if that is [B, H, S, D].
    """

    tensor: str
    view: OperandView
    copies: tuple[NodeProto, ...] = ()
    group: int = 1
    nearer: Located | None = None


@dataclass(frozen=True)
class Binding:
    """Everything that emission needs for one site, and what becomes of rows without a visible key.

    Attributes:
        proof: What is written.
        output: The tensor that the fused node takes the place of.
        dtype: The type of query, key and value.
        boolean: Where a key is visible, besides causality and window.
        additive: What is added to visible scores.
        positions: The positions of keys.
        slopes: The slopes, where only run time knows them.
        slope_factor: What slopes have to be multiplied with.
        slope_table: The same for each head, where a scalar is read.
        rows: Which rows see any key at all.
        key_bias: What is added to visible scores by key alone.
        used: Keys that each sequence has before the new ones, where their number hides what is behind them.
        scale: The factor of the product, where only run time knows it.
        divide: It is its reciprocal.
        zero_rows: Rows without a visible key yield zeros.
        rows_without_keys: What they yield in the original.
        notes: What else a reader of the report should know.
        placed: By name, those of query, key and value that are read where the graph has them and not as [B, H, S, D].
        output_view: How the result [B, H, S_q, D_v] becomes the output, if the fused node does that.
        output_copies: Nodes that copied the result on its way there.
    """

    proof: Proof
    output: View
    dtype: int
    boolean: Mask | None = None
    additive: Mask | None = None
    positions: View | None = None
    slopes: View | None = None
    slope_factor: float = 1.0
    slope_table: Factors | None = None
    rows: Mask | None = None
    key_bias: Mask | None = None
    used: View | None = None
    scale: View | None = None
    divide: bool = False
    zero_rows: bool = False
    rows_without_keys: RowsWithoutKeys = NOWHERE
    notes: tuple[str, ...] = ()
    placed: Mapping[str, Located] = field(default_factory=dict)
    output_view: OutputView = RESULT
    output_copies: tuple[NodeProto, ...] = ()

    @property
    def layout(self) -> Layout:
        """How the fused node's tensors lie in those of the graph."""
        query, key, value = (self.placed[n].view if n in self.placed else AS_IT_IS for n in OPERANDS)
        return Layout(query, key, value, self.output_view)

    def operand(self, name: str) -> str:
        """The tensor that ``query``, ``key`` or ``value`` is read from."""
        view: View = getattr(self.proof.attention, name)
        return self.placed[name].tensor if name in self.placed else view.tensor

    @property
    def given_slopes(self) -> Slopes | None:
        """The proven slopes as the fused node gets them; None if only run time knows them."""
        slopes = self.proof.slopes
        return None if slopes is None else (slopes.astype(np.float64) * self.slope_factor).astype(np.float32)
