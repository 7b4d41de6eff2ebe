"""How candidates are checked and timed, with a stand-in for the device: the CPU computes, a counter is the clock."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("buffers are PyTorch's, which is not installed", allow_module_level=True)

import torch

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "benchmarks" / "kernels"))

import inputs
import timing
from alibi_rewriter.kernels.launch.plan import Call
from reference import Case, attend
from shapes import INPUTS, Shape

SMALL = Shape(2, 4, 2, 40, 72, 16, True, "float32")


class Clock:
    """Events that count launches, weighted by what each takes."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = Clock.now

    def elapsed_time(self, end: Clock) -> float:
        return end.at - self.at


@dataclasses.dataclass
class FakePlan:
    """Of one call."""

    call: Call
    workspace_bytes: int = 100


class FakeBundle:
    """Its directory's name says what it computes and how long that takes."""

    launched: list[str] = []  # noqa: RUF012 - emptied by the fixture
    buffers: dict[int, inputs.Buffers] = {}  # noqa: RUF012

    def __init__(self, directory: Path) -> None:
        self.name = directory.name
        if self.name == "missing":
            raise FileNotFoundError(directory)

    def plan(self, call: Call) -> FakePlan:
        return FakePlan(call)

    def prepare(self, plan: FakePlan, workspace: int, stream: int) -> Any:
        assert workspace % 256 == 0
        buffers = FakeBundle.buffers[plan.call.output.pointer]

        def run() -> None:
            FakeBundle.launched.append(self.name)
            Clock.now += {"slow": 3.0}.get(self.name, 1.0)
            if self.name == "raises":
                raise RuntimeError("cuLaunchKernel failed with error 1\nmore")
            if self.name != "idle":
                result = timing.attend(buffers, causal=SMALL.causal) * (1.1 if self.name == "wrong" else 1.0)
                buffers.output.copy_(result)

        return run


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that looks like a device."""
    Clock.now = 0.0
    FakeBundle.launched.clear()
    FakeBundle.buffers.clear()
    plain = inputs.Buffers.of

    def remembered(*arguments: Any) -> inputs.Buffers:
        found = plain(*arguments)
        FakeBundle.buffers[found.output.data_ptr()] = found
        return found

    for name in ("slopes", "extras_of", "inputs_of"):
        found = getattr(inputs, name)
        monkeypatch.setattr(timing, name, lambda x, found=found: found(x, device="cpu"))
    monkeypatch.setattr(inputs.Buffers, "of", remembered)
    monkeypatch.setattr(timing, "Bundle", FakeBundle)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
    monkeypatch.setattr(torch.cuda, "Event", Clock)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: type("Stream", (), {"cuda_stream": 0}))
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *sizes, **more: empty(*sizes, **{**more, "device": "cpu"}))


def directories(root: Path, *names: str) -> dict[str, Path]:
    """Of bundles, each in the directory of its candidate."""
    for name in names:
        (root / f"candidate-{name}").mkdir()
    return {name: root / f"candidate-{name}" / name for name in names}


def test_candidates_are_checked_and_timed(tmp_path: Path, device: None) -> None:
    bundles = directories(tmp_path, "right", "slow", "wrong", "idle", "raises", "missing")
    found = timing.time_shape(SMALL, bundles, rounds=3)
    assert (found["right"], found["slow"]) == (1.0, 3.0)
    assert found["wrong"] == "the result is off by 1.0e-01"
    assert found["idle"] == "the result is not finite"
    assert found["raises"] == "RuntimeError: cuLaunchKernel failed with error 1"
    assert str(found["missing"]).startswith("FileNotFoundError")
    assert not list(tmp_path.rglob("trying"))


def test_all_take_part_in_every_round_and_every_other_runs_backwards(tmp_path: Path, device: None) -> None:
    timing.time_shape(SMALL, directories(tmp_path, "right", "slow"), rounds=2)
    warm, each = len(inputs.inputs_of(SMALL, device="cpu")), inputs.LAUNCHES_PER_ROUND
    order = ["right", "slow"] + ["right"] * warm + ["slow"] * warm
    order += ["right"] * each + ["slow"] * each + ["slow"] * each + ["right"] * each
    assert FakeBundle.launched == order


def test_a_lost_device_ends_the_run_and_leaves_a_marker(
    tmp_path: Path, device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    with pytest.raises(timing.DeviceLostError, match="raises"):
        timing.time_shape(SMALL, directories(tmp_path, "raises"))
    assert (tmp_path / "candidate-raises" / "trying").exists()


@pytest.mark.parametrize("extra", INPUTS)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "symmetric"])
def test_the_reference_against_float64(extra: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if extra == "positions" and not causal:
        with pytest.raises(ValueError, match="positions"):
            dataclasses.replace(SMALL, causal=causal, extra=extra)
        return
    monkeypatch.setattr(timing, "ROWS_AT_ONCE", 16)
    shape = dataclasses.replace(SMALL, causal=causal, extra=extra, s_q=60, s_kv=40 if extra == "none" else 72)
    slope, extras = inputs.slopes(shape.heads, "cpu"), inputs.extras_of(shape, "cpu")
    buffers = inputs.Buffers.of(inputs.inputs_of(shape, device="cpu")[0], slope, *extras)
    arrays = [None if x is None else x.numpy() for x in (buffers.mask, buffers.positions)]
    case = Case(
        buffers.query.numpy(), buffers.key.numpy(), buffers.value.numpy(), slope.numpy(), buffers.scale, not causal,
        causal, arrays[1], arrays[0],
    )  # fmt: skip
    np.testing.assert_allclose(timing.attend(buffers, causal=causal).numpy(), attend(case), rtol=1e-4, atol=1e-5)


def test_masks_that_hide_everything_and_positions_of_each_entry() -> None:
    shape = dataclasses.replace(SMALL, extra="positions")
    each = inputs.inputs_of(shape, device="cpu")[0]
    positions = torch.stack([torch.arange(72.0), torch.arange(72.0) * 2])
    mask = torch.ones(2, 1, 1, 72, dtype=torch.bool)
    mask[1] = False
    buffers = inputs.Buffers.of(each, inputs.slopes(4, "cpu"), mask, positions)
    query, key, value = (x.numpy() for x in each)
    slopes = buffers.slopes.numpy()
    case = Case(query, key, value, slopes, buffers.scale, False, True, positions.numpy(), mask.numpy())
    np.testing.assert_allclose(timing.attend(buffers, causal=True).numpy(), attend(case), rtol=1e-4, atol=1e-5)


def test_a_peer_that_computes_something_else_gets_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import bench

    monkeypatch.setattr(bench, "median_ms", lambda runs, repeat: 1.0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    ours = torch.randn(8)
    same = bench.attempt("same", lambda: [lambda: ours * 1.001], 1, ours, 1e-2)
    assert same["ms"] == 1.0 and same["difference"] == pytest.approx(1e-3, rel=1e-2)
    other = bench.attempt("other", lambda: [lambda: ours * 1.1], 1, ours, 1e-2)
    assert "ms" not in other and "differs from ours by 1.0e-01" in other["error"]
    assert bench.attempt("no bias", lambda: [lambda: ours * 2], 1, ours, None) == {"name": "no bias", "ms": 1.0}
    broken = bench.attempt("nan", lambda: [lambda: ours * torch.nan], 1, ours, 1e-2)
    assert "ms" not in broken

    def refuse() -> list[inputs.Run]:
        raise ValueError("not on this device\nand more")

    assert bench.attempt("refused", refuse, 1) == {"name": "refused", "error": "ValueError: not on this device"}


def test_heads_as_rows_are_the_same_attention() -> None:
    from peers import _bias, _heads_as_rows, _sdpa
    from torch.nn.attention import SDPBackend

    shape = Shape(2, 8, 2, 1, 300, 16, True, "float32")
    query, key, value = inputs.inputs_of(shape, device="cpu")[0]
    slope = inputs.slopes(8, "cpu")
    bias = _bias(shape, slope, torch.float32)
    case = Case(query.numpy(), key.numpy(), value.numpy(), slope.numpy(), 16**-0.5, causal=True)
    for run in (
        _sdpa(SDPBackend.MATH, query, key, value, attn_mask=bias),
        _heads_as_rows(SDPBackend.MATH, query, key, value, bias),
    ):
        np.testing.assert_allclose(run().numpy(), attend(case), rtol=1e-4, atol=1e-5)
