"""What attention operators do besides adding a bias, as nodes in front of them.  Masks become part of the bias.

    Attention(.., bias, nonpad, windows)   = Attention(.., Where(seen, bias, -inf))
    MultiHeadAttention(.., padding, bias)  = MultiHeadAttention(.., bias + Where(valid, 0, mask_filter_value))
    GroupQueryAttention(.., lengths, bias) = GroupQueryAttention(.., Where(seen, bias, -inf))

and the biases of the projections, which MultiHeadAttention adds to its operands:

    MultiHeadAttention(q, k, v, b, ..)     = MultiHeadAttention(q + b_q, k + b_k, v + b_v, ..),  b = [b_q, b_k, b_v]

That is what the operators compute, so the rewritten graph means the same, and one analysis reads all of them.
Operators whose site is not rewritten in the end are left as they are (see ``working_copy``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ...algebra import Poly
from ...graph.edit import all_names, arrange, float_type, fresh
from ...graph.index import float_attribute, index_graph, int_attribute, label, opset_versions
from ...graph.load import graphs
from ...patterns.caches import PAST
from ...patterns.operators import PATTERNS, OperatorPattern
from ..interpret.scopes import interpreted
from ..prepare.features import pattern_of
from ..prepare.unpack import FILTER_VALUE

ATTENTION, MULTI_HEAD, GROUPED = PATTERNS
"""In the order of the table."""

NONPAD = ATTENTION.signature.index("nonpad_kv_seqlen")
PADDING = MULTI_HEAD.signature.index("key_padding_mask")
PROJECTED = MULTI_HEAD.signature.index("bias")
LENGTHS = GROUPED.signature.index("seqlens_k")
MASKING = {"Attention": (NONPAD,), "MultiHeadAttention": (PADDING, PROJECTED), "GroupQueryAttention": (LENGTHS,)}
"""Inputs that hide keys, or are added to the operands."""

WINDOWS = ("left_window_size", "right_window_size", "local_window_size")


MINIMUM_OPSET = 13
"""From here on axes are inputs of the operators that are used."""


@dataclass(frozen=True)
class TensorKind:
    """What is known of a tensor: its extents, and its element type (0 if unknown)."""

    dims: tuple[Poly, ...]
    dtype: int


def unfold_masks(model: ModelProto, base_dir: Path, keep: frozenset[str] = frozenset()) -> frozenset[str]:
    """Put masks that attention operators make themselves in front of them, in place.

    Args:
        model: A working copy.
        base_dir: Where external data lie.
        keep: Output names of operators to leave as they are; so are those whose operands have unknown ranks.

    Returns:
        Output names of the operators that were changed.
    """
    opset = opset_versions(model).get("", 1)
    if opset < MINIMUM_OPSET or not any(_is_wanted(node, keep) for graph in graphs(model) for node in graph.node):
        return frozenset()
    kinds = _kinds(model, base_dir)
    taken = all_names(model)
    done: list[str] = []
    for graph in graphs(model):
        nodes: list[NodeProto] = []
        before = len(done)
        for node in graph.node:
            if _is_wanted(node, keep):
                made = _Unfolding(graph, node, kinds, taken)
                if made.run():
                    done.append(node.output[0])
                    nodes.extend(made.nodes)
            nodes.append(node)
        if len(done) > before:
            arrange(graph, nodes)
    return frozenset(done)


def _kinds(model: ModelProto, base_dir: Path) -> dict[str, TensorKind]:
    """Extents and types of all tensors of known rank; a name that means two things in two bodies is not among them."""
    found: dict[str, TensorKind | None] = {}
    root = index_graph(model.graph, opset_versions(model), base_dir)
    for interpreter in interpreted(root):
        for name, dims in interpreter.extents.items():
            kind = None if dims is None else TensorKind(dims, interpreter.dtype(name))
            found[name] = kind if found.get(name, kind) == kind else None
    return {name: kind for name, kind in found.items() if kind is not None}


def _is_wanted(node: NodeProto, keep: frozenset[str]) -> bool:
    pattern = pattern_of(node) if node.op_type in MASKING else None
    if pattern is None or not _given(node, pattern.inputs["bias"]) or not node.output or node.output[0] in keep:
        return False
    windows = any(int_attribute(node, name, -1) != -1 for name in WINDOWS)
    return windows or any(_given(node, place) for place in MASKING[pattern.op_type])


def _given(node: NodeProto, position: int) -> str:
    return node.input[position] if position < len(node.input) else ""


class _Unfolding:
    """One operator: nodes that make its masks, and the operator without them."""

    def __init__(self, graph: GraphProto, node: NodeProto, kinds: Mapping[str, TensorKind], taken: set[str]) -> None:
        self.graph, self.node, self.kinds, self.taken = graph, node, kinds, taken
        self.nodes: list[NodeProto] = []

    def run(self) -> bool:
        """Whether there was something to unfold."""
        pattern = pattern_of(self.node)
        if pattern is ATTENTION:
            return self._attention()
        return self._multi_head() if pattern is MULTI_HEAD else self._grouped()

    # --- operators -----------------------------------------------------------------------------------------

    def _attention(self) -> bool:
        node = self.node
        nonpad = _given(node, NONPAD)
        left, right = (int_attribute(node, f"{side}_window_size", -1) for side in ("left", "right"))
        cached = _given(node, ATTENTION.inputs[PAST["key"]])
        if not nonpad and left < 0 and right < 0:
            return False
        ranks = {self._rank(node.input[0]), self._rank(node.input[1])}
        if not ranks <= {3, 4} or min(left, right) < -1 or (nonpad and cached) or not self._bias_type(ATTENTION):
            return False
        keys = self._keys(1, cached)
        column = self._range(keys)
        seen: list[str] = []
        offset = ""
        if nonpad:
            lengths = self._make("Unsqueeze", nonpad, self._integers(1, 2, 3))
            seen.append(self._make("Less", column, lengths))
            offset = self._make("Sub", lengths, self._rows())
        elif cached:
            offset = self._extent(cached, 2)
        causal = bool(nonpad) and int_attribute(node, "is_causal", 0) != 0
        if causal or left >= 0 or right >= 0:
            row = self._make("Unsqueeze", self._range(self._rows()), self._integers(1))
            row = self._make("Add", row, offset) if offset else row
            if causal:
                seen.append(self._make("LessOrEqual", column, row))
            if left >= 0:
                seen.append(self._make("LessOrEqual", self._make("Sub", row, column), self._number(left)))
            if right >= 0:
                seen.append(self._make("LessOrEqual", self._make("Sub", column, row), self._number(right)))
        self._hide(ATTENTION, seen)
        if nonpad:
            node.input[NONPAD] = ""
        self._drop("left_window_size", "right_window_size", *(["is_causal"] if causal else []))
        return True

    def _multi_head(self) -> bool:
        padded = self._padding()  # first: it looks at the operands as they are
        return self._projections() or padded

    def _projections(self) -> bool:
        """Adds the biases of the projections to query, key and value, which are packed ([B, S, H * D])."""
        node = self.node
        bias = _given(node, PROJECTED)
        operands = [self.kinds.get(_given(node, place)) for place in range(3)]
        if not bias or self._rank(bias) != 1 or any(one is None or len(one.dims) != 3 for one in operands):
            return False
        widths = [one.dims[2].constant for one in operands if one is not None]
        sizes = [int(width) for width in widths if width is not None]
        if len(sizes) < 3:
            return False
        parts = [self._fresh("projection_bias") for _ in sizes]
        self.nodes.append(
            helper.make_node("Split", [bias, self._integers(*sizes)], parts, name=self._fresh("Split"), axis=0)
        )
        for place, part in enumerate(parts):
            node.input[place] = self._make("Add", node.input[place], part)
        node.input[PROJECTED] = ""
        return True

    def _padding(self) -> bool:
        node = self.node
        mask = _given(node, PADDING)
        rank = self._rank(mask) if mask else 0
        dtype = self._bias_type(MULTI_HEAD)
        if rank not in (1, 2, 3) or self._rank(node.input[0]) != 3 or self._rank(_given(node, 1)) not in (3, 4):
            return False
        if not dtype or (rank == 1 and self.kinds[mask].dims[0] != self.kinds[node.input[0]].dims[0]):
            return False  # ends and starts, or offsets of packed batches
        zero = self._constant(np.array(0, np.int32))
        if rank == 1:
            lengths = self._cast(mask, TensorProto.INT64)
            column = self._range(self._keys(1, _given(node, MULTI_HEAD.inputs[PAST["key"]])))
            valid = self._make("Less", column, self._make("Unsqueeze", lengths, self._integers(1, 2, 3)))
        else:
            axes = self._integers(1, 2) if rank == 2 else self._integers(1)
            valid = self._make("Unsqueeze", self._make("Greater", mask, zero), axes)
        place = MULTI_HEAD.inputs["bias"]
        filled = np.array(float_attribute(node, "mask_filter_value", FILTER_VALUE), np.float32)
        padding = self._make("Where", valid, self._constant(np.array(0, np.float32)), self._constant(filled))
        node.input[place] = self._make("Add", node.input[place], self._cast(padding, dtype))
        node.input[PADDING] = ""
        self._drop("mask_filter_value")
        return True

    def _grouped(self) -> bool:
        node = self.node
        window = int_attribute(node, "local_window_size", -1)
        cached = _given(node, GROUPED.inputs[PAST["key"]])
        lengths = _given(node, LENGTHS)
        if self._rank(node.input[0]) != 3 or self._rank(_given(node, 1)) != 3 or not self._bias_type(GROUPED):
            return False
        padded = not cached and self._rank(lengths) == 1
        if window <= 0 and not padded:
            return False
        keys = self._keys(1, cached)
        column = self._range(keys)
        seen: list[str] = []
        if window > 0:
            row = self._make("Unsqueeze", self._range(self._rows()), self._integers(1))
            row = self._make("Add", row, self._extent(cached, 2)) if cached else row
            seen.append(self._make("Less", self._make("Sub", row, column), self._number(window)))
            self._drop("local_window_size")
        if padded:
            last = self._make("Unsqueeze", self._cast(lengths, TensorProto.INT64), self._integers(1, 2, 3))
            seen.append(self._make("LessOrEqual", column, last))
            whole = self._cast(self._make("Sub", keys, self._number(1)), TensorProto.INT32)
            node.input[LENGTHS] = self._make("Expand", whole, self._make("Shape", lengths))
        self._hide(GROUPED, seen)
        return True

    # --- parts ---------------------------------------------------------------------------------------------

    def _hide(self, pattern: OperatorPattern, seen: list[str]) -> None:
        """Where not all of the conditions hold, the bias is minus infinity."""
        whole = seen[0]
        for other in seen[1:]:
            whole = self._make("And", whole, other)
        place = pattern.inputs["bias"]
        bias = self.node.input[place]
        hidden = self._cast(self._constant(np.array(-np.inf, np.float32)), self.kinds[bias].dtype)
        self.node.input[place] = self._make("Where", whole, bias, hidden)

    def _rank(self, name: str) -> int:
        """The rank of a tensor, -1 if it is unknown."""
        kind = self.kinds.get(name)
        return -1 if kind is None else len(kind.dims)

    def _bias_type(self, pattern: OperatorPattern) -> int:
        """The type of the bias, 0 if it is unknown or not one that can be added."""
        kind = self.kinds.get(self.node.input[pattern.inputs["bias"]])
        return kind.dtype if kind is not None and float_type(kind.dtype) else 0

    def _rows(self) -> str:
        return self._extent(self.node.input[0], 2 if self._rank(self.node.input[0]) == 4 else 1)

    def _keys(self, position: int, cached: str) -> str:
        name = self.node.input[position]
        keys = self._extent(name, 2 if self._rank(name) == 4 else 1)
        return self._make("Add", keys, self._extent(cached, 2)) if cached else keys

    def _extent(self, tensor: str, axis: int) -> str:
        return self._make("Gather", self._make("Shape", tensor), self._number(axis))

    def _range(self, limit: str) -> str:
        return self._make("Range", self._number(0), limit, self._number(1))

    def _cast(self, tensor: str, dtype: int) -> str:
        return self._make("Cast", tensor, to=dtype)

    def _number(self, value: int) -> str:
        return self._constant(np.array(value, np.int64))

    def _integers(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def _constant(self, value: npt.NDArray[np.generic]) -> str:
        name = self._fresh("constant")
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _make(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = self._fresh(op)
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def _fresh(self, hint: str) -> str:
        return fresh(f"{label(self.node)}/{hint}", self.taken)

    def _drop(self, *names: str) -> None:
        kept = [a for a in self.node.attribute if a.name not in names]
        if len(kept) != len(self.node.attribute):
            del self.node.attribute[:]
            self.node.attribute.extend(kept)
