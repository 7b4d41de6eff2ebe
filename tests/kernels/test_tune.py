"""The command that chooses tiles: from results to rules, what is dropped, a whole run with a stand-in for a device."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from alibi_rewriter.kernels.compile.compiler import CompileError
from alibi_rewriter.kernels.compile.configurations import applies
from alibi_rewriter.kernels.launch.description import Description
from alibi_rewriter.kernels.requests import KernelRequest, Tile
from slow import SLOW

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "benchmarks" / "kernels"))

import building
import candidates
import rules
import tune
from candidates import Candidate, Kind
from shapes import Shape

TEXT = tune.CONFIGURATIONS.read_text()
RESULTS = Path(__file__).with_name("tune-results.json")
"""Results of two classes on a device, cut down; the times are made up."""
DECODE = Kind(
    "decode_split 16-128", {"role": "decode_split", "engine": "portable", "arch": [90], "element_bytes": 2,
                            "head_dim": [16, 128], "masked": False},
    candidates.plain((16, 64, 4, 4), (16, 32, 4, 2)), (Shape(1, 8, 1, 1, 4096, 64, True),),
)  # fmt: skip


def recorded() -> dict[str, Any]:
    """The recorded results."""
    return dict(json.loads(RESULTS.read_text()))


def small() -> dict[str, Any]:
    """A few rules that the recorded results are about, and others."""
    hopper = {"role": "prefill", "engine": "hopper", "measured": "H200", "arch": [90], "element_bytes": 2}
    plain = {"square": True, "positions": False, "masked": False}
    portable = {"role": "prefill", "engine": "portable", "arch": [90], "element_bytes": 2, "head_dim": [16, 64]}
    found: list[dict[str, Any]] = [
        {
            **hopper,
            "head_dim": [64, 64],
            **plain,
            "causal": True,
            "tile": [128, 128, 4, 3],
            "options": {"ROW_TWINS": True},
        },
        {**hopper, "head_dim": [64, 64], **plain, "causal": False, "tile": [128, 128, 4, 3]},
        {**hopper, "head_dim": [64, 64], "square": True, "masked": True, "tile": [128, 128, 4, 3]},
        {"role": "decode", "engine": "portable", "arch": [80, 90], "tile": [16, 64, 4, 3]},
        {**portable, "masked": True, "tile": [128, 64, 8, 3]},
        {**portable, "masked": False, "tile": [128, 64, 4, 3]},
        {"role": "decode_split", "engine": "portable", "arch": [80, 90], "tile": [16, 64, 4, 3]},
    ]
    return {"format": 1, "rules": [rules.ordered(rule) for rule in found]}


def regenerated(results: dict[str, Any], document: dict[str, Any] | None = None) -> dict[str, Any]:
    """The configurations that follow from results."""
    return rules.regenerate(document or small(), results)[0]


def test_the_file_is_written_as_it_is() -> None:
    assert rules.written(json.loads(TEXT)) == TEXT
    assert all(list(rules.ordered(rule)) == list(rule) for rule in json.loads(TEXT)["rules"])


def test_no_two_rules_are_for_the_same() -> None:
    found = [rules.identity(rule) for rule in json.loads(TEXT)["rules"]]
    assert len(set(found)) == len(found)


def test_every_rule_can_be_made_again() -> None:
    classes = {
        rules.identity({**kind.rule, **({"measured": ""} if kind.choice == "fastest" else {})}): kind
        for kind in (*candidates.timed(90), *candidates.static())
    }
    for rule in json.loads(TEXT)["rules"]:
        if rule["role"] == "combine":
            continue  # its tile is fixed
        assert rules.identity(rule) in classes, f"candidates.py has no class for {rule}"
        among = classes[rules.identity(rule)].candidates
        assert any(list(x.tile) == rule["tile"] and dict(x.options) == rule.get("options", {}) for x in among), rule


def test_classes_and_candidates_are_named_apart() -> None:
    for kinds in (candidates.timed(90), candidates.timed(80), candidates.static()):
        assert len({kind.name for kind in kinds}) == len(kinds)
        for kind in kinds:
            assert len({candidate.key for candidate in kind.candidates}) == len(kind.candidates)
            assert all(applies(dict(kind.rule), shape.request, kind.rule["arch"][0]) for shape in kind.shapes)


def test_options_that_are_left_to_the_kernel_are_not_written() -> None:
    found = candidates.varied(((128, 128, 4, 2),), {"REGISTERS": 240}, {"ROW_TWINS": (True, False, None)})
    assert [dict(candidate.options) for candidate in found] == [
        {"REGISTERS": 240, "ROW_TWINS": True}, {"REGISTERS": 240, "ROW_TWINS": False}, {"REGISTERS": 240},
    ]  # fmt: skip


def test_the_same_results_give_the_same_file() -> None:
    for document in (small(), json.loads(TEXT)):
        once = rules.written(regenerated(recorded(), document))
        assert once != rules.written(document)
        assert rules.written(regenerated(recorded(), document)) == once
        assert rules.written(regenerated(recorded(), json.loads(once))) == once


def test_rules_are_replaced_where_they_are() -> None:
    before, after = small()["rules"], regenerated(recorded())["rules"]
    old, new = before[0], after[0]
    assert new["tile"] == [128, 128, 4, 2]
    assert new["options"] == {"CONSUMER_REGISTERS": 240, "PRODUCER_REGISTERS": 24, "ALTERNATE": True}
    assert new["measured"] == "H100"
    same = {key: value for key, value in new.items() if key not in rules.OUTCOME}
    assert same == {key: value for key, value in old.items() if key not in rules.OUTCOME}
    assert [rule for rule in after if rule not in before] == [new, after[4]]
    assert [rule for rule in before if rule not in after] == [old]


def test_new_rules_come_before_those_they_replace() -> None:
    after = regenerated(recorded())["rules"]
    request = KernelRequest("AlibiAttentionCausalBooleanMask", "bfloat16", 64, 64, "bool")
    found = [rule for rule in after if rule["role"] == "prefill" and applies(rule, request, 90)]
    assert [(rule["engine"], rule.get("measured")) for rule in found] == [
        ("hopper", "H200"), ("portable", "H100"), ("portable", None),
    ]  # fmt: skip
    assert [rule["tile"] for rule in found[1:]] == [[128, 64, 8, 2], [128, 64, 8, 3]]


def test_static_rules_go_behind_and_are_not_measured() -> None:
    entry = {
        "name": "new", "choice": "first", "rule": {"role": "decode", "engine": "portable", "arch": [121]},
        "candidates": [{"tile": [16, 64, 4, 2], "dropped": "spills"}, {"tile": [16, 32, 4, 2], "dropped": None}],
    }  # fmt: skip
    document, notes = rules.regenerate(small(), {"format": 1, "device": None, "classes": [entry]})
    assert len(notes) == 1
    assert document["rules"][3:5] == [
        small()["rules"][3], {"role": "decode", "engine": "portable", "arch": [121], "tile": [16, 32, 4, 2]},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        (({"a": 2.0, "b": 1.0}, {"a": 1.0, "b": 1.0}), 1),
        (({"a": 1.004, "b": 1.0}, {"a": 1.0, "b": 1.0}), 0),
        (({"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 1.0}), 1),
        (({"a": 1.0}, {"a": 2.0, "b": 1.0}), 1),
        (({}, {"a": 2.0, "b": 1.0}), 1),
    ],
    ids=["faster", "alike", "mean-of-ratios", "not-all-shapes", "untimed"],
)
def test_the_fastest_is_chosen(times: tuple[dict[str, float], ...], chosen: int) -> None:
    entry = {
        "choice": "fastest",
        "candidates": [{"tile": [i], "dropped": None, "ms": ms} for i, ms in enumerate(times)],
    }
    assert rules.choose(entry) is entry["candidates"][chosen]


def test_what_was_dropped_is_not_chosen() -> None:
    entry = {
        "name": "x", "choice": "fastest", "rule": {"role": "decode"},
        "candidates": [{"tile": [1], "dropped": "off by 1", "ms": {"a": 1.0}}],
    }  # fmt: skip
    assert rules.choose(entry) is None
    document, notes = rules.regenerate(small(), {"format": 1, "device": "H100", "classes": [entry]})
    assert document == small()
    assert "no candidate is left" in notes[0]


@pytest.mark.parametrize(
    "results",
    [
        {"format": 2, "classes": []},
        {"format": 1},
        {"format": 1, "device": "H100", "classes": [{"name": "x", "choice": "best", "candidates": []}]},
        {"format": 1, "device": "H100", "classes": [{"name": "x", "candidates": []}]},
        {"format": 1, "classes": [{"name": "x", "choice": "fastest", "rule": {"role": "decode", "engine": "portable"},
                                   "candidates": [{"tile": [1], "dropped": None, "ms": {"a": 1.0}}]}]},
    ],
    ids=["format", "no-classes", "choice", "malformed", "no-device"],
)  # fmt: skip
def test_results_that_are_refused(results: dict[str, Any]) -> None:
    with pytest.raises(rules.ResultsError):
        rules.regenerate(small(), results)


def test_only_from_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "configurations.json"
    target.write_text(rules.written(small()))
    assert tune.main(["--from", str(RESULTS), "--configurations", str(target)]) == 0
    assert target.read_text() == rules.written(regenerated(recorded()))
    assert "resources --missing" in capsys.readouterr().err
    assert tune.main(["--from", str(RESULTS), "--configurations", str(target)]) == 0
    assert "stays as it is" in capsys.readouterr().err


def test_results_that_are_not_there_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        tune.main(["--from", str(tmp_path / "none.json")])
    assert stopped.value.code == 1
    assert "none.json" in capsys.readouterr().err


NEEDS = {"role": "decode_split", "registers": 96, "threads": 128, "shared_bytes": 1000, "spill_bytes": 0,
         "loop_spills": 0, "serialized": False}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"serialized": True}, None),
        ({"shared_bytes": 228 * 1024}, "shared memory"),
        ({"registers": 255, "threads": 384}, "registers"),
        ({"loop_spills": 1}, "inner loops"),
        ({"spill_bytes": 65}, "bytes spilled"),
        ({"spill_bytes": 64}, None),
    ],
)
def test_what_an_image_may_need(change: dict[str, Any], reason: str | None) -> None:
    found = building.excess("portable", 90, {**NEEDS, **change})
    assert (reason is None and found is None) or (reason is not None and found is not None and reason in found)


def test_products_of_the_hopper_kernel_may_not_be_serialised() -> None:
    assert "serialised" in str(building.excess("hopper", 90, {**NEEDS, "serialized": True}))
    assert building.excess("hopper", 90, {**NEEDS, "loop_spills": 28, "spill_bytes": 500}) is None
    assert "inner loops" in str(building.excess("hopper", 90, {**NEEDS, "loop_spills": 29}))


def test_float32_may_reload_where_it_is_timed() -> None:
    few, many = {**NEEDS, "loop_spills": 80}, {**NEEDS, "loop_spills": 81}
    assert building.excess("portable", 90, few, hidden=True) is None
    assert "inner loops" in str(building.excess("portable", 90, few))
    assert "inner loops" in str(building.excess("portable", 90, many, hidden=True))
    hidden = {kind.name for kind in candidates.timed(90) if building.reloads_are_hidden(kind)}
    assert hidden == {"portable float32 16-64", "portable float32 65-128", "portable float32 129-256"}


class FakeWorker(building.Recording):
    """Compiles nothing; tiles of 64 keys spill."""

    def compile(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.needs is not None
        if job["tile"]["block_n"] == 128:
            raise CompileError("out of shared memory\nand a listing")
        spilled = 3 if job["tile"]["block_n"] == 64 else 0
        self.needs.append({**NEEDS, "role": job["role"], "loop_spills": spilled})
        return {}


def test_candidates_are_dropped_with_a_reason_and_remembered(tmp_path: Path) -> None:
    kind = Kind(DECODE.name, DECODE.rule, candidates.plain((16, 64, 4, 4), (16, 128, 4, 4), (16, 32, 4, 2)))
    found = [building.build(tmp_path, kind, candidate, FakeWorker()) for candidate in kind.candidates]
    assert "3 spills in inner loops" in found[0]["dropped"]
    assert found[1]["dropped"] == "out of shared memory"
    assert found[2]["dropped"] is None and found[2]["needs"]["registers"] == 96
    again = [building.build(tmp_path, kind, candidate, building.Recording()) for candidate in kind.candidates]
    assert again == found


def test_a_candidate_that_ended_a_run_is_left_out(tmp_path: Path) -> None:
    candidate = DECODE.candidates[0]
    directory = building.directory_of(tmp_path, DECODE, candidate)
    directory.mkdir(parents=True)
    (directory / building.TRYING).touch()
    assert "did not survive" in building.build(tmp_path, DECODE, candidate, building.Recording())["dropped"]


def test_static_classes_are_compiled_up_to_the_first_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "Recording", FakeWorker)
    kind = Kind("x", DECODE.rule, candidates.plain((16, 64, 4, 4), (16, 32, 4, 2), (16, 16, 4, 2)))
    ((_, reports),) = building.build_all(tmp_path, [kind], 1)
    assert [bool(report["dropped"]) for report in reports] == [True, False]
    assert len(tune.entry_of(kind, reports)["candidates"]) == 2


def test_a_rule_that_comes_before_takes_its_requests() -> None:
    special = next(kind for kind in candidates.static() if kind.name == "static float32 120 65-128 mask")
    general = next(kind for kind in candidates.static() if kind.name == "static float32 65-128")
    assert {request.mask_dtype for request, _ in building.demands(special, 120)} == {"float32"}
    assert {request.mask_dtype for request, _ in building.demands(general, 120)} == {None}
    assert "float32" in {request.mask_dtype for request, _ in building.demands(general, 80)}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@SLOW
def test_a_bundle_holds_the_candidate(tmp_path: Path) -> None:
    ((_, reports),) = building.build_all(
        tmp_path, [Kind(DECODE.name, DECODE.rule, DECODE.candidates[1:], DECODE.shapes)], 1
    )
    assert reports[0]["dropped"] is None
    assert 0 < reports[0]["needs"]["registers"] <= 255
    bundle = building.bundle_of(building.directory_of(tmp_path, DECODE, DECODE.candidates[1]), DECODE.shapes[0])
    kernels = {
        kernel.role: kernel for kernel in Description.from_json((bundle / "description.json").read_text()).kernels
    }
    assert set(kernels) == {"decode", "decode_split", "combine"}
    assert kernels["decode_split"].tile.endswith(Tile(16, 32, 4, 2).text)
    assert all((bundle / kernel.image.cubin).exists() for kernel in kernels.values())
    assert not list(bundle.glob("*.ptx"))


class FakeDevice(types.ModuleType):
    """The module ``timing`` with times that follow from the names of candidates."""

    class DeviceLostError(RuntimeError):
        """As there."""

    def __init__(self) -> None:
        super().__init__("timing")
        self.calls: list[str] = []

    def device(self) -> tuple[int, str]:
        return 90, "H100"

    def environment(self) -> list[tuple[str, str]]:
        return [("gpu", "none")]

    def time_shape(self, shape: Shape, bundles: dict[str, Path]) -> dict[str, float | str]:
        self.calls.append(shape.title)
        return {
            key: "the result is off by 1.0e+00" if key.startswith("16x16") else 2.0 if key.startswith("16x64") else 1.0
            for key in bundles
        }


@pytest.fixture
def fake_device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """Two classes, nothing is compiled, nothing is timed."""
    fake = FakeDevice()
    monkeypatch.setitem(sys.modules, "timing", fake)
    tiles = candidates.plain((16, 64, 4, 4), (16, 32, 4, 2), (16, 16, 4, 2))
    kinds = (
        Kind("one", DECODE.rule, tiles, DECODE.shapes),
        Kind("two", {**DECODE.rule, "role": "decode"}, tiles, DECODE.shapes),
    )
    monkeypatch.setattr(candidates, "timed", lambda arch: kinds)
    monkeypatch.setattr(building, "build", lambda *_: {"dropped": None, "needs": {}})
    return fake


def test_a_run_times_writes_and_goes_on(tmp_path: Path, fake_device: FakeDevice) -> None:
    target, results = tmp_path / "configurations.json", tmp_path / "new" / "results.json"
    target.write_text(rules.written(small()))
    common = ["--results", str(results), "--configurations", str(target), "--compiled", str(tmp_path), "--jobs", "1"]
    assert tune.main([*common, "--only", "one"]) == 0
    assert len(fake_device.calls) == 1
    assert tune.main(common) == 0
    assert len(fake_device.calls) == 2
    document = json.loads(results.read_text())
    assert document["device"] == "H100"
    assert [entry["name"] for entry in document["classes"]] == ["one", "two"]
    assert "off by" in document["classes"][0]["candidates"][2]["dropped"]
    after = json.loads(target.read_text())["rules"]
    for role in ("decode", "decode_split"):
        first = next(rule for rule in after if rule["role"] == role and 90 in rule["arch"])
        assert (first["tile"], first["measured"]) == ([16, 32, 4, 2], "H100")


def test_results_of_another_device_are_not_continued(
    tmp_path: Path, fake_device: FakeDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"format": 1, "device": "H200", "classes": []}))
    with pytest.raises(SystemExit):
        tune.main(["--results", str(results), "--configurations", str(tmp_path / "none")])
    assert "H200" in capsys.readouterr().err
    assert not fake_device.calls


def test_a_candidate_that_breaks_the_device_ends_the_run_with_a_line(
    tmp_path: Path, fake_device: FakeDevice, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise fake_device.DeviceLostError("16x64")

    monkeypatch.setattr(fake_device, "time_shape", broken)
    with pytest.raises(SystemExit):
        tune.main(["--results", str(tmp_path / "r.json"), "--compiled", str(tmp_path), "--jobs", "1"])
    assert "one: 16x64" in capsys.readouterr().err


def test_compiling_beforehand_needs_no_device(tmp_path: Path, fake_device: FakeDevice) -> None:
    assert tune.main(["--compile-only", str(tmp_path), "--jobs", "1"]) == 0
    assert not fake_device.calls


def test_shapes_have_the_requests_of_their_inputs() -> None:
    shape = Shape(1, 8, 2, 1, 4096, 64, True, "float16", "additive rows")
    assert shape.request == KernelRequest("AlibiAttentionCausalAdditiveMask", "float16", 64, 64, "float16")
    assert shape.layout.mask_rows
    assert shape.title == "1 8/2 1x4096 64 causal float16 additive rows"
    assert shape.input_bytes == 2 * 2 * 8 * 64 + 2 * 2 * 2 * 4096 * 64
    with pytest.raises(ValueError, match="positions"):
        Shape(1, 1, 1, 1, 1, 64, False, extra="positions")


def test_names_of_candidates_depend_on_all_that_they_are() -> None:
    plain, other = Candidate((16, 64, 4, 2)), Candidate((16, 64, 4, 2), {"ROW_TWINS": True})
    assert plain.key != other.key
    assert plain.key.startswith("16x64w4s2-")
