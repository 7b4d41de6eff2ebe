"""Wrong rewrites.  They are the mistakes that a rewriter of ALiBi attention could make, made on purpose.

Each mutant is the rewritten model with one kind of mistake at some fused nodes.  Values are changed by inserting nodes
in front of the fused node, so that it makes no difference whether slopes are a constant or computed.  The meaning of
the mask and of the row is changed in a copy of the function body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...fused.body import DISTANCE, KEYS, ROWS, function_proto
from ...fused.family import BY_OP_TYPE, UNBOUNDED, Alignment, EmptyRows, MaskKind, Variant, is_fused
from ...fused.layout import Moves, layout_of
from ...patterns.forms import LINEAR


class MutantKind(Enum):
    """The kinds of mistakes; the values are stable names."""

    BIAS_DROPPED = "bias_dropped"
    SMALLEST_SLOPE = "slope_smallest_1_percent"
    LARGEST_SLOPE = "slope_largest_1_percent"
    HEADS_ROLLED = "heads_rolled"
    SCALE_ORDER = "scale_order_swapped"
    CAUSALITY = "causality_changed"
    KEY_OFFSET = "key_position_offset_by_one"
    ROW_OFFSET = "row_position_offset_by_one"
    KEY_BIAS_DROPPED = "key_bias_dropped"
    KEY_BIAS_SHIFTED = "key_bias_shifted_by_one_key"
    KEY_BIAS_ROLLED = "key_bias_heads_rolled"
    WINDOW_WIDER = "window_wider_by_one"
    WINDOW_TURNED = "window_sides_swapped"
    PARAMETER = "form_parameter_off_by_one"
    LENGTHS_SHORTER = "key_lengths_one_less"
    LENGTHS_LONGER = "key_lengths_one_more"
    ROWS_TURNED = "rows_aligned_with_the_other_end"


SLOPE_ERROR = 0.01
"""Relative.  A mistake of this size is larger than rounding, and has to be seen."""

OF_KEY_BIAS = frozenset({MutantKind.KEY_BIAS_DROPPED, MutantKind.KEY_BIAS_SHIFTED, MutantKind.KEY_BIAS_ROLLED})
OF_WINDOW = frozenset({MutantKind.WINDOW_WIDER, MutantKind.WINDOW_TURNED})
OF_LENGTHS = frozenset({MutantKind.LENGTHS_SHORTER, MutantKind.LENGTHS_LONGER, MutantKind.ROWS_TURNED})
OF_FORM = frozenset({MutantKind.PARAMETER})
"""Mistakes in the parameters of a form.  The linear and the symmetric form have no parameters."""
_WITHOUT_SLOPES = frozenset({MutantKind.CAUSALITY, MutantKind.ROW_OFFSET, *OF_KEY_BIAS, *OF_WINDOW, *OF_LENGTHS})
"""Mistakes that show where all slopes are zero."""


@dataclass(frozen=True)
class FusedNode:
    """A fused node.

    Attributes:
        index: Its number in the order of :func:`find_sites`.
        name: The node's name, or its output's.
        variant: The member of the family.
        scale: Its attribute.
        empty_rows: Its attribute.
        slopes: Their values, None if computed at run time.
        window: Its attributes window_left and window_right; -1 for no bound.
        aligned: Its attribute rows.
    """

    index: int
    name: str
    variant: Variant
    scale: float
    empty_rows: str
    slopes: tuple[float, ...] | None
    window: tuple[int, int] = (UNBOUNDED, UNBOUNDED)
    aligned: Alignment = Alignment.LAST


def find_sites(proto: onnx.ModelProto) -> tuple[FusedNode, ...]:
    """All fused nodes of a model: in the graph, in bodies of If and Loop, and in local functions."""
    fused = [node for _, node in _fused(proto)]
    constants = _small_constants(proto, {node.input[3] for node in fused})
    sites: list[FusedNode] = []
    for node in fused:
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        rows = attributes.get("empty_rows", b"mean")
        sites.append(
            FusedNode(
                index=len(sites),
                name=node.name or node.output[0],
                variant=BY_OP_TYPE[node.op_type],
                scale=float(attributes.get("scale", 1.0)),
                empty_rows=rows.decode() if isinstance(rows, bytes) else str(rows),
                slopes=constants.get(node.input[3]),
                window=(
                    int(attributes.get("window_left", UNBOUNDED)),
                    int(attributes.get("window_right", UNBOUNDED)),
                ),
                aligned=Alignment(attributes.get("rows", b"last").decode()),
            )
        )
    return tuple(sites)


def concerns(kind: MutantKind, site: FusedNode) -> bool:
    """Whether the node has what a mistake of this kind is about."""
    if kind in OF_KEY_BIAS:
        return site.variant.key_bias
    if kind in OF_LENGTHS:
        return site.variant.lengths
    if kind in OF_FORM:
        return bool(site.variant.bias.parameters)
    return kind not in OF_WINDOW or site.variant.window


def not_applicable(kind: MutantKind, site: FusedNode, *, kernels: bool = False) -> str | None:
    """Why a mistake of this kind would change nothing at this site, or None if it would be a mistake.

    Args:
        kind: The mistake.
        site: The fused node.
        kernels: It runs on a kernel and not as its function body.
    """
    slopes = site.slopes
    if kernels and kind is MutantKind.ROW_OFFSET:
        return "rows are counted inside of the kernel, where nothing can be moved from outside"
    if kernels and kind is MutantKind.KEY_OFFSET and site.variant.lengths:
        return "no kernel takes key lengths and positions of keys"
    if kind is MutantKind.SCALE_ORDER and site.scale == 1.0:
        return "the scale is 1, so its order does not matter"
    if slopes is not None:
        if kind is MutantKind.HEADS_ROLLED and len(set(slopes)) == 1:
            return "all heads have the same slope"
        if kind not in _WITHOUT_SLOPES and not any(slopes):
            return "all slopes are zero"
    form = site.variant.bias
    if kind is MutantKind.KEY_OFFSET and form.sees_row:
        return f"a {form.name} bias has no key positions of its own; see the row offset"
    if kind is MutantKind.WINDOW_TURNED and site.window[0] == site.window[1]:
        return "the window has as many keys before the row as after it"
    if kind in (MutantKind.ROW_OFFSET, MutantKind.ROWS_TURNED) and not (
        form.sees_row or site.variant.causal or site.variant.window
    ):
        return "in the linear form the row's own position is a constant of the row, which softmax removes"
    return None


def other_causality(variant: Variant) -> Variant:
    """The member that hides later keys if this one does not; the linear one, if the form has no causal member.

    A form without causal members is the linear one where later keys are hidden, so a rewriter that confuses the two
    writes that.
    """
    other = replace(variant, causal=not variant.causal)
    return other if other in BY_OP_TYPE.values() else replace(variant, form=LINEAR.name)


def mutate(
    proto: onnx.ModelProto, kind: MutantKind, sites: Sequence[FusedNode], *, kernels: bool = False
) -> onnx.ModelProto:
    """Returns a copy of the model with one kind of mistake at the given sites.

    Args:
        proto: The rewritten model as a float32 clone; it is not changed.
        kind: The mistake.
        sites: Where to make it, out of :func:`find_sites` of this model.
        kernels: The mutant runs on kernels: another member of the family is that member, and has no body of its own.
    """
    return edit_sites(proto, sites, _EDITS[kind], kernels=kernels)


def edit_sites(
    proto: onnx.ModelProto, sites: Sequence[FusedNode], change: Callable[[Edit], None], *, kernels: bool = False
) -> onnx.ModelProto:
    """Returns a copy of the model with some of its fused nodes changed.

    Args:
        proto: The rewritten model as a float32 clone; it is not changed.
        sites: Which nodes, out of :func:`find_sites` of this model.
        change: What to do at each.
        kernels: As for :func:`mutate`.
    """
    mutant = onnx.ModelProto()
    mutant.CopyFrom(proto)
    chosen = {site.index: site for site in sites}
    found = list(_fused(mutant))
    opset = next((entry.version for entry in mutant.opset_import if entry.domain in ("", "ai.onnx")), 1)
    for index, (container, node) in enumerate(found):
        if index in chosen:
            edit = Edit(mutant, container, node, chosen[index], opset, f"mutant_{index}", kernels)
            change(edit)
            edit.apply()
    return mutant


class Edit:
    """Nodes to insert in front of one fused node, and changes to it."""

    def __init__(
        self,
        model: onnx.ModelProto,
        container: Any,
        node: onnx.NodeProto,
        site: FusedNode,
        opset: int,
        prefix: str,
        kernels: bool = False,
    ) -> None:
        self.model = model
        self.container = container
        self.node = node
        self.site = site
        self.opset = opset
        self.prefix = prefix
        self.kernels = kernels
        self.inserted: list[onnx.NodeProto] = []

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        output = f"{self.prefix}_{len(self.inserted)}"
        self.inserted.append(helper.make_node(op_type, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Any, dtype: type[np.generic]) -> str:
        return self.add("Constant", value=numpy_helper.from_array(np.asarray(value, dtype)))

    def replace_slopes(self, name: str) -> None:
        self.node.input[3] = name

    def use_body(self, variant: Variant, inputs: Sequence[str], change: Callable[[onnx.FunctionProto], None]) -> None:
        """Gives the node a body of its own, under a name that no other node has.  Kernels go by the member's name."""
        if self.kernels:
            self.node.op_type = variant.op_type
            self.node.input[:] = inputs
            return
        body = function_proto(
            variant,
            self.opset,
            grouped=True,
            zero_rows=self.site.empty_rows == EmptyRows.ZERO.value,
            query_type=TensorProto.FLOAT,
            moves=Moves.of([layout_of(self.node)]),
            aligned=self.site.aligned,
        )
        change(body)
        body.name = f"{variant.op_type}_{self.prefix}"
        self.node.op_type = body.name
        self.node.input[:] = inputs
        self.model.functions.append(body)

    def own_body(self, change: Callable[[onnx.FunctionProto], None]) -> None:
        """Gives the node a changed copy of the body that the file has for it, right or wrong."""
        node = self.node
        body = onnx.FunctionProto()
        body.CopyFrom(next(f for f in self.model.functions if (f.domain, f.name) == (node.domain, node.op_type)))
        change(body)
        body.name = f"{node.op_type}_{self.prefix}"
        node.op_type = body.name
        self.model.functions.append(body)

    def apply(self) -> None:
        where = next(index for index, node in enumerate(self.container) if node is self.node or node == self.node)
        for offset, node in enumerate(self.inserted):
            self.container.insert(where + offset, node)


