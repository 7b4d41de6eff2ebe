"""Judging what the proof alone accepts: a mutated model that was fused must still compute what it computed.

``Base`` is an exported model cut down to its first attention, with inputs of many lengths.  ``judge`` runs the pass
on a mutant of it, without self-check and verification, and compares: in onnxruntime at short lengths, and by elements
(``sampled``) at long ones.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnxruntime
from alibi_rewriter.algebra import Size
from alibi_rewriter.base.errors import AlibiError
from alibi_rewriter.rewriter.compared import premise
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.records.site import Analysis
from alibi_rewriter.rewriter.result import Options
from alibi_rewriter.verify.errors import VerifyError
from alibi_rewriter.verify.inputs.draw import Case, Drawer, InputSet, Padding
from alibi_rewriter.verify.inputs.orientation import is_sequence_first
from alibi_rewriter.verify.inputs.polarity import settle_polarity
from alibi_rewriter.verify.inputs.sizes import DrawnSizes, Symbols
from alibi_rewriter.verify.inputs.usage import InputKind, ModelInput, describe_inputs
from alibi_rewriter.verify.run.runtime import Model, Session
from alibi_rewriter.verify.run.widen import TO_FLOAT32, TO_FLOAT64, widen
from mutations import Target, target_of
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from sampled import Sampled, Unsupported
from textgraphs import ACCEPTED, FOLDER, read

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

SHORT = (2, 7, 40, 300)
LONG = (1100, 2100, 5000)
CLOSE = 3e-5
"""Of outputs in float32 at short lengths, relative to the largest; beyond it float64 decides."""

CLOSE_LONG = 1e-3
"""At long lengths a bias of thousands is rounded."""

EXACT = 1e-6
"""In float64."""

_CLOSE_IN_16_BITS = 2e-2

_ROUNDED = 1e-2
"""What 16 bits in a float32 model may make of the scores: 8 bits of a score of 1, for instance."""

BLIND = -6e4
"""A row without a higher score sees no key: what it yields is a matter of the runtime (docs/specification.md)."""

PROOF_ALONE = Options(verify=False, probe=False, allow_partial=True)
_LONGEST_MASK = 1 << 24
_ROWS = 8


@dataclass(frozen=True)
class Feed:
    """One set of inputs: arrays, how many tokens they are, and which of them are not padded ([B, tokens])."""

    length: int
    new: int
    batch: int
    arrays: Arrays
    kept: Array | None


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        kind: skipped (the mutant itself does not run), refused, equal, rounding (equal in float64), narrow (wrong by
            what a 16-bit type in a float32 model rounds), blind (wrong in rows only that see no key), wrong, traceback
            or hang.
        detail: The refusal's code, where it begins to differ, what was raised.
        length: At which it was first found wrong.
        unjudged: Lengths that could not be judged, with the reason.
        error: How far it is from the mutant where it is not equal, relative to the largest output.
    """

    kind: str
    detail: str = ""
    length: int = 0
    unjudged: tuple[str, ...] = ()
    error: float = 0.0


# --- bases ---------------------------------------------------------------------------------------------------


