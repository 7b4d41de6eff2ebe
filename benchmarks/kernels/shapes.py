"""The attentions that are measured, as data; no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from alibi_rewriter.kernels.requests import ELEMENT_BYTES, BufferLayout, KernelRequest

INPUTS = ("none", "key padding", "right padding", "boolean rows", "additive rows", "positions")
"""What an attention may have besides query, key and value."""
EXPORTED_INPUTS = (
    "additive keys", "causal rows", "additive causal rows", "padded rows", "document rows", "boolean heads",
    "positions and padding", "key bias", "window", "ragged padding",
)  # fmt: skip
"""Further ones, as exports have them: an additive mask [B, 1, 1, S_kv] that hides keys at the right by the lowest
number of the type, a boolean mask [B, 1, S_q, S_kv] that repeats the causal one, the same added (0 or the lowest
number of the type), the same with padding at the left of half the batch entries, one that keeps eight documents
apart, one [B, H, 1, S_kv] with padding at the left, positions that count the keys behind such padding, a number for
every key that is added to its scores [B, 1, S_kv], a window that shows a row the 1024 keys up to its own, padding at
the left that grows from entry to entry: the b-th of B hides b / B of all keys."""


def paper_slopes(heads: int) -> list[float]:
    """The slopes of the ALiBi paper."""

    def geometric(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    whole = 1 << (heads.bit_length() - 1)
    return geometric(whole) + geometric(2 * whole)[0::2][: heads - whole]


@dataclass(frozen=True)
class Shape:
    """One attention of a table.

    Attributes:
        spread: Standard deviation of the scores before the bias, in nats.
        sink: By how many nats the first key outweighs an average one in every row; 0: it is like the others.
    """

    batch: int
    heads: int
    kv_heads: int
    s_q: int
    s_kv: int
    head_dim: int
    causal: bool
    dtype: str = "bfloat16"
    extra: str = "none"
    spread: float = 1.0
    sink: float = 0.0

    def __post_init__(self) -> None:
        known = self.extra in (*INPUTS, *EXPORTED_INPUTS)
        if not known or (self.extra.startswith("positions") and not self.causal):
            raise ValueError(f"no such input: {self.extra!r} (positions are those of causal attentions here)")

    @property
    def flops(self) -> float:
        """Of both products, counted without any skipping; a causal mask with S_q = S_kv halves them."""
        full = 4.0 * self.batch * self.heads * self.s_q * self.s_kv * self.head_dim
        return full * (1 - (self.s_q - 1) / (2 * self.s_kv)) if self.causal and self.s_q != self.s_kv else (
            full / 2 if self.causal else full)  # fmt: skip

    @property
    def cache_bytes(self) -> int:
        """Of keys and values, read once."""
        return 2 * self.batch * self.kv_heads * self.s_kv * self.head_dim * (4 if self.dtype == "float32" else 2)

    @property
    def input_bytes(self) -> int:
        """Of query, key, value and output."""
        rows = 2 * self.batch * self.heads * self.s_q * self.head_dim
        return rows * ELEMENT_BYTES[self.dtype] + self.cache_bytes

    @property
    def title(self) -> str:
        """For tables."""
        keys = "" if self.s_q == self.s_kv else f"x{self.s_kv}"
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        form = "causal" if self.causal else "symmetric"
        extra = "" if self.extra == "none" else f" {self.extra}"
        spread = "" if self.spread == 1.0 else f" scores {self.spread:g}"
        sink = f" sink {self.sink:g}" if self.sink else ""
        return f"{self.batch} {heads} {self.s_q}{keys} {self.head_dim} {form} {self.dtype}{extra}{spread}{sink}"

    @property
    def mask_dtype(self) -> str | None:
        """As in a request."""
        return {
            "key padding": "bool",
            "right padding": "bool",
            "ragged padding": "bool",
            "boolean rows": "bool",
            "causal rows": "bool",
            "padded rows": "bool",
            "document rows": "bool",
            "additive causal rows": self.dtype,
            "boolean heads": "bool",
            "positions and padding": "bool",
            "additive keys": self.dtype,
            "additive rows": self.dtype,
        }.get(self.extra)

    @property
    def request(self) -> KernelRequest:
        """What kernels it needs."""
        return KernelRequest.of(
            symmetric=not self.causal, causal=self.causal, positions=self.extra.startswith("positions"),
            mask_dtype=self.mask_dtype, dtype=self.dtype, head_dim=self.head_dim, key_bias=self.extra == "key bias",
            window=self.extra == "window",
        )  # fmt: skip

    @property
    def window(self) -> tuple[int, int]:
        """How many keys before and after its own a row sees; -1 for all."""
        return (1023, -1) if self.extra == "window" else (-1, -1)

    @property
    def layout(self) -> BufferLayout:
        """Of its buffers."""
        return BufferLayout(True, self.extra.endswith(("rows", "heads")))
