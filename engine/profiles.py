"""Optimisation profiles: smallest, best and largest shapes of the inputs.  Missing ones are derived.

Extents of different inputs depend on each other (a mask over past and new tokens is as long as both together).  What
the graph says about that is known from the analysis (``rewriter.interpret.facts``): every extent is a polynomial in
few independent sizes.  Values are chosen for those, and all shapes follow, consistent with each other and with the
buffers that the graph holds.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from ..algebra import Atom, Poly, of, poly, substitute
from ..base.errors import UsageError
from ..graph.index import index_graph, opset_versions
from ..rewriter.interpret import Interpreter
from ..rewriter.interpret.scopes import interpreted
from .shapes import ProfileInput, Shape, check_shapes, inputs_of

KINDS = ("min", "opt", "max")
BATCH = {"min": 1, "opt": 1, "max": 8}
LENGTH = {"min": 1, "opt": 128, "max": 2048}
CACHE = {"min": 0, "opt": 128, "max": 2048}
"""Derived values of leading extents, of others, and of those that only caches of keys and values have."""

CACHE_RANK = 4


@dataclass(frozen=True)
class Profile:
    """Shapes per dynamic input.

    Attributes:
        shapes: Input name to its (min, opt, max).
        derived: Names of inputs whose shapes were not given by the user.
    """

    shapes: Mapping[str, tuple[Shape, Shape, Shape]]
    derived: tuple[str, ...] = ()

    def to_json(self) -> dict[str, dict[str, list[int]]]:
        """As in the report."""
        return {
            name: {kind: list(shape) for kind, shape in zip(KINDS, shapes, strict=True)}
            for name, shapes in self.shapes.items()
        }

    def lines(self) -> list[str]:
        """For people: one line per input."""
        return [
            f"{name}: {' .. '.join('x'.join(map(str, s)) or 'scalar' for s in (low, high))}, best at "
            f"{'x'.join(map(str, best)) or 'scalar'}{' (derived)' if name in self.derived else ''}"
            for name, (low, best, high) in self.shapes.items()
        ]


def make_profile(model: ModelProto, base_dir: Path, given: Mapping[str, Mapping[str, Shape]]) -> Profile:
    """The profile of a model.

    Args:
        model: A rewritten model.
        base_dir: Where its external data lie.
        given: For ``min``, ``opt`` and ``max`` the user's shapes by input name; any may be missing.

    Raises:
        UsageError: Given shapes do not fit the model or each other.
    """
    inputs = inputs_of(model)
    for kind in KINDS:
        check_shapes(f"--{kind}-shapes", given.get(kind, {}), inputs)
    interpreter = next(interpreted(index_graph(model.graph, opset_versions(model), base_dir)))
    extents = {
        item.name: tuple(interpreter.facts.normal(extent) for extent in interpreter.dims(item.name) or ())
        for item in inputs
    }
    dynamic = [item for item in inputs if item.is_dynamic]

    def shapes(limit: int) -> dict[str, dict[str, Shape]]:
        values = {kind: _independent(extents, dynamic, given, kind, limit) for kind in KINDS}
        return {
            item.name: {
                kind: given.get(kind, {}).get(item.name) or _evaluate(item, extents, values[kind]) for kind in KINDS
            }
            for item in dynamic
        }

    # The longest derived length at which the graph still fits together, since buffers may be shorter than our default.
    longest = LENGTH["max"]
    if not _holds(interpreter, shapes(longest)):
        too_long = bisect.bisect_left(range(longest + 1), True, lo=1, key=lambda n: not _holds(interpreter, shapes(n)))
        longest = too_long - 1 or longest
    chosen = shapes(longest)
    for item in dynamic:
        low, best, high = (chosen[item.name][kind] for kind in KINDS)
        if not all(a <= b <= c for a, b, c in zip(low, best, high, strict=True)):
            raise UsageError(
                f"the shapes of '{item.name}' do not grow: min {list(low)}, opt {list(best)}, max {list(high)}. "
                "Give all of --min-shapes, --opt-shapes and --max-shapes for it."
            )
    derived = tuple(i.name for i in dynamic if not all(i.name in given.get(kind, {}) for kind in KINDS))
    return Profile({i.name: tuple(chosen[i.name][kind] for kind in KINDS) for i in dynamic}, derived)  # type: ignore[misc]


def _holds(interpreter: Interpreter, shapes: Mapping[str, Mapping[str, Shape]]) -> bool:
    """Whether what the graph needs to run is true for these shapes, as far as it is known."""
    for kind in KINDS:
        sizes: dict[Atom, Poly] = {}
        for name, found in shapes.items():
            for extent, number in zip(interpreter.dims(name) or (), found[kind], strict=True):
                if extent.single_atom is not None:
                    sizes[extent.single_atom] = poly(number)
        for fact in interpreter.facts.learned:
            difference = substitute(fact.left - fact.right, sizes).constant
            if difference is not None and (difference < 0 or (difference > 0 and fact.relation == "=")):
                return False
    return True


def _independent(
    extents: Mapping[str, tuple[Poly, ...]],
    inputs: Sequence[ProfileInput],
    given: Mapping[str, Mapping[str, Shape]],
    kind: str,
    limit: int,
) -> dict[Atom, Poly]:
    """A value for every independent size: what the user's shapes of this kind say, else a default.

    A size that only one of the user's other kinds mentions is bounded by it, so that a lone ``--opt-shapes`` works.
    """
    said = {k: _said(extents, given.get(k, {})) for k in KINDS}
    values: dict[Atom, Poly] = {}
    for item in inputs:
        for extent in extents[item.name]:
            for atom in extent.sorted_atoms():
                if atom in values:
                    continue
                if atom in said[kind]:
                    values[atom] = poly(said[kind][atom])
                    continue
                default = min(limit, _default(atom, inputs, extents)[kind])
                others = {k: said[k][atom] for k in KINDS if atom in said[k]}
                if kind == "max":
                    default = max([default, *others.values()])
                elif kind == "min":
                    default = min([default, *others.values()])
                else:
                    default = max(min(default, others.get("max", default)), others.get("min", default))
                values[atom] = poly(default)
    return values


def _default(atom: Atom, inputs: Sequence[ProfileInput], extents: Mapping[str, tuple[Poly, ...]]) -> dict[str, int]:
    """By where a size stands alone: as the leading extent, only in inputs of rank 4 (caches), or elsewhere."""
    places = [
        (axis, len(item.dims))
        for item in inputs
        for axis, extent in enumerate(extents[item.name])
        if extent.single_atom == atom
    ]
    if any(axis == 0 for axis, _ in places):
        return BATCH
    return CACHE if places and all(rank == CACHE_RANK for _, rank in places) else LENGTH


def _said(extents: Mapping[str, tuple[Poly, ...]], shapes: Mapping[str, Shape]) -> dict[Atom, int]:
    """Independent sizes that given shapes determine, solved one extent after the other.

    Raises:
        UsageError: Two shapes contradict each other.
    """
    found: dict[Atom, int] = {}
    equations = [
        (name, axis, extent, number)
        for name, shape in shapes.items()
        for axis, (extent, number) in enumerate(zip(extents[name], shape, strict=True))
    ]
    for _ in range(len(equations) + 1):
        progress = False
        for name, axis, extent, number in equations:
            rest = substitute(extent, {atom: poly(value) for atom, value in found.items()})
            atoms = rest.sorted_atoms()
            if rest.constant is not None and rest.constant != number:
                raise UsageError(
                    f"the shapes contradict each other: axis {axis} of '{name}' is {extent!r} in this model, which "
                    f"makes {rest.constant} and not {number}"
                )
            if len(atoms) == 1 and rest.coefficient_of(atoms[0]).constant == 1:
                value = poly(number) - (rest - of(atoms[0]))
                if value.constant is not None and value.constant >= 0:
                    found[atoms[0]] = int(value.constant)
                    progress = True
        if not progress:
            break
    return found


def _evaluate(item: ProfileInput, extents: Mapping[str, tuple[Poly, ...]], values: Mapping[Atom, Poly]) -> Shape:
    shape = []
    for axis, (wanted, extent) in enumerate(zip(item.dims, extents[item.name], strict=True)):
        if isinstance(wanted, int):
            shape.append(wanted)
            continue
        value = substitute(extent, dict(values)).constant
        if value is None or value < 0 or value != int(value):
            raise UsageError(
                f"no shape can be derived for axis {axis} of input '{item}'. "
                f"Give --min-shapes, --opt-shapes and --max-shapes for '{item.name}'."
            )
        shape.append(int(value))
    return tuple(shape)