class Base:
    """An exported model, cut down to its first attention.

    Args:
        name: What it is called.
        model: The model; local functions are inlined.
    """

    def __init__(self, name: str, model: ModelProto) -> None:
        self.name = name
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        self.model = _bare(_prefix(model))
        narrow = {t.data_type for t in self.model.graph.initializer}
        narrow |= {i.type.tensor_type.elem_type for i in self.model.graph.input}
        self.narrow = bool(narrow & set(TO_FLOAT32))
        self.memories: dict[int, dict[tuple[Any, ...], Array]] = {}

    @cached_property
    def target(self) -> Target:
        """What of it may be mutated."""
        return target_of(self.model)

    @cached_property
    def feeds(self) -> tuple[list[Feed], list[Feed]]:
        """Inputs of short and of long lengths that the model takes."""
        session = Session(Model(_as_float32(self.model), None))
        inputs: tuple[ModelInput, ...] = describe_inputs(self.model)
        turned = is_sequence_first(session, inputs, 1)
        symbols = Symbols(inputs, sequence_first=turned)
        inputs = settle_polarity(session, inputs, symbols, 1)
        drawer = Drawer(inputs, symbols, {}, half_values=self.narrow, sequence_first=turned)
        relations = list(symbols.relations)
        short: dict[object, Feed] = {}
        for number, case in enumerate(_cases(symbols.has_past, short=True)):
            for relation in tuple(relations):
                with suppress(VerifyError):
                    one = drawer.draw(case, relation, (1, number))
                    session.run(one.arrays)
                    relations.sort(key=lambda r: r is not relation)
                    short.setdefault((_shapes(one), case.padding), self._feed(one, case))
                    break
        seen = {shapes for shapes, _ in short}  # type: ignore[misc]
        long: dict[object, Feed] = {}
        for number, case in enumerate(_cases(symbols.has_past, short=False)):
            with suppress(VerifyError):
                if any(np.prod(symbols.shape(i, case.sizes, relations[0])) > _LONGEST_MASK for i in inputs):
                    continue
                one = drawer.draw(case, relations[0], (2, number))
                if _shapes(one) not in seen:
                    long.setdefault((_shapes(one), case.padding), self._feed(one, case))
        masked = any(i.kind is InputKind.PADDING_MASK for i in inputs)
        return [f for f in short.values() if masked or f.kept is None or f.kept.all()], list(long.values())

    def _feed(self, one: InputSet, case: Case) -> Feed:
        kept = one.kept[0] if one.kept else None
        arrays = dict(one.arrays)
        kinds = {i.name: i.type.tensor_type.elem_type for i in self.model.graph.input}
        for name, array in arrays.items():
            if kinds[name] == TensorProto.FLOAT16:
                arrays[name] = array.astype(np.float16)
        return Feed(case.sizes.new + case.sizes.past, one.new or case.sizes.new, one.batch or 1, arrays, kept)

    @cached_property
    def tokens(self) -> tuple[int | None, int | None]:
        """Axes of the last output that are the batch (alone, or first of what is merged there) and the tokens."""
        session = _session(_as_float32(self.model))
        shapes = []
        for feed in self.feeds[0]:
            with suppress(Exception):
                found = session.run([self.model.graph.output[-1].name], _float32(feed.arrays, self.narrow))[0]
                shapes.append((feed, found.shape))
        axes = []
        for wanted in ("batch", "new"):
            varied = len({getattr(f, wanted) for f, _ in shapes}) > 1
            ratios = [
                {s[axis] / getattr(f, wanted) if len(s) == len(shapes[0][1]) else 0.0 for f, s in shapes}
                for axis in range(len(shapes[0][1]) if shapes else 0)
            ]
            fits = [axis for axis, found in enumerate(ratios) if len(found) == 1 and (wanted == "batch" or 1 in found)]
            axes.append(fits[0] if len(fits) == 1 and varied else None)
        return axes[0], axes[1]

    def valid(self, output: Array, feed: Feed) -> Array:
        """True at elements of an output that belong to tokens that are not padded."""
        batch, row = self.tokens
        everything: Array = np.ones(output.shape, np.bool_)
        if feed.kept is None or feed.kept.all():
            return everything
        if batch is None or row is None or output.ndim <= max(batch, row):
            return np.zeros(output.shape, np.bool_)
        kept = feed.kept[:, feed.kept.shape[1] - output.shape[row] :]
        kept = np.repeat(kept, max(1, output.shape[batch] // kept.shape[0]), axis=0)
        if kept.shape != (output.shape[batch], output.shape[row]):
            return np.zeros(output.shape, np.bool_)
        shape = [1] * output.ndim
        shape[batch], shape[row] = output.shape[batch], output.shape[row]
        return np.broadcast_to((kept if batch < row else kept.T).reshape(shape), output.shape)


def _shapes(one: InputSet) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted((n, tuple(a.shape)) for n, a in one.arrays.items()))


def _cases(has_past: bool, *, short: bool) -> Iterator[Case]:
    def case(batch: int, new: int, past: int, padding: Padding = Padding.NONE) -> Case:
        return Case(f"{new} new, {past} past, {padding.value}", DrawnSizes(batch, new, past), padding)

    if short:
        yield case(3, 2, 0)
        yield case(2, 7, 0)
        yield case(3, 7, 0, Padding.LEFT)
        yield case(2, 40, 0, Padding.INTERIOR)
        yield case(2, 39, 0, Padding.RIGHT)
        yield case(2, 16, 0)  # where tables end early
        yield case(3, 29, 0, Padding.LEFT)
        yield case(1, 300, 0)
        if has_past:
            yield case(2, 3, 4)
            yield case(2, 1, 39, Padding.LEFT)
            yield case(3, 5, 34, Padding.INTERIOR)
            yield case(1, 17, 283)
    else:
        yield case(1, 1100, 0, Padding.INTERIOR)
        yield case(1, 2100, 0)
        yield case(1, 5000, 0)
        if has_past:
            yield case(2, 3, 1097)
            yield case(1, 1, 2099, Padding.LEFT)
            yield case(1, 2, 4998)


def _prefix(model: ModelProto) -> ModelProto:
    """The model up to the first attention that is fused, with what only moves its result; all if that is inside."""
    analysis = rewrite(model, options=Options(verify=False, probe=False, dry_run=True)).analysis
    makers = {o: node for node in model.graph.node for o in node.output if o}
    for site in analysis.proven:
        if site.binding is not None and site.binding.output.tensor in makers and site.scope is analysis.root:
            return _up_to(model, _downstream(model, site.binding.output.tensor), makers)
    return model


_MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Identity")


def _downstream(model: ModelProto, name: str) -> str:
    while True:
        users = [n for n in model.graph.node if name in n.input]
        if len(users) != 1 or users[0].op_type not in _MOVES or users[0].input[0] != name:
            return name
        name = users[0].output[0]


def _up_to(model: ModelProto, last: str, makers: dict[str, NodeProto]) -> ModelProto:
    needed: set[str] = set()
    pending = [last]
    while pending:
        name = pending.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in makers:
            pending.extend((*makers[name].input, *_captured(makers[name])))
    graph = model.graph
    kept = [o for o in graph.output if o.name in needed and o.name != last]
    made = ModelProto()
    made.CopyFrom(model)
    nodes = [n for n in graph.node if any(o in needed for o in n.output)]
    made.graph.CopyFrom(GraphProto(name=graph.name))
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(t for t in graph.initializer if t.name in needed)
    made.graph.input.extend(i for i in graph.input if i.name in needed)
    made.graph.value_info.extend(v for v in graph.value_info if v.name in needed and v.name != last)
    known = {v.name: v for v in (*graph.value_info, *graph.output)}
    kind = known[last].type.tensor_type.elem_type if last in known else 0
    if not kind:
        inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
        kind = next((v.type.tensor_type.elem_type for v in inferred if v.name == last), TensorProto.FLOAT)
    end = ValueInfoProto(name=last)
    end.type.tensor_type.elem_type = kind
    made.graph.output.extend((*kept, end))
    return made


def _captured(node: NodeProto) -> list[str]:
    found = []
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                found.extend((*inner.input, *_captured(inner)))
            found.extend(o.name for o in graph.output)
    return found


def _bare(model: ModelProto) -> ModelProto:
    for part in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
        model.graph,
        model,
    ):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    del model.graph.value_info[:]  # a mutant's own shapes may be others
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return model


