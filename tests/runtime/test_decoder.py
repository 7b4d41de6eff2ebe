"""The runner for decoders whose caches are in place: the same tokens as the original, sequence by sequence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from alibi_rewriter import CacheFull, Decoder, Sampling, rewrite
from alibi_rewriter.runtime import NoLibrary, get_library_path

MODEL = Path(__file__).parents[1] / "data" / "bloom__optimum_textgen_past+onnxsim.onnx"
PROMPTS = [[17, 4, 25], [31, 8, 2, 19, 30], [7]]
STEPS = 20

try:
    get_library_path()
except NoLibrary:
    pytest.skip("the library was not built: no C++ compiler", allow_module_level=True)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("held") / "bloom.alibi.onnx"
    rewrite(MODEL, target, cache="in-place", verify=False)
    return target


def of_the_original(prompt: list[int], count: int) -> list[int]:
    """Greedy tokens of one sequence alone, whose cache grows."""
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    past = {
        entry.name: np.zeros((1, entry.shape[1], 0, entry.shape[3]), np.float32)
        for entry in session.get_inputs()
        if entry.name.startswith("past_key_values")
    }
    tokens, found = np.array([prompt]), list[int]()
    for length in range(len(prompt), len(prompt) + count):
        feeds = {"input_ids": tokens, "attention_mask": np.ones((1, length), np.int64), **past}
        logits, *present = session.run(None, feeds)
        past = dict(zip(past, present, strict=True))
        found.append(int(logits[0, -1].argmax()))
        tokens = np.array([found[-1:]])
    return found


def test_sequences_of_different_lengths_get_the_tokens_that_each_gets_alone(held: Path) -> None:
    decoder = Decoder(held, len(PROMPTS), 40)
    steps = list(decoder.generate(PROMPTS, STEPS))
    assert len(steps) == STEPS
    for place, prompt in enumerate(PROMPTS):
        assert [step[place] for step in steps] == of_the_original(prompt, STEPS)
    assert decoder.lengths.tolist() == [len(prompt) + STEPS - 1 for prompt in PROMPTS]


def test_a_second_run_on_the_same_buffers_is_the_first_one_again(held: Path) -> None:
    decoder = Decoder(held, len(PROMPTS), 40)
    first = list(decoder.generate(PROMPTS, STEPS))
    list(decoder.generate([[1, 2, 3, 4], [5], [6, 7]], 9))
    assert list(decoder.generate(PROMPTS, STEPS)) == first


def test_every_node_runs_on_the_kernels(held: Path) -> None:
    from alibi_rewriter import claimed_nodes

    claim = claimed_nodes(Decoder(held, 1, 8).session)
    assert claim.claimed == claim.fused == 2


def test_a_sequence_ends_at_its_stop_token(held: Path) -> None:
    decoder = Decoder(held, len(PROMPTS), 40)
    free = [[step[place] for step in decoder.generate(PROMPTS, STEPS)] for place in range(len(PROMPTS))]
    stop = free[0][3]
    steps = list(decoder.generate(PROMPTS, STEPS, stop=stop))
    for place, whole in enumerate(free):
        found = [step[place] for step in steps]
        end = whole.index(stop) + 1 if stop in whole else len(found)
        assert found == [*whole[:end], *[None] * (len(found) - end)][: len(found)]


def test_a_full_buffer_is_told_before_anything_is_written(held: Path) -> None:
    decoder = Decoder(held, 2, 6)
    with pytest.raises(CacheFull, match=r"sequence 1 has 6 keys and gets 1 more, and its buffer has 6 rows"):
        list(decoder.generate([[1, 2], [3, 4, 5, 6]], 9))
    assert decoder.lengths.tolist() == [4, 6]
    with pytest.raises(CacheFull, match="gets 7 more"):
        list(decoder.generate([[1] * 7, [2]], 1))


def test_tokens_may_be_drawn(held: Path) -> None:
    decoder = Decoder(held, 1, 40)
    sampling = Sampling(temperature=1.0, seed=5)
    first, second = (list(decoder.generate([[3, 4]], 12, sampling=sampling)) for _ in range(2))
    assert first == second
    assert first != list(decoder.generate([[3, 4]], 12, sampling=Sampling(temperature=1.0, seed=6)))


def test_a_declared_capacity_needs_no_other(tmp_path: Path) -> None:
    target = tmp_path / "fixed.onnx"
    rewrite(MODEL, target, cache="in-place=32", verify=False)
    assert Decoder(target, 1).capacity == 32
    with pytest.raises(ValueError, match="have 32 rows, and not 64"):
        Decoder(target, 1, 64)


def test_what_it_cannot_run_is_told(held: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leaves the capacity of its buffers open"):
        Decoder(held, 1)
    grows = tmp_path / "grows.onnx"
    rewrite(MODEL, grows, verify=False)
    with pytest.raises(ValueError, match=r"no caches in place\. Write it with: rewrite MODEL --cache in-place"):
        Decoder(grows, 1, 8)
    with pytest.raises(ValueError, match="2 prompts of one token or more are needed, and 1 were given"):
        next(Decoder(held, 2, 8).generate([[1]], 1))
    with pytest.raises(ValueError, match="2 prompts of one token or more"):
        next(Decoder(held, 2, 8).generate([[1], []], 1))
