"""Find every attention site of a model, prove or refuse it.  Reads only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from onnx import ModelProto, NodeProto

from ..algebra import TooComplex
from ..graph.index import index_graph, label, operator, opset_versions
from .bind.binding import bind
from .bind.privacy import check_private
from .interpret import Interpreter, UnknownRank
from .interpret.scopes import interpreted
from .prepare.features import ANCHORS, pattern_of, unread
from .prove.evidence import element_with, evidence_of
from .prove.proof import prove
from .recognise import operators as fused_ops
from .recognise.precision import score_types
from .recognise.softmax import attentions
from .recognise.stopped import surroundings, why_unread, written_out
from .records.binding import Binding
from .records.reading import Attention
from .records.site import NOT_ATTENTION, Analysis, Site
from .verdicts import Code, Refusal, Refuser, Stage

_refuse = Refuser(Stage.SCORES)


def analyse(
    model: ModelProto,
    base_dir: Path,
    binary_inputs: frozenset[str] = frozenset(),
    progress: Callable[[str, int, int], None] | None = None,
    *,
    exact_bias: bool = False,
    kept: frozenset[str] = frozenset(),
    evidence: bool = False,
) -> Analysis:
    """Judge every attention site.

    Args:
        model: Normalised model; not changed.
        base_dir: Where external data lie.
        binary_inputs: Graph inputs declared to hold only 0 and 1 (see ``--val-range``).
        progress: Told (phase, nodes done, nodes in all) now and then.
        exact_bias: Take a bias that the model rounds to a narrow type for what it was before.
        kept: Outputs of operators that were left as they are, since reading them leads to nothing.
        evidence: Note where in the model every claim and every term that fits nowhere was read.
    """
    root = index_graph(model.graph, opset_versions(model), base_dir)
    sites: list[Site] = []
    malformed: list[str] = []
    interpreters: list[Interpreter] = []
    for interpreter in interpreted(root, binary_inputs):
        nodes = interpreter.scope.graph.node
        for number, node in enumerate(nodes):
            if progress is not None and number % 64 == 0:
                progress("analysing", number, len(nodes))
            site = _judge(interpreter, node, kept, exact_bias=exact_bias, evidence=evidence)
            if site is not None:
                sites.append(site)
        malformed += interpreter.malformed
        interpreters.append(interpreter)
    return Analysis(root, sites, malformed, interpreters, kept, exact_bias)


def _judge(
    interpreter: Interpreter, node: NodeProto, kept: frozenset[str], *, exact_bias: bool, evidence: bool
) -> Site | None:
    """The verdict on a node; None if it is no anchor."""
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
        return replace(site, refusal=refused, around=around)
    try:
        readings = (
            attentions(interpreter, node) if pattern is None else [fused_ops.attention(interpreter, node, pattern)]
        )
    except Refusal as refusal:
        if refusal.code not in NOT_ATTENTION or not softmax:
            return replace(site, refusal=refusal)
        around = surroundings(interpreter.scope, node.input[0], node.output[0])
        why = refusal if around is None else why_unread(interpreter, node, around, refusal)
        return replace(site, refusal=why, around=around)
    except TooComplex as reason:
        return replace(site, refusal=_refuse(Code.TOO_COMPLEX, node, str(reason), tensor=node.input[0]))
    return _first_proven(site, readings, exact_bias=exact_bias, evidence=evidence)


def _first_proven(site: Site, readings: Sequence[Attention], *, exact_bias: bool, evidence: bool) -> Site:
    """The site with the first reading that is proven, or with the one that came farthest and why it failed."""
    node, interpreter = site.anchor, site.interpreter
    found: Refusal | None = None
    farthest: Attention | None = None
    for reading in readings:
        try:
            binding = _prove(interpreter, reading, exact_bias=exact_bias, evidence=evidence)
        except UnknownRank as unknown:
            why = "the rank of this tensor is unknown"
            found = found or _refuse(Code.LAYOUT, node, why, tensor=str(unknown), stage=Stage.EMIT)
        except TooComplex as reason:
            found = found or _refuse(Code.TOO_COMPLEX, node, str(reason), tensor=reading.scores, stage=Stage.BIAS)
        except Refusal as refusal:
            # Of several readings the one that came farthest tells most about why it failed.
            if found is None or refusal.stage > found.stage:
                found, farthest = refusal, reading
                if evidence and refusal.term is not None:
                    enters = element_with(interpreter, reading, refusal.term)
                    found = replace(refusal, enters="" if enters is None else enters[0])
        else:
            return replace(site, binding=binding, reading=reading)
    return replace(site, refusal=found, reading=farthest)


def _prove(interpreter: Interpreter, attention: Attention, *, exact_bias: bool, evidence: bool) -> Binding:
    proof = prove(interpreter, attention, exact_bias=exact_bias)
    if evidence:
        proof = replace(proof, evidence=evidence_of(interpreter, proof))
    made = bind(interpreter, proof)
    check_private(interpreter, made)
    return made