def _as_float32(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    widen(copy, TO_FLOAT32)
    return copy


def _as_float64(model: ModelProto) -> ModelProto:
    copy = _as_float32(model)
    widen(copy, TO_FLOAT64)
    return copy


def _float32(arrays: Arrays, narrow: bool) -> Arrays:
    return {n: a.astype(np.float32) if narrow and a.dtype == np.float16 else a for n, a in arrays.items()}


def _session(model: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


# --- the verdict ---------------------------------------------------------------------------------------------


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the body when the time is over."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judge(base: Base, mutant: ModelProto, *, seconds: int = 60, long: bool = True) -> Verdict:
    """The verdict on one mutant of a base."""
    own = _as_float32(mutant) if base.narrow else mutant
    try:
        session = _session(own)
    except Exception as error:  # noqa: BLE001 - onnxruntime's own; the mutant is no model
        return Verdict("skipped", str(error)[:100])
    wanted = []
    for feed in base.feeds[0]:
        try:
            wanted.append((feed, session.run(None, _float32(feed.arrays, base.narrow))))
        except Exception:  # noqa: BLE001 - it may run at other lengths
            continue
    if not wanted:
        return Verdict("skipped", "it runs at no length")
    before = mutant.SerializeToString(deterministic=True)
    try:
        with limited(seconds):
            result = rewrite(mutant, options=PROOF_ALONE)
    except TimeoutError as error:
        return Verdict("hang", str(error))
    except AlibiError as error:
        return Verdict("refused", f"{type(error).__name__}")
    except Exception as error:  # noqa: BLE001 - whatever escapes is a finding
        return Verdict("traceback", f"{type(error).__name__}: {str(error)[:300]}")
    if mutant.SerializeToString(deterministic=True) != before:
        return Verdict("traceback", "the model that was handed in was changed")
    if result.model is None:
        refusals = [s.refusal for s in result.analysis.sites if s.refusal is not None]
        return Verdict("refused", refusals[0].code.number if refusals else "none")
    # Beyond a buffer that the proof takes to be long enough the original reads it from the wrong end.
    outside = premise(result.analysis)
    agree = _assumed(result.analysis)
    within = [w for w in wanted if outside(_shapes_of(w[0])) is None and agree(_shapes_of(w[0]))]
    far = [f for f in base.feeds[1] if outside(_shapes_of(f)) is None and agree(_shapes_of(f))]
    if not within and not far:
        return Verdict("wrong", "the proof assumes what holds for none of the inputs that the model takes")
    verdict = _compare(base, mutant, result.model, within, far if long else [])
    if verdict.kind == "wrong" and not base.narrow and _has_narrow(mutant):
        if 0 < verdict.error <= _ROUNDED:
            return replace(verdict, kind="narrow")
        clones = _as_float32(mutant), _as_float32(result.model)
        widened = _compare(base, *clones, _rerun(clones[0], within, False), far if long else [])
        if widened.kind != "wrong":
            return replace(verdict, kind="narrow")
    if verdict.kind in ("wrong", "rounding"):
        seeing = _only_seeing(mutant)
        rerun = _rerun(_as_float32(seeing) if base.narrow else seeing, within, base.narrow)
        if _compare(base, seeing, result.model, rerun, far if long else []).kind == "equal":
            return replace(verdict, kind="blind")
    if verdict.kind == "wrong" and base.narrow and _equal_in_16_bits(base, mutant, result.model, within):
        return replace(verdict, kind="rounding", detail=f"only as float32 clones: {verdict.detail}")
    return verdict


def _equal_in_16_bits(
    base: Base, mutant: ModelProto, rewritten: ModelProto, wanted: list[tuple[Feed, list[Any]]]
) -> bool:
    """Whether a 16-bit model as it is computes the same: -65504 and a score are -65504 there, and less in float32."""
    try:
        before, after = _session(mutant), _session(rewritten)
        return all(
            _worst(base, feed, before.run(None, feed.arrays), after.run(None, feed.arrays)) <= _CLOSE_IN_16_BITS
            for feed, _ in wanted
        )
    except Exception:  # noqa: BLE001 - a kernel that onnxruntime has not
        return False


def _shapes_of(feed: Feed) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in feed.arrays.items()}


def _assumed(analysis: Analysis) -> Callable[[dict[str, tuple[int, ...]]], bool]:
    """Whether two extents agree that a proof says it takes to be the same, though the original would broadcast."""
    interpreter = analysis.proven[0].interpreter
    pairs = [
        (left, right)
        for f in interpreter.facts.learned
        if f.by_broadcast
        and f.relation == "="
        and isinstance(left := f.left.single_atom, Size)
        and isinstance(right := f.right.single_atom, Size)
    ]

    def agree(shapes: dict[str, tuple[int, ...]]) -> bool:
        sizes = {
            extent.single_atom: number
            for name, shape in shapes.items()
            for extent, number in zip(interpreter.extents.get(name) or (), shape, strict=False)
        }
        return all(a not in sizes or b not in sizes or sizes[a] == sizes[b] for a, b in pairs)

    return agree


def _has_narrow(model: ModelProto) -> bool:
    types = {a.i for n in model.graph.node for a in n.attribute if a.name in ("to", "dtype")}
    return bool((types | {t.data_type for t in model.graph.initializer}) & set(TO_FLOAT32))


def _rerun(model: ModelProto, wanted: list[tuple[Feed, list[Any]]], narrow: bool) -> list[tuple[Feed, list[Any]]]:
    session = _session(model)
    return [(feed, session.run(None, _float32(feed.arrays, narrow))) for feed, _ in wanted]


def _only_seeing(model: ModelProto) -> ModelProto:
    """The model with NaN in rows all of whose scores are so low that they are masks; NaN is not compared."""
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    copy = ModelProto()
    copy.CopyFrom(model)
    nodes = []
    for number, node in enumerate(copy.graph.node):
        kind = types.get(node.input[0], 0) if node.op_type == "Softmax" else 0
        if kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
            stem = f"seeing/{number}"
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
            for name, value in (("limit", BLIND), ("hidden", -np.inf)):
                copy.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, dtype), f"{stem}/{name}"))
            nodes.append(onnx.helper.make_node("Greater", [node.input[0], f"{stem}/limit"], [f"{stem}/visible"]))
            chosen = [f"{stem}/visible", node.input[0], f"{stem}/hidden"]
            nodes.append(onnx.helper.make_node("Where", chosen, [f"{stem}/scores"]))
            node.input[0] = f"{stem}/scores"
        if node.op_type == "Attention" and node.domain == "" and len(node.input) > 3:
            # A mask that hides all keys: NaN plus anything is NaN.
            stem, mask = f"seeing/{number}", node.input[3]
            kind = types.get(mask, 0)
            if kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
                dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
                for name, array in (
                    ("limit", np.array(BLIND, dtype)),
                    ("nan", np.array(np.nan, dtype)),
                    ("axes", np.array([-1])),
                ):
                    copy.graph.initializer.append(onnx.numpy_helper.from_array(array, f"{stem}/{name}"))
                nodes.append(onnx.helper.make_node("ReduceMax", [mask, f"{stem}/axes"], [f"{stem}/highest"]))
                nodes.append(
                    onnx.helper.make_node("Greater", [f"{stem}/highest", f"{stem}/limit"], [f"{stem}/visible"])
                )
                nodes.append(onnx.helper.make_node("Where", [f"{stem}/visible", mask, f"{stem}/nan"], [f"{stem}/mask"]))
                node.input[3] = f"{stem}/mask"
        nodes.append(node)
    made = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(made)
    return copy


