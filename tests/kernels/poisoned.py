"""Attentions with NaN and infinities at keys that some rows do not see: those rows must not notice."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from alibi_rewriter.fused.family import KERNEL_MEMBERS
from cases import DTYPES, PATHS, Trial, row_tolerance, trial
from reference import Array, Case, attend, visible

BAD = (np.nan, np.inf, -np.inf)
SHAPES = ((17, 33), (5, 40), (33, 50), (3, 70))


def sees(case: Case) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which keys each row sees, [B, H, S_q, S_kv]."""
    shape = (*case.query.shape[:3], case.key.shape[2])
    return np.broadcast_to(visible(case), shape)


def poisoned(case: Case, chosen: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], bad: float) -> Case:
    """The case with ``bad`` in keys and values where ``chosen``, [B, H_kv, S_kv], says so."""
    key, value = case.key.copy(), case.value.copy()
    key[chosen], value[chosen] = bad, bad
    return dataclasses.replace(case, key=key, value=value)


def hidden_keys(case: Case, rng: np.random.Generator) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """About a third of the keys that few rows see, of every batch entry and key head, [B, H_kv, S_kv]."""
    s_q, s_kv = sees(case).shape[2:]
    by_key_head = sees(case).reshape(*case.key.shape[:2], -1, s_q, s_kv)
    share = by_key_head.mean((2, 3))
    return (rng.random(share.shape) < 0.35) & (share < 0.3)


def share_of(item: Trial, bad: Array, output: Array) -> float:
    """The largest error of rows that see nothing bad, as a share of what is accepted; infinite if a row does not show
    a NaN that it sees.

    Args:
        item: What was computed, but for the bad keys.
        bad: Which keys those are, [B, H_kv, S_kv].
        output: What was computed.
    """
    seen = sees(item.case)
    of_head = np.repeat(bad, seen.shape[1] // bad.shape[1], 1)[:, :, None, :]
    touched = (seen & of_head).any(-1)
    # A row that sees no key yields the mean of all values, these included.
    clean = seen.any(-1) & ~touched
    found = np.abs(output - attend(item.case)) / row_tolerance(item)
    worst = float(found[clean].max(initial=0.0))
    lost = np.isfinite(output).any(-1) & touched
    return worst if np.isfinite(worst) and not lost.any() else float("inf")


def poisoned_trials() -> Iterator[tuple[Trial, str, int, Array, float]]:
    """(what it is without them, path, chunks, which keys are bad, what they hold), for every member that hides."""
    for number, variant in enumerate(member for member in KERNEL_MEMBERS if member.can_hide):
        path, splits = PATHS[number % 3]
        s_q, s_kv = SHAPES[number % 4]
        item = trial(variant, 3 * number + 1, s_q, s_kv, (64, 80, 16)[number // 2 % 3], DTYPES[number // 3 % 3])
        bad = hidden_keys(item.case, np.random.default_rng(number))
        yield item, path, splits, bad, BAD[number // 5 % 3]
