"""Engines built with TensorRT-RTX on the CPU, and every way in which a build can fail."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import evidence
import onnx
import pytest
from alibi_rewriter import Options, rewrite
from alibi_rewriter.base.errors import EngineFailed, ExitCode, MissingDependency, PluginNotUsed, UsageError
from alibi_rewriter.cli import main
from alibi_rewriter.engine import build as build_module
from alibi_rewriter.engine.attach import ATTRIBUTE, attach_kernels
from alibi_rewriter.engine.build import EngineOptions, build_engine, embed_kernels, remove_functions
from alibi_rewriter.engine.job import BuildJob
from alibi_rewriter.engine.options import Reporter
from alibi_rewriter.engine.plan_file import read_plan
from alibi_rewriter.engine.process import run_child
from alibi_rewriter.engine.shim import SONAME, shared_object
from alibi_rewriter.engine.targets import images_for
from alibi_rewriter.graph.edit import set_attribute
from alibi_rewriter.graph.note import fused_nodes
from alibi_rewriter.plugin import library_path
from evidence import Level
from slow import BESIDE, SLOW
from test_versions import attention

DATA = Path(__file__).parents[1] / "data"
RTX = "tensorrt-rtx"
LIBRARY = library_path()
MISSING = [name for name in ("tensorrt_rtx", "triton") if importlib.util.find_spec(name) is None]
needs_rtx = pytest.mark.skipif(
    bool(MISSING) or LIBRARY is None, reason=f"needs {', '.join(MISSING) or 'the plugin library'}"
)
FAMILIES = {
    "bloom with a cache": "bloom__optimum_textgen_past+onnxsim",
    "bloom float16": "bloom__tf5_h4_dynamo18_dyn_mask_fp16",
    "mpt": "mpt__optimum_textgen_past+ortall",
    "falcon": "falcon__tf5_h4_gqa_new_eager_dynamo18_static_nomask",
    "jina": "jina__v2_sdpa_dynamo18_dyn",
    "baichuan with a cache": "baichuan13b__decode_dynamo18_dyn",
}
QUICK = ("bloom with a cache",)


@pytest.fixture(scope="session")
def bloom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rewritten model; tests copy what they change."""
    target = tmp_path_factory.mktemp("bloom") / "bloom.alibi.onnx"
    rewrite(DATA / f"{FAMILIES['bloom with a cache']}.onnx", target, options=Options(verify=False))
    return target


def litter(folder: Path, *wanted: str) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name not in wanted)