def _compare(
    base: Base, mutant: ModelProto, rewritten: ModelProto, wanted: list[tuple[Feed, list[Any]]], far: list[Feed]
) -> Verdict:
    try:
        after = _session(_as_float32(rewritten) if base.narrow else rewritten)
    except Exception as error:  # noqa: BLE001 - the pass wrote it
        return Verdict("wrong", f"onnxruntime does not load the output: {str(error)[:200]}")
    rounding = ""
    for feed, outputs in sorted(wanted, key=lambda w: w[0].length):
        try:
            got = after.run(None, _float32(feed.arrays, base.narrow))
        except Exception as error:  # noqa: BLE001 - the original runs
            return Verdict("wrong", f"the output does not run: {str(error)[:200]}", feed.length)
        error = _worst(base, feed, outputs, got)
        if error <= CLOSE:
            continue
        exact = _in_float64(base, mutant, rewritten, feed)
        if exact is None and error <= 1e-2:
            continue
        if exact is None or not exact <= EXACT:
            detail = f"{feed.new} of {feed.length} tokens, error {error:.2g}, in float64 {exact}"
            return Verdict("wrong", detail, feed.length, (), error)
        if error > 1e-2:
            rounding = f"{feed.new} of {feed.length} tokens, error {error:.2g}, in float64 {exact:.2g}"
    unjudged = []
    for feed in far:
        try:
            error, exact = _far(base, mutant, rewritten, feed)
        except Unsupported as reason:
            unjudged.append(f"{feed.length}: {str(reason)[:120]}")
            continue
        except Exception as reason:  # noqa: BLE001 - a graph that does not run at this length
            unjudged.append(f"{feed.length}: {type(reason).__name__} {str(reason)[:120]}")
            continue
        if error <= CLOSE_LONG:
            continue
        if not exact <= 1e-5:
            detail = f"{feed.new} of {feed.length} tokens, error {error:.2g}, in float64 {exact}"
            return Verdict("wrong", detail, feed.length, (), error)
        if error > 2e-2:
            rounding = rounding or f"{feed.new} of {feed.length} tokens, error {error:.2g}, in float64 {exact:.2g}"
    return Verdict("rounding" if rounding else "equal", rounding, 0, tuple(unjudged))


