"""A form of the bias: what its record says, and what follows from that.

A form is a function of the signed distance from the row's own key to the key,

    score = scale * query . key + slope[h] * distance(d) + mask,     d = j - row(i),   row(i) = i + (S_kv - S_q)

written once, over the polynomials of ``algebra``: sums of multiples of ``d``, of numbers and of ``min(0, ..)`` of such
sums.  ``|d|``, minima, maxima and clips are written with these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ...algebra import Atom, Min0, Number, Poly, Read, of

Floats = npt.NDArray[np.float64]

DISTANCE = Read("d", (), True)
"""Stands for d: an integer of either sign."""


@dataclass(frozen=True)
class Members:
    """Members of the fused family that have a form.

    Attributes:
        causal: Keys after the row are hidden.
        positions: The positions of keys are an input, which stands in for j.
    """

    causal: bool = False
    positions: bool = False


@dataclass(frozen=True)
class Form:
    """One form of the bias.

    Attributes:
        name: The fused node's attribute ``bias``, in small letters; the op_type follows from it.
        distance: What the slope multiplies: a function of d, and of the parameters.
        formula: The same for people, up to what is constant along a row, which softmax does not see.  ``{slope}`` and
            the names of parameters in braces are filled in.
        members: Which members of the family have it.
        parameters: Numbers that the model fixes, by name: float attributes ``bias_NAME`` of the fused node.  The proof
            finds them where they are added to something inside of a ``min(0, ..)``.
        kernels: Whether the kernels and the native libraries know it; else the function body computes it.

    Raises:
        ValueError: The distance is another function, or the members have positions although the row itself matters.
    """

    name: str
    distance: Callable[..., Poly]
    formula: str
    members: tuple[Members, ...] = (Members(),)
    parameters: tuple[str, ...] = ()
    kernels: bool = False

    def __post_init__(self) -> None:
        for value in (self.symbolic, *(a.value for a in self.symbolic.all_atoms() if isinstance(a, Min0))):
            if any(len(monomial) > 1 or any(power > 1 for _, power in monomial) for monomial, _ in value.terms):
                raise ValueError(f"the form {self.name!r} multiplies distances or parameters: {value!r}")
        if self.sees_row and any(member.positions for member in self.members):
            raise ValueError(f"positions stand in for j, and the form {self.name!r} depends on the row too")
        self.text("slope", (0,) * len(self.parameters))

    @property
    def placeholders(self) -> tuple[Atom, ...]:
        """Atoms that stand for the parameters."""
        return tuple(Read(name, ()) for name in self.parameters)

    @cached_property
    def symbolic(self) -> Poly:
        """The distance of ``DISTANCE`` and the placeholders."""
        return self.distance(of(DISTANCE), *map(of, self.placeholders))

    @property
    def sees_row(self) -> bool:
        """Whether softmax notes where the row itself is: not if the distance less multiples of d is constant."""
        return any(isinstance(atom, Min0) for atom in self.symbolic.atoms)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the fused node's attributes that hold the parameters."""
        return tuple(f"bias_{name}" for name in self.parameters)

    def text(self, slope: str, parameters: Sequence[Number]) -> str:
        """The formula with what the slope is called and the parameters in numbers.

        Raises:
            KeyError: The formula names something else.
        """
        numbers = {n: f"{float(value):.9g}" for n, value in zip(self.parameters, parameters, strict=True)}
        return self.formula.format(slope=slope, **numbers)

    def measure(self, distances: Floats, parameters: Sequence[Number] = ()) -> Floats:
        """The distance in numbers, of an array of d."""
        known: dict[Atom, Floats] = {DISTANCE: distances}
        known.update((p, np.asarray(float(v))) for p, v in zip(self.placeholders, parameters, strict=True))
        return np.broadcast_to(_measure(self.symbolic, known), distances.shape)


def _measure(value: Poly, known: dict[Atom, Floats]) -> Floats:
    total: Floats = np.zeros(())
    for monomial, coefficient in value.terms:
        term: Floats = np.asarray(float(coefficient))
        for atom, power in monomial:
            base = np.minimum(_measure(atom.value, known), 0.0) if isinstance(atom, Min0) else known[atom]
            term = term * base**power
        total = total + term
    return total
