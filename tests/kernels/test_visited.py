"""The criterion of certified skipping in NumPy, which counts visited blocks: what it leaves out hardly weighs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
BENCHMARKS = ROOT / "benchmarks" / "kernels"
sys.path.append(str(BENCHMARKS))

from certificate import BITS, CRITERIA, LOG2E, TILE, Head, near_weights, own_scores, reach, taken, visited
from shapes import paper_slopes
from visited import normal_heads


def head(kind: str, s_q: int, s_kv: int, slope: float, causal: bool) -> Head:
    """A head with inputs that tempt the criterion."""
    rng = np.random.default_rng(s_q + s_kv)
    query, key = (rng.standard_normal((n, 24)).astype(np.float32) for n in (s_q, s_kv))
    if kind == "large":
        query *= 6
    if kind == "sink":
        key *= 0.1
        key[3] = query.mean(0) * 30
    if kind == "one large row":
        query[s_q // 2] *= 20
    if kind == "opposed":
        key[-s_q:] = -query * 2
    return Head(query, key, slope, 24**-0.5, causal)


def weights(of: Head) -> np.ndarray:
    """The weights of all keys for all rows, float64."""
    row = np.arange(len(of.query))[:, None] + of.offset
    distance = np.arange(len(of.key))[None, :] - row
    scores = of.scale * of.query.astype(np.float64) @ of.key.astype(np.float64).T
    scores = scores - of.slope * np.abs(distance)
    scores = np.where(of.causal & (distance > 0), -np.inf, scores)
    found: np.ndarray = np.exp(scores - scores.max(1, keepdims=True))
    return found / found.sum(1, keepdims=True)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "symmetric"])
@pytest.mark.parametrize("kind", ["random", "large", "sink", "one large row", "opposed"])
@pytest.mark.parametrize("sizes", [(900, 900), (300, 1111)], ids=str)
def test_what_is_left_out_weighs_next_to_nothing(
    sizes: tuple[int, int], kind: str, causal: bool, criterion: str
) -> None:
    for slope in (0.7, 0.2, 0.05):
        of = head(kind, *sizes, slope, causal)
        first, end = reach(of, criterion)
        all_weights = weights(of)
        for tile in range(of.tiles):
            rows = all_weights[tile * TILE : (tile + 1) * TILE]
            out = rows[:, : first[tile]].sum(1) + (0 if causal else rows[:, end[tile] :].sum(1))
            assert out.max() <= 2.0 ** -(BITS + 1)


def test_something_is_left_out() -> None:
    for causal in (True, False):
        for criterion in CRITERIA:
            assert visited(head("random", 1024, 1024, 0.7, causal), criterion) < 0.75


def test_the_near_blocks_weigh_at_least_what_the_own_key_does() -> None:
    for causal in (True, False):
        of = head("opposed", 300, 1111, 0.2, causal)
        assert (near_weights(of) >= own_scores(of) - 1e-5).all()
        assert visited(of, "near") < visited(of, "own")


def test_weights_of_the_diagonal_against_all_pairs() -> None:
    of = head("random", 200, 456, 0.2, True)
    row = np.arange(200)[:, None] + of.offset
    column = np.arange(456)[None, :]
    scores = LOG2E * (of.scale * of.query @ of.key.T - of.slope * np.abs(column - row))
    # Rows 0 .. 127 are keys 256 .. 383 and the others 384 .. 455: whole blocks.
    same_tile = row // 128 == column // 128
    wanted = np.log2(np.exp2(np.where(same_tile & (column <= row), scores, -np.inf)).sum(1))
    np.testing.assert_allclose(near_weights(of), wanted, rtol=1e-4, atol=1e-4)


def test_nothing_to_skip_takes_everything() -> None:
    for causal in (True, False):
        of = head("random", 700, 700, 1e-9, causal)
        some, everything = taken(of, *reach(of, "own"))
        assert some == everything == (6 * 7 // 2 if causal else 36)


def test_a_known_row_of_the_table() -> None:
    """docs/kernels.md has 0.46 for this shape, from the kernels in Triton's interpreter."""
    heads = normal_heads(16, 4096, 64, causal=False)
    counts = [taken(each, *reach(each, "own")) for each in heads]
    assert sum(some for some, _ in counts) / sum(whole for _, whole in counts) == pytest.approx(0.46, abs=0.01)


def test_slopes_are_those_of_the_paper() -> None:
    assert paper_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert paper_slopes(12)[8:] == [2.0 ** (-(i + 0.5)) for i in range(4)]


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the model is trained with PyTorch, not installed"
)
def test_a_tiny_model_is_trained_and_looked_at(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "activations.py"), "--tiny", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    document = json.loads((tmp_path / "activations.json").read_text())
    assert [entry["length"] for entry in document["lengths"]] == document["settings"]["lengths"]
    assert document["training"]["bits_per_byte_last"] < document["training"]["bits_per_byte_first"] <= 8.5
    for entry in document["lengths"]:
        for of in ("trained_by_head", "random_by_head"):
            for own, near, exact in zip(*(entry[of][name] for name in ("own", "near", "exact")), strict=True):
                assert 0 < exact <= near <= own <= 1
    assert "| keys |" in (tmp_path / "activations.md").read_text()
