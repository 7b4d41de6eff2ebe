"""One cell: what the interpreter says about every element, against what runtimes compute."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
from alibi_rewriter.algebra import (
    INFINITY,
    Apply,
    Cond,
    Ind,
    Index,
    Poly,
    Read,
    Size,
    Substitution,
    Sum,
    conjunction,
    disjunction,
    ind,
    negation,
    of,
    poly,
    substitute,
)
from alibi_rewriter.graph.index import index_graph, opset_versions
from alibi_rewriter.rewriter.interpret import Interpreter
from alibi_rewriter.rewriter.interpret.rules import element_rules
from alibi_rewriter.rewriter.interpret.shapes import infer
from alibi_rewriter.rewriter.interpret.tables.element import Table
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from .material import Array, feed

MOST_ELEMENTS = 40
"""Elements of one tensor that are compared: the first, the last and some between."""


@dataclass
class Verdict:
    """What became of a cell.

    Attributes:
        kind: ``exact``, ``bounded``, ``unknown``, ``unjudged`` (no runtime takes the model) or ``wrong``.
        detail: Where it is wrong.
    """

    kind: str
    detail: str = ""


def judge(model: ModelProto, target: str, shapes: tuple[tuple[int, int], ...]) -> Verdict:
    """Compare every element of ``target`` with what runtimes compute, at several sizes (R, S)."""
    interpreter = interpret(model)
    dims = interpreter.dims(target)
    value: Poly | None = None
    axes: tuple[Index, ...] = ()
    if dims is not None:
        axes = tuple(Index(f"x{k}", d) for k, d in enumerate(dims))
        value = interpreter.element(target, tuple(of(a) for a in axes))
        if reads_itself(value, target):
            value = None
    single = {} if value is not None or dims is None else one_by_one(interpreter, target, dims)
    ran = 0
    for seed, (rows, columns) in enumerate(shapes):
        found = computed(model, feed(model, rows, columns, seed))
        ran += len(found)
        wrong = [(name, compare(interpreter, target, value, axes, values, single)) for name, values in found]
        # Where runtimes disagree (about what the standard leaves open) one of them has to be right.
        disputed = len(wrong) > 1 and not _alike(found, target)
        if any(t for _, t in wrong) and (not disputed or all(t for _, t in wrong)):
            name, text = next((n, t) for n, t in wrong if t)
            return Verdict("wrong", f"{name} at R={rows}, S={columns}: {text}")
    if not ran:
        return Verdict("unjudged" if value is not None or single else "unknown")
    if value is None and not single:
        return Verdict("unknown")
    return Verdict("bounded" if interpreter.limited or interpreter.facts.learned else "exact")


def one_by_one(interpreter: Interpreter, target: str, dims: tuple[Poly, ...]) -> dict[tuple[int, ...], Poly]:
    """Elements at numbers, for a small tensor of which no element is known at an index that moves."""
    extents = [d.constant for d in dims]
    if any(e is None for e in extents) or not 0 < math.prod(int(e or 0) for e in extents) <= 8:
        return {}
    found = {}
    for place in np.ndindex(*(int(e or 0) for e in extents)):
        value = interpreter.element(target, tuple(poly(p) for p in place))
        if not reads_itself(value, target):
            found[place] = value
    return found


def interpret(model: ModelProto) -> Interpreter:
    scope = index_graph(model.graph, opset_versions(model), Path())
    interpreter = Interpreter(scope, rules=element_rules())
    infer(interpreter, list(model.graph.node))
    return interpreter


def reads_itself(value: Poly, target: str) -> bool:
    return any(isinstance(a, Read) and a.tensor == target for a in value.all_atoms())


def _alike(found: list[tuple[str, dict[str, Array]]], target: str) -> bool:
    """Whether the runtimes computed the same."""
    one, other = (np.asarray(values[target]) for _, values in found[:2])
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind in "OUSb":
        return bool((one == other).all())
    with np.errstate(all="ignore"):
        return bool(np.allclose(one.astype(np.float64), other.astype(np.float64), rtol=1e-2, equal_nan=True))


def computed(model: ModelProto, feeds: dict[str, Array]) -> list[tuple[str, dict[str, Array]]]:
    """All values of the model, by every runtime that takes it."""
    import onnxruntime as ort

    names = [o.name for o in model.graph.output]
    feeds = {**feeds, **{t.name: numpy_helper.to_array(t) for t in model.graph.initializer}}
    found: list[tuple[str, dict[str, Array]]] = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            values = _reference(model).run(None, {i.name: feeds[i.name] for i in model.graph.input})
            found.append(("reference", {**feeds, **dict(zip(names, values, strict=True))}))
        except Exception:  # noqa: BLE001 - any type: what is not implemented there
            pass
        try:
            session = _session(model, ort)
            given = {i.name: feeds[i.name] for i in session.get_inputs()}
            found.append(("onnxruntime", {**feeds, **dict(zip(names, session.run(None, given), strict=True))}))
        except Exception:  # noqa: BLE001
            pass
    return found


_last: list[object] = [None, None]
_evaluator: list[object] = [None, None]


def _reference(model: ModelProto) -> ReferenceEvaluator:
    """onnx's reference for a model; that of the last model is kept, for its other sizes."""
    if _evaluator[0] is not model:
        _evaluator[:] = [model, None]
        _evaluator[1] = ReferenceEvaluator(model)
    if _evaluator[1] is None:
        raise RuntimeError("not loaded")
    return cast(ReferenceEvaluator, _evaluator[1])


