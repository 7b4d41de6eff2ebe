"""Operators that treat every element, or every place along the cut axis, for itself."""

from __future__ import annotations

from collections.abc import Sequence

from ...graph.index import int_attribute, ints_attribute
from ..cuts import AxisCut, NotSeparable
from ..question import How, Question, Rule

ELEMENTWISE = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Mean", "Where", "Clip", "Mod", "PRelu"),
    *("And", "Or", "Xor", "Not", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "IsNaN", "IsInf"),
    *("Abs", "Neg", "Exp", "Log", "Sqrt", "Reciprocal", "Sign", "Floor", "Ceil", "Round", "Sin", "Cos", "Erf"),
    *("Tanh", "Sigmoid", "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "HardSigmoid", "HardSwish"),
    *("Softplus", "Softsign", "ThresholdedRelu", "Cast", "Identity"),
)
"""Standard operators that compute each element from the elements at its place, with broadcasting."""

CONTRIBUTED = ("Gelu", "FastGelu", "BiasGelu", "QuickGelu")
"""The same of onnxruntime's own operators."""


def elementwise(q: Question) -> bool:
    """All operands that reach along the axis are cut as the result is."""
    extents = q.dims_out()
    positions = [p for p, name in enumerate(q.node.input) if name]
    cut = q.outputs.get(0)
    # Backwards, all operands are followed.  Forwards, what else is whole may be shared by all layers, such as a mask.
    how = How.CUT if cut is not None else How.SLICED
    for position in positions:
        known = q.inputs.get(position)
        if cut is None and known is not None:
            cut = known.on(known.axis + len(extents) - len(q.dims(position)))
    if cut is None:
        return False
    q.give(cut)
    for position in positions:
        dims = q.dims(position)
        axis = cut.axis - (len(extents) - len(dims))
        if axis < 0 or dims[axis] == 1:
            q.whole(position)
        elif q.interpreter.same(dims[axis], extents[cut.axis]):
            q.want(position, cut.on(axis), how)
        else:
            raise NotSeparable(f"'{q.node.input[position]}' may be broadcast along what is cut")
    return True


def dequantised(q: Question) -> bool:
    """Weights that are stored as integers, with a scale for the tensor or for each place of an axis."""
    cut = q.outputs.get(0, q.inputs.get(0))
    if cut is None:
        raise NotSeparable("a scale is cut for itself")
    if int_attribute(q.node, "block_size", 0):
        raise NotSeparable("a weight is quantised in blocks")
    rank = len(q.dims_out())
    axis = int_attribute(q.node, "axis", 1) % max(1, rank)
    q.give(cut)
    q.want(0, cut)
    for position in (1, 2):
        if not q.has(position):
            continue
        if len(q.dims(position)) == 1 and q.dims(position)[0] != 1 and axis == cut.axis:
            q.want(position, cut.on(0))
        else:
            q.whole(position)
    return True


def along_axes(q: Question) -> bool:
    """Operators that join places along some axes, which are not the one that is cut."""
    rank = len(q.dims(0))
    axes = _axes(q, rank)
    kept = int_attribute(q.node, "keepdims", 1) or not q.node.op_type.startswith("Reduce")
    places = [a for a in range(rank) if kept or a not in axes]  # axes of the input that the output has
    cut = q.inputs.get(0)
    if cut is None:
        given = q.outputs.get(0)
        if given is None:
            return False
        cut = given.on(places[given.axis])
    if cut.axis in axes:
        raise NotSeparable(f"{q.node.op_type} acts across the axis")
    for position in range(1, len(q.node.input)):
        if q.node.op_type in SCALED and q.has(position):
            _scaled(q, position, cut, rank)
        else:
            q.whole(position)
    q.want(0, cut)
    q.give_all(cut.on(places.index(cut.axis)))
    return True


def _scaled(q: Question, position: int, cut: AxisCut, rank: int) -> None:
    """A scale or bias is spread over the input.  It is cut as well where it has an extent along the axis."""
    dims = q.dims(position)
    axis = cut.axis - (rank - len(dims))
    if axis < 0 or dims[axis] == 1:
        q.whole(position)
    elif q.interpreter.same(dims[axis], q.dims(0)[cut.axis]):
        q.want(position, cut.on(axis), How.SLICED)
    else:
        raise NotSeparable(f"'{q.node.input[position]}' may be broadcast along what is cut")


def _axes(q: Question, rank: int) -> Sequence[int]:
    """The axes along which an operator joins places."""
    kind, node = q.node.op_type, q.node
    if kind in ("Softmax", "LogSoftmax"):
        old = q.interpreter.scope.opset.get("", 0) < 13  # all axes from this one on were one then
        axis = int_attribute(node, "axis", 1 if old else -1) % rank
        return range(axis, rank) if old else (axis,)
    if kind == "CumSum":
        given = q.array(1)
        if given is None or given.size != 1:
            raise NotSeparable("a sum runs along an axis that is only known at run time")
        return (int(given.reshape(-1)[0]) % rank,)
    if not kind.startswith("Reduce"):
        return range(int_attribute(node, "axis", -1) % rank, rank)
    axes = ints_attribute(node, "axes")
    if axes is None and q.has(1):
        given = q.array(1)
        if given is None:
            raise NotSeparable("a sum is taken along axes that are only known at run time")
        axes = [int(a) for a in given.reshape(-1)]
    if not axes:
        return () if int_attribute(node, "noop_with_empty_axes", 0) else range(rank)
    return [a % rank for a in axes]


def shape(q: Question) -> bool:
    """What is told of a cut tensor's shape is mended where it is told, so that nobody sees the cut."""
    return True


FEATURES: dict[tuple[str, str], Rule] = {
    **{("", kind): elementwise for kind in ELEMENTWISE},
    **{("com.microsoft", kind): elementwise for kind in CONTRIBUTED},
    ("", "DequantizeLinear"): dequantised,
    ("", "Shape"): shape,
}

SCALED = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
"""Operators along axes with a scale and a bias."""

ALONG_AXES: dict[tuple[str, str], Rule] = {
    ("", kind): along_axes
    for kind in (
        *SCALED,
        *("Softmax", "LogSoftmax", "CumSum"),
        *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceSumSquare"),
    )
}
