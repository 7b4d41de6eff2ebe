"""What is known about the values of one graph: extents, types, equalities between sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from onnx import NodeProto, TensorProto

from ...algebra import ONE, Apply, Cond, Index, Poly, Read, Size, ind, is_nonpositive, of
from ...graph.index import Array, Scope, label
from .sizes.facts import Facts

Split = tuple[Index, Poly]
"""An index that is cut, and what it is divided by."""

INTEGER_TYPES = frozenset(
    {
        TensorProto.INT8,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.UINT8,
        TensorProto.UINT16,
        TensorProto.UINT32,
        TensorProto.UINT64,
    }
)


@dataclass
class Environment:
    """What is known about the values of one scope (and of the scopes around it), without asking for elements.

    Attributes:
        scope: The graph under analysis.
        binary: Graph inputs that are declared to hold 0 and 1 only.
        full: Graph inputs that are taken to hold ones only, such as the padding mask of a batch without padding.
        extents: Shape per tensor; None where the rank is unknown.  Filled by ``shapes.infer``.
        dtypes: Element type per tensor (``TensorProto`` constants), 0 where unknown.
        facts: Equalities between sizes that hold in this graph.
        malformed: Nodes that contradict themselves, in the order in which they were met.
        too_complex: Tensors whose elements outgrew what is calculated with, and how.
        counted: Sizes without a name that a number of elements decides (the -1 of a Reshape), with what is zero by that
            number.
        inexact: Narrow float types whose rounding is that of the scores themselves, and not part of a value.
        limited: Tensors of a narrow integer type that holds their elements at realistic sizes only, with that type.
        wrapping: Tensors of an integer type that does not hold their elements at realistic sizes, with that type.
    """

    scope: Scope
    binary: frozenset[str] = frozenset()
    full: frozenset[str] = frozenset()
    extents: dict[str, tuple[Poly, ...] | None] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    inexact: frozenset[int] = frozenset()
    limited: dict[str, int] = field(default_factory=dict)
    wrapping: dict[str, int] = field(default_factory=dict)
    table_fits: dict[object, object] = field(default_factory=dict)
    malformed: dict[str, None] = field(default_factory=dict)
    too_complex: dict[str, str] = field(default_factory=dict)
    counted: dict[Size, Poly] = field(default_factory=dict)
    _fresh: int = 0
    _watching: list[list[Split]] = field(default_factory=list)

    @contextlib.contextmanager
    def watch_splits(self) -> Iterator[list[Split]]:
        """Where axes are cut by what is asked inside, in the order in which cuts are met.

        The list fills while questions are asked.  Remembered answers are not worked out again, so they cut nothing.
        """
        found: list[Split] = []
        self._watching.append(found)
        try:
            yield found
        finally:
            self._watching.pop()

    def note_split(self, index: Index, divisor: Poly) -> None:
        """Note for ``watch_splits`` that a Reshape cuts a single index, and how that axis is made of several."""
        for watched in self._watching[-1:]:
            watched.append((index, divisor))

    def dims(self, name: str) -> tuple[Poly, ...] | None:
        """The extents of a tensor, or None if even its rank is unknown."""
        return self.extents.get(name)

    def rank(self, name: str) -> int | None:
        """The rank of a tensor, or None."""
        dims = self.dims(name)
        return None if dims is None else len(dims)

    def fresh_size(self) -> Poly:
        """An extent that nothing is known about yet, and that no other graph of the model calls so."""
        self._fresh += 1
        return of(Size(f"?{self.scope.path}:{self._fresh}" if self.scope.path else f"?{self._fresh}", declared=False))

    def dtype(self, name: str) -> int:
        """The element type, 0 if unknown."""
        return self.dtypes.get(name, 0)

    def read(self, name: str, indices: tuple[Poly, ...]) -> Poly:
        """The element as a run-time read."""
        if name in self.full:
            return ONE
        dtype = self.dtype(name)
        boolean = dtype == TensorProto.BOOL or name in self.binary
        # What wraps around may be any integer, so no rule may calculate with it.
        value = of(Read(name, indices, boolean or (dtype in INTEGER_TYPES and name not in self.wrapping)))
        return ind(Cond("read", value)) if boolean else value

    def array(self, name: str) -> Array | None:
        """The tensor's data if it is constant."""
        return self.scope.constant(name)

    def is_single(self, extent: Poly) -> bool:
        """Whether an extent is 1 wherever there is anything: the number 1, or min(1, S)."""
        return extent == 1 or (extent.constant is None and is_nonpositive(self.facts.normal(extent) - 1))

    def same(self, left: Poly, right: Poly) -> bool:
        """Whether two extents are equal by what is known."""
        return self.facts.equal(left, right)

    def agree(self, extent: Poly, other: Poly, node: NodeProto) -> bool:
        """Whether two extents of broadcast operands are equal, or can be taken for equal by what is assumed then.

        A number of steps, such as floor((S + 63) / 64), is 1 for many S.  So its equality with S is not assumed.
        """
        if self.same(extent, other):
            return True
        if any(isinstance(a, Apply) for a in (extent - other).all_atoms()):
            return False
        return self.facts.learn(extent, other, label(node), by_broadcast=True)
