"""Find every attention site of a model, prove or refuse it.  Reads only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto, NodeProto

from ..algebra import Size, TooComplex, of, poly
from ..base.errors import Code, Refusal, Stage
from ..graph.index import Scope, index_graph, label, operator, opset_versions, walk
from .bind.binding import Plan, plan
from .bind.privacy import check_private
from .interpret import Interpreter, UnknownRank
from .interpret.rules import element_rules
from .interpret.shapes import infer
from .interpret.sizes.facts import Facts
from .prove.proof import prove
from .recognise import operators as fused_ops
from .recognise.features import ANCHORS, pattern_of, unread
from .recognise.precision import score_types
from .recognise.softmax import attentions
from .recognise.stopped import Surroundings, surroundings, why_unread, written_out
from .site import Attention

NOT_ATTENTION = frozenset({Code.SOFTMAX_AXIS, Code.NO_PRODUCT, Code.NO_VALUE_PRODUCT})
"""Refusals of a softmax that is no attention."""

UNBIASED = NOT_ATTENTION | {Code.NO_BIAS}
"""Refusals of sites without an ALiBi-like bias: leaving them alone makes no rewrite partial."""


@dataclass
class Site:
    """The verdict on one anchor.

    Attributes:
        name: Stable identifier: scope path and anchor.
        anchor: The softmax or attention operator.
        scope: Its graph.
        plan: What to emit, if the site is proven.
        refusal: Why not, otherwise.
        reading: The attention in normal form, as far as the reading that came farthest got.
        around: Of an anchor between two products of computed tensors that could not be read, what stands around it.
        checked: At how many shapes of more than one key the numeric self-check confirmed the bias.
    """

    name: str
    anchor: NodeProto
    scope: Scope
    interpreter: Interpreter
    plan: Plan | None = None
    refusal: Refusal | None = None
    reading: Attention | None = None
    around: Surroundings | None = None
    checked: int = 0

    @property
    def is_attention(self) -> bool:
        """Whether the anchor belongs to an attention at all."""
        if self.plan is not None or self.around is not None:
            return True
        return self.refusal is not None and self.refusal.code not in NOT_ATTENTION

    @property
    def is_biased(self) -> bool:
        """Whether something that looks like a position bias is added to the scores."""
        if self.refusal is not None and self.refusal.code is Code.QUANTISED:
            return self.around is None or self.around.has_terms
        return self.plan is not None or (self.refusal is not None and self.refusal.code not in UNBIASED)


@dataclass
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
        return [s for s in self.sites if s.plan is not None]

    @property
    def refused(self) -> list[Site]:
        """Sites with a bias that cannot be rewritten."""
        return [s for s in self.sites if s.plan is None and s.is_biased]


def analyse(
    model: ModelProto,
    base_dir: Path,
    binary_inputs: frozenset[str] = frozenset(),
    progress: Callable[[str, int, int], None] | None = None,
    *,
    exact_bias: bool = False,
    kept: frozenset[str] = frozenset(),
) -> Analysis:
    """Judge every attention site.

    Args:
        model: Normalised model; not changed.
        base_dir: Where external data lie.
        binary_inputs: Graph inputs declared to hold only 0 and 1 (see ``--val-range``).
        progress: Told (phase, nodes done, nodes in all) now and then.
        exact_bias: Take a bias that the model rounds to a narrow type for what it was before.
        kept: Outputs of operators that were left as they are, since reading them leads to nothing.
    """
    root = index_graph(model.graph, opset_versions(model), base_dir)
    analysis = Analysis(root, exact_bias=exact_bias)
    for interpreter in interpreted(root, binary_inputs):
        nodes = interpreter.scope.graph.node
        for number, node in enumerate(nodes):
            if progress is not None and number % 64 == 0:
                progress("analysing", number, len(nodes))
            site = _judge(interpreter, node, kept, exact_bias=exact_bias)
            if site is not None:
                analysis.sites.append(site)
        analysis.malformed += interpreter.malformed
        analysis.interpreters.append(interpreter)
    return analysis


def interpreted(root: Scope, binary_inputs: frozenset[str] = frozenset()) -> Iterator[Interpreter]:
    """An interpreter per scope, outer ones first, with the extents and types of the scope's values."""
    interpreters: dict[int, Interpreter] = {}
    for scope in walk(root):
        parent = interpreters.get(id(scope.parent)) if scope.parent is not None else None
        interpreter = _inferred(scope, parent, binary_inputs)
        if interpreter.facts.choice is not None:
            # [4, 1] spread by B is a batch of 4 or of 1; where 4 cannot be, it is 1 in every run.
            again = _inferred(scope, parent, binary_inputs, interpreter.facts.choice)
            interpreter = interpreter if again.facts.contradicted else again
        interpreters[id(scope)] = interpreter
        yield interpreter


