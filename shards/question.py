"""A node, what is known about the cuts of its inputs and outputs, and what follows for the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from onnx import NodeProto

from ..algebra import Poly, poly
from ..graph.index import Array
from .cuts import AxisCut, NotSeparable
from .heads import Heads

if TYPE_CHECKING:
    from ..rewriter.interpret import Interpreter


MOST_NUMBERS = 64
"""Entries of a vector of bounds or sizes that are looked at."""


class How(Enum):
    """What is asked of an input."""

    CUT = "cut"
    """It holds exactly this on every rank."""

    PART = "part"
    """It holds at least this; another node may need more of it."""

    SLICED = "sliced"
    """It is whole, and the rank takes its part of it."""


@dataclass
class Question:
    """One node under the question how its cuts follow from one another.

    Attributes:
        node: The node.
        interpreter: Knows the extents of the whole model.
        ranks: How many ranks there are.
        inputs: Known cuts by position.
        outputs: Known cuts by position.
        heads: How the heads of a fused node are divided; None for another node, or where they are not.
        wanted_inputs: What follows for inputs.
        wanted_outputs: What follows for outputs.
        partial: Outputs that are sums over the ranks, by position.
    """

    node: NodeProto
    interpreter: Interpreter
    ranks: int
    inputs: dict[int, AxisCut]
    outputs: dict[int, AxisCut]
    heads: Heads | None = None
    wanted_inputs: dict[int, tuple[How, AxisCut]] = field(default_factory=dict)
    wanted_outputs: dict[int, AxisCut] = field(default_factory=dict)
    partial: set[int] = field(default_factory=set)

    # --- what is known ---------------------------------------------------------------------------------

    def dims(self, position: int) -> tuple[Poly, ...]:
        """The extents of an input.

        Raises:
            NotSeparable: They are unknown.
        """
        return self._extents(self.node.input[position])

    def dims_out(self, position: int = 0) -> tuple[Poly, ...]:
        """The extents of an output.

        Raises:
            NotSeparable: They are unknown.
        """
        return self._extents(self.node.output[position])

    def _extents(self, name: str) -> tuple[Poly, ...]:
        found = self.interpreter.dims(name)
        if found is None:
            raise NotSeparable(f"the shape of '{name}' is unknown")
        return tuple(map(self.interpreter.facts.normal, found))

    def array(self, position: int) -> Array | None:
        """The content of an input if it is a constant."""
        held = position < len(self.node.input) and self.node.input[position]
        return self.interpreter.array(self.node.input[position]) if held else None

    def numbers(self, position: int) -> list[int] | None:
        """The integers in an input of rank 1 or 0, where they are the same whenever the model runs; else None."""
        if not self.has(position):
            return None
        given = self.array(position)
        if given is not None:
            return [int(number) for number in given.reshape(-1)]
        name = self.node.input[position]
        dims = self.interpreter.dims(name)
        count = None if dims is None or len(dims) > 1 else (dims[0].constant if dims else 1)
        if dims is None or count is None or count > MOST_NUMBERS:
            return None
        found = []
        for place in range(int(count)):
            number = self.interpreter.element(name, (poly(place),) if dims else ()).constant
            if number is None or number != int(number):
                return None
            found.append(int(number))
        return found

    def has(self, position: int) -> bool:
        """Whether an input is there."""
        return position < len(self.node.input) and bool(self.node.input[position])

    # --- what follows ----------------------------------------------------------------------------------

    def want(self, position: int, cut: AxisCut, how: How = How.CUT) -> None:
        """An input has to be cut so."""
        self.wanted_inputs[position] = how, cut

    def give(self, cut: AxisCut, position: int = 0) -> None:
        """An output is cut so."""
        self.wanted_outputs[position] = cut

    def give_all(self, cut: AxisCut) -> None:
        """All outputs are cut so."""
        for position, name in enumerate(self.node.output):
            if name:
                self.give(cut, position)

    def whole(self, position: int, why: str = "") -> None:
        """An input has to be whole on every rank.

        Raises:
            NotSeparable: It is cut.
        """
        if position in self.inputs:
            raise NotSeparable(why or f"{self.node.op_type} needs all of '{self.node.input[position]}'")


Rule = Callable[[Question], bool]
"""Says what follows; False where more has to be known.  Raises ``NotSeparable`` where nothing can follow."""