def _drop_bias(edit: Edit) -> None:
    edit.replace_slopes(edit.add("Mul", edit.node.input[3], edit.constant(0.0, np.float32)))


def _change_slope(edit: Edit, reduce: str, neutral: float) -> None:
    """Multiplies the slope(s) of smallest or largest nonzero magnitude by 1 + SLOPE_ERROR."""
    slopes = edit.node.input[3]
    magnitudes = edit.add("Abs", slopes)
    zero = edit.add("Equal", magnitudes, edit.constant(0.0, np.float32))
    nonzero = edit.add("Where", zero, edit.constant(neutral, np.float32), magnitudes)
    extreme = edit.add(reduce, nonzero, keepdims=0)
    hit = edit.add("Cast", edit.add("Equal", magnitudes, extreme), to=TensorProto.FLOAT)
    excess = edit.add("Mul", hit, edit.constant(SLOPE_ERROR, np.float32))
    factor = edit.add("Add", excess, edit.constant(1.0, np.float32))
    edit.replace_slopes(edit.add("Mul", slopes, factor))


def _roll_heads(edit: Edit) -> None:
    slopes, axis = edit.node.input[3], edit.constant([0], np.int64)
    one, end = edit.constant([1], np.int64), edit.constant([2**31 - 1], np.int64)
    tail = edit.add("Slice", slopes, one, end, axis)
    head = edit.add("Slice", slopes, axis, one, axis)
    edit.replace_slopes(edit.add("Concat", tail, head, axis=0))


