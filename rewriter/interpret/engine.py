"""The interpreter asks for elements and extents.  It remembers every answer and what the answer was computed from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from onnx import NodeProto

from ...algebra import Poly, TooComplex, poly
from ...graph.index import label
from .environment import Environment
from .known import is_known
from .operators import MOVING
from .sizes.facts import Facts
from .tables.element import constant_element
from .types import settle

Key = tuple[str, tuple[Poly, ...]]
ElementRule = Callable[["Interpreter", NodeProto, int, tuple[Poly, ...]], Poly | None]

MALFORMED = (IndexError, KeyError, ValueError, TypeError, ZeroDivisionError, OverflowError, RuntimeError)
"""What rules raise on nodes that contradict themselves (a RecursionError is a RuntimeError)."""

Answered = TypeVar("Answered")

MAX_DEPTH = 120
"""Chains of operators longer than this are not followed.  The element stays a run-time read, which is sound."""

MOST_WORK = 1 << 13
"""Terms of all elements that one question leads to.  What is asked beyond that stays a run-time read.

Exported models need some thousands.  A file may read every element at two places, forty operators deep.
"""


class UnknownRank(LookupError):
    """The rank of a tensor that is to be indexed is unknown; the tensor's name is the argument."""


class Misaligned(UnknownRank):
    """How a broadcast operand lies in the result is unknown; the tensor's name is the argument."""


@dataclass
class Answer:
    """One remembered element and the elements that it was computed from."""

    value: Poly
    reads: tuple[Key, ...]


