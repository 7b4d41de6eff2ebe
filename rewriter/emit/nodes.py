"""From a binding to nodes: the fused node, and the few nodes that bring its inputs into their layouts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import TensorProto, helper

from ...algebra import Index, Number, Poly
from ...fused.family import DOMAIN, EmptyRows, FusedAttention, MaskKind, Variant
from ...graph.edit import Editor, set_metadata
from ...graph.index import label
from ...patterns.caches import PAST, PRESENT, SEQUENCE_AXIS
from ...patterns.layouts import Axis
from ..interpret import Interpreter
from ..recognise.views import key_head
from ..records.binding import Binding, Leaf, Mask
from ..records.reading import View

PROVENANCE = "alibi_rewriter"
"""Prefix of the metadata keys that say where a fused node came from."""


COMPARISONS = {"equal": "Equal", "at_most": "LessOrEqual", "below": "Less"}
"""Operators for comparisons of a leaf with a number."""


def variant_of(binding: Binding) -> Variant:
    """The member of the family that a binding needs."""
    mask = MaskKind.NONE
    if binding.additive is not None:
        mask = MaskKind.ADDITIVE
    elif binding.boolean is not None:
        mask = MaskKind.BOOLEAN
    return Variant(
        binding.proof.form.name,
        binding.proof.causal or binding.used is not None,
        binding.positions is not None,
        mask.value,
        binding.key_bias is not None,
        binding.proof.window.bounded,
        binding.used is not None,
    )


def is_grouped(binding: Binding) -> bool:
    """Whether keys have fewer heads than queries."""
    head = binding.proof.attention.frame.head
    repeated = any(placed.group > 1 for placed in binding.placed.values())
    return repeated or key_head(binding.proof.attention.key, head) != head


def emit(
    interpreter: Interpreter,
    editor: Editor,
    binding: Binding,
    *,
    zero_rows: bool,
    ir_version: int,
    site: str,
    views: bool = False,
) -> FusedAttention:
    """Put the fused node of one site into the graph, in place of what the binding calls the output.

    Args:
        interpreter: For extents that are numbers.
        editor: Writes.
        binding: What to write.
        zero_rows: Policy for rows without keys, the same for all nodes of one op_type in a file.
        ir_version: From 10 on, nodes carry metadata.
        site: Prefix for new names.
        views: Some node of this op_type in the file describes its tensors, so all do.

    Returns:
        The attributes of the new node.
    """
    attention = binding.proof.attention
    frame = attention.frame
    writer = _Writer(interpreter, editor, binding, site)
    query = writer.operand("query", (frame.batch, frame.head, frame.row))
    heads = key_head(attention.key, frame.head)
    # With a cache the operand holds the new keys only, and they have an index of their own.
    new = next((i for i in attention.key.indices if i.role is Axis.KEY), frame.key)
    key = writer.operand("key", (frame.batch, heads, new))
    value = writer.operand("value", (frame.batch, heads, new))
    for name, tensor in (("key", key), ("value", value)):
        past, present = attention.past.get(PAST[name]), attention.extra_outputs.get(PRESENT[name], "")
        if present:
            editor.take_over(present)
        if past:
            tensor = editor.node("Concat", [past, tensor], f"{site}/{name}", output=present, axis=SEQUENCE_AXIS)
        elif present:
            tensor = editor.node("Identity", [tensor], f"{site}/{name}", output=present)
        key, value = (tensor, value) if name == "key" else (key, tensor)
    writer.keys, writer.queries = key, query
    if binding.scale is not None:
        query = writer.scaled(query, binding.scale)
    variant = variant_of(binding)
    inputs = [query, key, value, writer.slopes(binding)]
    if variant.mask != MaskKind.NONE.value:
        inputs.append(writer.mask(binding))
    if binding.positions is not None:
        inputs.append(writer.positions(binding.positions, (frame.batch, frame.key)))
    if binding.key_bias is not None:
        inputs.append(writer.key_bias(binding, binding.key_bias))
    if binding.used is not None:
        inputs.append(writer.key_lengths(binding, binding.used))
    hides = variant.mask != MaskKind.NONE.value or variant.key_bias or variant.window
    policy = EmptyRows.ZERO if zero_rows and hides else EmptyRows.MEAN
    window, scale = binding.proof.window, float(np.float32(float(attention.scale)))
    parameters = tuple(map(float, binding.proof.parameters))
    layout = binding.layout
    fused = FusedAttention(variant, scale, policy, window.left, window.right, parameters, layout, views)
    target = binding.output.tensor
    anchor = editor.producer(target)
    editor.take_over(target)
    writer.output(binding, fused, inputs, ir_version)
    editor.place(before=anchor)
    return fused


class _Writer:
    """Makes values of canonical layout out of views."""

    def __init__(self, interpreter: Interpreter, editor: Editor, binding: Binding, site: str) -> None:
        self.interpreter = interpreter
        self.editor = editor
        self.binding = binding
        self.site = site
        self.keys = ""
        self.queries = ""

    def scaled(self, query: str, view: View) -> str:
        """The query times (or by) a factor that is only known at run time."""
        head = self.binding.proof.attention.frame.head
        factor = self.arrange(view, (None, head, None, None), "scale")
        factor = self.editor.cast(factor, self.interpreter.dtype(view.tensor), self.binding.dtype, f"{self.site}/scale")
        return self.editor.node("Div" if self.binding.divide else "Mul", [query, factor], f"{self.site}/query")

    def operand(self, name: str, roles: tuple[Index | None, ...]) -> str:
        """query, key or value as [B, H, S, D], or the tensor that the node finds it in."""
        if name in self.binding.placed:
            return self.binding.placed[name].tensor
        view: View = getattr(self.binding.proof.attention, name)
        value = self.arrange(view, (*roles, _feature(view, roles)), name)
        return self.editor.cast(value, self.interpreter.dtype(view.tensor), self.binding.dtype, f"{self.site}/{name}")

    def arrange(self, view: View, roles: tuple[Index | None, ...], hint: str) -> str:
        """A tensor with one axis per role, in order; an axis of extent 1 for an absent role."""
        name, axes = self._split(self._cut(view, hint), hint)
        digits = next((d for d in view.digits if d.whole in roles), None)
        if digits is not None:
            place = roles.index(digits.whole)
            apart = (*roles[:place], digits.major, digits.minor, *roles[place + 1 :])
            return self._merged(self._ordered(name, axes, apart, hint), apart, place, hint)
        return self._ordered(name, axes, roles, hint)

    def _merged(self, name: str, roles: tuple[Index | None, ...], place: int, hint: str) -> str:
        """Two neighbouring axes as one."""
        extents = [1 if r is None else r.bound.constant for r in roles]
        known = [None if e is None else int(e) for e in extents]
        first, second = known[place], known[place + 1]
        assert first is not None and second is not None, "heads are counted"
        kept = [(axis, e) for axis, e in enumerate(known) if axis != place + 1]
        target = [first * second if axis == place else ((name, axis) if e is None else e) for axis, e in kept]
        return self.editor.reshape(name, target, f"{self.site}/{hint}")

    def _ordered(self, name: str, axes: list[tuple[Index, ...]], roles: tuple[Index | None, ...], hint: str) -> str:
        """Axes of single indices in the order of the roles, one of extent 1 for an absent one."""
        held = {n for names in axes for n in names}
        if [names[0] if names else None for names in axes] == [r if r in held else None for r in roles]:
            return name
        wanted = [r if r in held else None for r in roles]
        empty = _surplus([names[0] if names else None for names in axes], wanted)
        kept = [names[0] if names else None for axis, names in enumerate(axes) if axis not in empty]
        if kept == wanted:
            return self.editor.squeeze(name, empty, f"{self.site}/{hint}")
        empty = [a for a, names in enumerate(axes) if not names]
        name = self.editor.squeeze(name, empty, f"{self.site}/{hint}")
        present = [names[0] for names in axes if names]
        order = [r for r in roles if r is not None and r in present]
        name = self.editor.transpose(name, [present.index(r) for r in order], f"{self.site}/{hint}")
        absent = [position for position, r in enumerate(roles) if r is None or r not in present]
        return self.editor.unsqueeze(name, absent, f"{self.site}/{hint}")

    def _cut(self, view: View, hint: str) -> View:
        """Only the first S_q rows or S_kv keys of axes that are longer."""
        name = view.tensor
        frame = self.binding.proof.attention.frame
        for axis in view.prefix:
            of_keys = view.axes[axis] == (frame.key,)
            whole, sequence = (self.keys, "key") if of_keys else (self.queries, "query")
            # A tensor that is cut in the last axis has its sequence where it was.
            place = self.binding.layout[sequence].perm[2]
            ends = self.editor.extents(whole, [place], f"{self.site}/extent")
            bounds = [
                self.editor.integers([0], f"{self.site}/first"),
                ends,
                self.editor.integers([axis], f"{self.site}/axis"),
            ]
            name = self.editor.node("Slice", [name, *bounds], f"{self.site}/{hint}")
        return replace(view, tensor=name)

    def _split(self, view: View, hint: str) -> tuple[str, list[tuple[Index, ...]]]:
        """Cut merged axes: [B*H, S, D] becomes [B, H, S, D]."""
        if not view.merged:
            return view.tensor, list(view.axes)
        target: list[int | tuple[str, int]] = []
        axes: list[tuple[Index, ...]] = []
        for axis, names in enumerate(view.axes):
            if len(names) <= 1:
                extent = names[0].bound.constant if names else 1
                target.append(int(extent) if extent is not None else (view.tensor, axis))
                axes.append(names)
                continue
            for index in names:
                extent = index.bound.constant
                target.append(int(extent) if extent is not None else -1)
                axes.append((index,))
        return self.editor.reshape(view.tensor, target, f"{self.site}/{hint}"), axes

    def slopes(self, binding: Binding) -> str:
        """[H] float32: an initializer, or the model's own run-time value."""
        if binding.slopes is None:
            slopes = binding.proof.emitted_slopes
            assert slopes is not None
            values = (slopes.astype(np.float64) * binding.slope_factor).astype(np.float32)
            return self.editor.constant(values, f"{self.site}/slopes")
        head = binding.proof.attention.frame.head
        name = self.arrange(binding.slopes, (head,), "slopes")
        name = self.editor.cast(
            name, self.interpreter.dtype(binding.slopes.tensor), TensorProto.FLOAT, f"{self.site}/slopes"
        )
        if binding.slope_table is None:
            return self._times(name, binding.slope_factor, "slopes", TensorProto.FLOAT)
        factors = (binding.slope_table * binding.slope_factor).astype(np.float32)
        return self.editor.node(
            "Mul", [name, self.editor.constant(factors, f"{self.site}/slopes/factor")], f"{self.site}/slopes"
        )

    def _times(self, name: str, factor: Number | float, hint: str, dtype: int) -> str:
        if factor == 1:
            return name
        scalar = np.array(float(factor), np.float32)
        constant = self.editor.constant(scalar, f"{self.site}/{hint}/factor")
        constant = self.editor.cast(constant, TensorProto.FLOAT, dtype, f"{self.site}/{hint}/factor")
        return self.editor.node("Mul", [name, constant], f"{self.site}/{hint}")

    def positions(self, view: View, roles: tuple[Index | None, ...]) -> str:
        """[B, S_kv] float32."""
        name = self.arrange(view, roles, "key_positions")
        return self.editor.cast(
            name, self.interpreter.dtype(view.tensor), TensorProto.FLOAT, f"{self.site}/key_positions"
        )

    def key_lengths(self, binding: Binding, used: View) -> str:
        """[B] int64: the keys of each sequence, the new ones included."""
        place = self.binding.layout["query"].perm[2]
        new = self.editor.extents(self.queries, [place], f"{self.site}/new")
        name = self.editor.cast(
            used.tensor, self.interpreter.dtype(used.tensor), TensorProto.INT64, f"{self.site}/used"
        )
        return self.editor.node("Add", [name, new], f"{self.site}/key_lengths")

    # --- masks -----------------------------------------------------------------------------------------

    def mask(self, binding: Binding) -> str:
        """The mask input: boolean, or additive with what a boolean one hides set to -inf."""
        if binding.additive is None:
            assert binding.boolean is not None
            return self._boolean(binding, binding.boolean)
        added, dtype = self._additive(binding.additive, binding.proof.attention.frame.scores)
        if binding.boolean is None:
            return added
        visible = self._boolean(binding, binding.boolean)
        hidden = self.editor.constant(np.array(-np.inf, np.float32), f"{self.site}/hidden")
        added = self.editor.cast(added, dtype, TensorProto.FLOAT, f"{self.site}/mask")
        return self.editor.node("Where", [visible, added, hidden], f"{self.site}/mask")

    def key_bias(self, binding: Binding, added: Mask) -> str:
        """[B or 1, H or 1, S_kv] float32."""
        frame = binding.proof.attention.frame
        name, dtype = self._additive(added, (frame.batch, frame.head, frame.key), "key_bias")
        return self.editor.cast(name, dtype, TensorProto.FLOAT, f"{self.site}/key_bias")

    def _leaf(self, leaf: Mask, roles: tuple[Index | None, ...], hint: str = "mask") -> tuple[str, int]:
        assert isinstance(leaf, Leaf)
        return self.arrange(leaf.view, roles, hint), self.interpreter.dtype(leaf.view.tensor)

    def _boolean(self, binding: Binding, mask: Mask) -> str:
        if isinstance(mask, Leaf):
            name, dtype = self._leaf(mask, binding.proof.attention.frame.scores)
            if mask.test == "visible":
                name = self.editor.cast(name, dtype, TensorProto.FLOAT, f"{self.site}/mask")
                limit = self.editor.constant(np.array(mask.limit, np.float32), f"{self.site}/hiding")
                return self.editor.node("Greater", [name, limit], f"{self.site}/visible")
            return self.editor.cast(name, dtype, TensorProto.BOOL, f"{self.site}/mask")
        if mask.kind in COMPARISONS:
            value, dtype = self._leaf(mask.parts[0], binding.proof.attention.frame.scores)
            bound = self.editor.constant(
                np.array(float(mask.factor)).astype(helper.tensor_dtype_to_np_dtype(dtype)), f"{self.site}/bound"
            )
            return self.editor.node(COMPARISONS[mask.kind], [value, bound], f"{self.site}/visible")
        parts = [self._boolean(binding, p) for p in mask.parts]
        if mask.kind == "not":
            return self.editor.node("Not", parts, f"{self.site}/mask")
        name = parts[0]
        for other in parts[1:]:
            name = self.editor.node({"and": "And", "or": "Or"}[mask.kind], [name, other], f"{self.site}/mask")
        return name

    def _additive(self, mask: Mask, roles: tuple[Index | None, ...], hint: str = "mask") -> tuple[str, int]:
        if isinstance(mask, Leaf):
            return self._leaf(mask, roles, hint)
        made = [self._additive(p, roles, hint) for p in mask.parts]
        dtype = made[0][1] if len({d for _, d in made}) == 1 else TensorProto.FLOAT
        names = [self.editor.cast(n, d, dtype, f"{self.site}/{hint}") for n, d in made]
        if mask.kind == "mul":
            return self._times(names[0], mask.factor, hint, dtype), dtype
        name = names[0]
        for other in names[1:]:
            name = self.editor.node({"add": "Add", "sub": "Sub"}[mask.kind], [name, other], f"{self.site}/{hint}")
        return name, dtype

    # --- output ----------------------------------------------------------------------------------------

    def output(self, binding: Binding, fused: FusedAttention, inputs: list[str], ir_version: int) -> None:
        """The fused node and whatever brings [B, H, S_q, D_v] to the layout of the value that it replaces."""
        view = binding.output
        frame = binding.proof.attention.frame
        dtype = self.interpreter.dtype(view.tensor)
        roles: tuple[Index | None, ...] = (frame.batch, frame.head, frame.row)
        roles = (*roles, _feature(view, roles))
        steps = [] if not binding.output_view.plain else self._after(view, roles, dtype, binding.dtype)
        name = view.tensor if not steps and binding.rows is None else ""
        made = self.editor.node(
            fused.variant.op_type,
            inputs,
            f"{self.site}/attention",
            output=name,
            domain=DOMAIN,
            attributes=fused.attributes(),
        )
        if ir_version >= 10:
            node = self.editor.last()
            set_metadata(node, _provenance(binding))
        if binding.rows is not None:
            made = self._with_hidden_rows(made, inputs[2], fused, view.tensor if not steps else "")
        for position, (kind, argument) in enumerate(steps):
            target = view.tensor if position == len(steps) - 1 else ""
            made = self._step(made, kind, argument, target)

    def _with_hidden_rows(self, attended: str, value: str, fused: FusedAttention, target: str) -> str:
        """Rows that the mask hides from all keys yield what rows without keys yield."""
        assert self.binding.rows is not None
        rows = self._boolean(self.binding, self.binding.rows)
        if fused.empty_rows is EmptyRows.ZERO:
            zero = self.editor.constant(np.array(0, np.float32), f"{self.site}/zero")
            filler = self.editor.cast(zero, TensorProto.FLOAT, self.binding.dtype, f"{self.site}/zero")
        elif self.editor.opset >= 18:
            axes = self.editor.integers([2], f"{self.site}/axes")
            filler = self.editor.node("ReduceMean", [value, axes], f"{self.site}/mean", keepdims=1)
        else:
            filler = self.editor.node("ReduceMean", [value], f"{self.site}/mean", axes=[2], keepdims=1)
        return self.editor.node("Where", [rows, attended, filler], f"{self.site}/rows", output=target)

    def _after(
        self, view: View, roles: tuple[Index | None, ...], dtype: int, own: int
    ) -> list[tuple[str, list[int | tuple[str, int]]]]:
        steps: list[tuple[str, list[int | tuple[str, int]]]] = []
        if dtype and dtype != own:
            steps.append(("Cast", [dtype]))
        for digits in view.digits:
            place = roles.index(digits.whole)
            apart = (*roles[:place], digits.major, digits.minor, *roles[place + 1 :])
            sources = [*range(place), -1, -1, *range(place + 1, len(roles))]
            steps.append(("Reshape", [_extent(r, axis) for r, axis in zip(apart, sources, strict=True)]))
            roles = apart
        absent = [a for a, r in enumerate(roles) if r is None or r not in view.indices]
        if absent:
            steps.append(("Squeeze", list(absent)))
        kept = [r for r in roles if r is not None and r in view.indices]
        perm = [kept.index(i) for i in view.indices]
        if perm != sorted(perm):
            steps.append(("Transpose", list(perm)))
        if view.merged:
            steps.append(("Reshape", _merged_shape(view)))
        elif any(not a for a in view.axes):
            steps.append(("Unsqueeze", [a for a, names in enumerate(view.axes) if not names]))
        return steps

    def _step(self, value: str, kind: str, argument: list[int | tuple[str, int]], target: str) -> str:
        hint = f"{self.site}/output"
        if kind == "Reshape":
            shape = [(value, a[1]) if isinstance(a, tuple) else a for a in argument]
            return self.editor.reshape(value, shape, hint, output=target)
        numbers = [a for a in argument if isinstance(a, int)]
        if kind == "Cast":
            return self.editor.cast(value, self.binding.dtype, numbers[0], hint, output=target)
        moves = {"Transpose": self.editor.transpose, "Squeeze": self.editor.squeeze, "Unsqueeze": self.editor.unsqueeze}
        return moves[kind](value, numbers, hint, output=target)


