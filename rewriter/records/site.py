"""The verdict on every attention of a model."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnx import NodeProto

from ...graph.index import Scope
from ...patterns.surroundings import ADDING, QUANTISED
from ..interpret import Interpreter
from ..verdicts import Code, Refusal
from .binding import Binding
from .reading import Attention


@dataclass(frozen=True)
class Surroundings:
    """What stands around a softmax.

    Attributes:
        above: Operators between it and the products above, nearest first, products included.
        below: Operators between it and the products below, in the same way.
    """

    above: tuple[NodeProto, ...]
    below: tuple[NodeProto, ...]

    @property
    def has_terms(self) -> bool:
        """Whether something is added to the scores or put in their place."""
        return any(n.op_type in ADDING for n in self.above)

    @property
    def quantised(self) -> NodeProto | None:
        """An operator in integers between query and output."""
        return next((n for n in (*self.above, *self.below) if n.op_type in QUANTISED), None)


NOT_ATTENTION = frozenset({Code.SOFTMAX_AXIS, Code.NO_PRODUCT, Code.NO_VALUE_PRODUCT})
"""Refusals of a softmax that is no attention."""


UNBIASED = NOT_ATTENTION | {Code.NO_BIAS}
"""Refusals of sites without an ALiBi-like bias.  A rewrite that leaves them alone is not partial."""


@dataclass(frozen=True)
class Site:
    """The verdict on one anchor.

    Attributes:
        name: Stable identifier: scope path and anchor.
        anchor: The softmax or attention operator.
        scope: Its graph.
        binding: What to emit, if the site is proven.
        refusal: Why not, otherwise.
        reading: The attention in normal form, as far as the reading that came farthest got.
        around: Of an anchor between two products of computed tensors that could not be read, what stands around it.
        checked: At how many shapes of more than one key the numeric self-check confirmed the bias.
    """

    name: str
    anchor: NodeProto
    scope: Scope
    interpreter: Interpreter
    binding: Binding | None = None
    refusal: Refusal | None = None
    reading: Attention | None = None
    around: Surroundings | None = None
    checked: int = 0

    @property
    def is_attention(self) -> bool:
        """Whether the anchor belongs to an attention."""
        if self.binding is not None or self.around is not None:
            return True
        return self.refusal is not None and self.refusal.code not in NOT_ATTENTION

    @property
    def is_biased(self) -> bool:
        """Whether something that looks like a position bias is added to the scores."""
        if self.refusal is not None and self.refusal.code is Code.QUANTISED:
            return self.around is None or self.around.has_terms
        return self.binding is not None or (self.refusal is not None and self.refusal.code not in UNBIASED)


@dataclass(frozen=True)
class Analysis:
    """What is known about a model.

    Attributes:
        root: Its main graph.
        sites: All sites, in graph order, outer graphs first.
        malformed: Nodes that contradict their inputs.
        interpreters: One per graph, outer ones first.
        kept: Packed operators that were left as they are in the working copy.
        exact_bias: A bias that the model rounds was taken for what it was before.
    """

    root: Scope
    sites: list[Site] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)
    interpreters: list[Interpreter] = field(default_factory=list)
    kept: frozenset[str] = frozenset()
    exact_bias: bool = False

    @property
    def proven(self) -> list[Site]:
        """Sites that can be rewritten."""
        return [s for s in self.sites if s.binding is not None]

    @property
    def bindings(self) -> list[Binding]:
        """Those of the proven sites, in their order."""
        return [s.binding for s in self.sites if s.binding is not None]

    @property
    def refused(self) -> list[Site]:
        """Sites with a bias that cannot be rewritten."""
        return [s for s in self.sites if s.binding is None and s.is_biased]
