"""The sizes that are measured, and the inputs of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from ..base.errors import UsageError
from ..engine.shapes import Shape
from ..verify.inputs.draw import Case as Draw
from ..verify.inputs.draw import Drawer, Padding
from ..verify.inputs.sizes import DrawnSizes, Relation, Symbols
from ..verify.inputs.usage import ModelInput, describe_inputs
from ..verify.run.runtime import Arrays

SEED = 20


@dataclass(frozen=True)
class BenchCase:
    """One size that is measured.

    Attributes:
        name: For people, such as ``1 x 512`` or ``1 x 1, past 2048``.
        choices: Arrays by input name, likeliest first.  Shapes alone do not say whether a mask covers the cache, so the
            original decides which of them it takes.
        tokens: New tokens of one run, the batch included; None where shapes were given and nothing says it.
    """

    name: str
    choices: tuple[Arrays, ...]
    tokens: int | None


class Cases:
    """Draws the cases of one model.

    Args:
        model: The original; its external data are not needed.
        ranges: Inclusive bounds of values by input name (``--val-range``).

    Raises:
        RunError: An input has a type that nothing can be drawn of.
    """

    def __init__(self, model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]]) -> None:
        self.inputs = describe_inputs(model)
        self.symbols = Symbols(self.inputs)
        self._ranges = ranges

    def of_sizes(self, batch: int, new: int, past: int) -> BenchCase:
        """A case of so many sequences, new tokens, and tokens in the cache."""
        sizes = DrawnSizes(batch, new, past)
        drawer = Drawer(self.inputs, self.symbols, self._ranges, half_values=False)
        drawn: list[Arrays] = []
        for relation in self.symbols.relations:
            arrays = drawer.draw(Draw("bench", sizes, Padding.NONE), relation, (SEED,)).arrays
            if not any(_same_shapes(arrays, other) for other in drawn):
                drawn.append(arrays)
        name = f"{batch} x {new}" + (f", past {past}" if past else "")
        return BenchCase(name, tuple(drawn), batch * new)

    def of_shapes(self, shapes: Mapping[str, Shape]) -> BenchCase:
        """A case of given shapes; every input of the model needs one, or has no open extent.

        Raises:
            UsageError: An input with open extents has no shape.
        """
        whole: dict[str, Shape] = {}
        for entry in self.inputs:
            if entry.name in shapes:
                whole[entry.name] = shapes[entry.name]
            elif all(isinstance(d, int) for d in entry.dims):
                whole[entry.name] = tuple(int(d) for d in entry.dims if isinstance(d, int))
            else:
                raise UsageError(
                    f"--shapes names no shape for the input '{entry.name}', whose extents are open. "
                    "Name all of them, or use --lengths and --batch."
                )
        drawer = Drawer(self.inputs, _Given(whole), self._ranges, half_values=False)
        arrays = drawer.draw(Draw("bench", DrawnSizes(1, 1, 0), Padding.NONE), Relation.PAST_AND_NEW, (SEED,)).arrays
        name = ", ".join(f"{n} {'x'.join(map(str, s)) or 'scalar'}" for n, s in whole.items() if n in shapes)
        return BenchCase(name or "fixed shapes", (arrays,), None)

    def standard(self, lengths: Sequence[int], batch: int, past: int | None) -> list[BenchCase]:
        """The cases that are measured where no shapes are given.

        Args:
            lengths: Numbers of new tokens.
            batch: Sequences per run.
            past: Tokens in the cache; None for none in prefill, and a decode step per length where there is a cache.
        """
        if not self.symbols.has_new and not self.symbols.has_past:
            return [self.of_shapes({})] if self._fixed else [self.of_sizes(batch, 1, 0)]
        cases = [self.of_sizes(batch, length, past or 0) for length in lengths] if self.symbols.has_new else []
        if past is None and self.symbols.has_past:
            cases += [self.of_sizes(batch, 1, length) for length in lengths]
        return cases

    @property
    def _fixed(self) -> bool:
        return all(isinstance(d, int) for entry in self.inputs for d in entry.dims)


@dataclass(frozen=True)
class _Given:
    """Shapes that are given by input name, as the drawer asks for them."""

    shapes: Mapping[str, Shape]

    def shape(self, entry: ModelInput, sizes: DrawnSizes, relation: Relation) -> tuple[int, ...]:
        return self.shapes[entry.name]


def _same_shapes(left: Arrays, right: Arrays) -> bool:
    return all(left[name].shape == right[name].shape for name in left)
