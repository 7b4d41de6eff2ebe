"""Attention operators that other tools emit, as data: where their operands are and how they are laid out.

    softmax(scale * query . key^T + bias [+ causality]) . value

Layouts name the axes of an operand: ``bhsd`` is [B, H, S, D], ``bs(hd)`` is [B, S, H*D].  A tensor of rank 3
is taken as the packed one.  Everything an operator can do besides is listed as an input or attribute that
has to be absent (or neutral), so a new feature of an operator refuses a site instead of being ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class OperatorPattern:
    """One attention operator.

    Attributes:
        domain: Its domain.
        op_type: Its name.
        inputs: Positions of query, key, value, bias (added to the scaled product), and past key and value.
        neutral: Attributes that must be absent or have this value.
        absent: Input positions that must be empty.
        heads: Attribute with the number of query heads (for packed operands).
        key_heads: Attribute with the number of key heads, if it may differ.
        causal: Attribute that says whether it is causal, or None if ``always_causal`` decides.
        always_causal: The operator is causal by definition.
        lengths: Positions of (valid length - 1 per batch, total length), which must prove to be S_kv.
        outputs: Positions of present key and value.
        unused: Positions of outputs that must be unused.
        zero_rows: A row without any visible key yields zeros (otherwise the mean of all values).
    """

    domain: str
    op_type: str
    inputs: Mapping[str, int]
    neutral: Mapping[str, float] = field(default_factory=dict)
    absent: tuple[int, ...] = ()
    heads: str = "num_heads"
    key_heads: str = ""
    causal: str | None = None
    always_causal: bool = False
    lengths: tuple[int, int] | None = None
    outputs: Mapping[str, int] = field(default_factory=dict)
    unused: tuple[int, ...] = ()
    zero_rows: bool = False


PATTERNS: tuple[OperatorPattern, ...] = (
    # ONNX Attention (opset 23 and later).  is_causal is aligned with the first key when there is no cache.
    OperatorPattern(
        domain="",
        op_type="Attention",
        inputs={"query": 0, "key": 1, "value": 2, "bias": 3, "past_key": 4, "past_value": 5},
        neutral={"softcap": 0.0},
        absent=(6,),
        heads="q_num_heads",
        key_heads="kv_num_heads",
        causal="is_causal",
        outputs={"present_key": 1, "present_value": 2},
        unused=(3,),
        zero_rows=True,
    ),
    # com.microsoft.MultiHeadAttention: the bias is input 5.
    OperatorPattern(
        domain="com.microsoft",
        op_type="MultiHeadAttention",
        inputs={"query": 0, "key": 1, "value": 2, "bias": 5, "past_key": 6, "past_value": 7},
        absent=(3, 4, 8, 9),
        causal="unidirectional",
        outputs={"present_key": 1, "present_value": 2},
        unused=(3,),
    ),
    # com.microsoft.GroupQueryAttention is causal, aligned with the last key, and takes the bias as input 10.
    OperatorPattern(
        domain="com.microsoft",
        op_type="GroupQueryAttention",
        inputs={"query": 0, "key": 1, "value": 2, "bias": 10, "past_key": 3, "past_value": 4},
        neutral={"do_rotary": 0, "softcap": 0.0, "local_window_size": -1, "smooth_softmax": 0, "rotary_interleaved": 0},
        absent=(7, 8, 9, 11),
        key_heads="kv_num_heads",
        always_causal=True,
        lengths=(5, 6),
        outputs={"present_key": 1, "present_value": 2},
        unused=(3,),
    ),
)
