"""Random attention models in many spellings, with the truth about their bias, and near misses of the same making.

A model is described by a ``Spelling``; ``build`` writes it, ``truth`` says what its slopes are, and
``difference`` compares an original with its rewritten form in onnxruntime.  Only ``attack`` uses the pass.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options, PassResult
from onnx import TensorProto, helper, numpy_helper

DIRECT = ("direct", "operator")
"""Layouts whose inputs are [B, H, S, D] already."""

BUFFER = 40
"""Length of constant tables; drawn inputs reach it, so that every entry is used once."""

DEPTH = 4
BATCHES = 4
"""Batch entries of tables that hold one copy for each."""

STATIC = (2, 6, 3)  # batch, new keys, past keys of models without symbolic sizes

SYMMETRIC = ("abs", "maxmin", "where", "relu", "table2", "gather")
LINEAR = (
    "j",
    "j-i",
    "j-last",
    "ones",
    "table1",
    "table1-end",
    "table2-linear",
    "table2-inf",
    "gather-linear",
    "outer",
    "einsum",
    "range-float",
    "tile",
    "per-head",
    "causal-max",
    "tril-sum",
    "min0",
    "table1-cut",
    "table-batch",
    "baked",
)
COUNTED = ("maskpos", "maskpos-merged")
RUNTIME = ("abs", "maxmin", "where", "j", "j-i", "j-last", "ones", "outer", "einsum", "maskpos", "maskpos-merged")

BY_ORDER = ("lessequal", "add", "or-less", "float-bool", "scattered")
"""Causal masks that compare with LessOrEqual."""

RUNTIME_SLOPES = ("input", "explog", "pow", "exp2", "pieces", "reciprocal", "two-powers", "log", "clipped")
"""Slopes that are no constant of the right shape."""

CHOICES: dict[str, tuple[object, ...]] = {
    "opset": (17, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23),
    "layout": (
        "bhsd",
        "kt",
        "kt3",
        "merged",
        "merged-bias",
        "einsum",
        "direct",
        "packed",
        "operator",
        "fused",
        "mha",
        "seq-first",
    ),
    "scale": (
        "before-mul",
        "q",
        "k",
        "both",
        "before-div",
        "after-mul",
        "after-div",
        "shape",
        "input",
        "none",
        "q-div",
        "root",
    ),
    "bias": (*SYMMETRIC, *LINEAR, *COUNTED),
    "negate": ("slope", "distance", "bias", "sub"),
    "slopes": (
        "press",
        "any",
        "zeros",
        "input",
        "explog",
        "pow",
        "negative",
        "exp2",
        "pieces",
        "reciprocal",
        "equal",
        "two-powers",
        "log",
        "clipped",
    ),
    "slope_rank": (3, 1, 4),
    "table_rank": (3, 4),
    "factor": (1.0, 0.5, 3.0),
    "causal": (
        "where",
        "none",
        "trilu",
        "add",
        "lessequal",
        "constant",
        "not-greater",
        "or-less",
        "float-bool",
        "scattered",
    ),
    "padding": (
        "none",
        "additive",
        "where",
        "and",
        "bool",
        "expanded",
        "clamped",
        "wide",
        "wide-add",
        "gathernd",
        "gather-flat",
        "pairs",
    ),
    "hide": ("min", "inf", "1e9"),
    "order": ("bias-first", "mask-first", "one-tensor"),
    "cache": (False, True),
    "query_start": ("past", "total-minus-new", "slice"),
    "heads": (4, 1, 2, 3, 6),
    "kv": ("all", "grouped", "one", "gathered", "tiled", "native"),
    "half": (False, True),
    "casts": (False, True),
    "softmax32": (False, True),
    "bias32": (False, True),
    "int32": (False, True),
    "swap": (False, True),
    "constants": ("initializer", "node"),
    "layers": (1, 2),
    "share": (True, False),
    "static": (False, True),
    "output_bias": (False, True),
    "present": (False, True),
    "dead": (False, True),
    "unpack": ("gather", "split", "slice"),
    "sizes": ("gather", "bounds", "slice"),
    "floor": (False, True),
    "twice": (False, True),
    "guard": ("none", "reduce", "nan"),
    "wrapped": (False, True),
    "body": (False, True),
}

MISSES = (
    "clip",
    "mod",
    "quadratic",
    "log",
    "bucket",
    "one-side",
    "data-slope",
    "batch-slope",
    "table-ulp",
    "table-noise",
    "table-entry",
    "table-tail",
    "offset",
    "offset-one",
    "causal-offset",
    "slope-per-key",
    "slope-per-row",
    "probabilities",
    "scores",
    "softcap-after",
    "softcap-before",
    "sink",
    "window",
    "packed",
    "multiplied",
    "dropout",
    "axis",
    "finite-mask",
    "forgetting",
    "cls",
    "grid",
    "key-term",
    "position-ids",
    "float-mask-positions",
    "value-scaled",
    "chunked",
    "negative-total",
    "product",
    "sine",
    "square-root",
    "parity",
    "i-only",
    "clip-far",
    "mod-far",
    "drop-far",
    "row-scale",
    "key-scale",
    "after-softmax",
    "masked-probabilities",
    "one-sided",
    "soft-window",
    "half-step",
    "flipped",
    "length-slope",
    "query-key",
    "wrap",
    "three-ulp",
    "slopes-on-batch",
    "log-length",
    "mask-multiplied",
    "causal-strict",
    "sign-far",
    "linear-far",
    "row-far",
    "batch-one",
    "window-far",
    "length-far",
    "narrow-cast",
)

MUST_REFUSE = frozenset({"clip-far", "mod-far", "drop-far", "three-ulp", "wrap"})
"""Faults that no run here shows, being too far or too small, or that no size excuses: only the proof sees them."""

LONG = 140
"""Length at which faults show that are too far for the tables."""

LONG_MISSES = frozenset({"sign-far", "linear-far", "row-far", "window-far", "length-far", "narrow-cast"})


@dataclass(frozen=True)
class Spelling:
    """How one model is written; ``miss`` names what makes it no ALiBi attention, empty for a true one.

    Attributes:
        opset: Of the default domain.
        layout: Of the score product: 4-D, K transposed at once or in 3-D, [B*H, S, D] (bias added to 4-D or 3-D),
            Einsum, inputs that are [B, H, S, D] already, one packed input, sequences first, FusedMatMul, or an
            attention operator (ONNX's own, com.microsoft's).
        scale: Where the scale of query times key sits.
        bias: How the distance is computed.
        negate: Where the sign of a symmetric distance sits.
        slopes: What the slopes are and where they come from.
        slope_rank: Rank of the slopes' tensor.
        table_rank: Rank of constant tables.
        factor: A factor of this layer on the bias; layers differ in it.
        causal: How keys after the row are hidden.
        padding: How padded keys are hidden.
        hide: Score of hidden keys.
        order: Which of bias and mask is added first, or both as one tensor.
        cache: Past keys and values are inputs.
        query_start: How the key index of the first query is computed.
        heads: Number of query heads.
        kv: Key heads: as many, grouped (Expand), or a single one (broadcast).
        half: float16 instead of float32.
        casts: Pairs of casts around the bias.
        softmax32: Softmax in float32 in a float16 model.
        bias32: Bias computed in float32 in a float16 model.
        int32: Positions are counted in 32 bits.
        swap: Operands of commutative nodes swapped.
        constants: Initializers or Constant nodes.
        layers: One or two.
        share: Layers share one bias tensor.
        static: All sizes are numbers.
        output_bias: The bias is a graph output as well.
        present: The concatenated keys are a graph output.
        dead: A node that nothing uses reads the positions, as exporters leave behind.
        unpack: How query, key and value come out of a packed input.
        sizes: How extents are read.
        floor: Scores are cut off at the lowest number after masking, as Baichuan does.
        twice: The bias is added before the scale and again after it, as Falcon does.
        guard: What stands behind the attention for rows without keys.
        wrapped: Shapes for Expand go through a test for -1.
        body: The whole graph lies in a branch of an If.
        miss: What is wrong.
        where: Position of the fault, as a fraction of what it is in.
        seed: Of arbitrary numbers.
    """

    opset: int = 17
    layout: str = "bhsd"
    scale: str = "before-mul"
    bias: str = "abs"
    negate: str = "slope"
    slopes: str = "press"
    slope_rank: int = 3
    table_rank: int = 3
    factor: float = 1.0
    causal: str = "where"
    padding: str = "none"
    hide: str = "min"
    order: str = "bias-first"
    cache: bool = False
    query_start: str = "past"
    heads: int = 4
    kv: str = "all"
    half: bool = False
    casts: bool = False
    softmax32: bool = False
    bias32: bool = False
    int32: bool = False
    swap: bool = False
    constants: str = "initializer"
    layers: int = 1
    share: bool = True
    static: bool = False
    output_bias: bool = False
    present: bool = False
    dead: bool = False
    unpack: str = "gather"
    sizes: str = "gather"
    floor: bool = False
    twice: bool = False
    guard: str = "none"
    wrapped: bool = False
    body: bool = False
    miss: str = ""
    where: float = 0.5
    seed: int = 0


def _numeric_table(bias: str) -> bool:
    return bias.startswith(("table", "gather", "baked"))


def repair(sp: Spelling) -> Spelling:
    """The nearest spelling that makes a valid model whose fault, if any, is really there."""
    fix = dataclasses.replace
    miss = sp.miss
    if miss in ("clip", "mod", "quadratic", "log", "bucket", "grid", "square-root"):
        if sp.bias not in ("abs", "maxmin", "where", "table2", "gather"):
            sp = fix(sp, bias="abs")
    elif miss in ("clip-far", "mod-far", "drop-far", "sine", "parity", "half-step", "flipped"):
        if sp.bias not in ("abs", "maxmin", "where"):
            sp = fix(sp, bias="abs")
    elif miss == "i-only":
        sp = fix(sp, bias="j")
    elif miss == "wrap":
        sp = fix(sp, bias="gather-linear", causal=sp.causal)
    elif miss == "three-ulp":
        sp = fix(sp, bias=sp.bias if sp.bias in ("table2", "table2-linear", "table1", "gather") else "table2")
        sp = fix(sp, slopes="press")
    elif miss == "slopes-on-batch":
        sp = fix(sp, bias="j-i", heads=2, static=True, layers=1, layout="bhsd", slopes="press", kv="all", factor=1.0)
    elif miss == "mask-multiplied":
        sp = fix(sp, padding="where", layout="bhsd" if sp.layout in ("operator", "mha", "merged-bias") else sp.layout)
        sp = fix(sp, order="bias-first")
    elif miss == "log-length":
        if sp.layout in ("operator", "mha", "merged-bias") or sp.order != "bias-first":
            sp = fix(sp, layout="bhsd", order="bias-first")
    elif miss == "causal-strict":
        sp = fix(
            sp,
            causal="where",
            hide="min",
            layers=1,
            padding="additive" if sp.padding.startswith("wide") else sp.padding,
        )
    elif miss in LONG_MISSES or miss == "batch-one":
        linear = miss in ("linear-far", "length-far")
        sp = fix(
            sp,
            bias="j-i" if linear else "abs",
            static=False,
            layout="bhsd" if sp.layout == "merged-bias" else sp.layout,
        )
        sp = fix(sp, causal="where" if sp.causal in ("none", "constant") else sp.causal, int32=False, half=False)
    elif miss == "one-sided":
        sp = fix(sp, bias="causal-max", causal="none")
    elif miss in ("product", "row-scale", "key-scale", "after-softmax", "masked-probabilities", "soft-window"):
        if sp.layout in ("operator", "merged-bias"):
            sp = fix(sp, layout="bhsd")
        if miss in ("row-scale", "key-scale") and sp.order != "bias-first":
            sp = fix(sp, order="bias-first")
    elif miss == "query-key":
        sp = fix(sp, bias="abs", layout="bhsd" if sp.layout in ("operator", "merged-bias") else sp.layout)
    elif miss == "length-slope":
        sp = fix(sp, bias="j-i", causal="where" if sp.causal == "none" else sp.causal)
    elif miss == "one-side":
        sp = fix(sp, bias="where", causal="none")
    elif miss in ("table-ulp", "table-noise", "table-entry", "table-tail"):
        if not _numeric_table(sp.bias):
            sp = fix(sp, bias="table2")
        sp = fix(sp, slopes="press" if sp.slopes == "input" else sp.slopes, cache=sp.cache)
    elif miss in ("offset", "offset-one"):
        sp = fix(sp, bias=sp.bias if sp.bias in ("abs", "maxmin", "where", "table2", "gather") else "abs")
        sp = fix(sp, cache=sp.cache or miss == "offset")
    elif miss == "causal-offset":
        sp = fix(sp, cache=True, causal="where" if sp.causal == "none" else sp.causal)
    elif miss in ("data-slope", "batch-slope", "slope-per-key", "slope-per-row"):
        if sp.bias not in ("abs", "maxmin", "where", "j-i"):
            sp = fix(sp, bias="abs")
        if sp.bias == "j-i" and miss == "slope-per-row" and sp.causal == "none":
            sp = fix(sp, causal="where")
        sp = fix(sp, negate="distance", slopes="press", layout="bhsd" if sp.layout == "merged-bias" else sp.layout)
    elif miss == "finite-mask":
        sp = fix(sp, hide="finite", half=False)
        if sp.causal == "none" and sp.padding == "none":
            sp = fix(sp, causal="where")
    elif miss in ("packed", "position-ids"):
        sp = fix(sp, bias="abs", cache=False, static=False)
        if miss == "position-ids" and sp.layout == "merged-bias":
            sp = fix(sp, layout="merged")
    elif miss in ("forgetting", "float-mask-positions"):
        sp = fix(sp, bias="maskpos", layout="bhsd" if sp.layout == "merged-bias" else sp.layout, cache=False)
        sp = fix(sp, slopes="press" if miss == "forgetting" else sp.slopes)
    elif miss == "cls":
        sp = fix(sp, bias="abs", cache=False)
    elif miss == "window":
        sp = fix(sp, causal="where" if sp.causal == "none" else sp.causal)
    elif miss == "negative-total":
        sp = fix(sp, bias="j-i", causal="none")
    elif miss == "sink":
        sp = fix(sp, layout="bhsd" if sp.layout.startswith("merged") else sp.layout)
    if sp.layout == "operator":
        # The operator adds one mask of the query's type and computes the softmax inside.
        sp = fix(
            sp, opset=23, order="one-tensor", softmax32=False, padding="additive" if sp.padding != "none" else "none"
        )
        sp = fix(sp, scale=sp.scale if sp.scale in ("before-mul", "none", "q", "k", "both") else "before-mul")
        if miss in (*INSIDE, "value-scaled", "packed", "chunked"):
            sp = fix(sp, layout="bhsd")
    if sp.layout in ("packed", "seq-first", "mha") and (sp.cache or sp.kv != "all"):
        sp = fix(sp, cache=False, kv="all")
    sp = _repair_operators(sp)
    if sp.padding in ("wide", "wide-add") and (sp.bias in COUNTED or sp.layout == "merged-bias"):
        sp = fix(sp, padding="additive")
    if sp.hide == "finite" and miss != "finite-mask":
        sp = fix(sp, hide="min")
    if sp.bias in COUNTED:
        if sp.padding in ("none", "bool"):
            sp = fix(sp, padding="additive")
        if sp.layout != "merged-bias" and sp.bias == "maskpos-merged":
            sp = fix(sp, bias="maskpos")
    if sp.bias == "maskpos" and sp.layout == "merged-bias":
        sp = fix(sp, bias="maskpos-merged")
    if sp.bias in ("table2-inf",):
        sp = fix(sp, slopes="press" if sp.slopes == "input" else sp.slopes, negate="slope")
        if sp.order == "one-tensor" and sp.hide == "1e9":
            sp = fix(sp, hide="min")
    if _numeric_table(sp.bias):
        sp = fix(sp, slopes="press" if sp.slopes in RUNTIME_SLOPES else sp.slopes)
    if sp.bias not in SYMMETRIC:
        sp = fix(sp, negate="slope")
    if sp.bias in ("outer", "einsum", "per-head"):
        sp = fix(sp, slope_rank=1)
    if sp.bias == "per-head":
        sp = fix(sp, slopes="press" if sp.slopes in RUNTIME_SLOPES else sp.slopes)
    if sp.bias in ("causal-max",) and miss != "one-sided" and sp.causal == "none":
        sp = fix(sp, causal="where")
    if sp.bias == "tril-sum":
        sp = fix(sp, opset=max(14, sp.opset), cache=False, causal="where" if sp.causal == "none" else sp.causal)
    if sp.opset < 12 and (sp.layout == "einsum" or sp.bias in ("einsum", "maxmin", "relu", "causal-max")):
        sp = fix(sp, opset=12)
    if sp.opset < 14 and sp.causal == "trilu":
        sp = fix(sp, opset=14)
    if sp.opset < 12 and (sp.causal in BY_ORDER or sp.miss in ("clip", "dropout", "negative-total")):
        sp = fix(sp, opset=12)
    if sp.opset < 13 and sp.miss in ("axis", "dropout"):
        sp = fix(sp, opset=13)
    if sp.kv != "all" and sp.layout in ("merged", "merged-bias", "einsum", "packed", "seq-first"):
        sp = fix(sp, kv="all")
    if sp.padding == "clamped" and (sp.opset < 12 or sp.hide == "inf"):
        sp = fix(sp, opset=max(12, sp.opset), hide="min")
    if sp.int32 and (sp.bias in COUNTED or sp.opset < 14):
        sp = fix(sp, int32=False)
    if sp.opset < 13 and sp.miss in ("masked-probabilities",):
        sp = fix(sp, opset=13)
    if sp.opset < 13 and sp.miss in ("mod-far", "parity", "clip-far", "drop-far"):
        sp = fix(sp, opset=13)
    if sp.heads % 2 and sp.kv in ("grouped", "gathered", "tiled", "native"):
        sp = fix(sp, kv="all")
    if sp.layout == "merged-bias" and sp.miss in ("batch-slope", "data-slope"):
        sp = fix(sp, layout="merged")
    if not sp.cache:
        sp = fix(sp, query_start="past", present=False)
    if sp.padding == "and" and sp.causal in ("none", "add"):
        sp = fix(sp, padding="where")
    if not sp.half:
        sp = fix(sp, softmax32=False, bias32=False)
    if sp.half and sp.hide == "1e9":
        sp = fix(sp, hide="min")
    if sp.order == "one-tensor" and sp.layout != "operator" and (sp.layout == "merged-bias" or sp.causal == "none"):
        sp = fix(sp, order="bias-first")
    if sp.order == "one-tensor" and sp.scale.startswith("after"):
        sp = fix(sp, scale="before-mul")
    if sp.order == "mask-first" and sp.layout == "merged-bias":
        sp = fix(sp, order="bias-first")
    if sp.scale.startswith("after") and sp.order == "mask-first":
        sp = fix(sp, order="bias-first")
    if sp.layers == 2 and sp.hide == "inf" and sp.padding != "none":
        sp = fix(sp, hide="min")
    if sp.layers == 1:
        sp = fix(sp, share=True)
    if sp.share and sp.layers == 2 and sp.factor != 1.0:
        sp = fix(sp, share=False)
    return _repair_extras(sp)


INSIDE = ("probabilities", "scores", "softcap-after", "softcap-before", "sink", "multiplied", "dropout", "axis")
"""Faults between the products, where an attention operator has no place for them."""


def _repair_operators(sp: Spelling) -> Spelling:
    """Spellings of whole attentions and products that other choices do not go with."""
    fix = dataclasses.replace
    needs_heads = ("data-slope", "batch-slope", "query-key", "forgetting", "float-mask-positions", "sink")
    between = (*INSIDE, "after-softmax", "masked-probabilities", "soft-window", "row-scale", "key-scale", "product")
    if sp.layout == "mha":
        if sp.miss in (*between, *needs_heads, "value-scaled", "packed", "chunked", "key-term"):
            return fix(sp, layout="bhsd")
        sp = fix(sp, half=False, order="one-tensor", guard="none", floor=False, twice=False, output_bias=False)
        sp = fix(sp, scale=sp.scale if sp.scale in ("before-mul", "none", "q", "k", "both") else "before-mul")
    if sp.layout == "seq-first" and sp.miss in (*needs_heads, "value-scaled"):
        return fix(sp, layout="bhsd")
    if sp.layout == "fused":
        sp = fix(sp, half=False, kv="all" if sp.kv == "one" else sp.kv, opset=max(12, sp.opset))
    return sp


def _repair_extras(sp: Spelling) -> Spelling:
    """Choices that need others; the last word."""
    fix = dataclasses.replace
    if sp.bias == "table-batch" and (sp.layout != "merged-bias" or (sp.layers == 2 and not sp.share)):
        sp = fix(sp, layout="merged-bias", order="bias-first", kv="all", share=True, factor=1.0)
    if sp.bias == "table-batch" or sp.bias == "baked":
        sp = fix(sp, table_rank=3)
    if sp.bias == "baked":
        sp = fix(sp, static=True)
    if sp.bias == "table1-cut" and sp.layout == "merged-bias":
        sp = fix(sp, layout="merged")  # no exporter merges the heads of a table that is cut like that
    if sp.bias in ("min0", "table1-cut"):
        sp = fix(sp, opset=max(12, sp.opset))
    if sp.bias == "min0" and sp.causal == "none":
        sp = fix(sp, causal="where")
    if sp.causal == "scattered" and sp.opset < 11:
        sp = fix(sp, causal="where")
    if sp.padding == "and" and sp.causal in ("none", "add", "or-less", "float-bool", "scattered"):
        sp = fix(sp, padding="where")
    if sp.padding in ("gathernd", "gather-flat") and sp.opset < 12:
        sp = fix(sp, opset=12)
    if sp.layout == "merged-bias" and sp.padding == "pairs":
        sp = fix(sp, padding="where")
    if sp.twice and (not sp.scale.startswith("after") or sp.order != "bias-first" or sp.layout == "merged-bias"):
        sp = fix(sp, twice=False)
    if sp.twice and sp.miss:
        sp = fix(sp, twice=False)
    if sp.floor and (sp.layout in ("operator", "mha") or sp.opset < 13 or sp.miss):
        sp = fix(sp, floor=False)
    if sp.guard == "reduce" and (
        sp.order != "one-tensor" or sp.layout not in ("bhsd", "kt", "kt3", "direct", "packed", "fused") or sp.miss
    ):
        sp = fix(sp, guard="none")
    if sp.guard == "nan" and (sp.layout in ("operator", "mha") or sp.opset < 13 or sp.miss):
        sp = fix(sp, guard="none")
    if sp.body and (sp.output_bias or sp.present or sp.miss in ("probabilities", "scores", "product")):
        sp = fix(sp, body=False)
    if sp.wrapped and sp.opset < 11:
        sp = fix(sp, wrapped=False)
    return sp


def sample(rng: random.Random, miss: str = "") -> Spelling:
    """A random spelling; simple choices come first in ``CHOICES`` and are drawn more often."""
    drawn: dict[str, object] = {}
    for name, options in CHOICES.items():
        common = name not in ("bias", "opset", "layout", "scale", "slopes", "heads", "causal", "padding")
        drawn[name] = options[0] if common and rng.random() < 0.5 else rng.choice(options)
    spelling = Spelling(**drawn, miss=miss, where=rng.random(), seed=rng.randrange(1 << 30))  # type: ignore[arg-type]
    return repair(spelling)


def simpler(sp: Spelling) -> Iterator[Spelling]:
    """Spellings with one field set to its simplest value: candidates for shrinking."""
    plain = Spelling(miss=sp.miss)
    for name in (f.name for f in dataclasses.fields(Spelling)):
        if name != "miss" and getattr(sp, name) != getattr(plain, name):
            candidate = repair(dataclasses.replace(sp, **{name: getattr(plain, name)}))
            if candidate != sp:
                yield candidate


def shrink(sp: Spelling, fails: Callable[[Spelling], bool], limit: int = 120) -> Spelling:
    """The simplest spelling found greedily for which ``fails`` still holds."""
    seen = {sp}
    for _ in range(limit):
        for candidate in simpler(sp):
            if candidate in seen:
                continue
            seen.add(candidate)
            if fails(candidate):
                sp = candidate
                break
        else:
            return sp
    return sp


# --- truth -------------------------------------------------------------------------------------------------


def press(count: int) -> np.ndarray:
    """The published slopes for a number of heads."""
    power = 2 ** int(np.floor(np.log2(count)))
    base = 2.0 ** (-8.0 / power)
    values = [base ** (k + 1) for k in range(power)]
    if power < count:
        base = 2.0 ** (-4.0 / power)
        values += [base ** (2 * k + 1) for k in range(count - power)]
    return np.array(values)


def slope_values(sp: Spelling) -> np.ndarray:
    """The magnitudes that the model is written with, before factors of layers and scale."""
    rng = np.random.default_rng(sp.seed)
    values = press(sp.heads)
    if sp.slopes in ("any", "input"):
        values = rng.uniform(0.02, 0.9, sp.heads)
    elif sp.slopes == "negative":
        values = -rng.uniform(0.02, 0.3, sp.heads)
    elif sp.slopes == "zeros":
        values = np.where(np.arange(sp.heads) % 2 == 0, values, 0.0)
    elif sp.slopes == "pow":
        values = 0.5 ** np.arange(1, sp.heads + 1)
    elif sp.slopes == "exp2":
        values = 2.0 ** (-8.0 / sp.heads * np.arange(1, sp.heads + 1))
    elif sp.slopes == "equal":
        values = np.full(sp.heads, 0.25)
    elif sp.slopes == "two-powers":
        half = (sp.heads + 1) // 2
        values = np.concatenate([0.5 ** np.arange(1, half + 1), 0.6 ** np.arange(1, sp.heads - half + 1)])
    elif sp.slopes == "log":
        values = -np.log(1.0 - 2.0 ** -(1.0 + np.arange(sp.heads)))
    elif sp.slopes == "clipped":
        values = np.where(np.arange(sp.heads) % 3 == 2, 0.0, values)
    return values.astype(_float(sp, bias=True)).astype(np.float64)


SCALE = 0.5


def truth(sp: Spelling, layer: int = 0) -> np.ndarray:
    """Slope per head of a layer: the factor of the key position (linear) or of -|distance| (symmetric)."""
    values = slope_values(sp) * layer_factor(sp, layer) * (2.0 if sp.twice else 1.0)
    return values * SCALE if sp.scale.startswith("after") else values


def layer_factor(sp: Spelling, layer: int) -> float:
    """What the bias of a layer is multiplied by."""
    return sp.factor * (1.0 + 0.5 * layer) if sp.factor != 1.0 else 1.0


def _float(sp: Spelling, bias: bool = False) -> type:
    return np.float16 if sp.half and not (bias and sp.bias32) else np.float32


# --- building ----------------------------------------------------------------------------------------------


class Graph:
    """Nodes and constants under construction."""

    def __init__(self, sp: Spelling) -> None:
        self.sp = sp
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: dict[str, tuple[int, list[object]]] = {}
        self.outputs: dict[str, tuple[int, list[object]]] = {}
        self.count = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        out = self.name(kind.lower())
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"node_{out}", **attributes))
        return out

    def commute(self, kind: str, left: str, right: str) -> str:
        return self.op(kind, right, left) if self.sp.swap else self.op(kind, left, right)

    def const(self, value: object, dtype: type = np.int64) -> str:
        name = self.name("const")
        tensor = numpy_helper.from_array(np.asarray(value).astype(dtype), name)
        if self.sp.constants == "node":
            self.nodes.append(helper.make_node("Constant", [], [name], name=f"node_{name}", value=tensor))
        else:
            self.initializers.append(tensor)
        return name

    def cast(self, value: str, dtype: type) -> str:
        return self.op("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def unsqueeze(self, value: str, *axes: int) -> str:
        if self.sp.opset >= 13:
            return self.op("Unsqueeze", value, self.const(list(axes)))
        return self.op("Unsqueeze", value, axes=list(axes))

    def squeeze(self, value: str, *axes: int) -> str:
        if self.sp.opset >= 13:
            return self.op("Squeeze", value, self.const(list(axes)))
        return self.op("Squeeze", value, axes=list(axes))

    def size(self, value: str, axis: int) -> str:
        if self.sp.sizes == "bounds" and self.sp.opset >= 15:
            return self.squeeze(self.op("Shape", value, start=axis, end=axis + 1), 0)
        if self.sp.sizes == "slice":
            part = self.op(
                "Slice", self.op("Shape", value), self.const([axis]), self.const([axis + 1]), self.const([0])
            )
            return self.squeeze(part, 0)
        return self.op("Gather", self.op("Shape", value), self.const(axis), axis=0)

    def expand(self, value: str, shape: str) -> str:
        """Expand, to a shape that TorchScript looks through for -1."""
        if self.sp.wrapped:
            ones = self.op(
                "ConstantOfShape", self.op("Shape", shape), value=numpy_helper.from_array(np.ones(1, np.int64))
            )
            shape = self.op("Where", self.op("Equal", shape, self.const(-1)), ones, shape)
        return self.op("Expand", value, shape)

    def slice(self, value: str, start: str, end: str, axis: int) -> str:
        return self.op(
            "Slice", value, self.unsqueeze(start, 0), self.unsqueeze(end, 0), self.const([axis]), self.const([1])
        )

    def shape(self, *parts: int | str) -> str:
        items = [self.const([p]) if isinstance(p, int) else self.unsqueeze(p, 0) for p in parts]
        return self.op("Concat", *items, axis=0)


def build(sp: Spelling) -> onnx.ModelProto:
    """The model that a spelling describes."""
    return _Writer(sp).model()


def kv_heads(sp: Spelling) -> int:
    """How many heads keys and values have."""
    return {"all": sp.heads, "one": 1}.get(sp.kv, sp.heads // 2)


class _Writer:
    def __init__(self, sp: Spelling) -> None:
        self.sp = sp
        self.g = Graph(sp)
        self.float = _float(sp)
        self.bias_float = _float(sp, bias=True)
        self.kv_heads = kv_heads(sp)
        self.heads_of_keys = 1 if sp.kv == "one" else sp.heads

    def model(self) -> onnx.ModelProto:
        sp, g = self.sp, self.g
        batch, new, past = ("batch", "seq", "past") if not sp.static else STATIC
        if not sp.cache:
            past = 0
        total: object = (past + new if sp.static else "total") if sp.cache else new
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.float))
        direct_layout = sp.layout in DIRECT
        if sp.layout == "packed":
            g.inputs["qkv"] = (kind, [batch, new, 3 * sp.heads * DEPTH])
        for name, heads in (("query", sp.heads), ("key", self.kv_heads), ("value", self.kv_heads)):
            if sp.layout == "packed":
                break
            direct = [batch, heads, new, DEPTH]
            flat = [new, batch, heads * DEPTH] if sp.layout == "seq-first" else [batch, new, heads * DEPTH]
            g.inputs[name] = (kind, direct if direct_layout else flat)
        if sp.cache:
            for name in ("past_key", "past_value"):
                g.inputs[name] = (kind, [batch, self.kv_heads, past, DEPTH])
        if sp.padding == "bool":
            g.inputs["attention_mask"] = (TensorProto.BOOL, [batch, total])
        elif sp.padding == "wide":
            g.inputs["wide_mask"] = (TensorProto.BOOL, [batch, 1, new, total])
        elif sp.padding == "wide-add":
            g.inputs["wide_mask_add"] = (kind, [batch, 1, new, total])
        elif sp.padding != "none":
            g.inputs["attention_mask"] = (TensorProto.INT64, [batch, total])
        if sp.slopes == "input":
            g.inputs["slopes"] = (helper.np_dtype_to_tensor_dtype(np.dtype(self.bias_float)), [sp.heads])
        if sp.scale == "input":
            g.inputs["scale"] = (kind, [])
        if sp.miss == "batch-slope":
            g.inputs["batch_slopes"] = (kind, [batch, sp.heads])
        if sp.miss in ("packed", "position-ids"):
            g.inputs["position_ids"] = (TensorProto.INT64, [batch, new])
        if sp.miss == "key-term":
            g.inputs["key_term"] = (kind, [batch, total])
        if sp.miss == "float-mask-positions":
            g.inputs["weights"] = (kind, [batch, new])
        query, key, value = "query", "key", "value"
        if sp.layout == "packed":
            query, key, value = self._unpacked()
        axis = 2 if direct_layout else 0 if sp.layout == "seq-first" else 1
        self.first = "qkv" if sp.layout == "packed" else "query"
        self.new = g.size(self.first, axis)
        self.batch = g.size(self.first, 1 if sp.layout == "seq-first" else 0)
        self.past = g.size("past_key", 2) if sp.cache else ""
        self.total = g.commute("Add", self.past, self.new) if sp.cache else self.new
        self.query = query
        self.own = self._own()
        self.keys = g.op("Range", g.const(0), self.total, g.const(1))
        self.rows = self._rows()
        self.places = g.cast(self.keys, np.int32) if sp.int32 else self.keys
        self.row_places = g.cast(self.rows, np.int32) if sp.int32 else self.rows
        result, bias = "", ""
        for layer in range(sp.layers):
            if not bias or not sp.share:
                bias = self._bias(layer)
            result = self._attention(layer, query, key, value, bias)
            if layer + 1 < sp.layers:
                if sp.layout == "packed":
                    query, key, value = (g.op("Add", n, result) for n in (query, key, value))
                elif self.kv_heads == sp.heads:
                    query, key, value = (g.op("Add", n, result) for n in ("query", "key", "value"))
                else:
                    query = g.op("Add", "query", result)
        g.nodes.append(helper.make_node("Identity", [result], ["output"], name="last"))
        if sp.dead:
            g.op("Neg", g.op("Sub", g.unsqueeze(self.rows, 1), g.unsqueeze(self.keys, 0)))
        g.outputs["output"] = (
            kind,
            [batch, new, sp.heads * DEPTH] if sp.layout == "packed" else list(g.inputs["query"][1]),
        )
        if sp.output_bias and sp.miss not in ("probabilities", "scores"):
            bias_kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.float))
            g.nodes.append(helper.make_node("Identity", [bias], ["bias"], name="bias_out"))
            g.outputs["bias"] = (bias_kind, [])
        return self._finish()

    def _finish(self) -> onnx.ModelProto:
        g, sp = self.g, self.sp
        make = helper.make_tensor_value_info
        if not sp.dead:
            live = set(g.outputs)
            kept = []
            for node in reversed(g.nodes):
                if live & set(node.output):
                    kept.append(node)
                    live |= set(node.input)
            g.nodes = kept[::-1]
        used = {i for n in g.nodes for i in n.input}
        graph = helper.make_graph(
            g.nodes,
            "attention",
            [make(n, t, s) for n, (t, s) in g.inputs.items() if n in used],
            [make(n, t, s if s else None) for n, (t, s) in g.outputs.items()],
            [t for t in g.initializers if t.name in used],
        )
        if sp.body and set(g.outputs) == {"output"}:
            graph = self._in_a_branch(graph)
        imports = [helper.make_opsetid("", sp.opset)]
        if sp.layout in ("fused", "mha"):
            imports.append(helper.make_opsetid("com.microsoft", 1))
        model = helper.make_model(graph, opset_imports=imports)
        model.ir_version = 8 if sp.opset < 19 else 10
        return model

    def _in_a_branch(self, graph: onnx.GraphProto) -> onnx.GraphProto:
        """The graph as one branch of an If, its inputs and constants outside, as in optimum's merged decoders."""
        value = graph.output[0]
        last = next(n for n in graph.node if "output" in n.output)
        inner = [n for n in graph.node if n is not last and n != last]
        branch = helper.make_graph(
            [*inner, helper.make_node("Identity", [last.input[0]], ["output_of_branch"], name=last.name)],
            "then",
            [],
            [helper.make_tensor_value_info("output_of_branch", value.type.tensor_type.elem_type, None)],
        )
        kind = value.type.tensor_type.elem_type
        zero = helper.make_tensor("zero", kind, [1], [0.0])
        other = helper.make_graph(
            [helper.make_node("Constant", [], ["output_of_other"], value=zero)],
            "else",
            [],
            [helper.make_tensor_value_info("output_of_other", kind, None)],
        )
        choice = helper.make_node("If", ["taken"], ["output"], name="choice", then_branch=branch, else_branch=other)
        taken = helper.make_tensor_value_info("taken", TensorProto.BOOL, [])
        return helper.make_graph([choice], "outer", [*graph.input, taken], list(graph.output), list(graph.initializer))

    def _unpacked(self) -> list[str]:
        """Query, key and value [B, S, H*D] out of one tensor whose heads hold all three, as BLOOM's does."""
        g, sp = self.g, self.sp
        if sp.unpack == "split":  # MPT packs queries, keys and values one after the other
            names = [g.name("part") for _ in range(3)]
            width = sp.heads * DEPTH
            sizes = {"split": [width] * 3} if sp.opset < 13 else {}
            inputs = ["qkv"] if sp.opset < 13 else ["qkv", g.const([width] * 3)]
            g.nodes.append(helper.make_node("Split", inputs, names, name=g.name("node_split"), axis=2, **sizes))
            return names
        whole = g.op("Reshape", "qkv", g.const([0, 0, sp.heads, 3, DEPTH]))
        if sp.unpack == "slice":
            parts = [g.slice(whole, g.const(k), g.const(k + 1), 3) for k in range(3)]
            return [g.op("Reshape", p, g.const([0, 0, sp.heads * DEPTH])) for p in parts]
        parts = [g.op("Gather", whole, g.const(k), axis=3) for k in range(3)]
        return [g.op("Reshape", p, g.const([0, 0, sp.heads * DEPTH])) for p in parts]

    def _own(self) -> str:
        """The key index of the first query, a scalar."""
        g, sp = self.g, self.sp
        if not sp.cache:
            return g.const(0)
        return g.op("Sub", self.total, self.new) if sp.query_start == "total-minus-new" else self.past

    def _rows(self) -> str:
        """Key index of every query, [S_q]."""
        g, sp = self.g, self.sp
        start, end = self.own, self.total
        if sp.miss == "offset":
            start, end = g.const(0), self.new
        elif sp.miss == "offset-one":
            start, end = g.op("Add", self.own, g.const(1)), g.op("Add", self.total, g.const(1))
        elif sp.cache and sp.query_start == "slice":
            return g.slice(self.keys, start, end, 0)
        return g.op("Range", start, end, g.const(1))

    # --- bias

    def _slopes(self, rank: int) -> str:
        """Slopes of the wanted rank: [H], [H, 1, 1] or [1, H, 1, 1]."""
        g, sp = self.g, self.sp
        values = slope_values(sp)
        shape = {1: [sp.heads], 3: [sp.heads, 1, 1], 4: [1, sp.heads, 1, 1]}[rank]
        sign = -1.0 if sp.bias in SYMMETRIC and sp.negate == "slope" else 1.0
        if sp.miss in ("data-slope", "batch-slope"):
            if sp.miss == "batch-slope":
                return g.cast(g.op("Reshape", "batch_slopes", g.const([0, sp.heads, 1, 1])), self.bias_float)
            size = g.op("Abs", self._heads(self.query, "query", sp.heads))
            if sp.opset >= 18:
                largest = g.op("ReduceMax", size, g.const([2, 3]), keepdims=1)
            else:
                largest = g.op("ReduceMax", size, axes=[2, 3], keepdims=1)
            return g.cast(g.op("Mul", largest, g.const(values.reshape([sp.heads, 1, 1]), self.float)), self.bias_float)
        if sp.slopes == "input":
            made = "slopes"
            if rank > 1:
                made = g.op("Reshape", made, g.const(shape))
            return g.op("Neg", made) if sign < 0 else made
        if sp.slopes == "explog":
            log = np.log(np.abs(values)).reshape(shape)
            made = g.cast(g.op("Exp", g.const(log, np.float32)), self.bias_float)
            return g.op("Neg", made) if sign < 0 else made
        if sp.slopes == "pow":
            steps = g.op("Range", g.const(1), g.const(sp.heads + 1), g.const(1))
            made = g.op("Pow", g.const(0.5, np.float32), g.cast(steps, np.float32))
            made = g.cast(made, self.bias_float)
            if rank > 1:
                made = g.op("Reshape", made, g.const(shape))
            return g.op("Neg", made) if sign < 0 else made
        if sp.slopes == "exp2":
            steps = g.cast(g.op("Range", g.const(1), g.const(sp.heads + 1), g.const(1)), np.float32)
            power = g.op("Mul", steps, g.const(-8.0 / sp.heads, np.float32))
            made = g.cast(g.op("Pow", g.const(2.0, np.float32), power), self.bias_float)
            if rank > 1:
                made = g.op("Reshape", made, g.const(shape))
            return g.op("Neg", made) if sign < 0 else made
        if sp.slopes == "pieces" and sp.heads > 1:
            half = sp.heads // 2
            parts = [g.const(sign * v, self.bias_float) for v in (values[:half], values[half:])]
            made = g.op("Concat", *parts, axis=0)
            return g.op("Reshape", made, g.const(shape)) if rank > 1 else made
        if sp.slopes in ("two-powers", "log", "clipped"):
            made = self._unfolded_slopes(values)
            made = g.cast(g.op("Neg", made) if sign < 0 else made, self.bias_float)
            return g.op("Reshape", made, g.const(shape)) if rank > 1 else made
        if sp.slopes == "reciprocal":
            return g.op("Reciprocal", g.const((sign / values).reshape(shape), self.bias_float))
        return g.const((sign * values).reshape(shape), self.bias_float)

    def _unfolded_slopes(self, values: np.ndarray) -> str:
        """[H] float32, as it is left where nothing folds constants."""
        g, sp = self.g, self.sp
        if sp.slopes == "log":
            return g.op("Neg", g.op("Log", g.const(np.exp(-values), np.float32)))
        if sp.slopes == "clipped":
            given = np.where(values == 0, -0.5, values)
            low = g.const(0.0, np.float32)
            return g.op("Clip", g.const(given, np.float32), low)
        half = (sp.heads + 1) // 2
        parts = []
        for base, count in ((0.5, half), (0.6, sp.heads - half)):
            steps = g.cast(g.op("Range", g.const(1), g.const(count + 1), g.const(1)), np.float32)
            parts.append(g.op("Pow", g.const(base, np.float32), steps))
        return g.op("Concat", *parts, axis=0)

    def _bias(self, layer: int) -> str:
        """The bias, broadcastable to [B, H, S_q, S_kv], or [B*H, 1 or S_q, S_kv] for the merged layout."""
        g, sp = self.g, self.sp
        bias = self._table() if _numeric_table(sp.bias) else self._computed()
        factor = layer_factor(sp, layer)
        if factor != 1.0:
            bias = g.commute("Mul", bias, g.const(factor, self.bias_float))
        if sp.bias in SYMMETRIC and sp.negate == "bias":
            bias = g.op("Neg", bias)
        if sp.casts:
            bias = g.cast(g.cast(bias, np.float64 if sp.opset >= 13 else np.float32), self.bias_float)
        if sp.miss == "cls":
            bias = self._without_first(bias)
        if self.bias_float is not self.float:
            bias = g.cast(bias, self.float)
        if sp.layout == "merged-bias" and sp.bias not in (*COUNTED, "table-batch", "baked"):
            wide = ("j-i", "table2-linear", "table2-inf", "gather-linear", "tile", "causal-max", "tril-sum", "min0")
            rows = self.new if sp.bias in (*SYMMETRIC, *wide) else 1
            full = g.expand(bias, g.shape(self.batch, sp.heads, rows, self.total))
            bias = g.op("Reshape", full, g.shape(-1, rows, self.total))
        return bias

    def _without_first(self, bias: str) -> str:
        """Distances among all tokens but the first, whose row and column are zero."""
        g = self.g
        inner = g.op("Slice", bias, g.const([1, 1]), g.const([2**31, 2**31]), g.const([-2, -1]))
        rank = 4 if self.sp.slope_rank == 4 else 3
        pads = [0] * rank * 2
        pads[rank - 2] = pads[rank - 1] = 1
        return g.op("Pad", inner, g.const(pads), g.const(0.0, self.bias_float))

    def _distance(self) -> str:
        """An integer distance [S_q, S_kv] that grows with |i - j|, before its sign."""
        g, sp = self.g, self.sp
        if sp.miss in ("packed", "position-ids"):
            rows, keys = g.unsqueeze("position_ids", 1, 3), g.unsqueeze("position_ids", 1, 2)
        else:
            rows, keys = g.unsqueeze(self.row_places, 1), g.unsqueeze(self.places, 0)
        if sp.miss == "half-step":
            rows = g.op("Add", rows, rows)
        if sp.miss == "flipped":
            last = g.unsqueeze(g.op("Sub", self.total, g.const(1)), 0, 1)
            keys = g.op("Sub", g.cast(last, np.int32) if sp.int32 else last, keys)
        if sp.miss == "narrow-cast":
            rows, keys = (g.cast(g.cast(p, np.int8), np.int64) for p in (rows, keys))
        if sp.bias == "maxmin":
            distance = g.op("Sub", g.commute("Max", rows, keys), g.commute("Min", rows, keys))
        elif sp.bias == "where":
            after = g.op("Sub", keys, rows)
            if sp.miss == "one-side":
                after = g.op("Add", after, after)
            distance = g.op("Where", g.op("Less", rows, keys), after, g.op("Sub", rows, keys))
        elif sp.bias == "relu":
            gap = g.cast(g.op("Sub", rows, keys), np.float32)
            distance = g.op("Add", g.op("Relu", gap), g.op("Relu", g.op("Neg", gap)))
        else:
            distance = g.op("Abs", g.op("Sub", keys, rows) if sp.swap else g.op("Sub", rows, keys))
        return self._bent(distance)

    def _bent(self, distance: str) -> str:
        """The distance, or the function of it that a near miss uses."""
        g, sp = self.g, self.sp
        whole = np.int32 if sp.int32 else np.int64
        length = g.const(2 + int(sp.where * 30), whole)
        far = g.const(1000 + int(sp.where * 100_000), whole)
        if sp.miss == "clip-far":
            return g.op("Min", distance, far)
        if sp.miss == "mod-far":
            return g.op("Mod", distance, far)
        if sp.miss == "drop-far":
            return g.op("Where", g.op("Less", distance, far), distance, g.const(0, whole))
        if sp.miss == "sign-far":
            near = g.op("Less", distance, g.const(50 + int(sp.where * 40)))
            return g.op("Where", near, distance, g.op("Neg", distance))
        if sp.miss == "parity":
            odd = g.op("Mod", distance, g.const(2, whole))
            return g.op("Add", distance, odd)
        if sp.miss == "clip":
            return g.op("Min", distance, length)
        if sp.miss == "mod":
            return g.op("Mod", distance, length)
        if sp.miss == "quadratic":
            return g.op("Mul", distance, distance)
        if sp.miss == "bucket":
            return g.op("Mul", g.op("Div", distance, g.const(2, whole)), g.const(2, whole))
        if sp.miss == "grid":
            side = g.const(5, whole)
            rows, keys = g.unsqueeze(self.row_places, 1), g.unsqueeze(self.places, 0)
            across = g.op("Abs", g.op("Sub", g.op("Mod", rows, side), g.op("Mod", keys, side)))
            down = g.op("Abs", g.op("Sub", g.op("Div", rows, side), g.op("Div", keys, side)))
            return g.op("Add", across, down)
        return distance

    def _computed(self) -> str:
        g, sp = self.g, self.sp
        if sp.bias in ("outer", "einsum"):
            keys = g.cast(self.keys, self.bias_float)
            slopes = self._slopes(1)
            if sp.bias == "einsum":
                return g.unsqueeze(g.op("Einsum", slopes, keys, equation="h,j->hj"), 1)
            return g.unsqueeze(g.op("MatMul", g.unsqueeze(slopes, 1), g.unsqueeze(keys, 0)), 1)
        if sp.bias in COUNTED:
            return self._counted()
        if sp.bias in SYMMETRIC:
            place = self._distance()
        elif sp.bias == "j":
            place = g.unsqueeze(self.row_places, 1) if sp.miss == "i-only" else g.unsqueeze(self.places, 0)
        elif sp.bias == "range-float":
            place = g.op("Range", g.const(0.0, np.float32), g.cast(self.total, np.float32), g.const(1.0, np.float32))
            place = g.unsqueeze(place, 0)
        elif sp.bias == "tile":
            place = g.op("Tile", g.unsqueeze(self.places, 0), g.shape(self.new, 1))
        elif sp.bias == "per-head":
            keys = g.cast(g.unsqueeze(self.places, 0, 1), self.bias_float)
            heads = [g.op("Mul", keys, g.const(v, self.bias_float)) for v in slope_values(sp)]
            return g.op("Concat", *heads, axis=0)
        elif sp.bias == "causal-max":
            gap = g.cast(g.op("Sub", g.unsqueeze(self.row_places, 1), g.unsqueeze(self.places, 0)), np.float32)
            place = g.op("Neg", g.op("Max", gap, g.const(0.0, np.float32)))
        elif sp.bias == "min0":
            gap = g.op("Sub", g.unsqueeze(self.places, 0), g.unsqueeze(self.row_places, 1))
            place = g.op("Min", gap, g.const(0, np.int32 if sp.int32 else np.int64))
        elif sp.bias == "tril-sum":
            # 1 at and before the row, summed along the keys: j + 1 where a key is visible.
            ones = g.expand(g.const([[1]]), g.shape(self.new, self.total))
            place = g.op("CumSum", g.op("Trilu", ones, upper=0), g.const(1))
        elif sp.bias == "j-i":
            place = g.op("Sub", g.unsqueeze(self.places, 0), g.unsqueeze(self.row_places, 1))
            if sp.miss == "negative-total":
                place = g.op("Min", place, g.const(1 + int(sp.where * 10), np.int32 if sp.int32 else np.int64))
        elif sp.bias == "j-last":
            place = g.unsqueeze(g.op("Sub", self.keys, g.op("Sub", self.total, g.const(1))), 0)
        else:  # ones
            ones = g.expand(g.const([1]), g.shape(self.total))
            counted = g.op("CumSum", ones, g.const(0))
            place = g.unsqueeze(g.op("Sub", counted, g.const(1)), 0)
        place = g.cast(place, self.bias_float)
        if sp.miss == "sine":
            place = g.op("Add", place, g.op("Sin", g.cast(place, np.float32)) if self.bias_float is np.float32
                         else g.cast(g.op("Sin", g.cast(place, np.float32)), self.bias_float))  # fmt: skip
        if sp.miss in ("linear-far", "row-far", "length-far", "batch-one"):
            place = self._doubled_from(place)
        if sp.miss == "square-root":
            place = g.op("Sqrt", place)
        if sp.miss == "length-slope":
            place = g.op("Mul", place, g.op("Div", g.cast(self.total, self.bias_float), g.const(20.0, self.bias_float)))
        if sp.miss == "query-key":
            mean = g.op("Sigmoid", g.op("ReduceMean", self._heads(self.query, "query", sp.heads), keepdims=1))
            mean = g.cast(mean, self.bias_float)
            place = g.op("Mul", mean, place)
        if sp.miss == "log":
            place = g.op("Log", g.op("Add", place, g.const(1.0, self.bias_float)))
        if sp.bias in SYMMETRIC and sp.negate == "distance":
            place = g.op("Neg", place)
        if sp.miss in ("slope-per-key", "slope-per-row"):
            values = np.linspace(0.1, 0.5, BUFFER)
            axis = 2 if sp.miss == "slope-per-key" else 1
            start, end = (g.const(0), self.total) if axis == 2 else (self.own, self.total)
            table = g.const(values.reshape([1, 1, -1] if axis == 2 else [1, -1, 1]), self.bias_float)
            return g.op("Mul", g.slice(table, start, end, axis), place)
        if sp.miss == "slopes-on-batch":
            return g.commute("Mul", g.const(slope_values(sp).reshape([2, 1, 1, 1]), self.bias_float), place)
        rank = sp.slope_rank
        if rank == 1:
            slopes = self._slopes(1)
            if sp.miss not in ("data-slope", "batch-slope"):
                slopes = g.unsqueeze(slopes, 1, 2)
            return g.commute("Mul", slopes, place)
        return g.commute("Mul", self._slopes(rank), place)

    def _doubled_from(self, place: str) -> str:
        """The distance, twice as large from some key, row, length or batch entry on."""
        g, sp = self.g, self.sp
        far = g.const(50 + int(sp.where * 40))
        if sp.miss == "linear-far":
            near = g.op("Less", g.unsqueeze(self.keys, 0), far)
        elif sp.miss == "row-far":
            near = g.op("Less", g.unsqueeze(self.rows, 1), far)
        elif sp.miss == "length-far":
            near = g.op("Less", self.total, far)
        else:
            entries = g.op("Range", g.const(0), self.batch, g.const(1))
            near = g.op("Less", g.unsqueeze(entries, 1, 2, 3), g.const(1))
        return g.op("Where", near, place, g.op("Add", place, place))

    def _counted(self) -> str:
        """BLOOM's bias: (cumsum(mask) - 1) * mask."""
        g, sp = self.g, self.sp
        mask = "attention_mask"
        if sp.miss == "forgetting":
            gates = g.op("ReduceMean", self.query, keepdims=0, **({} if sp.opset >= 18 else {"axes": [-1]}))
            if sp.opset >= 18:
                g.nodes[-1].input.append(g.const([-1]))
                g.nodes[-1], g.nodes[-2] = (
                    (g.nodes[-2], g.nodes[-1])
                    if sp.constants == "node"
                    else (
                        g.nodes[-1],
                        g.nodes[-2],
                    )
                )
            if sp.layout in DIRECT:
                gates = g.op("Gather", gates, g.const(0), axis=1)
            place = g.op("CumSum", g.op("Sigmoid", g.cast(gates, np.float32)), g.const(1))
            place = g.cast(place, self.bias_float)
        elif sp.miss == "float-mask-positions":
            place = g.cast(g.op("CumSum", g.cast("weights", np.float32), g.const(1)), self.bias_float)
        else:
            counted = g.op("CumSum", mask, g.const(-1))
            place = g.commute("Mul", g.op("Sub", counted, g.const(1)), mask)
            place = g.cast(place, self.bias_float)
        if sp.bias == "maskpos-merged":
            slopes = g.op("Reshape", self._slopes(1), g.const([sp.heads, 1]))
            whole = g.commute("Mul", slopes, g.unsqueeze(place, 1))
            return g.op("Reshape", whole, g.shape(-1, 1, self.total))
        if sp.slope_rank == 1:
            slopes = g.op("Reshape", self._slopes(1), g.const([sp.heads, 1, 1]))
            return g.commute("Mul", slopes, g.unsqueeze(place, 1, 2))
        return g.commute("Mul", self._slopes(sp.slope_rank), g.unsqueeze(place, 1, 2))

    def _table(self) -> str:
        """A constant and how a part of it is taken."""
        g, sp = self.g, self.sp
        values = slope_values(sp)[:, None, None]
        if sp.bias in SYMMETRIC and sp.negate == "slope":
            values = -values
        i, j = np.arange(BUFFER)[:, None], np.arange(BUFFER)[None, :]
        if sp.bias.startswith("gather"):
            return self._gathered(values)
        if sp.bias == "table2":
            distance = self._bent_array(np.abs(i - j))
            if sp.miss == "offset-one":
                distance = np.abs(i + 1 - j)
            data = values * distance * (-1.0 if sp.negate == "distance" else 1.0)
        elif sp.bias == "baked":
            return self._baked(values)
        elif sp.bias == "table1":
            data = values * j
        elif sp.bias in ("table1-end", "table1-cut"):
            data = values * (j - (BUFFER - 1))
        elif sp.bias in ("table2-linear", "table-batch"):
            data = values * (j - i)
        else:
            data = np.where(j > i, -np.inf, values * (j + 0.0 * i))
        data = self._spoiled(data).astype(self.bias_float)
        axis = 1
        if sp.bias == "table-batch":
            part = g.const(np.tile(data, (BATCHES, 1, 1)), self.bias_float)
            whole = g.op("Mul", self.batch, g.const(sp.heads))
            part = g.slice(g.slice(part, g.const(0), whole, 0), self.own, self.total, 1)
            return g.slice(part, g.const(0), self.total, 2)
        if sp.table_rank == 4:
            data, axis = data[None], 2
        part = g.const(data, self.bias_float)
        if sp.bias == "table1-cut":  # the last of its rows and keys, as MPT cuts it
            far = g.const(2**31)
            rows = g.op("Max", g.op("Sub", g.const(1), self.total), g.const(0))
            keys = g.op("Max", g.op("Sub", g.const(BUFFER), self.total), g.const(0))
            return g.slice(g.slice(part, rows, far, axis), keys, far, axis + 1)
        if sp.bias in ("table2", "table2-linear", "table2-inf"):
            start, end = (g.const(0), self.new) if sp.miss == "offset" else (self.own, self.total)
            part = g.slice(part, start, end, axis)
        if sp.bias == "table1-end":
            length = g.const(BUFFER)
            return g.slice(part, g.op("Sub", length, self.total), length, axis + 1)
        return g.slice(part, g.const(0), self.total, axis + 1)

    def _baked(self, values: np.ndarray) -> str:
        """A constant of exactly the size of the scores, batch and all."""
        g, sp = self.g, self.sp
        batch, new, past = STATIC if sp.cache else (*STATIC[:2], 0)
        keys = np.arange(past + new)
        if sp.layout == "merged-bias":
            return g.const(np.tile(self._spoiled(values * keys), (batch, 1, 1)), self.bias_float)
        rows = np.arange(new)[:, None] + past
        return g.const(np.tile(self._spoiled(values * (keys - rows))[None], (batch, 1, 1, 1)), self.bias_float)

    def _gathered(self, values: np.ndarray) -> str:
        g, sp = self.g, self.sp
        steps = np.arange(-(BUFFER - 1), BUFFER)
        distance = steps.astype(np.float64) if sp.bias == "gather-linear" else self._bent_array(np.abs(steps))
        data = values[:, 0] * distance * (-1.0 if sp.bias == "gather" and sp.negate == "distance" else 1.0)
        data = self._spoiled(data).astype(self.bias_float)
        index = g.op("Sub", g.unsqueeze(self.keys, 0), g.unsqueeze(self.rows, 1))
        if sp.miss != "wrap":  # counted from the end, the table says something else
            index = g.op("Add", index, g.const(BUFFER - 1))
        if sp.miss == "offset-one":
            index = g.op("Max", index, g.const(0)) if sp.opset >= 12 else index
        if sp.table_rank == 4:
            return g.op("Transpose", g.op("Gather", g.const(data.T, self.bias_float), index, axis=0), perm=[2, 0, 1])
        return g.op("Gather", g.const(data, self.bias_float), index, axis=1)

    def _bent_array(self, distance: np.ndarray) -> np.ndarray:
        sp = self.sp
        length = 2 + int(sp.where * 30)
        if sp.miss == "clip":
            return np.minimum(distance, length)
        if sp.miss == "mod":
            return distance % length
        if sp.miss == "quadratic":
            return distance * distance
        if sp.miss == "bucket":
            return distance // 2 * 2
        if sp.miss == "log":
            return np.log1p(distance)
        if sp.miss == "square-root":
            return np.sqrt(distance)
        if sp.miss == "grid":
            return distance % 5 + distance // 5
        return distance.astype(np.float64)

    def _spoiled(self, data: np.ndarray) -> np.ndarray:
        """Table entries with the fault of a near miss."""
        sp = self.sp
        rng = np.random.default_rng(sp.seed + 1)
        data = data.astype(self.bias_float).astype(np.float64)
        if sp.miss == "table-ulp":
            unit = np.spacing(np.abs(np.where(np.isfinite(data), data, 0)).astype(self.bias_float)).astype(np.float64)
            return data + unit * rng.integers(-4, 5, data.shape)
        if sp.miss == "table-noise":
            return data + rng.normal(0, 3e-2, data.shape)
        if sp.miss == "three-ulp":
            rows = np.arange(data.shape[-2])[:, None] if data.ndim == 3 and data.shape[-2] > 1 else np.array([[BUFFER]])
            before = np.broadcast_to(np.arange(data.shape[-1]) < rows, data.shape) & (data != 0)
            chosen = np.flatnonzero(before)[int(sp.where * (before.sum() - 1))]
            flat = data.reshape(-1).copy()
            flat[chosen] += 3 * np.spacing(np.abs(flat[chosen]).astype(self.bias_float)).astype(np.float64)
            return flat.reshape(data.shape)
        finite = np.flatnonzero(np.isfinite(data))
        if sp.miss == "table-entry":
            flat = data.reshape(-1).copy()
            flat[finite[min(len(finite) - 1, int(sp.where * len(finite)))]] += 1.5
            return flat.reshape(data.shape)
        if sp.miss == "table-tail":
            cut = BUFFER // 2 + int(sp.where * (BUFFER // 2 - 2))
            out = data.copy()
            out[..., cut:] += 1.0
            return out
        return data

    # --- masks

    def _minimum(self, dtype: type) -> float:
        hide = self.sp.hide
        if hide == "inf":
            return -np.inf
        if hide == "finite":
            return -6.0
        return float(np.finfo(dtype).min) if hide == "min" else -1e9

    def _causal(self) -> str:
        """True where a key is visible, [S_q, S_kv]."""
        g, sp = self.g, self.sp
        own, start = self.own, self._real_rows()
        rows, keys = g.unsqueeze(start, 1), g.unsqueeze(self.keys, 0)
        if sp.causal == "where":
            visible = g.op("Not", g.op("Less", rows, keys))
        elif sp.causal == "not-greater":
            visible = g.op("Not", g.op("Greater", keys, rows))
        elif sp.causal == "trilu":
            ones = g.expand(g.const([[1]]), g.shape(self.new, self.total))
            shift = g.const(0) if sp.miss == "causal-offset" else own
            visible = g.cast(g.op("Trilu", ones, shift, upper=0), np.bool_)
        elif sp.causal == "constant":
            table = g.const(np.tril(np.ones((BUFFER, BUFFER))), np.bool_)
            first, end = (g.const(0), self.new) if sp.miss == "causal-offset" else (own, self.total)
            visible = g.slice(g.slice(table, first, end, 0), g.const(0), self.total, 1)
        else:
            visible = g.op("LessOrEqual", keys, rows)
        if sp.miss == "causal-strict":
            visible = g.op("Less", keys, rows)
        if sp.miss in ("window", "window-far"):
            width = 50 + int(sp.where * 40) if sp.miss == "window-far" else 2 + int(sp.where * 12)
            near = g.op("Greater", keys, g.op("Sub", rows, g.const(width)))
            visible = g.op("And", visible, near)
        if sp.miss == "chunked":
            size = g.const(3 + int(sp.where * 8))
            visible = g.op("And", visible, g.op("Equal", g.op("Div", rows, size), g.op("Div", keys, size)))
        return visible

    def _real_rows(self) -> str:
        """Key indices of queries for the causal mask, right unless the mask is what is wrong."""
        g, sp = self.g, self.sp
        if sp.miss == "causal-offset":
            return g.op("Range", g.const(0), self.new, g.const(1))
        if sp.miss in ("offset", "offset-one"):
            return g.op("Range", self.own, self.total, g.const(1))
        return self.rows

    def _masks(self) -> list[tuple[str, str]]:
        """("where", visible) and ("add", tensor) pieces, 4-D or 2-D."""
        g, sp = self.g, self.sp
        low = self._minimum(self.float)
        found: list[tuple[str, str]] = []
        visible = ""
        if sp.causal != "none":
            visible = self._causal()
            if sp.padding != "and":
                if sp.causal in ("or-less", "float-bool"):
                    found.append(("hide", self._hidden(visible)))
                elif sp.causal == "scattered":
                    pieces = g.op("Where", visible, g.const(0.0, self.float), g.const(low, self.float))
                    blank = g.expand(g.const([[0.0]], self.float), g.shape(self.new, self.total))
                    places = g.unsqueeze(g.op("Range", g.const(0), self.new, g.const(1)), 1)
                    found.append(("add", g.op("ScatterND", blank, places, pieces)))
                elif sp.causal == "add":
                    pieces = g.op("Where", visible, g.const(0.0, self.float), g.const(low, self.float))
                    found.append(("add", pieces))
                else:
                    found.append(("where", visible))
        if sp.padding == "none":
            return found
        if sp.padding == "wide":
            found.append(("where", "wide_mask"))
            return found
        if sp.padding == "wide-add":
            found.append(("add", "wide_mask_add"))
            return found
        mask = g.unsqueeze("attention_mask", 1, 2)
        if sp.padding == "clamped":
            # Two masks added and cut off at the lowest number, as MPT does.
            inverse = g.op("Sub", g.const(1.0, self.float), g.cast(mask, self.float))
            twice = g.commute("Mul", inverse, g.const(low, self.float))
            found.append(("add", g.op("Max", twice, g.const(low, self.float))))
            return found
        if sp.padding == "additive":
            inverse = g.op("Sub", g.const(1.0, self.float), g.cast(mask, self.float))
            if sp.hide == "inf":
                low = float(np.finfo(self.float).min)
            found.append(("add", g.commute("Mul", inverse, g.const(low, self.float))))
            return found
        if sp.padding == "expanded":
            size = g.shape(self.batch, 1, self.new, self.total)
            inverse = g.op("Sub", g.const(1.0, self.float), g.cast(g.expand(mask, size), self.float))
            hidden = g.cast(inverse, np.bool_)
            found.append(("add", g.op("Where", hidden, g.const(low, self.float), inverse)))
            return found
        if sp.padding == "pairs":
            # Hidden are keys that are padded, and all keys from queries that are.
            whole = g.cast("attention_mask", np.bool_)
            rows = g.slice(whole, self.own, self.total, 1) if sp.cache else whole
            both = g.commute("And", g.unsqueeze(rows, 2), g.unsqueeze(whole, 1))
            found.append(("hide", g.unsqueeze(g.op("Not", both), 1)))
            return found
        if sp.padding in ("gathernd", "gather-flat"):
            found.append(("where", g.unsqueeze(self._looked_up(), 1, 2)))
            return found
        flag = mask if sp.padding == "bool" else g.cast(mask, np.bool_)
        found.append(("where", g.commute("And", flag, visible) if sp.padding == "and" else flag))
        return found

    def _hidden(self, visible: str) -> str:
        """True where a key is hidden: from a disjunction, or from numbers that are not zero."""
        g, sp = self.g, self.sp
        if sp.causal == "or-less":
            return g.op("Or", g.op("Not", visible), g.op("Not", visible))
        low = g.const(self._minimum(self.float), self.float)
        return g.cast(g.op("Where", visible, g.const(0.0, self.float), low), np.bool_)

    def _looked_up(self) -> str:
        """The attention mask [B, S] as booleans, read with an index per batch entry and key."""
        g, sp = self.g, self.sp
        batches = g.unsqueeze(g.op("Range", g.const(0), self.batch, g.const(1)), 1)
        keys = g.unsqueeze(self.keys, 0)
        if sp.padding == "gather-flat":
            place = g.op("Add", g.op("Mul", batches, self.total), keys)
            flat = g.op("Reshape", "attention_mask", g.const([-1]))
            return g.cast(g.op("Gather", flat, place, axis=0), np.bool_)
        size = g.shape(self.batch, self.total)
        parts = [g.unsqueeze(g.expand(p, size), 2) for p in (batches, keys)]
        return g.op("GatherND", g.cast("attention_mask", np.bool_), g.op("Concat", *parts, axis=2))

    # --- attention

    def _heads(self, value: str, stem: str, heads: int) -> str:
        """[B, heads, S, D] of a projected input."""
        g, sp = self.g, self.sp
        if sp.layout in DIRECT:
            return value
        return g.op("Transpose", g.op("Reshape", value, g.const([0, -1, heads, DEPTH])), perm=[0, 2, 1, 3])

    def _repeat(self, value: str) -> str:
        """Key heads repeated for grouped queries."""
        g, sp = self.g, self.sp
        if sp.kv == "gathered":
            return g.op("Gather", value, g.const(np.repeat(np.arange(self.kv_heads), 2)), axis=1)
        if sp.kv == "tiled":
            return g.op("Tile", value, g.const([1, 2, 1, 1]))
        if sp.kv == "native" and sp.layout == "operator":
            return value
        if sp.kv not in ("grouped", "native"):
            return value
        size = g.shape(self.batch, self.kv_heads, 2, self.total, DEPTH)
        return g.op("Reshape", g.expand(g.unsqueeze(value, 2), size), g.const([0, sp.heads, -1, DEPTH]))

    def _attention(self, layer: int, query: str, key: str, value: str, bias: str) -> str:
        g, sp = self.g, self.sp
        scale = SCALE
        if sp.layout == "einsum" and not sp.cache:
            q, k, v = (g.op("Reshape", t, g.const([0, -1, sp.heads, DEPTH])) for t in (query, key, value))
        elif sp.layout == "mha":
            return self._microsoft(query, key, value, bias)
        elif sp.layout == "seq-first":
            size = g.shape(self.new, -1, DEPTH)
            q, k, v = (g.op("Transpose", g.op("Reshape", t, size), perm=[1, 0, 2]) for t in (query, key, value))
        else:
            q = self._heads(query, "query", sp.heads)
            k, v = (self._heads(t, t, self.kv_heads) for t in (key, value))
            if sp.cache:
                k = g.op("Concat", "past_key", k, axis=2)
                v = g.op("Concat", "past_value", v, axis=2)
                if sp.present and layer == 0:
                    kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.float))
                    g.nodes.append(helper.make_node("Identity", [k], ["present_key"], name="present"))
                    g.outputs["present_key"] = (kind, [])
            k, v = self._repeat(k), self._repeat(v)
        if sp.miss == "value-scaled":
            v = g.op("Mul", v, g.const(np.linspace(0.5, 1.5, DEPTH), self.float))
        if sp.layout == "operator":
            return self._operator(q, k, v, bias)
        if sp.scale == "q-div":
            q = g.op("Div", q, g.op("Sqrt", g.const(1 / scale**2, self.float)))
        elif sp.scale == "root":
            root = g.op("Sqrt", g.op("Sqrt", g.const(scale**2, self.float)))
            q, k = g.op("Mul", q, root), g.commute("Mul", k, root)
        elif sp.scale == "q":
            q = g.commute("Mul", q, g.const(scale, self.float))
        elif sp.scale == "k":
            k = g.op("Div", k, g.const(1 / scale, self.float))
        elif sp.scale == "both":
            root = np.sqrt(scale)
            q, k = g.commute("Mul", q, g.const(root, self.float)), g.op("Mul", k, g.const(root, self.float))
        scores = self._product(q, k)
        if sp.miss == "product" and layer == sp.layers - 1:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.float))
            g.nodes.append(helper.make_node("Identity", [scores], ["extra"], name="extra_out"))
            g.outputs["extra"] = (kind, [])
        scores = self._scaled(scores, q)
        if sp.miss == "softcap-before":
            scores = g.op("Mul", g.op("Tanh", g.op("Div", scores, g.const(2.0, self.float))), g.const(2.0, self.float))
        scores = self._biased(scores, bias)
        if sp.floor:
            scores = g.op("Max", scores, g.const(float(np.finfo(self.float).min), self.float))
        if sp.miss == "row-scale":
            scores = g.op("Mul", scores, g.cast(g.unsqueeze(g.op("Add", self.rows, g.const(1)), 1), self.float))
        if sp.miss == "key-scale":
            scores = g.op("Mul", scores, g.cast(g.unsqueeze(g.op("Add", self.keys, g.const(1)), 0), self.float))
        if sp.miss == "log-length":
            scores = g.op("Mul", scores, g.cast(g.op("Log", g.cast(self.total, np.float32)), self.float))
        if sp.miss == "mask-multiplied":
            scores = g.op("Mul", scores, g.cast(g.unsqueeze("attention_mask", 1, 2), self.float))
        if sp.miss == "soft-window":
            gap = g.op("Abs", g.op("Sub", g.unsqueeze(self.rows, 1), g.unsqueeze(self.keys, 0)))
            outside = g.cast(g.op("Greater", gap, g.const(1 + int(sp.where * 6))), self.float)
            scores = g.op("Add", scores, g.op("Mul", outside, g.const(-3.0, self.float)))
        weights = self._softmax(scores)
        if sp.miss == "after-softmax":
            weights = g.op("Add", weights, bias)
        if sp.miss == "masked-probabilities":
            even = g.cast(g.op("Equal", g.op("Mod", self.keys, g.const(2)), g.const(0)), self.float)
            weights = g.op("Mul", weights, even)
        if sp.miss in ("probabilities", "scores") and layer == sp.layers - 1:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.float))
            source = weights if sp.miss == "probabilities" else scores
            g.nodes.append(helper.make_node("Identity", [source], ["extra"], name="extra_out"))
            g.outputs["extra"] = (kind, [])
        if sp.guard == "reduce":
            return self._guarded(weights, v)
        if sp.guard == "nan":
            weights = g.op("Where", g.op("IsNaN", weights), g.const(0.0, self.float), weights)
        return self._context(weights, v)

    def _guarded(self, weights: str, v: str) -> str:
        """Zeros for rows of which every key is hidden, as transformers writes it: [B, H, S, D] before the heads go."""
        g = self.g
        seen = g.cast(g.op("Greater", self.whole, g.const(float(np.finfo(self.float).min), self.float)), np.float32)
        if self.sp.opset >= 13:
            count = g.op("ReduceSum", seen, g.const([-1]), keepdims=1)
        else:
            count = g.op("ReduceSum", seen, axes=[-1], keepdims=1)
        empty = g.op("Less", count, g.const(1.0, np.float32))
        made = g.op("Where", empty, g.const(0.0, self.float), g.op("MatMul", weights, v))
        if self.sp.layout == "direct":
            return made
        made = g.op("Transpose", made, perm=[0, 2, 1, 3])
        return g.op("Reshape", made, g.const([0, 0, self.sp.heads * DEPTH]))

    def _microsoft(self, query: str, key: str, value: str, bias: str) -> str:
        """onnxruntime's MultiHeadAttention, with bias and masks as its attention_bias."""
        g, sp = self.g, self.sp
        full = g.expand(self._one_tensor(bias), g.shape(self.batch, sp.heads, self.new, self.total))
        if sp.scale in ("q", "k", "both"):
            query = g.commute("Mul", query, g.const(SCALE, self.float))
        scale = SCALE if sp.scale == "before-mul" else 1.0
        out = g.name("mha")
        g.nodes.append(
            helper.make_node(
                "MultiHeadAttention",
                [query, key, value, "", "", full],
                [out],
                name=f"node_{out}",
                domain="com.microsoft",
                num_heads=sp.heads,
                scale=scale,
            )
        )
        return out

    def _one_tensor(self, bias: str) -> str:
        """Bias and masks in one tensor."""
        g, sp = self.g, self.sp
        low = g.const(self._minimum(self.float), self.float)
        if sp.bias in SYMMETRIC and sp.negate == "sub":
            bias = g.op("Neg", bias)
        for kind, mask in self._masks():
            if kind == "hide":
                bias = g.op("Where", mask, low, bias)
            else:
                bias = g.op("Where", mask, bias, low) if kind == "where" else g.commute("Add", bias, mask)
        return bias

    def _operator(self, q: str, k: str, v: str, bias: str) -> str:
        """ONNX's own Attention, with bias and masks as its additive mask."""
        g, sp = self.g, self.sp
        full = g.expand(self._one_tensor(bias), g.shape(self.batch, sp.heads, self.new, self.total))
        if sp.scale in ("q", "k", "both"):
            q = g.commute("Mul", q, g.const(SCALE, self.float))
        return g.op("Attention", q, k, v, full, scale=SCALE if sp.scale == "before-mul" else 1.0)

    def _product(self, q: str, k: str) -> str:
        g, sp = self.g, self.sp
        if sp.layout == "einsum":
            return g.op("Einsum", q, k, equation="bhid,bhjd->bhij" if sp.cache else "bihd,bjhd->bhij")
        if sp.layout == "fused":
            out = g.name("fusedmatmul")
            alpha = {"alpha": SCALE} if sp.scale == "before-mul" else {}
            g.nodes.append(
                helper.make_node(
                    "FusedMatMul", [q, k], [out], name=f"node_{out}", domain="com.microsoft", transB=1, **alpha
                )
            )
            return out
        if sp.layout == "kt3":
            flat = g.op("Transpose", g.op("Reshape", k, g.shape(-1, self.total, DEPTH)), perm=[0, 2, 1])
            return g.op("MatMul", q, g.op("Reshape", flat, g.shape(self.batch, self.heads_of_keys, DEPTH, self.total)))
        if sp.layout == "seq-first":
            scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 2, 1]))
            return g.op("Reshape", scores, g.shape(self.batch, sp.heads, self.new, self.total))
        if sp.layout.startswith("merged"):
            q = g.op("Reshape", q, g.shape(-1, self.new, DEPTH))
            k = g.op("Reshape", k, g.shape(-1, self.total, DEPTH))
            scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 2, 1]))
            if sp.layout == "merged":
                scores = g.op("Reshape", scores, g.shape(self.batch, sp.heads, self.new, self.total))
            return scores
        return g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))

    def _scaled(self, scores: str, q: str) -> str:
        g, sp = self.g, self.sp
        if sp.scale == "before-mul":
            return scores if sp.layout == "fused" else g.commute("Mul", scores, g.const(SCALE, self.float))
        if sp.scale == "before-div":
            return g.op("Div", scores, g.const(1 / SCALE, self.float))
        if sp.scale == "shape":
            axis = 2 if sp.layout == "seq-first" else 3
            size = g.op("Sqrt", g.cast(g.const(DEPTH) if sp.static else g.size(q, axis), np.float32))
            return g.op("Div", scores, g.cast(size, self.float))
        if sp.scale == "input":
            return g.commute("Mul", scores, "scale")
        return scores

    def _biased(self, scores: str, bias: str) -> str:
        """Scores plus bias plus masks, in the order that the spelling says."""
        g, sp = self.g, self.sp
        masks = self._masks()
        low = g.const(self._minimum(self.float), self.float)
        if sp.miss == "key-term":
            term = g.unsqueeze("key_term", 1, 2)
            masks.append(("add", term))
        if sp.miss == "packed":
            # Documents are told apart by positions that start again.
            start = g.cast(g.op("Equal", "position_ids", g.const(0)), np.int64)
            document = g.op("CumSum", start, g.const(1))
            same = g.op("Equal", g.unsqueeze(document, 1, 3), g.unsqueeze(document, 1, 2))
            masks.append(("where", same))
        if sp.miss == "chunked" and sp.causal == "none":
            size = g.const(3 + int(sp.where * 8))
            rows, keys = g.unsqueeze(self.rows, 1), g.unsqueeze(self.keys, 0)
            masks.append(("where", g.op("Equal", g.op("Div", rows, size), g.op("Div", keys, size))))

        def masked(value: str) -> str:
            for kind, mask in masks:
                if kind == "hide":
                    value = g.op("Where", mask, low, value)
                elif kind == "where":
                    value = g.op("Where", mask, value, low)
                else:
                    value = g.commute("Add", value, mask)
            return value

        def added(value: str, term: str = bias) -> str:
            if sp.miss == "multiplied":
                return g.commute("Mul", value, term)
            if sp.bias in SYMMETRIC and sp.negate == "sub":
                return g.op("Sub", value, term)
            return g.commute("Add", value, term)

        if sp.order == "one-tensor":
            if sp.bias in SYMMETRIC and sp.negate == "sub":
                bias = g.op("Neg", bias)
            whole = self.whole = masked(bias)
            scores = g.commute("Mul" if sp.miss == "multiplied" else "Add", scores, whole)
        elif sp.order == "mask-first":
            scores = added(masked(scores))
        else:
            scores = added(scores)
            if sp.layout == "merged-bias":
                scores = g.op("Reshape", scores, g.shape(self.batch, sp.heads, self.new, self.total))
            if sp.scale == "after-mul":
                scores = g.commute("Mul", scores, g.const(SCALE, self.float))
            elif sp.scale == "after-div":
                scores = g.op("Div", scores, g.const(1 / SCALE, self.float))
            if sp.twice:
                scores = added(scores, g.op("Mul", bias, g.const(SCALE, self.float)))
            if sp.miss == "softcap-after":
                cap = g.const(3.0, self.float)
                scores = g.op("Mul", g.op("Tanh", g.op("Div", scores, cap)), cap)
            return masked(scores)
        if sp.miss == "softcap-after":
            cap = g.const(3.0, self.float)
            scores = g.op("Mul", g.op("Tanh", g.op("Div", scores, cap)), cap)
        return scores

    def _softmax(self, scores: str) -> str:
        g, sp = self.g, self.sp
        if sp.miss == "sink":
            column = g.const(np.linspace(0.0, 1.0, sp.heads).reshape([1, sp.heads, 1, 1]), self.float)
            column = g.op("Expand", column, g.shape(self.batch, sp.heads, self.new, 1))
            scores = g.op("Concat", scores, column, axis=-1)
        wide = sp.half and sp.softmax32
        if wide:
            scores = g.cast(scores, np.float32)
        axis = 2 if sp.miss == "axis" else (3 if sp.swap else -1)
        weights = g.op("Softmax", scores, axis=axis)
        if wide:
            weights = g.cast(weights, self.float)
        if sp.miss == "sink":
            weights = g.slice(weights, g.const(0), self.total, 3)
        if sp.miss == "dropout":
            weights = g.op("Dropout", weights, g.const(0.4, np.float32), g.const(True, np.bool_))
        return weights

    def _context(self, weights: str, v: str) -> str:
        g, sp = self.g, self.sp
        if sp.layout == "seq-first":
            made = g.op("MatMul", g.op("Reshape", weights, g.shape(-1, self.new, self.total)), v)
            return g.op(
                "Reshape",
                g.op("Transpose", made, perm=[1, 0, 2]),
                g.shape(self.new, self.batch, sp.heads * DEPTH),
            )
        if sp.layout.startswith("merged"):
            weights = g.op("Reshape", weights, g.shape(-1, self.new, self.total))
            v = g.op("Reshape", v, g.shape(-1, self.total, DEPTH))
            made = g.op("MatMul", weights, v)
            made = g.op("Reshape", made, g.shape(self.batch, sp.heads, self.new, DEPTH))
        elif sp.layout == "einsum":
            equation = "bhij,bhjd->bihd" if sp.cache else "bhij,bjhd->bihd"
            made = g.op("Einsum", weights, v, equation=equation)
            return g.op("Reshape", made, g.const([0, 0, sp.heads * DEPTH]))
        else:
            made = g.op("MatMul", weights, v)
        if sp.layout == "direct":
            return made
        made = g.op("Transpose", made, perm=[0, 2, 1, 3])
        return g.op("Reshape", made, g.const([0, 0, sp.heads * DEPTH]))