def _session(model: ModelProto, ort: object) -> object:
    if _last[0] is not model:
        settings = ort.SessionOptions()  # type: ignore[attr-defined]
        settings.intra_op_num_threads = 1
        settings.log_severity_level = 4
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # type: ignore[attr-defined]
        _last[:] = [model, None]
        _last[1] = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])  # type: ignore[attr-defined]
    if _last[1] is None:
        raise RuntimeError("not loaded")
    return _last[1]


def compare(
    interpreter: Interpreter,
    target: str,
    symbolic: Poly | None,
    axes: tuple[Index, ...],
    values: dict[str, Array],
    single: dict[tuple[int, ...], Poly],
) -> str:
    """What is wrong about the extents, the type or an element; empty for nothing."""
    actual = values[target]
    if not isinstance(actual, np.ndarray | np.generic):
        return f"no tensor but {type(actual).__name__}" if symbolic is not None else ""
    actual = np.asarray(actual)
    sizes = known_sizes(interpreter, values)
    if not assumed(interpreter, sizes, values):
        return ""
    dims = interpreter.dims(target)
    if dims is not None:
        if len(dims) != actual.ndim:
            return f"rank {len(dims)} instead of {actual.ndim}"
        for axis, (extent, own) in enumerate(zip(dims, actual.shape, strict=True)):
            said = number(extent, sizes, values)
            if said is not None and said != own:
                return f"extent {said} of axis {axis} instead of {own}"
    dtype = interpreter.dtype(target)
    for place in places(actual.shape):
        value = symbolic if symbolic is not None else single.get(place)
        if value is None:
            continue
        mapping: Substitution = {**sizes, **{a: poly(p) for a, p in zip(axes, place, strict=True)}}
        if actual.dtype.kind in "OUSc":
            if not is_copy(value, mapping, values, actual[place]):
                return f"{actual[place]!r} at {list(place)}: {value}"
            continue
        said = number(value, mapping, values)
        if is_undefined(value, said, actual[place]):
            continue
        if said is None:
            return f"no number at {place}: {value}"
        if not agrees(said, actual[place], dtype):
            return f"{shown(said)} instead of {actual[place]!r} at {list(place)}: {value}"
    return ""


def assumed(interpreter: Interpreter, sizes: Substitution, values: dict[str, Array]) -> bool:
    """Whether what the interpreter took as given about sizes holds here."""
    for fact in interpreter.facts.learned:
        found = number(fact.left - fact.right, sizes, values)
        if found is not None and (found < 0 if fact.relation == ">=" else found != 0):
            return False
    return True