@needs_rtx
@pytest.mark.parametrize("family", [pytest.param(f, marks=BESIDE if f in QUICK else SLOW) for f in FAMILIES])
def test_every_family_becomes_an_engine(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = DATA / f"{FAMILIES[family]}.onnx"
    target, plan, report = tmp_path / "m.alibi.onnx", tmp_path / "m.engine", tmp_path / "r.json"
    common = [
        str(source),
        "-o",
        str(target),
        "--no-verify",
        "--json",
        str(report),
        "--target",
        "sm_89",
        "--engine",
        str(plan),
    ]
    assert main(common) == ExitCode.DONE
    engine = json.loads(report.read_text())["engine"]
    assert engine["plugin_layers"] == {"expected": 2, "found": 2}
    assert engine["plan"]["bytes"] == plan.stat().st_size
    assert engine["plan"]["sha256"] == read_plan(plan).sha256
    assert engine["targets"] == ["sm_89"]
    assert read_plan(plan).bundles >= 2
    assert "plugin layers: 2 of 2" in capsys.readouterr().out
    assert litter(tmp_path, target.name, plan.name, report.name) == []
    assert not any(a.name == ATTRIBUTE for n in fused_nodes(onnx.load(target)) for a in n.attribute), (
        "it stays portable"
    )
    members = [node.op_type for node in fused_nodes(onnx.load(target))]
    evidence.record("rtx", Level.PLAN, members, where=f"TensorRT-RTX {engine['version']}, CPU", what=source.stem)
    # The same file without the plugin: TensorRT compiles the function bodies.
    assert main([*common, "--strategy", "native"]) == ExitCode.DONE
    engine = json.loads(report.read_text())["engine"]
    assert engine["plugin_layers"] == {"expected": 0, "found": 0}
    assert read_plan(plan).bundles == 0


@needs_rtx
def test_native_attention_is_asked_for_sums_of_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The body that TensorRT gets casts its operands; the model is not changed."""
    parsed: list[onnx.ModelProto] = []
    real = build_module.run_child

    def seen(arguments: list[str], backend: str, **options: Any) -> Any:
        if arguments == ["build"]:
            parsed.append(onnx.load(BuildJob.from_json(options["job"]).model))
        return real(arguments, backend, **options)

    monkeypatch.setattr(build_module, "run_child", seen)
    model = tmp_path / "m.onnx"
    onnx.save(attention("AlibiAttentionCausal", onnx.TensorProto.FLOAT16, 18), model)
    before, lines = model.read_bytes(), []
    for wanted in ("default", "float32"):
        options = EngineOptions(backend=RTX, strategy="native", targets=(89,), accumulate=wanted)
        facts = build_engine(model, tmp_path / "m.engine", options)
        lines += facts.lines()
        assert facts.to_json()["accumulation"] == facts.accumulation
    assert [line for line in lines if "accumulates" in line and "left to TensorRT" in line]
    assert [line for line in lines if "accumulates" in line and "float32, asked for by casts" in line]
    plain, wide = (m.functions[0] for m in parsed)
    assert [n.op_type for n in wide.node[:3]] == ["Cast"] * 3 != [n.op_type for n in plain.node[:3]]
    assert model.read_bytes() == before


def test_a_version_that_was_not_tested_is_named(bloom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, version="1.9.0")
    said: list[str] = []
    reporter = Reporter(said.append)
    with pytest.raises((EngineFailed, MissingDependency)):
        build_engine(bloom, tmp_path / "m.engine", EngineOptions(backend=RTX, targets=(89,)), reporter)
    assert any("1.9.0 is newer than 1.7, the last that was tested; checked here" in line for line in said)


@needs_rtx
@SLOW
@pytest.mark.parametrize("targets", [(80,), (86,), (120,), (86, 89), (80, 86, 89, 120)])
def test_targets_singly_and_together(bloom: Path, tmp_path: Path, targets: tuple[int, ...]) -> None:
    facts = build_engine(bloom, tmp_path / "m.engine", EngineOptions(backend=RTX, targets=targets))
    assert facts.targets == targets
    assert facts.found == facts.expected == 2
    for target in targets:
        assert f"sm_{target}" in facts.embedded[0]


@needs_rtx
def test_a_rewritten_model_is_built_as_it_is(bloom: Path, tmp_path: Path) -> None:
    plan = tmp_path / "m.engine"
    before = bloom.read_bytes()
    assert main([str(bloom), "--engine", str(plan), "--target", "sm_89", "--embed-plugin", "no"]) == ExitCode.DONE
    assert bloom.read_bytes() == before
    assert (tmp_path / "libalibi_plugin.so").read_bytes() == LIBRARY.read_bytes()  # type: ignore[union-attr]
    assert litter(bloom.parent, bloom.name) == []


@needs_rtx
def test_auto_says_that_nothing_was_timed(bloom: Path, tmp_path: Path) -> None:
    options = EngineOptions(backend=RTX, strategy="auto", targets=(89,))
    facts = build_engine(bloom, tmp_path / "m.engine", options)
    assert facts.strategy == "plugin"
    if not facts.timings:
        assert any("nothing was timed" in item for item in facts.not_executed)
    assert litter(tmp_path, "m.engine") == []


@needs_rtx
def test_attached_kernels_stay_in_the_file_on_request(bloom: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(bloom.read_bytes())
    attached = embed_kernels(model, EngineOptions(targets=(89,)))
    assert len(attached.nodes) == 2
    onnx.checker.check_model(onnx.load(model))
    nodes = fused_nodes(onnx.load(model))
    assert all(any(a.name == ATTRIBUTE and a.s.startswith(b"ALIBIK") for a in node.attribute) for node in nodes)
    # Such a file builds without us: the parser, the library, nothing else.
    profile = build_module.make_profile(onnx.load(model), tmp_path, {})
    shapes = {name: [list(s) for s in three] for name, three in profile.shapes.items()}
    job = BuildJob(RTX, str(model), str(tmp_path / "m.plan"), shapes, (89,), str(LIBRARY), False, 2)
    assert run_child(["build"], RTX, job=job.to_json())["plugin_layers"] == attached.nodes


def attached_copy(bloom: Path, folder: Path) -> tuple[onnx.ModelProto, Path]:
    model = onnx.load(bloom)
    attach_kernels(model, bloom.parent, images_for((89,)))
    return model, folder / "m.onnx"


def job_for(model: onnx.ModelProto, path: Path, plan: Path, library: str | None = None) -> BuildJob:
    onnx.save(model, path)
    profile = build_module.make_profile(model, path.parent, {})
    shapes = {name: [list(s) for s in three] for name, three in profile.shapes.items()}
    return BuildJob(RTX, str(path), str(plan), shapes, (89,), library or str(LIBRARY), False, 2)


@needs_rtx
def test_a_wrong_version_attribute_is_noticed(bloom: Path, tmp_path: Path) -> None:
    model, path = attached_copy(bloom, tmp_path)
    set_attribute(fused_nodes(model)[0], "plugin_version", "2")
    with pytest.raises(PluginNotUsed, match="took the plugin for 1") as caught:
        run_child(["build"], RTX, job=job_for(model, path, tmp_path / "p").to_json())
    assert caught.value.exit_code == ExitCode.PLUGIN_NOT_USED


@needs_rtx
@pytest.mark.parametrize("damage", ["flipped", "cut", "absent"])
def test_damaged_kernels_are_noticed_before_anything_runs(bloom: Path, tmp_path: Path, damage: str) -> None:
    model, path = attached_copy(bloom, tmp_path)
    node = fused_nodes(model)[1]
    content = bytearray(next(a.s for a in node.attribute if a.name == ATTRIBUTE))
    if damage == "flipped":
        content[len(content) // 2] ^= 4
        set_attribute(node, ATTRIBUTE, bytes(content))
    elif damage == "cut":
        set_attribute(node, ATTRIBUTE, bytes(content[:-100]))
    else:
        kept = [a for a in node.attribute if a.name != ATTRIBUTE]
        del node.attribute[:]
        node.attribute.extend(kept)
    with pytest.raises(EngineFailed, match=r"checksum|cut off|no kernels are attached"):
        run_child(["build"], RTX, job=job_for(model, path, tmp_path / "p").to_json())


@needs_rtx
def test_a_library_that_is_no_plugin_library_is_refused(bloom: Path, tmp_path: Path) -> None:
    model, path = attached_copy(bloom, tmp_path)
    empty = tmp_path / "libempty.so"
    empty.write_bytes(shared_object("libempty.so", "libc.so.6", 62))
    with pytest.raises((PluginNotUsed, EngineFailed), match="plugin"):
        run_child(["build"], RTX, job=job_for(model, path, tmp_path / "p", str(empty)).to_json())


@needs_rtx
def test_without_function_bodies_the_plugin_still_works(bloom: Path, tmp_path: Path) -> None:
    """What a TensorRT before 10.7 would need."""
    model, path = attached_copy(bloom, tmp_path)
    remove_functions(model)
    assert not model.functions
    assert len(run_child(["build"], RTX, job=job_for(model, path, tmp_path / "p").to_json())["plugin_layers"]) == 2


@needs_rtx
def test_a_full_disk_is_one_error(bloom: Path, tmp_path: Path) -> None:
    model, path = attached_copy(bloom, tmp_path)
    job = job_for(model, path, Path("/dev/full"))
    with pytest.raises(EngineFailed, match="No space left"):
        run_child(["build"], RTX, job=job.to_json())


@needs_rtx
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--opt-shapes", "ids:1x8"], ExitCode.USAGE),
        (["--opt-shapes", "input_ids:8"], ExitCode.USAGE),
        (["--target", "sm_90", "--backend", RTX], ExitCode.USAGE),
        (["--target", "sm_75"], ExitCode.USAGE),
    ],
)
def test_nonsense_is_refused_before_anything_heavy(
    bloom: Path, tmp_path: Path, arguments: list[str], code: ExitCode, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "m.engine"
    assert main([str(bloom), "--engine", str(plan), *arguments]) == code
    assert "compiling" not in capsys.readouterr().err
    assert litter(tmp_path) == []


def test_the_engine_needs_a_place(bloom: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        build_engine(bloom, tmp_path / "nowhere" / "m.engine", EngineOptions())
    with pytest.raises(UsageError, match="is the model itself"):
        build_engine(bloom, bloom, EngineOptions())


def test_a_folder_that_cannot_be_written_is_one_error(
    bloom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = build_module.hidden.make_folder

    def full(wanted: Path) -> object:
        if wanted.parent != tmp_path:
            return real(wanted)  # temporary files
        raise OSError(28, "No space left on device", str(tmp_path))

    pretend(tmp_path, monkeypatch, version="1.7.1")
    monkeypatch.setattr(build_module.hidden, "make_folder", full)
    for strategy in ("native", "auto"):
        with pytest.raises(UsageError, match="No space left on device"):
            build_engine(bloom, tmp_path / "m.engine", EngineOptions(backend=RTX, strategy=strategy))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(EngineFailed, match=r"No space left on device.*TMPDIR"):
        build_engine(bloom, tmp_path / "m.engine", EngineOptions(backend=RTX))


@needs_rtx
@pytest.mark.skipif(os.name != "posix", reason="signals and locks as on POSIX")
def test_a_build_that_is_killed_leaves_nothing_that_stays(bloom: Path, tmp_path: Path) -> None:
    """Killed at random moments: the engine is whole, and the next build removes what was left, the child's as well."""
    model = tmp_path / "model" / "m.onnx"
    model.parent.mkdir()
    options = {"save_as_external_data": True, "location": "m.data", "size_threshold": 256, "convert_attribute": False}
    onnx.save(onnx.load(bloom), model, **options)
    plan = tmp_path / "m.engine"
    command = [sys.executable, "-m", "alibi_rewriter", str(model), "--engine", str(plan), "--strategy", "native"]
    command += ["--backend", RTX, "--target", "sm_89"]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    size = plan.stat().st_size
    left = 0
    for moment in (0.2, 0.6, 1.0):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and not litter(tmp_path, "m.engine", "model") and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(moment)
        process.kill()
        process.wait()
        left += len(litter(tmp_path, "m.engine", "model")) + len(litter(model.parent, "m.onnx", "m.data"))
        assert plan.stat().st_size == size
    assert left, "not one kill left anything: the moments are badly chosen"
    deadline = time.monotonic() + 120
    while True:  # the children of those that were killed go on for a while
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        found = litter(tmp_path, "m.engine", "model") + litter(model.parent, "m.onnx", "m.data")
        if not found:
            break
        assert time.monotonic() < deadline, found


@needs_rtx
def test_a_model_with_external_data_is_built_in_its_folder(bloom: Path, tmp_path: Path) -> None:
    model = tmp_path / "model" / "m.onnx"
    model.parent.mkdir()
    onnx.save(
        onnx.load(bloom),
        model,
        save_as_external_data=True,
        location="m.data",
        size_threshold=256,
        convert_attribute=False,
    )
    plan = tmp_path / "m.engine"
    facts = build_engine(model, plan, EngineOptions(backend=RTX, targets=(89,)))
    assert facts.found == 2
    assert litter(model.parent) == ["m.data", "m.onnx"]
    assert litter(tmp_path) == ["m.engine", "model"]


def test_a_model_in_the_place_of_the_engine_is_explained(bloom: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bloom), "--engine", "other.onnx"]) == ExitCode.USAGE
    assert "Put MODEL first" in capsys.readouterr().err