def _worst(base: Base, feed: Feed, wanted: list[Any], got: list[Any]) -> float:
    worst = 0.0
    for number, (want, have) in enumerate(zip(wanted, got, strict=True)):
        if want.dtype.kind != "f":
            if want.shape != have.shape or (want != have).any():
                return float("inf")
            continue
        if want.shape != have.shape:
            return float("inf")
        keep = np.isfinite(want)
        if number == len(wanted) - 1:
            keep = keep & base.valid(want, feed)
        worst = max(worst, _distance(want, have, keep))
    return worst


def _distance(want: Array, have: Array, keep: Array) -> float:
    if not keep.any():
        return 0.0
    a, b = want[keep].astype(np.float64), have[keep].astype(np.float64)
    if not np.isfinite(b).all():
        return float("inf")
    return float(np.abs(a - b).max() / max(1.0, np.abs(a).max()))


def _in_float64(base: Base, mutant: ModelProto, rewritten: ModelProto, feed: Feed) -> float | None:
    """The difference in float64; None where onnxruntime lacks the kernels."""
    feeds = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in feed.arrays.items()}
    try:
        want = _session(_as_float64(mutant) if base.narrow else _wide(mutant)).run(None, feeds)
        have = _session(_as_float64(rewritten) if base.narrow else _wide(rewritten)).run(None, feeds)
    except Exception:  # noqa: BLE001 - a kernel that onnxruntime has not
        return None
    return _worst(base, feed, want, have)