def places(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    whole = int(np.prod(shape, dtype=np.int64))
    if whole <= MOST_ELEMENTS:
        flat = list(range(whole))
    else:
        some = {0, 1, 2, 127, 128, 129, 255, 256, 257, 258, 2047, 2048, 2049, 2050, whole - 2, whole - 1, whole // 2}
        flat = sorted({*(s for s in some if s < whole), *range(0, whole, max(1, whole // 20))})
    return [tuple(int(p) for p in np.unravel_index(f, shape)) for f in flat]


def known_sizes(interpreter: Interpreter, values: dict[str, Array]) -> Substitution:
    """Numbers for the sizes, those of the inputs and those that no rule knew."""
    sizes: Substitution = {}
    for name, dims in interpreter.extents.items():
        if name in values and dims is not None and len(dims) == np.ndim(values[name]):
            for extent, own in zip(dims, np.shape(values[name]), strict=True):
                atom = extent.single_atom
                if isinstance(atom, Size):
                    sizes.setdefault(atom, poly(own))
    return sizes


def number(value: Poly, mapping: Substitution, values: dict[str, Array]) -> Fraction | int | None:
    """The value as a number, with run-time reads, sums and quantified conditions put in."""
    sizes = {a: p for a, p in mapping.items() if isinstance(a, Size)}
    for _ in range(12):
        value = substitute(value, mapping)
        if value.constant is not None:
            return value.constant
        mapping = {}
        for atom in sorted(value.all_atoms()):
            if isinstance(atom, Sum):
                terms = (substitute(atom.term, {atom.index: poly(k)}) for k in counted(atom.index, sizes))
                mapping[atom] = sum(terms, poly(0))
            elif isinstance(atom, Ind) and quantified(atom.condition):
                mapping[atom] = ind(spelled(atom.condition, sizes))
            elif isinstance(atom, Read) and all(i.constant is not None for i in atom.indices):
                place = tuple(int(i.constant) for i in atom.indices if i.constant is not None)
                entry = np.asarray(values[atom.tensor])[place] if atom.tensor in values else None
                if entry is not None and np.asarray(entry).dtype.kind not in "OUSc" and entry == entry:
                    mapping[atom] = poly(rational(entry))
        if not mapping:
            return None
    return None


def counted(index: Index, sizes: Substitution) -> range:
    """What a bound index runs over."""
    bound = substitute(index.bound, sizes).constant
    assert bound is not None, f"{index.name} runs up to {index.bound}"
    return range(int(bound))


def quantified(condition: Cond) -> bool:
    return condition.kind == "any" or any(quantified(p) for p in condition.parts)


def spelled(condition: Cond, sizes: Substitution) -> Cond:
    """The condition with every choice of a quantified index written out."""
    parts = [spelled(p, sizes) for p in condition.parts]
    if condition.kind == "any":
        assert condition.index is not None
        choices = ({condition.index: poly(k)} for k in counted(condition.index, sizes))
        return disjunction(parts[0].substitute(choice) for choice in choices)
    if condition.kind in ("and", "or"):
        return conjunction(parts) if condition.kind == "and" else disjunction(parts)
    return negation(parts[0]) if condition.kind == "not" else condition


def is_undefined(value: Poly, said: Fraction | int | None, actual: object) -> bool:
    """Whether no number is right: a function, or a constant without a formula, of what has no finite result there."""
    found = np.asarray(actual)
    kinds = {type(a) for a in value.all_atoms()}
    if said is None and (Apply in kinds or any(isinstance(a, Table) and not a.is_finite for a in value.all_atoms())):
        return True  # a function without a value there: it stands for itself
    if found.dtype.kind in "biu" or np.isfinite(found.astype(np.float64)):
        return False
    return bool(kinds & {Apply, Table, Read}) and (said is None or bool(np.isnan(found.astype(np.float64))))


def is_copy(value: Poly, mapping: Substitution, values: dict[str, Array], actual: object) -> bool:
    """Whether a value that is no real number is said to be the element of another tensor that it is."""
    atom = substitute(value, mapping).single_atom
    if not isinstance(atom, Read):
        return False
    found = [number(i, mapping, values) for i in atom.indices]
    if any(n is None for n in found):
        return False
    place = tuple(int(n) for n in found if n is not None)
    return bool(np.asarray(values[atom.tensor])[place] == actual)


def rational(entry: object) -> Fraction | int:
    kind = np.asarray(entry).dtype
    if kind == np.bool_ or np.issubdtype(kind, np.integer):
        return int(entry)  # type: ignore[call-overload]
    number = float(entry)  # type: ignore[arg-type]
    if math.isinf(number):
        return INFINITY if number > 0 else -INFINITY
    return Fraction(number)


TOLERANCE = {TensorProto.FLOAT: 2.0**-21, TensorProto.DOUBLE: 2.0**-22, TensorProto.FLOAT16: 2.0**-10}
LARGEST = {TensorProto.FLOAT16: 65504.0, TensorProto.BFLOAT16: 3.39e38, TensorProto.FLOAT: 3.4029e38}


def agrees(said: Fraction | int, actual: object, dtype: int) -> bool:
    """Whether a number is what a runtime computed: exactly for integers, to some units for floats."""
    kind = np.asarray(actual).dtype
    if kind == np.bool_ or np.issubdtype(kind, np.integer) or kind.kind in "iub":
        return said == int(actual)  # type: ignore[call-overload]
    found = float(actual)  # type: ignore[arg-type]
    if math.isnan(found):
        return False
    if math.isinf(found):
        return (said > 0) == (found > 0) and abs(said) >= min(LARGEST.get(dtype, 1.7e308), INFINITY / 2)
    if abs(said) >= INFINITY / 2:
        return False
    return abs(float(said) - found) <= TOLERANCE.get(dtype, 2.0**-7) * max(2.0**-20, abs(found))


def shown(value: Fraction | int) -> str:
    return "inf" if abs(value) >= INFINITY / 2 else f"{float(value):.9g}"
