"""The original against its rewritten form, in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options, PassResult

from .misses import MUST_REFUSE
from .model import build
from .runs import feeds, mask_patterns, shapes, spread
from .spelling import Spelling
from .truth import truth


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """An onnxruntime session that computes what the graph says."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def tolerance(sp: Spelling) -> float:
    """What two right computations may differ by, relative to the largest output."""
    return 6e-2 if sp.half else 3e-4


@dataclass(frozen=True)
class Difference:
    """The comparison of an original with its rewritten form.

    Attributes:
        error: Largest difference at valid tokens, relative to the largest value.
        compared: Number of compared elements.
        where: Shape and output of the largest difference.
    """

    error: float
    compared: int
    where: str


def difference(sp: Spelling, original: onnx.ModelProto, rewritten: onnx.ModelProto) -> Difference:
    """Compare two models in onnxruntime at valid queries, over several shapes and masks."""
    first = session(original)
    try:
        second = session(rewritten)
    except Exception as error:  # noqa: BLE001 - onnxruntime raises many kinds
        return Difference(np.inf, 0, f"the rewritten model is invalid: {error}")
    names = [i.name for i in first.get_inputs()]
    outputs = [o.name for o in first.get_outputs()]
    worst, compared, where = 0.0, 0, ""
    rng = np.random.default_rng(sp.seed + 7)
    for shape in shapes(sp):
        batch, new, past = shape
        for mask in mask_patterns(sp, batch, past + new, rng):
            given = feeds(sp, shape, mask, rng)
            chosen = {n: given[n] for n in names}
            expected, found = first.run(outputs, chosen), second.run(outputs, chosen)
            valid = mask[:, past:] > 0
            if sp.miss == "causal-strict" and not past:
                valid[:, 0] = False  # it sees no key
            for name, left, right in zip(outputs, expected, found, strict=True):
                if left.shape != right.shape:
                    return Difference(np.inf, compared, f"{name} {left.shape} {right.shape}")
                a, b = left.astype(np.float64), right.astype(np.float64)
                keep = np.isfinite(a)
                if name == "output":
                    keep &= spread(sp, valid)
                if not keep.any():
                    continue
                a, b = a[keep], b[keep]
                compared += a.size
                scale = max(1e-3, float(np.abs(a).max()))
                gap = np.abs(a - b).max() / scale
                if not gap <= worst:
                    worst, where = float(gap) if np.isfinite(gap) else np.inf, f"{name} at {shape}"
    return Difference(worst, compared, where)


@dataclass(frozen=True)
class Verdict:
    """What the pass made of one model.

    Attributes:
        kind: ``fused``, ``refused``, ``wrong`` (fused, and different or invalid) or ``crash``.
        code: Of the refusal.
        detail: The refusal, the difference or the exception.
        slopes: Reported slopes of each site; None where they are only known at run time.
    """

    kind: str
    code: str = ""
    detail: str = ""
    slopes: tuple[np.ndarray | None, ...] = ()


def reported_slopes(result: PassResult) -> tuple[np.ndarray | None, ...]:
    """Slopes per site as the analysis states them."""
    bindings = result.analysis.bindings
    return tuple(None if p.proof.slopes is None else p.proof.slopes * p.slope_factor for p in bindings)


def attack(sp: Spelling, model: onnx.ModelProto | None = None) -> Verdict:
    """Build a model, rewrite it without the pass's own verification, and judge the outcome in onnxruntime."""
    model = build(sp) if model is None else model
    untouched = model.SerializeToString()
    try:
        result = rewrite(model, options=Options(verify=False))
    except Exception as error:  # noqa: BLE001 - whatever escapes is a finding
        return Verdict("crash", type(error).__name__, str(error)[:500])
    if model.SerializeToString() != untouched:
        return Verdict("crash", "input changed", "the model that was handed in was changed")
    if result.model is None:
        refusals = [s.refusal for s in result.analysis.sites if s.refusal is not None]
        if not refusals:
            return Verdict("refused", "none", "no site found")
        worst = max(refusals, key=lambda r: r.stage)
        return Verdict("refused", worst.code.number, str(worst))
    found = difference(sp, model, result.model)
    if not found.error <= tolerance(sp):
        return Verdict("wrong", "", f"{found.where}: relative difference {found.error:.3g}", reported_slopes(result))
    if not found.compared:
        return Verdict("crash", "nothing compared", "no element of the original is finite at a valid query")
    return Verdict("fused", "", f"relative difference {found.error:.3g}", reported_slopes(result))


def slopes_match(sp: Spelling, slopes: Sequence[np.ndarray | None]) -> bool:
    """Whether the reported slopes are the true ones, for every layer; run-time slopes are left to the comparison.

    In the linear form of a cached or uncached causal model the sign is that of the key position.
    """
    for layer, values in enumerate(slopes):
        if values is None:
            continue
        true = truth(sp, layer)
        limit = 2e-3 if sp.half else 1e-5
        if len(values) != len(true) or not np.allclose(values, true, rtol=limit, atol=1e-7):
            return False
    return len(slopes) == sp.layers


def right(sp: Spelling, verdict: Verdict) -> bool:
    """Whether a model that was fused, and is equal where it was run, may have been fused."""
    if sp.miss:
        return sp.static or sp.miss not in MUST_REFUSE
    return slopes_match(sp, verdict.slopes)
