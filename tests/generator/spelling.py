"""The fields of a spelling: how one model is written, and what each field may be."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

DEPTH = 4
"""Size of a head."""

BUFFER = 40
"""Length of constant tables; drawn inputs reach it, so that every entry is used once."""

BATCHES = 4
"""Batch entries of tables that hold one copy for each."""

STATIC = (2, 6, 3)
"""Batch, new keys and past keys of models without symbolic sizes."""

SCALE = 0.5
"""Of query times key."""


def words(*lines: str) -> tuple[str, ...]:
    return tuple(" ".join(lines).split())


DIRECT = words("direct operator")
"""Layouts whose inputs are [B, H, S, D] already."""

SYMMETRIC = words("abs maxmin where relu table2 gather")
"""Distances |i - j|."""

LINEAR = words(
    "j j-i j-last ones table1 table1-end table2-linear table2-inf gather-linear outer einsum range-float tile per-head",
    "causal-max tril-sum min0 table1-cut table-batch baked",
)
"""Distances that grow with the key."""

COUNTED = words("maskpos maskpos-merged")
"""Positions that are counted in the attention mask."""

BY_ORDER = words("lessequal add or-less float-bool scattered")
"""Causal masks that compare with LessOrEqual."""

RUNTIME_SLOPES = words("input explog pow exp2 pieces reciprocal two-powers log clipped")
"""Slopes that are no constant of the right shape."""

BOTH = (False, True)

CHOICES: dict[str, tuple[object, ...]] = {
    "opset": (17, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23),
    "layout": words("bhsd kt kt3 merged merged-bias einsum direct packed operator fused mha seq-first"),
    "scale": words("before-mul q k both before-div after-mul after-div shape input none q-div root"),
    "bias": (*SYMMETRIC, *LINEAR, *COUNTED),
    "negate": words("slope distance bias sub"),
    "slopes": words("press any zeros input explog pow negative exp2 pieces reciprocal equal two-powers log clipped"),
    "slope_rank": (3, 1, 4),
    "table_rank": (3, 4),
    "factor": (1.0, 0.5, 3.0),
    "causal": words("where none trilu add lessequal constant not-greater or-less float-bool scattered"),
    "padding": words("none additive where and bool expanded clamped wide wide-add gathernd gather-flat pairs"),
    "hide": words("min inf 1e9"),
    "order": words("bias-first mask-first one-tensor"),
    "cache": BOTH,
    "query_start": words("past total-minus-new slice"),
    "heads": (4, 1, 2, 3, 6),
    "kv": words("all grouped one gathered tiled native"),
    "half": BOTH,
    "casts": BOTH,
    "softmax32": BOTH,
    "bias32": BOTH,
    "int32": BOTH,
    "swap": BOTH,
    "constants": words("initializer node"),
    "layers": (1, 2),
    "share": (True, False),
    "static": BOTH,
    "output_bias": BOTH,
    "present": BOTH,
    "dead": BOTH,
    "unpack": words("gather split slice"),
    "sizes": words("gather bounds slice"),
    "floor": BOTH,
    "twice": BOTH,
    "guard": words("none reduce nan"),
    "wrapped": BOTH,
    "body": BOTH,
}
"""What a field may be, the simplest first."""


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


def is_table(sp: Spelling) -> bool:
    """Whether the bias comes from numbers that are written down."""
    return sp.bias.startswith(("table", "gather", "baked"))


def kv_heads(sp: Spelling) -> int:
    """How many heads keys and values have."""
    return {"all": sp.heads, "one": 1}.get(sp.kv, sp.heads // 2)


def float_of(sp: Spelling, *, bias: bool = False) -> type:
    """The type of the model, or that of its bias."""
    return np.float16 if sp.half and not (bias and sp.bias32) else np.float32


def told(sp: Spelling) -> str:
    """The spelling without what is at its default."""
    fields = ((f.name, getattr(sp, f.name), f.default) for f in dataclasses.fields(sp))
    return "Spelling(" + ", ".join(f"{n}={v!r}" for n, v, d in fields if v != d) + ")"
