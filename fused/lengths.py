"""What key lengths add to the function body: every batch has keys of its own number.

A key that a row does not see has the score ``LOWEST_FLOAT32``, so that a row of such keys is their mean.  What lies
behind the keys of a batch must not be in that mean.  It has a score of minus infinity, and a weight of zero in every
row.  A batch without keys is computed as if it had one, so that no row is NaN, and yields zeros at the end.

All numbers here are float32, which holds counts up to 2^24, and are [B, 1, 1, 1].
"""

from __future__ import annotations

import onnx

from .family import Alignment
from .text import Body

HAS_KEYS = "has_keys"
"""Which batches have keys."""

LENGTH = "length"
"""The number of keys, at least 1."""

_EXISTS = "exists"
_FLOAT = onnx.TensorProto.FLOAT


def write(body: Body, key_count: str) -> None:
    """How many keys there are, and which ones: of ``j`` [1, 1, 1, S_kv].

    Args:
        body: Where to.
        key_count: S_kv, an int64 scalar.
    """
    body.constant("per_batch", "int64", [-1, 1, 1, 1], scalar=False)
    body.constant("no_keys", "float", [0.0])
    body.constant("one_key", "float", [1.0])
    body.line(f"lengths_float = Cast <to = {_FLOAT}> (key_lengths)")
    body.line("lengths_per_batch = Reshape (lengths_float, per_batch)")
    body.line(f"{HAS_KEYS} = Greater (lengths_per_batch, no_keys)")
    body.line(f"all_keys = Cast <to = {_FLOAT}> ({key_count})")
    body.line("length_or_less = Min (lengths_per_batch, all_keys)")
    body.line(f"{LENGTH} = Max (length_or_less, one_key)")
    body.line(f"{_EXISTS} = Less (j, {LENGTH})")


def write_rows(body: Body, rows: str, row_count: str, aligned: Alignment) -> None:
    """``row`` [1 or B, 1, S_q, 1].

    Args:
        body: Where to.
        rows: i of all rows, float32 [S_q].
        row_count: S_q, an int64 scalar.
        aligned: Which keys they belong to.
    """
    if aligned is Alignment.FIRST:
        body.unsqueeze("row", rows, [0, 1, 3])
        return
    body.unsqueeze("row_from_first", rows, [0, 1, 3])
    body.line(f"all_rows = Cast <to = {_FLOAT}> ({row_count})")
    body.line(f"first_row = Sub ({LENGTH}, all_rows)")
    body.line("row = Add (row_from_first, first_row)")


def write_distance_by_key(body: Body, output: str) -> None:
    """The distance of ``j`` from the last key, in place of its distance from the row."""
    body.line(f"last_key = Sub ({LENGTH}, one_key)")
    body.line(f"{output} = Sub (j, last_key)")


def write_hidden(body: Body) -> str:
    """What a row that does not see a key adds to its score; returns its name."""
    # The sum of two lowest numbers, because no text of ONNX says infinity in all of its versions.
    body.line("beyond = Add (lowest, lowest)")
    body.line(f"hidden_by_key = Where ({_EXISTS}, lowest, beyond)")
    return "hidden_by_key"


def write_shown(body: Body, added: str) -> str:
    """What a row that sees a key adds to its score; returns its name."""
    body.line(f"added_to_keys = Where ({_EXISTS}, {added}, beyond)")
    return "added_to_keys"