@dataclass
class Interpreter(Environment):
    """Elements of the values of one scope (and of the scopes around it).

    Attributes:
        rules: Element rules per (domain, op_type).
        answers: Elements that were asked for.
    """

    rules: dict[tuple[str, str], ElementRule] = field(default_factory=dict)
    answers: dict[Key, Answer] = field(default_factory=dict)
    _known: dict[int, bool] = field(default_factory=dict)
    _reading: list[list[Key]] = field(default_factory=list)
    _work: int = 0
    _facts_version: int = 0

    def accept_rounding(self, types: frozenset[int]) -> None:
        """Take the rounding of these types for that of the scores.  Elements are asked for a site of such a type."""
        if types != self.inexact:
            self.inexact = types
            self.answers.clear()

    def understands(self, node: NodeProto) -> bool:
        """Whether a node is a standard operator with nothing about it that no rule knows."""
        known = self._known.get(id(node))
        if known is None:
            known = node.domain in ("", "ai.onnx") and is_known(node, self.scope.opset.get("", 0))
            if self.scope.producer(node.output[0] if node.output else "") is node:  # and stays where it is
                self._known[id(node)] = known
        return known

    # --- elements ----------------------------------------------------------------------------------

    def element(self, name: str, indices: tuple[Poly, ...]) -> Poly:
        """The element of a tensor at a symbolic index, as far down as operators are understood.

        Booleans are 0 or 1, written as indicators.  What is not understood is a ``Read`` of the tensor
        itself, so the answer is always right.

        Raises:
            IndexError: The index has not as many entries as the tensor has axes.
        """
        if self.rank(name) not in (None, len(indices)):
            raise IndexError(f"an index of {len(indices)} entries into '{name}'")
        if self._facts_version != self.facts.version:
            # A new equality can simplify old answers.  They are forgotten, so that old and new ones do not mix.
            self.answers.clear()
            self._facts_version = self.facts.version
        key = (name, indices)
        if self._reading:
            self._reading[-1].append(key)
        known = self.answers.get(key)
        if known is not None:
            return known.value
        if not self._reading:
            self._work = 0
        if len(self._reading) >= MAX_DEPTH or self._work >= MOST_WORK:
            return self.read(name, indices)
        version = self.facts.version
        self._reading.append([])
        try:
            value = self._evaluate(name, indices)
        except TooComplex as reason:
            self.too_complex[name] = str(reason)
            value = self.read(name, indices)
        finally:
            reads = self._reading.pop()
        self._work += 1 + len(value.terms)
        if version == self.facts.version:
            self.answers[key] = Answer(value, tuple(dict.fromkeys(reads)))
        return value

    @contextlib.contextmanager
    def one_question(self) -> Iterator[None]:
        """Elements that are asked for inside are one question.  Together they get the work of one."""
        if not self._reading:
            self._work = 0
        self._reading.append([])
        try:
            yield
        finally:
            self._reading.pop()

    def _evaluate(self, name: str, indices: tuple[Poly, ...]) -> Poly:
        array = self.scope.constant(name)
        if array is not None:
            return constant_element(self, name, array, indices)
        node = self.scope.producer(name)
        if node is not None and self.understands(node):
            rule = self.rules.get(("", node.op_type))
            if rule is not None:
                value = self.guarded(node, lambda: self._apply(rule, node, name, indices), name)
                if value is not None:
                    return self.facts.normal(value)
        return self.read(name, indices)

    def _apply(self, rule: ElementRule, node: NodeProto, name: str, indices: tuple[Poly, ...]) -> Poly | None:
        """What an operator makes, as far as the type of its result holds it."""
        value = rule(self, node, list(node.output).index(name), indices)
        return value if value is None or node.op_type in MOVING else settle(self, node, name, indices, value)

    def guarded(self, node: NodeProto, rule: Callable[[], Answered], name: str = "") -> Answered | None:
        """What a rule says; None, as for an unknown operator, where the node contradicts itself.

        No runtime takes a node whose ranks do not fit or whose axes are out of range, so its result is unknown.  A
        result that is too complex is unknown too, without a fault of the node.
        """
        try:
            return rule()
        except TooComplex as reason:
            self.too_complex[name] = str(reason)
            return None
        except MALFORMED:
            self.malformed[label(node)] = None
            return None

    def integers(self, name: str) -> list[Poly] | None:
        """All elements of a small rank-0 or rank-1 tensor (a shape, a list of axes), or None."""
        if not name:
            return None
        dims = self.dims(name)
        if dims is None or len(dims) > 1:
            return None
        if not dims:
            return [self.element(name, ())]
        length = dims[0].constant
        if length is None or length > 64:
            return None
        return [self.element(name, (poly(k),)) for k in range(int(length))]

    def constants(self, name: str) -> list[int] | None:
        """Like ``integers``, when all of them are numbers."""
        values = self.integers(name)
        if values is None:
            return None
        numbers = [v.constant for v in values]
        return None if any(n is None for n in numbers) else [int(n) for n in numbers if n is not None]

    def scalar(self, name: str) -> Poly | None:
        """The value of a tensor with one element, whatever its rank; None for larger ones."""
        dims = self.dims(name)
        if dims is None or any(d != 1 for d in dims):
            return None
        return self.element(name, (poly(0),) * len(dims))

    # --- helpers for rules ---------------------------------------------------------------------------

    def aligned(self, name: str, indices: tuple[Poly, ...], out: tuple[Poly, ...], node: NodeProto) -> tuple[Poly, ...]:
        """The index into a broadcast operand, for an index into the result (shape ``out``).

        Raises:
            UnknownRank: The operand's rank is unknown.
            Misaligned: Whether it has one element along an axis, or as many as the result, is unknown.
        """
        dims = self.dims(name)
        if dims is None:
            raise UnknownRank(name)
        offset = len(out) - len(dims)
        result = []
        for axis, extent in enumerate(dims):
            if self.is_single(extent):
                result.append(poly(0))
                continue
            wanted = out[offset + axis]
            if not self.agree(extent, wanted, node):
                raise Misaligned(name)  # it may be spread for some sizes, and not for others
            result.append(indices[offset + axis])
        return tuple(result)

    @contextlib.contextmanager
    def nothing_learned(self) -> Iterator[None]:
        """What is learned inside is forgotten.  This is for nodes that may never run."""
        own, before = self.facts, self.facts.version
        self.facts = Facts(parent=own)
        try:
            yield
        finally:
            if self.facts.version != before:
                self.answers.clear()
            self.facts = own

    def visited(self, name: str, indices: tuple[Poly, ...]) -> Iterator[tuple[Key, Poly]]:
        """Every element that the given one was computed from, itself first, nearest first."""
        for _ in range(4):  # evaluation may teach new equalities, and then starts over
            version = self.facts.version
            self.element(name, indices)
            if version == self.facts.version:
                break
        start = (name, indices)
        seen = {start}
        pending = [start]
        position = 0
        while position < len(pending):
            key = pending[position]
            position += 1
            answer = self.answers.get(key)
            if answer is None:
                continue
            yield key, answer.value
            for read in answer.reads:
                if read not in seen:
                    seen.add(read)
                    pending.append(read)
