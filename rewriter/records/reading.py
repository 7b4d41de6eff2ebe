"""An attention site in normal form, whatever operators it was written with."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction

from onnx import NodeProto

from ...algebra import Cond, Index, Number, Poly, Substitution, of
from ...graph.index import Scope
from ...patterns.masks import HIDDEN_BELOW
from ..interpret.digits import index_quotient


@dataclass(frozen=True)
class Digits:
    """An index cut in two, ``whole = major * G + minor``: key head and member of the group, for instance."""

    whole: Index
    major: Index
    minor: Index

    @property
    def replacement(self) -> Substitution:
        """What puts the digits in place of the index and of its quotient."""
        group = self.minor.bound
        return {self.whole: of(self.major) * group + of(self.minor), index_quotient(self.whole, group): of(self.major)}


@dataclass(frozen=True)
class View:
    """A tensor and the meaning of its axes.

    Attributes:
        tensor: The tensor's name.
        axes: Per axis, the indices merged in it (major first); empty for an axis of extent 1.
        factor: What the tensor still has to be multiplied with.
        prefix: Axes of which only the first part is meant (a mask longer than the keys).
        digits: Indices that it has as two axes of their own, such as heads as [key heads, members of a group].
    """

    tensor: str
    axes: tuple[tuple[Index, ...], ...]
    factor: Number = Fraction(1)
    prefix: tuple[int, ...] = ()
    digits: tuple[Digits, ...] = ()

    @property
    def merged(self) -> bool:
        """Whether some axis holds several indices."""
        return any(len(a) > 1 for a in self.axes)

    @property
    def clean(self) -> bool:
        """Whether every index has an axis of its own, and none has two."""
        return not self.merged and not self.digits

    @property
    def indices(self) -> tuple[Index, ...]:
        """All named indices, in memory order."""
        return tuple(i for axis in self.axes for i in axis)


@dataclass(frozen=True)
class Frame:
    """The named indices of a site: batch, head, query row, key; None where the site has no such axis."""

    batch: Index | None
    head: Index | None
    row: Index
    key: Index

    @property
    def order(self) -> tuple[Index, ...]:
        """The present ones in the order of [B, H, S_q, S_kv]."""
        return tuple(i for i in (self.batch, self.head, self.row, self.key) if i is not None)

    @property
    def scores(self) -> tuple[Index | None, ...]:
        """The roles of the axes of [B, H, S_q, S_kv]; None where the site has no such axis."""
        return (self.batch, self.head, self.row, self.key)

    @property
    def offset(self) -> Poly:
        """S_kv - S_q: the key index of query row 0."""
        return self.key.bound - self.row.bound


class Guard(Enum):
    """What a model does about rows without keys, besides what softmax makes of their scores."""

    NONE = "nothing"
    ZEROS = "they become zeros"
    NAN = "they become zeros if they are NaN"
    LOWEST = "they become zeros if no score is above the lowest number"
    DISPUTED = "if they are NaN; if no score is above the lowest number, runtimes differ"
    PART = "some of their keys lose their weight"


@dataclass(frozen=True)
class Attention:
    """``out = softmax_key(scale * query . key + terms) . value`` with everything named.

    Attributes:
        anchor: The Softmax or fused attention node.
        scope: The graph it is in.
        frame: Its indices.
        scores: The tensor that enters the softmax (or the mask input of a fused operator).
        scores_index: Index of the element (b, h, i, j) in ``scores``.
        scale: Factor of query times key.
        factor: A further factor that is only known at run time (a scalar, or one per head), or None.
        terms: What is added to the scaled product where a key is visible.
        visible: Conditions under which a key is visible, all of which must hold.
        query, key, value: The operands, as views over (b, h, i, d), (b, h, j, d) and (b, h, j, e).
        output: The tensor that the fused node replaces, as a view over (b, h, i, e).
        half: The scores are float16, whose lowest number hides a key.
        hidden: Scores of hidden keys, one for each condition that hides them.
        replaced_at: The number that stands in place of a hidden key's score, where only a high score hides it; or None.
        guard: What becomes of rows without keys behind the softmax, or in place of it.
        own_causality: The operator leaves out later keys itself, whatever their scores are.
        product: Output of the query-key product; empty for fused operators.
        weighing: Output of the product of probabilities and values; empty for fused operators.
        extra_outputs: Further outputs of a fused operator, by name: ``key`` or ``value`` to be provided.
        steps: How it was recognised, in readable steps.
    """

    anchor: NodeProto
    scope: Scope
    frame: Frame
    scores: str
    scores_index: tuple[Poly, ...]
    scale: Number
    terms: Poly
    visible: tuple[Cond, ...]
    query: View
    key: View
    value: View
    output: View
    half: bool = False
    hidden: tuple[Poly, ...] = ()
    replaced_at: Number | None = None
    guard: Guard = Guard.NONE
    own_causality: bool = False
    factor: Poly | None = None
    product: str = ""
    weighing: str = ""
    extra_outputs: dict[str, str] = field(default_factory=dict)
    past: dict[str, str] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)


def hidden_below(attention: Attention) -> float:
    """The score from which on a key is visible.  A replaced score is hidden, whatever number it is."""
    at = attention.replaced_at
    return HIDDEN_BELOW if at is None else max(HIDDEN_BELOW, float(at))