def test_a_model_without_fused_nodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="Rewrite it first"):
        build_engine(DATA / "jina__v2_sdpa_dynamo18_dyn.onnx", tmp_path / "m.engine", EngineOptions())


def test_an_installation_without_the_library_says_so(
    bloom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path, monkeypatch, version="1.7.1")
    monkeypatch.setattr(build_module, "library_path", lambda: None)
    with pytest.raises(PluginNotUsed, match=r"no C\+\+ compiler"):
        build_engine(bloom, tmp_path / "m.engine", EngineOptions(backend=RTX, targets=(89,)))


def pretend(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, version: str, body: str = "", name: str = "tensorrt_rtx"
) -> None:
    """A stand-in for TensorRT in the child process: its version, and what happens when a builder is made."""
    package = folder / "stand-in"
    package.mkdir(exist_ok=True)
    text = f"""
        import ctypes, os, signal
        real = ctypes.CDLL  # the parser's core library is taken for found
        ctypes.CDLL = lambda name, *a, **k: None if name == {SONAME!r} else real(name, *a, **k)
        __version__ = "{version}"
        class LayerType: PLUGIN_V3 = 1
        class ILogger:
            class Severity: ERROR, WARNING = 1, 2
        def Builder(logger):
            {body or "raise RuntimeError('not built')"}
        def get_plugin_registry():
            class Registry:
                def load_library(self, path): return 1
                def get_creator(self, *names): return 1
            return Registry()
    """
    (package / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(package))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.abort()", "SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed"),
        ("os._exit(3)", "status 3"),
        ("raise MemoryError", "memory"),
        ("raise RuntimeError('no luck')", "no luck"),
    ],
)
def test_a_child_that_dies_becomes_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    pretend(tmp_path, monkeypatch, version="1.7.1", body=body)
    job = BuildJob(RTX, "m.onnx", str(tmp_path / "p"), {}, (89,), "lib.so", False, 1)
    with pytest.raises(EngineFailed, match=message):
        run_child(["build"], RTX, job=job.to_json())
    assert not (tmp_path / "p").exists()


