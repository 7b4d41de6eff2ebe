"""Elements of a model's values, computed on demand: what onnxruntime would need gigabytes for at long lengths.

``Sampled.at`` computes chosen elements of a value.  Operators that only move elements are followed by their indices;
elementwise operators, and everything that is small, are computed by onnxruntime itself, one node at a time, so that
each type wraps, saturates and rounds as it does there.  Nothing of ``rewriter`` takes part: this is a judge of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import onnxruntime
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

SMALL = 1 << 18
"""Values of at most that many elements are computed whole, and remembered."""

WIDE = 1 << 20
"""Values of more elements are computed whole only if there is no other way."""

MOST = 1 << 23
"""Values with more elements are never computed whole."""

MOST_SAMPLES = 1 << 24
"""Elements that are asked for at once, at most."""

HIDDEN = -3.4028235e38
"""An additive mask hides a key at or below this value (docs/specification.md)."""


class Unsupported(Exception):
    """A value that is not computed here: too large, or of an operator that has no rule."""


class Sampled:
    """A graph whose values are computed on demand.

    Args:
        graph: The graph, local functions inlined.
        opset: Version of the default operator set.
        given: Its inputs.
        parent: The graph around it.
        memory: Of whole values, by what they are computed from; may be shared between models of equal inputs.
    """

    def __init__(
        self,
        graph: GraphProto,
        opset: int,
        given: dict[str, Array],
        parent: Sampled | None = None,
        memory: dict[tuple[Any, ...], Array] | None = None,
    ) -> None:
        self.opset = opset
        self.parent = parent
        self.given = dict(given)
        self.tensors = {t.name: t for t in graph.initializer}
        self.nodes = {o: n for n in graph.node for o in n.output if o}
        self.memory: dict[tuple[Any, ...], Array] = {} if memory is None else memory
        self._whole: dict[str, Array] = {}
        self._keys: dict[str, tuple[Any, ...]] = {}
        self._shapes: dict[str, Shape] = {}
        self._costly: dict[str, bool] = {}
        self._branches: dict[tuple[int, bool], Sampled] = {}

    # --- what a name is ------------------------------------------------------------------------------------

    def owner(self, name: str) -> Sampled:
        """The graph in which a name is made."""
        scope: Sampled | None = self
        while scope is not None:
            if name in scope.given or name in scope.tensors or name in scope.nodes:
                return scope
            scope = scope.parent
        raise Unsupported(f"nothing makes '{name}'")

    def source(self, name: str) -> Array | NodeProto:
        """The array or the node that a name of this graph stands for."""
        if name in self.given:
            return self.given[name]
        if name in self.tensors:
            if name not in self._whole:
                self._whole[name] = numpy_helper.to_array(self.tensors[name])
            return self._whole[name]
        node = self.nodes[name]
        if node.op_type == "Constant":
            if name not in self._whole:
                self._whole[name] = _run(node, [], self.opset)[0]
            return self._whole[name]
        return node

    def shape(self, name: str) -> Shape:
        """The shape of a value."""
        owner = self.owner(name)
        if owner is not self:
            return owner.shape(name)
        found = self.source(name)
        if isinstance(found, np.ndarray):
            return found.shape
        if name not in self._shapes:
            rule = SHAPES.get(found.op_type) if found.domain in ("", "ai.onnx") else None
            if found.domain == "alibi":
                self._shapes[name] = _fused_places(self, found).shape
            else:
                known = None if rule is None else rule(self, found, list(found.output).index(name))
                self._shapes[name] = self.whole(name).shape if known is None else known
        return self._shapes[name]

    def size(self, name: str) -> int:
        """The number of elements of a value."""
        return math.prod(self.shape(name))

    def whole(self, name: str) -> Array:
        """A value as an array."""
        owner = self.owner(name)
        if owner is not self:
            return owner.whole(name)
        found = self.source(name)
        if isinstance(found, np.ndarray):
            return found
        if name in self._whole:
            return self._whole[name]
        key = self.key(name)
        if key not in self.memory:
            value = self._compute(found, name)
            if value.size > SMALL:
                self._whole[name] = value
                return value
            self.memory[key] = value
        self._whole[name] = self.memory[key]
        return self._whole[name]

    def key(self, name: str) -> tuple[Any, ...]:
        """What a value is computed from; equal keys are equal values."""
        owner = self.owner(name)
        if owner is not self:
            return owner.key(name)
        if name not in self._keys:
            found = self.source(name)
            if isinstance(found, np.ndarray):
                self._keys[name] = ("array", _digest(found))
            else:
                inputs = tuple(self.key(i) if i else () for i in found.input)
                bodies = any(a.type == AttributeProto.GRAPH for a in found.attribute)
                place: object = id(self) if bodies else 0
                operator = _bare(found).SerializeToString(deterministic=True)
                whole = (place, self.opset, operator, list(found.output).index(name), inputs)
                self._keys[name] = ("node", hash(whole), len(inputs))
        return self._keys[name]

    def _compute(self, node: NodeProto, name: str) -> Array:
        position = list(node.output).index(name)
        standard = node.domain in ("", "ai.onnx") and node.op_type in LAZY
        if node.domain == "alibi" or (standard and self._is_wide(node)):
            total = self.size(name)
            if total > MOST:
                raise Unsupported(f"'{name}' has {total} elements")
            return self._elements(node, name, np.arange(total)).reshape(self.shape(name))
        if node.op_type == "If":
            return self._branch(node).whole(self._result(node, position))
        if node.op_type == "Shape":
            dims = self.shape(node.input[0])
            return np.array(dims[_int(node, "start", 0) : _int(node, "end", len(dims))], np.int64)
        if node.op_type == "Size":
            return np.array(self.size(node.input[0]), np.int64)
        rule = SHAPES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is not None and math.prod(self.shape(name)) > MOST:
            raise Unsupported(f"'{name}' has {self.shape(name)} elements")
        return _run(node, [self.whole(i) if i else None for i in node.input], self.opset)[position]

    def is_costly(self, name: str) -> bool:
        """Whether a small value hangs on large ones, so that only what is asked for of it should be computed."""
        owner = self.owner(name)
        if owner is not self:
            return owner.is_costly(name)
        if name not in self._costly:
            found = self.source(name)
            if isinstance(found, np.ndarray) or found.op_type in ("Shape", "Size"):
                self._costly[name] = False
            elif found.op_type == "If":
                self._costly[name] = self._branch(found).is_costly(self._result(found, list(found.output).index(name)))
            else:
                inputs = [i for i in found.input if i]
                self._costly[name] = found.domain == "alibi" or any(
                    self.is_costly(i) or self.size(i) > WIDE for i in inputs
                )
        return self._costly[name]

    def _is_wide(self, node: NodeProto) -> bool:
        return any(self.size(i) > WIDE for i in node.input if i)

    def _branch(self, node: NodeProto) -> Sampled:
        chosen = bool(self.whole(node.input[0]).reshape(-1)[0])
        if (id(node), chosen) not in self._branches:
            name = "then_branch" if chosen else "else_branch"
            body = next(a.g for a in node.attribute if a.name == name)
            self._branches[id(node), chosen] = Sampled(body, self.opset, {}, self, self.memory)
        return self._branches[id(node), chosen]

    def _result(self, node: NodeProto, position: int) -> str:
        chosen = bool(self.whole(node.input[0]).reshape(-1)[0])
        name = "then_branch" if chosen else "else_branch"
        return next(a.g for a in node.attribute if a.name == name).output[position].name

    # --- elements ------------------------------------------------------------------------------------------

    def at(self, name: str, places: Array) -> Array:
        """Elements of a value.

        Args:
            name: The value.
            places: Positions in row-major order, of any shape.
        """
        owner = self.owner(name)
        if owner is not self:
            return owner.at(name, places)
        if places.size > MOST_SAMPLES:
            raise Unsupported(f"{places.size} elements of '{name}'")
        found = self.source(name)
        if isinstance(found, np.ndarray):
            return found.reshape(-1)[places]
        standard = found.domain in ("", "ai.onnx") and (found.op_type in LAZY or found.op_type in ELEMENTWISE)
        lazily = standard or found.domain == "alibi" or found.op_type == "If"
        if not lazily or (self.size(name) <= SMALL and not self.is_costly(name)):
            return self.whole(name).reshape(-1)[places]
        return self._elements(found, name, places)

    def _elements(self, node: NodeProto, name: str, places: Array) -> Array:
        position = list(node.output).index(name)
        if node.domain == "alibi":
            return _fused(self, node, places)
        if node.op_type == "If":
            return self._branch(node).at(self._result(node, position), places)
        if node.op_type in ELEMENTWISE:
            return self._elementwise(node, name, places)
        return LAZY[node.op_type](self, node, position, places)

    def _elementwise(self, node: NodeProto, name: str, places: Array) -> Array:
        shape = self.shape(name)
        flat, back = np.unique(places.reshape(-1), return_inverse=True)
        # An operator gets each input at the same elements; onnxruntime computes them as vectors.
        operands = [self.at(i, broadcast(flat, shape, self.shape(i))) if i else None for i in node.input]
        if node.op_type == "Clip":
            operands = [operands[0], *(None if o is None else o.reshape(-1)[0] for o in operands[1:])]
        elif node.op_type == "CastLike":
            operands[1] = operands[1].reshape(-1)[:1]
        made = _run(node, operands, self.opset)[0]
        return made[back].reshape(places.shape)


def broadcast(places: Array, shape: Shape, to: Shape) -> Array:
    """Positions in a value of shape ``to`` that is broadcast to ``shape``."""
    if to == shape:
        return places
    if math.prod(to) == 1:
        return np.zeros_like(places)
    index = np.unravel_index(places, shape)[len(shape) - len(to) :]
    return ravel([np.zeros_like(x) if e == 1 else x for x, e in zip(index, to, strict=True)], to, places.shape)


def ravel(index: Sequence[Array], shape: Shape, like: Shape) -> Array:
    """Positions from one array per axis."""
    total: Array = np.zeros(like, np.int64)
    for x, extent in zip(index, shape, strict=True):
        total = total * extent + x
    return total


# --- one node in onnxruntime ---------------------------------------------------------------------------------


def _bare(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    for field in ("name", "doc_string", "metadata_props"):
        copy.ClearField(field)
    del copy.input[:]
    copy.input.extend(f"i{n}" if name else "" for n, name in enumerate(node.input))
    del copy.output[:]
    copy.output.extend(f"o{n}" if name else "" for n, name in enumerate(node.output))
    return copy


def _run(node: NodeProto, inputs: Sequence[Array | None], opset: int) -> list[Any]:
    bare = _bare(node)
    kinds = tuple(0 if a is None else helper.np_dtype_to_tensor_dtype(a.dtype) for a in inputs)
    ranks = tuple(0 if a is None else a.ndim for a in inputs)
    runner, outputs = _runner(bare.SerializeToString(deterministic=True), kinds, ranks, opset)
    feeds = {f"i{n}": a for n, a in enumerate(inputs) if a is not None}
    try:
        with np.errstate(all="ignore"):
            values = iter(runner(feeds))
    except Exception as error:
        raise Unsupported(f"{node.op_type} '{node.name}': {str(error)[:200]}") from error
    return [np.asarray(next(values)) if f"o{n}" in outputs else None for n in range(len(node.output))]


@lru_cache(maxsize=4096)
def _runner(
    content: bytes, kinds: tuple[int, ...], ranks: tuple[int, ...], opset: int
) -> tuple[Callable[[dict[str, Array]], list[Array]], frozenset[str]]:
    node = NodeProto.FromString(content)
    names = [o for o in node.output if o]
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(f"i{n}", k, [None] * r)
            for n, (k, r) in enumerate(zip(kinds, ranks, strict=True))
            if k
        ],
        [onnx.ValueInfoProto(name=o) for o in names],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=min(10, onnx.IR_VERSION))
    try:
        session = _session(model)
    except Exception:  # noqa: BLE001 - a type that onnxruntime's CPU kernels do not have
        reference = onnx.reference.ReferenceEvaluator(model)
        return lambda feeds: reference.run(None, feeds), frozenset(names)
    narrow = {helper.tensor_dtype_to_np_dtype(k) for k in kinds if k} | {
        helper.tensor_dtype_to_np_dtype(a.i) for a in node.attribute if a.name == "to"
    }
    if any(d.kind == "V" or "float8" in d.name or d.name in ("bfloat16", "int4", "uint4") for d in narrow):
        reference = onnx.reference.ReferenceEvaluator(model)  # onnxruntime takes no such arrays from numpy
        return lambda feeds: reference.run(None, feeds), frozenset(names)
    return lambda feeds: session.run(names, feeds), frozenset(names)


def _session(model: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _digest(array: Array) -> tuple[Any, ...]:
    content = np.ascontiguousarray(array)
    return (array.shape, str(array.dtype), hash(content.tobytes()))


def _attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _int(node: NodeProto, name: str, default: int) -> int:
    return int(_attribute(node, name, default))


# --- shapes --------------------------------------------------------------------------------------------------


def _input(scope: Sampled, node: NodeProto, position: int, attribute: str = "") -> list[int] | None:
    """Integers that newer operators take as an input and older ones as an attribute."""
    if len(node.input) > position and node.input[position]:
        return [int(v) for v in scope.whole(node.input[position]).reshape(-1)]
    found = _attribute(node, attribute) if attribute else None
    return None if found is None else [int(v) for v in np.atleast_1d(found)]


def _broadcast_shape(scope: Sampled, node: NodeProto, output: int) -> Shape:
    return tuple(int(e) for e in np.broadcast_shapes(*(scope.shape(i) for i in node.input if i)))


def _same_shape(scope: Sampled, node: NodeProto, output: int) -> Shape:
    return scope.shape(node.input[0])


def _transpose_shape(scope: Sampled, node: NodeProto, output: int) -> Shape:
    dims = scope.shape(node.input[0])
    return tuple(dims[a] for a in _attribute(node, "perm", list(range(len(dims)))[::-1]))


def _reshape_shape(scope: Sampled, node: NodeProto, output: int) -> Shape:
    dims = scope.shape(node.input[0])
    wanted = _input(scope, node, 1, "shape") or []
    made = [dims[a] if e == 0 and not _int(node, "allowzero", 0) else e for a, e in enumerate(wanted)]
    if -1 in made:
        made[made.index(-1)] = math.prod(dims) // max(1, -math.prod(made))
    if math.prod(made) != math.prod(dims):
        raise Unsupported(f"Reshape of {dims} to {wanted}")
    return tuple(made)


def _flatten_shape(scope: Sampled, node: NodeProto, output: int) -> Shape:
    dims = scope.shape(node.input[0])
    axis = _int(node, "axis", 1)
    return math.prod(dims[:axis]), math.prod(dims[axis:])


def _squeeze_shape(scope: Sampled, node: NodeProto, output: int) -> Shape:
    dims = scope.shape(node.input[0])
    axes = _input(scope, node, 1, "axes")
    gone = {a for a, e in enumerate(dims) if e == 1} if axes is None else {a % len(dims) for a in axes}
    return tuple(e for a, e in enumerate(dims) if a not in gone)


def _unsqueeze_shape(scope: Sampled, node: NodeProto, output: int) -> Shape:
    dims = list(scope.shape(node.input[0]))
    axes = _input(scope, node, 1, "axes") or []
    rank = len(dims) + len(axes)
    new = {a % rank for a in axes}
    rest = iter(dims)
    return tuple(1 if a in new else next(rest) for a in range(rank))


def _expand_shape(scope: Sampled, node: NodeProto, output: int) -> Shape:
    wanted = _input(scope, node, 1) or []
    return tuple(int(e) for e in np.broadcast_shapes(scope.shape(node.input[0]), tuple(wanted)))


def _steps(scope: Sampled, node: NodeProto) -> list[tuple[int, int, int]]:
    """Per axis first element, step and number of elements of a Slice."""
    dims = scope.shape(node.input[0])
    starts, ends = _input(scope, node, 1, "starts") or [], _input(scope, node, 2, "ends") or []
    axes = _input(scope, node, 3, "axes")
    steps = _input(scope, node, 4) or [1] * len(starts)
    found = [(0, 1, e) for e in dims]
    for place, (start, end, step) in enumerate(zip(starts, ends, steps, strict=True)):
        axis = (place if axes is None else axes[place]) % len(dims)
        span = range(*slice(start, end if step > 0 or end > -(1 << 31) else None, step).indices(dims[axis]))
        found[axis] = span.start, step, len(span)
    return found


def _slice_shape(scope: Sampled, node: NodeProto, output: int) -> Shape:
    return tuple(n for _, _, n in _steps(scope, node))


def _concat_shape(scope: Sampled, node: NodeProto, output: int) -> Shape:
    shapes = [scope.shape(i) for i in node.input]
    axis = _int(node, "axis", 0) % len(shapes[0])
    return tuple(sum(s[a] for s in shapes) if a == axis else e for a, e in enumerate(shapes[0]))


def _gather_shape(scope: Sampled, node: NodeProto, output: int) -> Shape:
    dims, chosen = scope.shape(node.input[0]), scope.shape(node.input[1])
    axis = _int(node, "axis", 0) % len(dims)
    return (*dims[:axis], *chosen, *dims[axis + 1 :])


def _tile_shape(scope: Sampled, node: NodeProto, output: int) -> Shape:
    return tuple(e * n for e, n in zip(scope.shape(node.input[0]), _input(scope, node, 1) or [], strict=True))


def _matmul_shape(scope: Sampled, node: NodeProto, output: int) -> Shape | None:
    a, b = scope.shape(node.input[0]), scope.shape(node.input[1])
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        return None
    return (*(int(e) for e in np.broadcast_shapes(a[:-2], b[:-2])), a[-2], b[-1])


def _filled_shape(scope: Sampled, node: NodeProto, output: int) -> Shape:
    return tuple(_input(scope, node, 0) or [])


def _einsum_terms(scope: Sampled, node: NodeProto) -> tuple[list[str], str, dict[str, int]] | None:
    equation = _attribute(node, "equation").decode().replace(" ", "")
    if "..." in equation or "->" not in equation:
        return None
    left, out = equation.split("->")
    terms = left.split(",")
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        for letter, extent in zip(term, scope.shape(name), strict=True):
            sizes[letter] = max(extent, sizes.get(letter, 1))
    return terms, out, sizes


def _einsum_shape(scope: Sampled, node: NodeProto, output: int) -> Shape | None:
    found = _einsum_terms(scope, node)
    return None if found is None else tuple(found[2][letter] for letter in found[1])


def _pad_shape(scope: Sampled, node: NodeProto, output: int) -> Shape:
    dims = scope.shape(node.input[0])
    before, after = _pads(scope, node)
    return tuple(e + b + a for e, b, a in zip(dims, before, after, strict=True))


def _pads(scope: Sampled, node: NodeProto) -> tuple[list[int], list[int]]:
    rank = len(scope.shape(node.input[0]))
    pads = _input(scope, node, 1, "pads") or []
    axes = _input(scope, node, 3) or list(range(rank))
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis % rank], after[axis % rank] = pads[place], pads[place + len(axes)]
    return before, after


def _reduced_axes(scope: Sampled, node: NodeProto) -> list[int]:
    rank = len(scope.shape(node.input[0]))
    axes = _input(scope, node, 1, "axes")
    if not axes:
        return [] if _int(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted({a % rank for a in axes})


def _reduced_shape(scope: Sampled, node: NodeProto, output: int) -> Shape:
    dims, axes = scope.shape(node.input[0]), _reduced_axes(scope, node)
    if _int(node, "keepdims", 1):
        return tuple(1 if a in axes else e for a, e in enumerate(dims))
    return tuple(e for a, e in enumerate(dims) if a not in axes)


ELEMENTWISE = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Mod", "Pow", "Min", "Max", "Sum", "Mean", "Where", "Clip", "BitShift"),
        *("And", "Or", "Xor", "Not", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"),
        *("Cast", "CastLike", "Neg", "Abs", "Sqrt", "Exp", "Log", "Reciprocal", "Floor", "Ceil", "Round", "Sign"),
        *("Relu", "Tanh", "Sigmoid", "Erf", "Sin", "Cos", "Softplus", "IsNaN", "IsInf", "Identity", "LeakyRelu"),
        *("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "Elu", "HardSigmoid"),
    }
)
REDUCTIONS = ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceSumSquare")

SHAPES: dict[str, Callable[[Sampled, NodeProto, int], Shape | None]] = {
    **dict.fromkeys(ELEMENTWISE - {"Clip", "CastLike"}, _broadcast_shape),
    **dict.fromkeys(
        ("Clip", "CastLike", "Softmax", "LogSoftmax", "LayerNormalization", "Trilu", "CumSum", "ScatterND", "Gelu"),
        _same_shape,
    ),
    **dict.fromkeys(("ScatterElements", "EyeLike", "Dropout", "RMSNormalization"), _same_shape),
    **dict.fromkeys(REDUCTIONS, _reduced_shape),
    "Transpose": _transpose_shape,
    "Reshape": _reshape_shape,
    "Flatten": _flatten_shape,
    "Squeeze": _squeeze_shape,
    "Unsqueeze": _unsqueeze_shape,
    "Expand": _expand_shape,
    "Slice": _slice_shape,
    "Concat": _concat_shape,
    "Gather": _gather_shape,
    "Tile": _tile_shape,
    "MatMul": _matmul_shape,
    "ConstantOfShape": _filled_shape,
    "Einsum": _einsum_shape,
    "Pad": _pad_shape,
}


# --- rules for elements --------------------------------------------------------------------------------------


def _same_places(scope: Sampled, node: NodeProto, output: int, places: Array) -> Array:
    return scope.at(node.input[0], places)


def _transpose(scope: Sampled, node: NodeProto, output: int, places: Array) -> Array:
    dims = scope.shape(node.input[0])
    perm = _attribute(node, "perm", list(range(len(dims)))[::-1])
    index = np.unravel_index(places, tuple(dims[a] for a in perm))
    moved = [index[list(perm).index(a)] for a in range(len(dims))]
    return scope.at(node.input[0], ravel(moved, dims, places.shape))


def _expand(scope: Sampled, node: NodeProto, output: int, places: Array) -> Array:
    return scope.at(node.input[0], broadcast(places, scope.shape(node.output[0]), scope.shape(node.input[0])))


def _slice(scope: Sampled, node: NodeProto, output: int, places: Array) -> Array:
    index = np.unravel_index(places, scope.shape(node.output[0]))
    moved = [first + step * x for x, (first, step, _) in zip(index, _steps(scope, node), strict=True)]
    return scope.at(node.input[0], ravel(moved, scope.shape(node.input[0]), places.shape))


def _concat(scope: Sampled, node: NodeProto, output: int, places: Array) -> Array:
    dims = scope.shape(node.output[0])
    axis = _int(node, "axis", 0) % len(dims)
    index = list(np.unravel_index(places, dims))
    made: Array | None = None
    first = 0
    for name in node.input:
        shape = scope.shape(name)
        here = (index[axis] >= first) & (index[axis] < first + shape[axis])
        if here.any():
            moved = [(x - first if a == axis else x)[here] for a, x in enumerate(index)]
            found = scope.at(name, ravel(moved, shape, moved[0].shape))
            made = np.zeros(places.shape, found.dtype) if made is None else made
            made[here] = found
        first += shape[axis]
    if made is None:
        return np.zeros(places.shape, scope.at(node.input[0], np.zeros(0, np.int64)).dtype)
    return made


def _gather(scope: Sampled, node: NodeProto, output: int, places: Array) -> Array:
    dims, chosen = scope.shape(node.input[0]), scope.shape(node.input[1])
    axis = _int(node, "axis", 0) % len(dims)
    index = np.unravel_index(places, scope.shape(node.output[0]))
    own = index[axis : axis + len(chosen)]
    where = scope.at(node.input[1], ravel(own, chosen, places.shape)).astype(np.int64)
    if ((where < -dims[axis]) | (where >= dims[axis])).any():
        raise Unsupported("Gather beyond its data")
    where = np.where(where < 0, where + dims[axis], where)
    moved = [*index[:axis], where, *index[axis + len(chosen) :]]
    return scope.at(node.input[0], ravel(moved, dims, places.shape))


def _trilu(scope: Sampled, node: NodeProto, output: int, places: Array) -> Array:
    dims = scope.shape(node.input[0])
    index = np.unravel_index(places, dims)
    shift = (_input(scope, node, 1) or [0])[0]
    kept = index[-1] - index[-2] >= shift if _int(node, "upper", 1) else index[-1] - index[-2] <= shift
    found = scope.at(node.input[0], places)
    return np.where(kept, found, np.zeros((), found.dtype))


def _tile(scope: Sampled, node: NodeProto, output: int, places: Array) -> Array:
    dims = scope.shape(node.input[0])
    index = np.unravel_index(places, scope.shape(node.output[0]))
    moved = [x % e for x, e in zip(index, dims, strict=True)]
    return scope.at(node.input[0], ravel(moved, dims, places.shape))


def _pad(scope: Sampled, node: NodeProto, output: int, places: Array) -> Array:
    if _attribute(node, "mode", b"constant") != b"constant":
        return scope.whole(node.output[0]).reshape(-1)[places]
    dims = scope.shape(node.input[0])
    before, _ = _pads(scope, node)
    index = [x - b for x, b in zip(np.unravel_index(places, scope.shape(node.output[0])), before, strict=True)]
    here = np.ones(places.shape, np.bool_)
    for x, extent in zip(index, dims, strict=True):
        here &= (x >= 0) & (x < extent)
    inside = scope.at(node.input[0], ravel([x[here] for x in index], dims, index[0][here].shape))
    given = scope.whole(node.input[2]).reshape(-1)[0] if len(node.input) > 2 and node.input[2] else None
    filler = _attribute(node, "value", 0) if given is None else given
    made = np.full(places.shape, filler, inside.dtype)
    made[here] = inside
    return made


def _filled(scope: Sampled, node: NodeProto, output: int, places: Array) -> Array:
    value = _attribute(node, "value")
    filler = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
    return np.full(places.shape, filler.reshape(-1)[0])


def _reduced(scope: Sampled, node: NodeProto, output: int, places: Array) -> Array:
    dims, axes = scope.shape(node.input[0]), _reduced_axes(scope, node)
    kept = tuple(1 if a in axes else e for a, e in enumerate(dims))
    flat, back = np.unique(places.reshape(-1), return_inverse=True)
    index = np.unravel_index(flat, kept)
    span = np.indices([dims[a] for a in axes]).reshape(len(axes), -1)
    moved = [span[axes.index(a)][None, :] if a in axes else x[:, None] for a, x in enumerate(index)]
    rows = scope.at(node.input[0], ravel(moved, dims, (len(flat), span.shape[1])))
    one = helper.make_node(node.op_type, ["i", "a"], ["o"], keepdims=0)
    if (node.op_type != "ReduceSum" and scope.opset < 18) or scope.opset < 13:
        made = _run(helper.make_node(node.op_type, ["i"], ["o"], keepdims=0, axes=[1]), [rows], scope.opset)[0]
    else:
        made = _run(one, [rows, np.array([1], np.int64)], scope.opset)[0]
    return made[back].reshape(places.shape)


def _softmax(scope: Sampled, node: NodeProto, output: int, places: Array) -> Array:
    dims = scope.shape(node.input[0])
    old = scope.opset < 13
    axis = _int(node, "axis", 1 if old else -1) % len(dims)
    outer = math.prod(dims[:axis])
    span = math.prod(dims[axis:]) if old else dims[axis]
    inner = 1 if old else math.prod(dims[axis + 1 :])
    first, rest = places.reshape(-1) // (span * inner), places.reshape(-1) % (span * inner)
    column, last = rest // inner, rest % inner
    rows, back = np.unique(first * inner + last, return_inverse=True)
    assert outer >= 0
    start = (rows // inner) * span * inner + rows % inner
    scores = scope.at(node.input[0], start[:, None] + np.arange(span)[None, :] * inner)
    with np.errstate(all="ignore"):
        wide = scores.astype(np.float64)
        weights = np.exp(wide - wide.max(axis=1, keepdims=True))
        weights = (weights / weights.sum(axis=1, keepdims=True)).astype(scores.dtype)
    return weights[back, column].reshape(places.shape)


def _matmul(scope: Sampled, node: NodeProto, output: int, places: Array) -> Array:
    a, b = scope.shape(node.input[0]), scope.shape(node.input[1])
    if len(a) < 2 or len(b) < 2:
        return scope.whole(node.output[0]).reshape(-1)[places]
    letters = "abcdefghuvwx"
    batch = letters[: max(len(a), len(b)) - 2]
    terms = [batch[len(batch) - len(a) + 2 :] + "ij", batch[len(batch) - len(b) + 2 :] + "jk"]
    return _contract(scope, node, terms, batch + "ik", places)


def _einsum(scope: Sampled, node: NodeProto, output: int, places: Array) -> Array:
    found = _einsum_terms(scope, node)
    if found is None or len(found[0]) != 2 or any(len(set(t)) != len(t) for t in found[0]):
        return scope.whole(node.output[0]).reshape(-1)[places]
    return _contract(scope, node, found[0], found[1], places)


def _contract(scope: Sampled, node: NodeProto, terms: list[str], out: str, places: Array) -> Array:
    """Elements of a product of two values, summed over the letters that the output has not."""
    shapes = [scope.shape(i) for i in node.input[:2]]
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, extent in zip(term, shape, strict=True):
            sizes[letter] = max(extent, sizes.get(letter, 1))
    summed = sorted({x for t in terms for x in t if x not in out})
    span = np.indices([sizes[x] for x in summed]).reshape(len(summed), -1)
    index = dict(zip(out, np.unravel_index(places.reshape(-1), tuple(sizes[x] for x in out)), strict=True))
    total = None
    factors = []
    for term, shape, name in zip(terms, shapes, node.input[:2], strict=True):
        kept = [x for x in term if x not in summed]
        which = ravel(
            [index[x] if e > 1 else 0 * index[x] for x, e in zip(term, shape, strict=True) if x in kept],
            tuple(e for x, e in zip(term, shape, strict=True) if x in kept),
            places.reshape(-1).shape,
        )
        unique, back = np.unique(which, return_inverse=True)
        own = np.unravel_index(unique, tuple(e for x, e in zip(term, shape, strict=True) if x in kept)) if kept else []
        parts = dict(zip(kept, own, strict=True))
        moved = []
        for x, extent in zip(term, shape, strict=True):
            if x in summed:
                moved.append(span[summed.index(x)][None, :] * (extent > 1))
            else:
                moved.append(parts[x][:, None])
        factors.append((scope.at(name, ravel(moved, shape, (len(unique), span.shape[1]))), back))
    (left, first), (right, second) = factors
    dtype = left.dtype
    count = places.size
    total = np.empty(count, np.float64)
    step = max(1, MOST_SAMPLES // max(1, span.shape[1]))
    with np.errstate(all="ignore"):
        for start in range(0, count, step):
            rows, columns = first[start : start + step], second[start : start + step]
            total[start : start + step] = np.einsum(
                "nk,nk->n", left[rows].astype(np.float64), right[columns].astype(np.float64)
            )
        return total.astype(dtype).reshape(places.shape)


def _viewed(node: NodeProto, name: str, tensor: Array) -> Array:
    """[B, H, S, D] of an operand in its tensor."""
    said = {entry.name: list(entry.ints) for entry in node.attribute}
    if f"{name}_perm" not in said:
        return tensor
    whole = tensor.reshape(*tensor.shape[:2], *said[f"{name}_shape"][2:]) if tensor.ndim == 3 else tensor
    (h0, d0), (h1, d1) = said[f"{name}_starts"], said[f"{name}_ends"]
    return whole[:, :, h0:h1, d0:d1].transpose(said[f"{name}_perm"])


def _fused_places(scope: Sampled, node: NodeProto) -> Array:
    """For every element of the fused node's output, its place in [B, H, S_q, D_v]."""
    query, value = (
        _viewed(node, name, np.broadcast_to(np.int8(0), scope.shape(node.input[place])))
        for place, name in ((0, "query"), (2, "value"))
    )
    shape = (*query.shape[:3], value.shape[3])
    said = {entry.name: list(entry.ints) for entry in node.attribute}
    found = np.arange(math.prod(shape)).reshape(shape)
    if "output_perm" not in said:
        return found
    moved = found.transpose(said["output_perm"])
    return moved.reshape(*moved.shape[:2], -1) if len(said["output_shape"]) == 3 else moved