# --- judging -----------------------------------------------------------------------------------------------


def shapes(sp: Spelling) -> Sequence[tuple[int, int, int]]:
    """(batch, new, past) to compare at; the longest uses tables to their end."""
    if sp.static:
        return [STATIC if sp.cache else (*STATIC[:2], 0)]
    # One further and the original's Gather index is -1: it would read its table from the wrong end, which the
    # proof names as an assumption.
    longest = BUFFER - 1 if sp.miss == "offset-one" and sp.bias.startswith("gather") else BUFFER
    if sp.cache:
        usual = [(2, 3, 4), (1, 1, 9), (2, 13, longest - 13), (1, 1, longest - 1)]
        return [*usual, (1, 2, LONG - 2)] if sp.miss in LONG_MISSES else usual
    usual = [(2, 5, 0), (1, 1, 0), (2, longest, 0)]
    return [*usual, (1, LONG, 0)] if sp.miss in LONG_MISSES else usual


def mask_patterns(sp: Spelling, batch: int, total: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Attention masks [B, S]: ones, right, left, and with holes."""
    ones = np.ones((batch, total), np.int64)
    yield ones
    if sp.padding == "none":
        return
    cut = total // 3
    if cut:
        right, left, holes = ones.copy(), ones.copy(), (rng.random((batch, total)) > 0.3).astype(np.int64)
        right[-1, total - cut :] = 0
        left[-1, :cut] = 0
        holes[:, 0] = 1
        yield right
        yield holes
        if sp.miss not in ("causal-offset", "causal-strict"):  # their valid queries would be left without any key
            yield left


def feeds(sp: Spelling, shape: tuple[int, int, int], mask: np.ndarray, rng: np.random.Generator) -> dict[str, object]:
    """Inputs of one run; more than the model declares."""
    batch, new, past = shape
    kind = _float(sp)
    kv = kv_heads(sp)
    direct = sp.layout in DIRECT
    given: dict[str, object] = {}
    for name, heads in (("query", sp.heads), ("key", kv), ("value", kv)):
        size = (batch, heads, new, DEPTH) if direct else (batch, new, heads * DEPTH)
        size = (new, batch, heads * DEPTH) if sp.layout == "seq-first" else size
        given[name] = rng.normal(size=size).astype(kind)
    given["qkv"] = rng.normal(size=(batch, new, 3 * sp.heads * DEPTH)).astype(kind)
    for name in ("past_key", "past_value"):
        given[name] = rng.normal(size=(batch, kv, past, DEPTH)).astype(kind)
    wide = np.broadcast_to(mask[:, None, None, :] > 0, (batch, 1, new, past + new)).copy()
    wide |= rng.random(wide.shape) < 0.2
    wide[:, :, np.arange(new), past + np.arange(new)] = True  # no row without keys
    given["wide_mask"] = wide
    low = -np.inf if sp.hide == "inf" else np.finfo(kind).min
    given["wide_mask_add"] = np.where(wide, 0.0, low).astype(kind)
    given["attention_mask"] = mask.astype(np.bool_) if sp.padding == "bool" else mask
    given["slopes"] = slope_values(sp).astype(_float(sp, bias=True))
    given["scale"] = np.array(0.7, kind)
    given["taken"] = np.array(True)
    given["batch_slopes"] = rng.uniform(0.05, 0.5, (batch, sp.heads)).astype(kind)
    lengths = rng.integers(1, max(2, new), batch)
    given["position_ids"] = np.stack([np.arange(new) % n for n in lengths]).astype(np.int64)
    given["key_term"] = rng.normal(size=(batch, past + new)).astype(kind)
    given["weights"] = rng.uniform(0, 1, (batch, new)).astype(kind)
    return given


def spread(sp: Spelling, valid: np.ndarray) -> np.ndarray:
    """Valid tokens [B, S] over the axes of the output."""
    if sp.layout == "seq-first":
        return valid.T[:, :, None]
    return valid[:, None, :, None] if sp.layout in DIRECT else valid[:, :, None]


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


# --- the attack --------------------------------------------------------------------------------------------


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


def told(sp: Spelling) -> str:
    """The spelling without what is at its default."""
    fields = ((f.name, getattr(sp, f.name), f.default) for f in dataclasses.fields(sp))
    return "Spelling(" + ", ".join(f"{n}={v!r}" for n, v, d in fields if v != d) + ")"