def _swap_scale_order(edit: Edit) -> None:
    edit.replace_slopes(edit.add("Mul", edit.node.input[3], edit.constant(edit.site.scale, np.float32)))


def _change_causality(edit: Edit) -> None:
    edit.use_body(other_causality(edit.site.variant), list(edit.node.input), lambda body: None)


def _shift_odd_keys(edit: Edit) -> None:
    """key_positions + 1 at every second key.  A shift of all keys would not be a mistake, since softmax removes it."""
    if edit.site.variant.lengths:
        edit.use_body(edit.site.variant, list(edit.node.input), _shift_odd_distances)
        return
    sequence = layout_of(edit.node).key.perm[2]
    length = edit.add("Gather", edit.add("Shape", edit.node.input[1]), edit.constant(sequence, np.int64))
    keys = edit.add("Range", edit.constant(0, np.int64), length, edit.constant(1, np.int64))
    odd = edit.add("Cast", edit.add("Mod", keys, edit.constant(2, np.int64)), to=TensorProto.FLOAT)
    variant = edit.site.variant
    if variant.positions:
        place = variant.inputs.index("key_positions")
        edit.node.input[place] = edit.add("Add", edit.node.input[place], odd)
        return
    positions = edit.add("Add", edit.add("Cast", keys, to=TensorProto.FLOAT), odd)
    row = edit.add("Reshape", positions, edit.constant([1, -1], np.int64))
    with_positions = replace(variant, positions=True)
    inputs = list(edit.node.input)
    inputs.insert(with_positions.inputs.index("key_positions"), row)
    edit.use_body(with_positions, inputs, lambda body: None)