def _inferred(
    scope: Scope, parent: Interpreter | None, binary_inputs: frozenset[str], single: tuple[Size, str] | None = None
) -> Interpreter:
    """The interpreter of a scope, with extents and types; ``single`` is a size that is 1, and the node that says so."""
    interpreter = Interpreter(scope, element_rules(), binary=binary_inputs)
    if parent is not None:
        interpreter.extents.update(parent.extents)
        interpreter.dtypes.update(parent.dtypes)
        interpreter.counted.update(parent.counted)
        interpreter.facts = Facts(parent=parent.facts)
    if single is not None:
        interpreter.facts.learn(of(single[0]), poly(1), single[1], by_broadcast=True)
    infer(interpreter, list(scope.graph.node))
    return interpreter


def _judge(interpreter: Interpreter, node: NodeProto, kept: frozenset[str], *, exact_bias: bool = False) -> Site | None:
    if node.op_type not in ANCHORS:
        return None
    pattern = pattern_of(node)
    refused, around = unread(node), None
    standard = operator(node)
    softmax = standard == "Softmax"
    if refused is None and standard == "Div":
        left = written_out(interpreter, node) if node.output[0] not in kept else None
        refused, around = left if left is not None else (None, None)
    if pattern is None and not softmax and refused is None:
        return None
    interpreter.accept_rounding(score_types(interpreter, node))
    path = interpreter.scope.path
    site = Site(f"{path}/{label(node)}" if path else label(node), node, interpreter.scope, interpreter)
    if refused is not None:
        site.refusal, site.around = refused, around
        return site
    try:
        readings = (
            attentions(interpreter, node) if pattern is None else [fused_ops.attention(interpreter, node, pattern)]
        )
    except Refusal as refusal:
        site.refusal = refusal
        if refusal.code in NOT_ATTENTION and softmax:
            site.around = surroundings(interpreter.scope, node.input[0], node.output[0])
            if site.around is not None:
                site.refusal = why_unread(interpreter, node, site.around, refusal)
        return site
    except TooComplex as reason:
        site.refusal = Refusal(Code.TOO_COMPLEX, Stage.SCORES, label(node), node.input[0], str(reason))
        return site
    for reading in readings:
        try:
            site.plan = _prove(interpreter, reading, exact_bias)
        except UnknownRank as unknown:
            site.refusal = site.refusal or Refusal(
                Code.LAYOUT, Stage.EMIT, label(node), str(unknown), "the rank of this tensor is unknown"
            )
        except TooComplex as reason:
            site.refusal = site.refusal or Refusal(
                Code.TOO_COMPLEX, Stage.BIAS, label(node), reading.scores, str(reason)
            )
        except Refusal as refusal:
            # Of several readings the one that came farthest tells most about why it failed.
            if site.refusal is None or refusal.stage > site.refusal.stage:
                site.refusal, site.reading = refusal, reading
        else:
            site.refusal, site.reading = None, reading
            return site
    return site


def _prove(interpreter: Interpreter, attention: Attention, exact_bias: bool) -> Plan:
    made = plan(interpreter, prove(interpreter, attention, exact_bias=exact_bias))
    check_private(interpreter, made)
    return made