def _surplus(axes: list[Index | None], wanted: list[Index | None]) -> list[int]:
    """Axes of extent 1 that have to go, from left to right, to make one list the other where that can be."""
    surplus = []
    place = 0
    for axis, index in enumerate(axes):
        if index is None and (place >= len(wanted) or wanted[place] is not None):
            surplus.append(axis)
        else:
            place += 1
    return surplus


def _feature(view: View, roles: tuple[Index | None, ...]) -> Index | None:
    """The one index of a view that has none of the roles, nor is half of one that has."""
    halves = [half for d in view.digits if d.whole in roles for half in (d.major, d.minor)]
    return next((i for i in view.indices if i not in roles and i not in halves), None)


def _extent(index: Index | None, axis: int) -> int | tuple[str, int]:
    """The extent of an axis as part of a Reshape target: a number, or that of an axis of the value before."""
    constant = 1 if index is None else index.bound.constant
    return ("", axis) if constant is None else int(constant)


def _merged_shape(view: View) -> list[int | tuple[str, int]]:
    """Reshape target for merging axes; extents that are not numbers are read from the value before."""
    target: list[int | tuple[str, int]] = []
    position = 0
    free = True
    for names in view.axes:
        if len(names) == 1:
            extent = names[0].bound.constant
            target.append(int(extent) if extent is not None else ("", position))
        elif not names:
            target.append(1)
        else:
            product: Poly = names[0].bound
            for index in names[1:]:
                product = product * index.bound
            extent = product.constant
            if extent is not None:
                target.append(int(extent))
            else:
                assert free, "only one merged axis may have an unknown extent"
                free = False
                target.append(-1)
        position += len(names)
    return target


def _provenance(binding: Binding) -> dict[str, str]:
    attention = binding.proof.attention
    return {
        f"{PROVENANCE}.anchor": label(attention.anchor),
        f"{PROVENANCE}.scores": attention.scores,
        f"{PROVENANCE}.proof": "; ".join(binding.proof.steps),
    }