def _wide(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    widen(copy, TO_FLOAT64)
    return copy


def _far(base: Base, mutant: ModelProto, rewritten: ModelProto, feed: Feed) -> tuple[float, float]:
    """The difference at some rows of a long sequence, as the models are and in float64."""
    own = _as_float32 if base.narrow else (lambda m: m)
    name = mutant.graph.output[-1].name
    memory = base.memories.setdefault(id(feed), {})
    if len(memory) > 4000:
        memory.clear()
    arrays = _float32(feed.arrays, base.narrow)
    before, after = (_sampled(own(m), arrays, memory) for m in (mutant, rewritten))
    shape = before.shape(name)
    places = _places(base, feed, shape)
    valid = base.valid(np.broadcast_to(np.zeros(1, np.bool_), shape), feed).reshape(-1)[places]
    want = before.at(name, places)
    error = _distance(want, after.at(name, places), np.isfinite(want) & valid)
    if error <= CLOSE_LONG:
        return error, 0.0
    wide = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in arrays.items()}
    clone = _as_float64 if base.narrow else _wide
    before, after = (_sampled(clone(m), wide, {}) for m in (mutant, rewritten))
    try:
        want = before.at(name, places)
        return error, _distance(want, after.at(name, places), np.isfinite(want) & valid)
    except Unsupported:
        return error, float("inf") if error > 2e-2 else 0.0


def _sampled(model: ModelProto, arrays: Arrays, memory: dict[tuple[Any, ...], Array]) -> Sampled:
    if any(f.domain != "alibi" for f in model.functions):
        model = onnx.inliner.inline_selected_functions(
            model, [(f.domain, f.name) for f in model.functions if f.domain != "alibi"]
        )
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    return Sampled(model.graph, opset, arrays, memory=memory)


def _places(base: Base, feed: Feed, shape: tuple[int, ...]) -> Array:
    """Some rows of the output, all of what belongs to them."""
    rng = np.random.default_rng(feed.length)
    _, row = base.tokens
    if row is None:
        return np.unique(rng.integers(0, int(np.prod(shape)), 200))
    extent = shape[row]
    chosen = {0, 1, extent - 1, extent - 2, extent // 2, 257, 2049, *rng.integers(0, extent, _ROWS).tolist()}
    rows = np.array(sorted(r for r in chosen if 0 <= r < extent))[-_ROWS:]
    grid = np.indices([len(rows) if a == row else e for a, e in enumerate(shape)])
    index = [rows[x] if a == row else x for a, x in enumerate(grid)]
    places = np.ravel_multi_index(index, shape).reshape(-1)
    return places if places.size <= 4000 else np.unique(rng.choice(places, 4000))


# --- where bases come from -----------------------------------------------------------------------------------


def bases(folders: list[Path], only: str = "") -> Iterator[Base]:
    """The models of some folders, and of folders in these, cut down; accepted golden graphs are models as well."""
    for folder in folders:
        for path in sorted(folder.rglob("*.onnx")):
            if only in path.stem:
                yield Base(path.stem, onnx.load(path))
        for golden in ACCEPTED if folder.resolve() == FOLDER.resolve() else []:
            name = golden.replace("/", "-")
            if only in name:
                yield Base(name, read(golden))
