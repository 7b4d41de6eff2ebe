"""Find every attention site of a model, prove or refuse it.  Reads only."""

from __future__ import annotations

from collections.abc import Callable
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
    analysis = Analysis(root, exact_bias=exact_bias)
    for interpreter in interpreted(root, binary_inputs):
        nodes = interpreter.scope.graph.node
        for number, node in enumerate(nodes):
            if progress is not None and number % 64 == 0:
                progress("analysing", number, len(nodes))
            site = _judge(interpreter, node, kept, exact_bias=exact_bias, evidence=evidence)
            if site is not None:
                analysis.sites.append(site)
        analysis.malformed += interpreter.malformed
        analysis.interpreters.append(interpreter)
    return analysis


def _judge(
    interpreter: Interpreter, node: NodeProto, kept: frozenset[str], *, exact_bias: bool, evidence: bool
) -> Site | None:
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
        site.refusal = _refuse(Code.TOO_COMPLEX, node, str(reason), tensor=node.input[0])
        return site
    for reading in readings:
        try:
            site.binding = _prove(interpreter, reading, exact_bias=exact_bias, evidence=evidence)
        except UnknownRank as unknown:
            site.refusal = site.refusal or _refuse(
                Code.LAYOUT, node, "the rank of this tensor is unknown", tensor=str(unknown), stage=Stage.EMIT
            )
        except TooComplex as reason:
            site.refusal = site.refusal or _refuse(
                Code.TOO_COMPLEX, node, str(reason), tensor=reading.scores, stage=Stage.BIAS
            )
        except Refusal as refusal:
            # Of several readings the one that came farthest tells most about why it failed.
            if site.refusal is None or refusal.stage > site.refusal.stage:
                site.refusal, site.reading = refusal, reading
                if evidence and refusal.term is not None:
                    enters = element_with(interpreter, reading, refusal.term)
                    site.refusal = replace(refusal, enters="" if enters is None else enters[0])
        else:
            site.refusal, site.reading = None, reading
            return site
    return site


def _prove(interpreter: Interpreter, attention: Attention, *, exact_bias: bool, evidence: bool) -> Binding:
    proof = prove(interpreter, attention, exact_bias=exact_bias)
    if evidence:
        proof = replace(proof, evidence=evidence_of(interpreter, proof))
    made = bind(interpreter, proof)
    check_private(interpreter, made)
    return made