def _fused(scope: Sampled, node: NodeProto, places: Array) -> Array:
    """The fused node as docs/specification.md says, in float64."""
    wanted = _fused_places(scope, node).reshape(-1)[places]
    query, key, value = (
        _viewed(node, name, scope.whole(tensor).astype(np.float64))
        for tensor, name in zip(node.input, ("query", "key", "value"), strict=False)
    )
    slopes = scope.whole(node.input[3]).astype(np.float64)
    batch, heads, rows, _ = query.shape
    keys, group = key.shape[2], heads // key.shape[1]
    kind = node.op_type
    rest = list(node.input[4:])
    mask = rest.pop(0) if kind.endswith("Mask") else ""
    positions = scope.whole(rest.pop(0)).astype(np.float64) if "Positions" in kind else None
    extra = scope.whole(rest.pop(0)).astype(np.float64) if "KeyBias" in kind else None
    shape = (batch, heads, rows, value.shape[3])
    b, h, i, d = (x.reshape(-1) for x in np.unravel_index(wanted, shape))
    which, back = np.unique((b * heads + h) * rows + i, return_inverse=True)
    b, h, i = which // (heads * rows), which // rows % heads, which % rows
    scores = _attribute(node, "scale", 1.0) * np.einsum("nd,nkd->nk", query[b, h, i], key[b, h // group])
    j, own = np.arange(keys)[None, :], (i + keys - rows)[:, None]
    if _attribute(node, "bias") == b"symmetric":
        distance: Array = -np.abs(own - j)
    elif positions is None:
        distance = j - own
    else:
        table = positions[b % positions.shape[0]]
        distance = table - np.take_along_axis(table, np.clip(own, 0, keys - 1), 1)
    scores = scores + slopes[h][:, None] * distance
    visible = np.ones(scores.shape, np.bool_)
    if _int(node, "causal", 0):
        visible &= j <= own
    left, right = _int(node, "window_left", -1), _int(node, "window_right", -1)
    if left >= 0:
        visible &= own - j <= left
    if right >= 0:
        visible &= j - own <= right
    if extra is not None:
        added = extra[b % extra.shape[0], h % extra.shape[1]]
        visible &= added > HIDDEN
        scores = scores + np.where(added > HIDDEN, np.minimum(added, -HIDDEN), 0)
    if mask:
        whole = scope.shape(mask)
        place = [
            np.broadcast_to(x if e > 1 else 0 * x, scores.shape)
            for x, e in zip((b[:, None], h[:, None], i[:, None], j), whole, strict=True)
        ]
        found = scope.at(mask, ravel(place, whole, scores.shape))
        if found.dtype == np.bool_:
            visible &= found
        else:
            added = found.astype(np.float64)
            visible &= added > HIDDEN
            scores = scores + np.where(added > HIDDEN, np.minimum(added, -HIDDEN), 0)
    with np.errstate(all="ignore"):
        hidden = np.where(visible, scores, -np.inf)
        weights = np.where(visible, np.exp(hidden - hidden.max(axis=1, keepdims=True)), 0)
        sums = weights.sum(axis=1, keepdims=True)
        blind = 0.0 if _attribute(node, "empty_rows", b"mean") == b"zero" else 1.0 / max(1, keys)
        weights = np.where(visible.any(axis=1, keepdims=True), weights / sums, blind)
    attended = np.einsum("nk,nkd->nd", weights, value[b, h // group])
    found = attended[back, d.reshape(-1)].reshape(places.shape)
    return found.astype(scope.whole(node.input[0]).dtype)


LAZY: dict[str, Callable[[Sampled, NodeProto, int, Array], Array]] = {
    "Transpose": _transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout"), _same_places),
    "Expand": _expand,
    "Slice": _slice,
    "Concat": _concat,
    "Gather": _gather,
    "Trilu": _trilu,
    "Tile": _tile,
    "Pad": _pad,
    "ConstantOfShape": _filled,
    "Softmax": _softmax,
    "MatMul": _matmul,
    "Einsum": _einsum,
    **dict.fromkeys(REDUCTIONS, _reduced),
}
