"""Attention operators that other tools emit, as data: where their operands are and what is understood of the rest.

    softmax(scale * query . key^T + bias [+ causality]) . value

Layouts name the axes of an operand: ``bhsd`` is [B, H, S, D], ``bs(hd)`` is [B, S, H*D].  A tensor of rank 3
is taken as the packed one.

The table is an allow-list.  An input, an attribute or an output that it does not name refuses a site, and so does a
version of the operator that it does not name, since a version may give old names a new meaning.
``tests/patterns/test_operators.py`` compares it with the schemas of the installed onnx and onnxruntime.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ..algebra import LARGEST_FLOAT32

UNLIMITED: Final = 1 << 16
"""A version that no operator has."""

READ: Final = "read"
"""An attribute that the analysis reads."""

ANY: Final = "any"
"""An attribute that changes nothing as long as the inputs and outputs it belongs to are absent."""

OWN_TYPE: Final = "own-type"
"""Among values: the element type of the query."""

Allowed = str | tuple[float | str, ...]
"""``READ``, ``ANY``, or the values that change nothing."""


@dataclass(frozen=True)
class OperatorPattern:
    """One attention operator.

    Attributes:
        domain: Its domain.
        op_type: Its name.
        versions: Versions of its schema that this table describes.
        signature: Names of its inputs, in order.
        inputs: Positions of query, key, value, bias (added to the scaled product), and past key and value; all
            others must be empty, except those of ``lengths``.
        attributes: Per attribute, what is understood of it.
        results: Names of its outputs, in order.
        heads: Attribute with the number of query heads (for packed operands).
        key_heads: Attribute with the number of key heads, if it may differ.
        causal: Attribute that says whether it is causal.
        causal_unless_said: What that attribute is if it is absent.
        from_last: Its causality is aligned with the last key; otherwise row 0 sees the cache and key 0.
        zero_scale_is_default: A scale of 0 stands for 1 / sqrt(D); otherwise it is a scale of 0.
        lengths: Positions of (valid length - 1 per batch, total length), which must prove to be S_kv.
        outputs: Positions of present key and value.
        unused: Positions of outputs that must be unused.
        zero_rows_at: A row of which no key scores more yields zeros; None if no row does.  Other rows without
            visible keys yield the mean of the values that causality leaves.
        zero_rows_if_causal: They are zeros only where the operator is causal.
        disputed: Versions of which onnxruntime (1.32) yields zeros where no key scores more than the lowest number,
            and the standard the mean.
        short_bias_since: Version from which a bias may have fewer columns than there are keys; the others are hidden.
    """

    domain: str
    op_type: str
    versions: tuple[int, ...]
    signature: tuple[str, ...]
    inputs: Mapping[str, int]
    attributes: Mapping[str, Allowed]
    results: tuple[str, ...]
    heads: str = "num_heads"
    key_heads: str = ""
    causal: str = ""
    causal_unless_said: bool = False
    from_last: bool = False
    zero_scale_is_default: bool = True
    lengths: tuple[int, int] | None = None
    outputs: Mapping[str, int] = field(default_factory=dict)
    unused: tuple[int, ...] = ()
    zero_rows_at: float | None = None
    zero_rows_if_causal: bool = False
    disputed: tuple[int, ...] = ()
    short_bias_since: int = UNLIMITED


PATTERNS: tuple[OperatorPattern, ...] = (
    # ONNX Attention (opset 23 and later).  is_causal is aligned with the first key when there is no cache.
    OperatorPattern(
        domain="",
        op_type="Attention",
        versions=(23, 24, 25),
        signature=("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen"),
        inputs={"query": 0, "key": 1, "value": 2, "bias": 3, "past_key": 4, "past_value": 5},
        attributes={
            "is_causal": READ,
            "kv_num_heads": READ,
            "left_window_size": (-1,),
            "q_num_heads": READ,
            "qk_matmul_output_mode": ANY,
            "right_window_size": (-1,),
            "scale": READ,
            "softcap": (0.0,),
            "softmax_precision": (OWN_TYPE, 1, 11),  # float32 and float64
        },
        results=("Y", "present_key", "present_value", "qk_matmul_output"),
        heads="q_num_heads",
        key_heads="kv_num_heads",
        causal="is_causal",
        zero_scale_is_default=False,
        outputs={"present_key": 1, "present_value": 2},
        unused=(3,),
        zero_rows_at=-math.inf,
        disputed=(23, 24),
        short_bias_since=24,
    ),
    # com.microsoft.MultiHeadAttention: the bias is input 5.
    OperatorPattern(
        domain="com.microsoft",
        op_type="MultiHeadAttention",
        versions=(1,),
        signature=(
            *("query", "key", "value", "bias", "key_padding_mask", "attention_bias", "past_key", "past_value"),
            *("past_sequence_length", "cache_indirection"),
        ),
        inputs={"query": 0, "key": 1, "value": 2, "bias": 5, "past_key": 6, "past_value": 7},
        attributes={"mask_filter_value": ANY, "num_heads": READ, "scale": READ, "unidirectional": READ},
        results=("output", "present_key", "present_value", "qk"),
        causal="unidirectional",
        outputs={"present_key": 1, "present_value": 2},
        unused=(3,),
    ),
    # com.microsoft.GroupQueryAttention is aligned with the last key, and takes the bias as input 10.
    OperatorPattern(
        domain="com.microsoft",
        op_type="GroupQueryAttention",
        versions=(1,),
        signature=(
            *("query", "key", "value", "past_key", "past_value", "seqlens_k", "total_sequence_length"),
            *("cos_cache", "sin_cache", "position_ids", "attention_bias", "head_sink", "k_scale", "v_scale"),
            *("q_norm_weight", "k_norm_weight", "query_seqlens"),
        ),
        inputs={"query": 0, "key": 1, "value": 2, "bias": 10, "past_key": 3, "past_value": 4},
        attributes={
            "causal": READ,
            "do_rotary": (0,),
            "k_norm_epsilon": ANY,
            "k_quant_type": ("NONE",),
            "kv_cache_bit_width": (0,),
            "kv_num_heads": READ,
            "local_window_size": (-1,),
            "num_heads": READ,
            "q_norm_epsilon": ANY,
            "qk_norm_epsilon": ANY,
            "qk_output": (0,),
            "rotary_interleaved": (0,),
            "scale": READ,
            "sliding_window_cache": (0,),
            "smooth_softmax": (0,),
            "softcap": (0.0,),
            "v_quant_type": ("NONE",),
        },
        results=("output", "present_key", "present_value", "output_qk"),
        key_heads="kv_num_heads",
        causal="causal",
        causal_unless_said=True,
        from_last=True,
        lengths=(5, 6),
        outputs={"present_key": 1, "present_value": 2},
        unused=(3,),
        zero_rows_at=-float(LARGEST_FLOAT32),
        zero_rows_if_causal=True,
    ),
)

PACKED = OperatorPattern(
    domain="com.microsoft",
    op_type="Attention",
    versions=(1,),
    signature=("input", "weights", "bias", "mask_index", "past", "attention_bias", "past_sequence_length"),
    inputs={"input": 0, "weights": 1, "projection": 2, "padding": 3, "bias": 5},
    attributes={
        "do_rotary": (0,),
        "mask_filter_value": ANY,
        "num_heads": READ,
        "past_present_share_buffer": (0,),
        "qkv_hidden_sizes": READ,
        "rotary_embedding_dim": (0,),
        "scale": READ,
        "unidirectional": READ,
    },
    results=("output", "present"),
    unused=(1,),
)
"""com.microsoft.Attention holds the projections.  ``rewriter/prepare/unpack.py`` makes a MultiHeadAttention of it."""

UNREAD: Mapping[tuple[str, str], int] = {
    ("com.microsoft", "DecoderMaskedMultiHeadAttention"): 4,
    ("com.microsoft", "DecoderMaskedSelfAttention"): 5,
    ("com.microsoft", "PackedAttention"): 5,
    ("com.microsoft", "PackedMultiHeadAttention"): 6,
    ("com.microsoft", "QOrderedAttention"): 19,
}
"""Attention operators that are not read, and where their bias would be.  With a bias they are refused by name."""

READ_OPERATORS = frozenset(pattern.op_type for pattern in (*PATTERNS, PACKED))
"""Names of the attention operators that are read."""

ATTENTION_OPERATORS = (
    READ_OPERATORS
    | {name for _, name in UNREAD}
    | {"LongformerAttention", "PagedAttention", "QAttention", "RelativePositionBias", "SparseAttention"}
)
"""Names of operators that are attention, in any domain."""

PRODUCTS = frozenset({("", "MatMul"), ("", "Gemm"), ("", "Einsum"), ("com.microsoft", "FusedMatMul")})
"""Operators that sum products along one inner axis: query . key and weights . value."""

PRODUCT_NAMES = frozenset(name for _, name in PRODUCTS)
