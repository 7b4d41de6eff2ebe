"""The inputs of a site alone.  Operands at its border are drawn, and sizes that lie beyond it are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from ..errors import RunError
from ..inputs.draw import Case, Drawer, InputSet, is_masked, standard_cases, unpadded
from ..inputs.sizes import DrawnSizes, Relation
from ..inputs.usage import InputKind, ModelInput
from ..options import VerifyOptions
from ..pairs import SitePair
from .bias import Bias

_FEWEST_CASES = 4
_DRAWS = 6


@dataclass(frozen=True)
class SiteSet(InputSet):
    """An input set of a site.

    Attributes:
        numbers: The numbers that its sizes have.
        quiet: The query is zero.
        bias: What the original adds to the scores; None where the query is not zero, or the scores are not at hand.
    """

    numbers: Mapping[Any, int] = field(default_factory=dict)
    quiet: bool = False
    bias: Bias | None = None


class SiteDrawer:
    """Draws the inputs of a site.  Shapes come from the analysis, and queries are zero where a case asks for that."""

    def __init__(
        self, pair: SitePair, inputs: Sequence[ModelInput], options: VerifyOptions, *, half_values: bool
    ) -> None:
        self._pair = pair
        declared = {v.name: v.type.tensor_type.elem_type for v in pair.original.graph.input if v.name in pair.shapes}
        self._types = {name: helper.tensor_dtype_to_np_dtype(kind) for name, kind in declared.items()}
        ranges = {n: r for n, r in options.val_ranges.items() if n in pair.tensors}
        # Scores tell which rows see no key, where these need not be equal.
        told = pair.rows_agree or bool(pair.scores)
        self._drawer = Drawer(inputs, self, ranges, half_values=half_values, empty_rows=told)

    @property
    def has_new(self) -> bool:
        """Whether the number of new tokens is free."""
        return self._pair.sizes.rows.constant is None

    @property
    def has_past(self) -> bool:
        """Whether there may be keys that are already there."""
        return self._pair.sizes.past.constant is None

    def settled(self, sizes: DrawnSizes) -> tuple[int, int, int]:
        """The sizes that the site leaves open, the others as it fixes them."""
        return self._pair.sizes.settle(sizes.batch, sizes.new, sizes.past)

    def shape(self, entry: ModelInput, sizes: DrawnSizes, relation: Relation) -> tuple[int, ...]:
        """The shape of an input; raises RunError if no array has it."""
        found = self._pair.extents(entry.name, self._numbers(sizes))
        if found is None:
            raise RunError(f"the shape of {entry.name!r} is not known at {sizes}")
        return found

    def _numbers(self, sizes: DrawnSizes) -> dict[Any, int]:
        numbers = self._pair.sizes.solve(sizes.batch, sizes.new, sizes.past)
        if numbers is None:
            raise RunError(f"no sizes fit {sizes.new} new tokens, {sizes.past} past, batch {sizes.batch}")
        return numbers

    def draw(self, case: Case, relation: Relation, seed: Sequence[int]) -> InputSet:
        """Draws one input set; raises RunError if the site cannot have these sizes."""
        numbers = self._numbers(case.sizes)
        one = self._drawer.draw(case, relation, seed)
        arrays = dict(one.arrays)
        for name in self._pair.shapes:
            extents = self._pair.extents(name, numbers)
            if extents is None:
                raise RunError(f"the shape that {name!r} holds is not known")
            arrays[name] = np.array(extents[0] if name in self._pair.scalars else extents, self._types[name])
        if case.quiet:
            place = self._pair.query
            assert place is not None
            arrays[place.tensor] = place.without(arrays[place.tensor])
        batch, new, _ = self.settled(case.sizes)
        return SiteSet(case.name, arrays, batch, new, (), numbers=numbers, quiet=case.quiet)


def inputs_of(pair: SitePair, described: Mapping[str, ModelInput]) -> tuple[ModelInput, ...]:
    """What the tensors at the border are for: graph inputs as in the whole model, others by their type."""
    found = []
    for value in pair.original.graph.input:
        if value.name not in pair.tensors:
            continue
        if value.name in described:
            found.append(described[value.name])
            continue
        element = value.type.tensor_type.elem_type
        narrow = element in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
        dtype = np.dtype(np.float32) if narrow else np.dtype(helper.tensor_dtype_to_np_dtype(element))
        rank = len(value.type.tensor_type.shape.dim)
        kind = InputKind.FLOAT
        if dtype.kind in "iu":
            kind = InputKind.INTEGER
        elif dtype == np.bool_:
            kind = InputKind.WIDE_MASK if rank >= 3 else InputKind.BOOLEAN
        found.append(ModelInput(value.name, dtype, (None,) * rank, kind))
    return tuple(found)


def cases_of(
    drawer: SiteDrawer, inputs: Sequence[ModelInput], long: int, *, quiet: bool, beyond: Sequence[int] = ()
) -> list[Case]:
    """The usual cases, each length once, and those with queries of zero.

    Args:
        drawer: Draws them.
        inputs: The inputs of the site.
        long: A length at which the smallest slope matters.
        quiet: Whether the query can be zero.
        beyond: Lengths that are to be exceeded, too.
    """
    masked = is_masked(inputs)
    chosen: dict[tuple[object, ...], Case] = {}
    for case in standard_cases(drawer.has_new, drawer.has_past, long, beyond):
        case = case if masked else unpadded(case)
        chosen.setdefault((drawer.settled(case.sizes), case.padding), case)
    cases = list(chosen.values())
    if len(cases) < _FEWEST_CASES:
        again = [replace(case, name=f"{case.name}, draw {n}") for n in range(2, 2 + _DRAWS) for case in cases]
        cases += again[:_DRAWS]
    if not quiet:
        return cases
    return cases + [replace(case, name=f"{case.name}, queries of zero", quiet=True) for case in cases]
