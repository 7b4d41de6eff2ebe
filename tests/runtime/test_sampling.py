"""From logits to tokens."""

from __future__ import annotations

import numpy as np
import pytest
from alibi_rewriter import Sampling
from alibi_rewriter.runtime.sampling import Sampler

LOGITS = np.array([[0.0, 3.0, 1.0, 2.0], [5.0, -1.0, 4.9, 0.0]], np.float32)


def drawn(sampling: Sampling, count: int = 400) -> list[set[int]]:
    sampler = Sampler(sampling)
    tokens = np.array([sampler.choose(LOGITS) for _ in range(count)])
    return [set(column.tolist()) for column in tokens.T]


def test_without_anything_the_likeliest_token_is_taken() -> None:
    assert Sampler().choose(LOGITS).tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_top_k_of_one_is_greedy_at_any_temperature(dtype: type[np.floating]) -> None:
    sampler = Sampler(Sampling(temperature=5.0, top_k=1))
    assert all(sampler.choose(LOGITS.astype(dtype)).tolist() == [1, 0] for _ in range(20))


def test_only_the_likeliest_are_drawn() -> None:
    assert drawn(Sampling(temperature=2.0, top_k=2)) == [{1, 3}, {0, 2}]
    assert drawn(Sampling(temperature=2.0)) == [{0, 1, 2, 3}, {0, 1, 2, 3}]


def test_top_p_keeps_the_token_that_reaches_it() -> None:
    # 0.644, 0.237, 0.087, 0.032 in the first row; 0.522, 0.472 and next to nothing in the second.
    assert drawn(Sampling(temperature=1.0, top_p=0.5)) == [{1}, {0}]
    assert drawn(Sampling(temperature=1.0, top_p=0.7)) == [{1, 3}, {0, 2}]


def test_frequencies_are_those_of_the_softmax() -> None:
    sampler = Sampler(Sampling(temperature=1.0, seed=3))
    tokens = np.array([sampler.choose(LOGITS[:1])[0] for _ in range(4000)])
    weights = np.exp(LOGITS[0].astype(np.float64))
    np.testing.assert_allclose(np.bincount(tokens, minlength=4) / 4000, weights / weights.sum(), atol=0.03)


def test_equal_seeds_give_equal_tokens() -> None:
    first, second, other = (Sampler(Sampling(temperature=3.0, seed=seed)) for seed in (1, 1, 2))
    rows = [
        (first.choose(LOGITS).tolist(), second.choose(LOGITS).tolist(), other.choose(LOGITS).tolist())
        for _ in range(30)
    ]
    assert all(one == two for one, two, _ in rows)
    assert any(one != three for one, _, three in rows)


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="temperature and top_k"):
        Sampling(**wrong)  # type: ignore[arg-type]
