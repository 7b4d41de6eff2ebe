"""Writing a cache in place: buffers, appending nodes, and fused nodes that know how many keys there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto

from ...base.errors import NotRewritten
from ...fused.append import OP_TYPE, CacheAppend, append_proto, moves_of
from ...fused.body import VIEWS_OPSET, function_proto
from ...fused.family import BY_OP_TYPE, DOMAIN, UNBOUNDED, EmptyRows, FusedAttention, MaskKind, Variant
from ...fused.layout import AS_IT_IS, Moves, OperandView, layout_of
from ...graph import note
from ...graph.edit import Editor, all_names
from ...graph.index import attribute, float_attribute, index_graph, int_attribute, opset_versions
from ...patterns.caches import SEQUENCE_AXIS
from ...patterns.layouts import Axis, axis
from ...verify.buffers import CacheBuffer
from ..bind.layout import ways
from ..interpret import Interpreter
from ..interpret.scopes import interpreted
from ..interpret.shapes import operand_extents
from ..records.in_place import InPlace
from .found import CURE, Cache, caches, place
from .leftover import check_leftovers
from .padding import padding_inputs

SIDES = ("left", "right")

CAPACITY = "capacity"
"""What the rows of a buffer are called where they are no number."""

LENGTHS = "key_lengths"
"""The new input: how many keys each sequence has, those of the new tokens included."""


def hold_in_place(model: ModelProto, base_dir: Path, where: str) -> InPlace:
    """Make the caches of a rewritten model buffers of a capacity that does not change.

    Args:
        model: A rewritten model; changed.
        base_dir: Where external data lie.
        where: The file, for errors.

    Returns:
        What was done.  The capacity is left to who runs the model.

    Raises:
        NotRewritten: A cache cannot be held in place, or something else needs to know how long it is.
    """
    opsets = opset_versions(model)
    if opsets.get("", 1) < VIEWS_OPSET:
        raise NotRewritten(f"'{where}' has opset {opsets.get('', 1)}; a cache in place needs {VIEWS_OPSET}. {CURE}")
    root = index_graph(model.graph, opsets, base_dir)
    interpreter = next(interpreted(root))
    found = caches(interpreter, where)
    padded = padding_inputs(root, [cache.node for cache in found], where)
    editor = Editor(model.graph, opsets[""], all_names(model))
    batch = _batch(model, found[0].key.past)
    lengths = editor.add_input(LENGTHS, TensorProto.INT64, [batch])
    writer = _Writer(interpreter, editor, lengths, found)
    for number, cache in enumerate(found):
        writer.write(cache, f"cache_{number}")
    for cache in found:
        for one in cache.both:
            heads, width = (int(e.constant or 0) for e in (one.extents[1], one.extents[3]))
            shape = (batch, heads or "key_heads", CAPACITY, width or "features")
            editor.set_shape(one.past, shape)
            editor.set_shape(one.present, shape)
    editor.finish()
    check_leftovers(index_graph(model.graph, opsets, base_dir), found, padded, where)
    for name in padded:
        editor.remove_input(name)
    _write_bodies(model, writer, opsets[""])
    note.write(model)
    pairs = tuple((one.past, one.present) for cache in found for one in cache.both)
    note.write_cache(model, note.HeldCache(lengths, pairs))
    buffers = tuple(
        CacheBuffer(one.past, one.present, one.axes, int(one.extents[1].constant or 0))
        for cache in found
        for one in cache.both
    )
    return InPlace(buffers, lengths, padded, None, editor.counts)


def fix_capacity(model: ModelProto, held: InPlace, capacity: int) -> InPlace:
    """Declare how many rows the buffers have.

    Args:
        model: A model whose caches are in place; changed.
        held: What was done.
        capacity: Rows of the buffers.
    """
    editor = Editor(model.graph, opset_versions(model).get("", 1), all_names(model))
    for buffer in held.buffers:
        for name in (buffer.past, buffer.present):
            editor.fix_extent(name, SEQUENCE_AXIS, capacity)
    return replace(held, capacity=capacity)


class _Writer:
    """Makes the nodes, all with views if one of their kind has some, since they share a body."""

    def __init__(self, interpreter: Interpreter, editor: Editor, lengths: str, found: Sequence[Cache]) -> None:
        self.interpreter = interpreter
        self.editor = editor
        self.lengths = lengths
        self.appended = {id(cache.node): CacheAppend(cache.key.view, cache.value.view) for cache in found}
        self.queries = {id(cache.node): _query(interpreter, cache.node) for cache in found}
        self.fused = {id(cache.node): _attention(cache.node, self.queries[id(cache.node)][1]) for cache in found}
        self.types = {id(cache.node): interpreter.dtype(cache.node.input[0]) for cache in found}
        self.grouped = {id(cache.node): _is_grouped(interpreter, cache) for cache in found}
        viewed = {fused.variant for fused in self.fused.values() if not fused.layout.plain}
        self.fused = {key: replace(fused, views=fused.variant in viewed) for key, fused in self.fused.items()}
        views = any(not append.plain for append in self.appended.values())
        self.appended = {key: replace(append, views=views) for key, append in self.appended.items()}

    def write(self, cache: Cache, site: str) -> None:
        """Append, then attend."""
        editor, node = self.editor, cache.node
        for one in cache.both:
            editor.take_over(one.present)
        key = editor.node(
            OP_TYPE,
            [cache.key.past, cache.value.past, cache.key.new, cache.value.new, self.lengths],
            f"{site}/append",
            output=cache.key.present,
            further=[cache.value.present],
            domain=DOMAIN,
            attributes=self.appended[id(node)].attributes(),
        )
        fused = self.fused[id(node)]
        result = node.output[0]
        editor.take_over(result)
        editor.node(
            fused.variant.op_type,
            [self.queries[id(node)][0], key, cache.value.present, node.input[3], self.lengths],
            f"{site}/attention",
            output=result,
            domain=DOMAIN,
            attributes=fused.attributes(),
        )
        editor.last().metadata_props.extend(node.metadata_props)
        editor.place(before=node)


def _query(interpreter: Interpreter, node: NodeProto) -> tuple[str, OperandView]:
    """Where the query is read from.  Nothing cuts a projection for the cache any more."""
    tensor, view = node.input[0], layout_of(node).query
    extents = operand_extents(interpreter, view, interpreter.dims(tensor))
    if extents is None:
        return tensor, view
    axes = tuple(map(axis, (Axis.BATCH, Axis.HEAD, Axis.ROW, Axis.FEATURE), extents))
    found = ways(
        interpreter, tensor, place(view, axes), (axes[0], axes[1], axes[2], axes[3]), interpreter.dtype(tensor)
    )
    best = next((way for way in reversed(found) if way.group == 1), None)
    return (tensor, view) if best is None else (best.tensor, best.view)


def _attention(node: NodeProto, query: OperandView) -> FusedAttention:
    """What the fused node is with lengths and buffers."""
    old = BY_OP_TYPE[node.op_type]
    variant = Variant(old.form, old.causal, positions=False, mask=MaskKind.NONE.value, window=old.window, lengths=True)
    policy = EmptyRows(_text(attribute(node, "empty_rows", EmptyRows.MEAN.value)))
    left, right = (int_attribute(node, f"window_{side}", UNBOUNDED) if old.window else UNBOUNDED for side in SIDES)
    parameters = tuple(float_attribute(node, name, 0.0) for name in old.bias.attributes)
    layout = replace(layout_of(node), query=query, key=AS_IT_IS, value=AS_IT_IS)
    return FusedAttention(variant, float_attribute(node, "scale", 1.0), policy, left, right, parameters, layout)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _is_grouped(interpreter: Interpreter, cache: Cache) -> bool:
    """Whether keys may have fewer heads than queries."""
    query = operand_extents(interpreter, layout_of(cache.node).query, interpreter.dims(cache.node.input[0]))
    return query is None or not interpreter.same(query[1], cache.key.extents[1])


def _batch(model: ModelProto, past: str) -> str | int:
    """What the batch of a buffer is called, or is."""
    entry = next(entry for entry in model.graph.input if entry.name == past)
    dim = entry.type.tensor_type.shape.dim[0] if entry.type.tensor_type.shape.dim else None
    return (dim.dim_param or dim.dim_value or "batch") if dim is not None else "batch"


def _write_bodies(model: ModelProto, writer: _Writer, opset: int) -> None:
    """The function bodies of the new nodes, without those that nothing calls any more."""
    called = {(n.domain, n.op_type) for n in model.graph.node} | {
        (n.domain, n.op_type) for function in model.functions for n in function.node
    }
    kept = [f for f in model.functions if f.domain != DOMAIN or (f.domain, f.name) in called]
    variants = sorted({fused.variant for fused in writer.fused.values()})
    for variant in variants:
        own = [key for key, fused in writer.fused.items() if fused.variant == variant]
        types = {writer.types[key] for key in own}
        kept.append(
            function_proto(
                variant,
                opset,
                grouped=any(writer.grouped[key] for key in own),
                zero_rows=any(writer.fused[key].empty_rows is EmptyRows.ZERO for key in own),
                query_type=TensorProto.FLOAT if TensorProto.FLOAT in types else min(types),
                moves=Moves.of([writer.fused[key].layout for key in own]),
            )
        )
    moves = moves_of(list(writer.appended.values()))
    kept.append(append_proto(opset, query_type=min(writer.types.values()), moves=moves))
    del model.functions[:]
    model.functions.extend(kept)