def test_a_version_without_plugins_is_refused(bloom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, version="1.4.0.76")
    with pytest.raises(
        EngineFailed, match=r"1\.4\.0\.76 does not work with the plugin: it takes no plugins; 1\.7 is the first"
    ):
        build_engine(bloom, tmp_path / "m.engine", EngineOptions(backend=RTX))


def test_a_missing_backend_names_its_cure(bloom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, version="1.7.1")
    (tmp_path / "stand-in" / "tensorrt_rtx.py").write_text("raise ImportError('no such package')")
    (tmp_path / "stand-in" / "tensorrt.py").write_text("raise ImportError('no such package')")
    with pytest.raises(MissingDependency, match="pip install 'tensorrt-rtx-cu13"):
        build_engine(bloom, tmp_path / "m.engine", EngineOptions(backend=RTX))
    with pytest.raises(MissingDependency, match="no TensorRT is installed"):
        build_engine(bloom, tmp_path / "m.engine", EngineOptions())


def test_full_tensorrt_is_preferred_and_old_ones_get_no_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alibi_rewriter.engine.backends import choose

    for version, functions in (("10.3.0", True), ("10.9.0.34", False), ("11.1.0", False)):
        pretend(tmp_path, monkeypatch, version=version, name="tensorrt")
        backend = choose("auto", plugin=True)
        assert (backend.name, backend.version, backend.needs_no_functions) == ("tensorrt", version, functions)


@needs_rtx
def test_doctor_finds_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == ExitCode.DONE
    text = capsys.readouterr().out
    assert "ok  plugin library" in text
    assert "self-test passed" in text
    assert "ok  tensorrt-rtx" in text


def test_doctor_names_the_cure_of_each_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alibi_rewriter.engine import doctor

    pretend(tmp_path, monkeypatch, version="1.4.0")
    monkeypatch.setattr(doctor, "library_path", lambda: None)
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    found = {finding.subject: finding for finding in doctor.examine()}
    for subject in ("triton", "onnxruntime", "plugin library", "tensorrt-rtx"):
        assert not found[subject].works
        assert "install" in found[subject].cure
    text = doctor.to_text(list(found.values()))
    assert all(finding.cure in text for finding in found.values() if not finding.works)
