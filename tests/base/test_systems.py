"""Other systems than Linux: what works there, and one sentence for what does not.  The platform is a stand-in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import alibi_rewriter
import pytest
from alibi_rewriter import ExitCode, UsageError, plugin, rewrite
from alibi_rewriter.base import systems
from alibi_rewriter.cli import main
from alibi_rewriter.engine import doctor
from alibi_rewriter.plugin import custom_ops

BLOOM = Path(__file__).parents[2] / "examples" / "bloom-tiny.onnx"
Printed = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@pytest.fixture
def on(monkeypatch: Patch, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Another system, where nothing was compiled."""
    platform: str = request.param
    monkeypatch.setattr(systems, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(plugin, "__file__", str(tmp_path / "plugin" / "__init__.py"))
    monkeypatch.setattr(doctor, "library_path", lambda: None)
    return platform


WINDOWS = pytest.mark.parametrize("on", ["win32", "cygwin"], indirect=True)
MACOS = pytest.mark.parametrize("on", ["darwin"], indirect=True)


@WINDOWS
@pytest.mark.parametrize("words", [[str(BLOOM)], ["explain", str(BLOOM)], ["bench", str(BLOOM)], ["check", str(BLOOM)]])
def test_windows_is_refused_with_a_sentence(on: str, words: list[str], capsys: Printed) -> None:
    assert main(words) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith("error: alibi-rewriter does not run on ") and error.count("\n") == 1
    assert "WSL or a Linux container" in error


@WINDOWS
def test_python_is_refused_there_too(on: str) -> None:
    with pytest.raises(UsageError, match="does not run on"):
        rewrite(BLOOM)


@WINDOWS
def test_help_and_completion_work_everywhere(on: str, capsys: Printed) -> None:
    for words in (["--help"], ["--version"], ["completion", "bash"], ["doctor"]):
        assert main(words) == 0
    assert "not here: its libraries are built for Linux only, and this is " in capsys.readouterr().out


@MACOS
def test_macos_rewrites_and_verifies_and_says_that_there_are_no_kernels(
    on: str, tmp_path: Path, capsys: Printed
) -> None:
    pytest.importorskip("onnxruntime")
    assert main([str(BLOOM), "-o", str(tmp_path / "o.onnx")]) == 0
    out = capsys.readouterr().out
    assert "verification passed" in out and "g++" not in out
    assert "fused nodes run as their function bodies: its libraries are built for Linux only, and this is macOS" in out


@MACOS
@pytest.mark.parametrize("option", ["--engine", "--embed-kernels"])
def test_engines_are_refused_before_anything_is_done(on: str, option: str, tmp_path: Path, capsys: Printed) -> None:
    output = tmp_path / "o.onnx"
    assert main([str(BLOOM), "-o", str(output), option]) == ExitCode.USAGE
    assert f"{option} needs Linux" in capsys.readouterr().err and not output.exists()
    with pytest.raises(UsageError, match=r"build_engine\(\) needs Linux"):
        alibi_rewriter.build_engine(BLOOM)


@MACOS
def test_the_session_says_why_it_has_no_kernels(on: str) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(custom_ops.NoLibrary, match=r"built for Linux only, and this is macOS\. Use a Linux machine"):
        custom_ops.get_library_path()


def test_linux_is_no_exception() -> None:
    systems.check_system()
    systems.check_kernels("--engine")
    assert systems.has_libraries()