def _shift_odd_distances(body: onnx.FunctionProto) -> None:
    """The same in a body that has no positions."""
    where, node = next((index, node) for index, node in enumerate(body.node) if node.output[0] == DISTANCE)
    node.output[0] = "distance_unshifted"
    steps = [
        helper.make_node("Constant", [], ["shift_two"], value=numpy_helper.from_array(np.asarray(2, np.int64))),
        helper.make_node("Mod", [KEYS, "shift_two"], ["odd_keys"]),
        helper.make_node("Cast", ["odd_keys"], ["odd_shift"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["distance_unshifted", "odd_shift"], [DISTANCE]),
    ]
    for step in reversed(steps):
        body.node.insert(where + 1, step)


def _shift_rows(edit: Edit) -> None:
    """row(i) - 1 instead of row(i): in the distance, and in what a causal row sees."""

    def shift(body: onnx.FunctionProto) -> None:
        where, cast = next((index, node) for index, node in enumerate(body.node) if node.output[0] == ROWS)
        cast.output[0] = "rows_unshifted"
        back = helper.make_node(
            "Constant", [], ["row_shift"], value=numpy_helper.from_array(np.asarray(-1, np.float32))
        )
        body.node.insert(where + 1, helper.make_node("Add", ["rows_unshifted", "row_shift"], [ROWS]))
        body.node.insert(where + 1, back)

    edit.use_body(edit.site.variant, list(edit.node.input), shift)


def _key_bias(edit: Edit) -> tuple[int, str]:
    place = edit.site.variant.inputs.index("key_bias")
    return place, edit.node.input[place]


def _drop_key_bias(edit: Edit) -> None:
    place, name = _key_bias(edit)
    shape = edit.add("Shape", name)
    edit.node.input[place] = edit.add("Expand", edit.constant(0.0, np.float32), shape)


def _roll_key_bias(edit: Edit, axis: int) -> None:
    """By one head or one key; the first becomes the last."""
    place, name = _key_bias(edit)
    along, zero, one = (edit.constant([number], np.int64) for number in (axis, 0, 1))
    end = edit.constant([2**31 - 1], np.int64)
    tail = edit.add("Slice", name, one, end, along)
    head = edit.add("Slice", name, zero, one, along)
    edit.node.input[place] = edit.add("Concat", tail, head, axis=axis)


def _set_window(edit: Edit, window: Sequence[int]) -> None:
    for attribute in edit.node.attribute:
        if attribute.name in WINDOW:
            attribute.i = window[WINDOW.index(attribute.name)]


def _widen_window(edit: Edit) -> None:
    _set_window(edit, [keys if keys == UNBOUNDED else keys + 1 for keys in edit.site.window])


def _shift_lengths(edit: Edit, by: int) -> None:
    place = edit.site.variant.inputs.index("key_lengths")
    edit.node.input[place] = edit.add("Add", edit.node.input[place], edit.constant(by, np.int64))


def _turn_rows(edit: Edit) -> None:
    other = Alignment.FIRST if edit.site.aligned is Alignment.LAST else Alignment.LAST
    edit.site = replace(edit.site, aligned=other)
    next(a for a in edit.node.attribute if a.name == "rows").s = other.value.encode()
    edit.use_body(edit.site.variant, list(edit.node.input), lambda body: None)


def _change_parameters(edit: Edit) -> None:
    for attribute in edit.node.attribute:
        if attribute.name in edit.site.variant.bias.attributes:
            attribute.f += 1.0


WINDOW = ("window_left", "window_right")
_HUGE = float(np.finfo(np.float32).max)
_EDITS: dict[MutantKind, Callable[[Edit], None]] = {
    MutantKind.BIAS_DROPPED: _drop_bias,
    MutantKind.SMALLEST_SLOPE: lambda edit: _change_slope(edit, "ReduceMin", _HUGE),
    MutantKind.LARGEST_SLOPE: lambda edit: _change_slope(edit, "ReduceMax", 0.0),
    MutantKind.HEADS_ROLLED: _roll_heads,
    MutantKind.SCALE_ORDER: _swap_scale_order,
    MutantKind.CAUSALITY: _change_causality,
    MutantKind.KEY_OFFSET: _shift_odd_keys,
    MutantKind.ROW_OFFSET: _shift_rows,
    MutantKind.KEY_BIAS_DROPPED: _drop_key_bias,
    MutantKind.KEY_BIAS_SHIFTED: lambda edit: _roll_key_bias(edit, 2),
    MutantKind.KEY_BIAS_ROLLED: lambda edit: _roll_key_bias(edit, 1),
    MutantKind.WINDOW_WIDER: _widen_window,
    MutantKind.WINDOW_TURNED: lambda edit: _set_window(edit, edit.site.window[::-1]),
    MutantKind.PARAMETER: _change_parameters,
    MutantKind.LENGTHS_SHORTER: lambda edit: _shift_lengths(edit, -1),
    MutantKind.LENGTHS_LONGER: lambda edit: _shift_lengths(edit, 1),
    MutantKind.ROWS_TURNED: _turn_rows,
}


def has_mask(site: FusedNode) -> bool:
    """Whether the fused node takes a mask or has a window, which may hide what causality hides."""
    return site.variant.mask != MaskKind.NONE.value or site.variant.window or site.variant.key_bias


def _fused(proto: onnx.ModelProto) -> Iterator[tuple[Any, onnx.NodeProto]]:
    """Fused nodes and the list of nodes each is in, outer before inner, in a fixed order."""
    waiting: list[Any] = [*(function.node for function in reversed(proto.functions)), proto.graph.node]
    while waiting:
        container = waiting.pop()
        inner: list[Any] = []
        for node in container:
            if is_fused(node):
                yield container, node
            for attribute in node.attribute:
                inner += [attribute.g.node] if attribute.HasField("g") else []
                inner += [graph.node for graph in attribute.graphs]
        waiting.extend(reversed(inner))


def _small_constants(proto: onnx.ModelProto, wanted: set[str]) -> dict[str, tuple[float, ...]]:
    """Values of those that are float vectors among initializers and Constant nodes of the main graph."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            tensors[node.output[0]] = node.attribute[0].t
    return {
        name: tuple(float(value) for value in numpy_helper.to_array(tensor))
        for name, tensor in tensors.items()
        if name in wanted
        and len(tensor.dims) == 1
        and tensor.data_type == TensorProto.FLOAT
        and tensor.data_location != TensorProto.EXTERNAL
        and tensor.dims[0] <= 1024
    }
