"""The three pages that take a reader from a file to a result: every command of a page runs, in order, in one folder."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from alibi_rewriter.plugin import library_path
from slow import BESIDE

ROOT = Path(__file__).parents[2]
NEEDS_A_GPU = "<!-- needs a GPU -->\n"
PAGES = {"start-laptop": ("onnxruntime",), "start-gpu": ("onnxruntime", "triton"), "start-tensorrt": ("tensorrt_rtx",)}
"""What each page needs besides the package."""


@dataclass(frozen=True)
class Command:
    """A command of a page, and what the page shows of it."""

    words: str
    shown: str
    needs_a_gpu: bool


def commands(page: str) -> list[Command]:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found = []
    for mark, block in re.findall(rf"({re.escape(NEEDS_A_GPU)})?```console\n(.*?)```", text, flags=re.DOTALL):
        assert block.startswith("$ ")
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            words, _, shown = part.partition("\n")
            found.append(Command(words, shown, bool(mark)))
    return found


def shape(text: str, command: str) -> str:
    """What does not differ between machines; of a measurement only which lines and columns there are."""
    if command.startswith("rewrite bench"):
        text = re.sub(r"^  \?: .*\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"[\d.]+ (?:ms|s|MiB|GiB)\b|[\d.]+ x\??", "#", text)
        return re.sub(r"onnxruntime [\d.]+", "onnxruntime #", re.sub(r" +", " ", text)).strip()
    measured = r"\d+\.\d+e[-+]\d+|\d+\.\d+ s\b|\d+(\.\d+)? [KM]iB\b|\(\d+ bytes\)|(?<=tensorrt-rtx )[\d.]+"
    measured += r"|(?<=\) at output )'[^']+'"
    return re.sub(measured, "#", text).rstrip()


def has_a_gpu() -> bool:
    """Whether onnxruntime has its CUDA provider and a driver is there."""
    if importlib.util.find_spec("onnxruntime") is None or not Path("/dev/nvidiactl").exists():
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def run(command: Command, folder: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command.words)
    start = {"rewrite": [sys.executable, "-m", "alibi_rewriter"], "python": [sys.executable]}[words[0]]
    return subprocess.run(
        [*start, *words[1:]], cwd=folder, capture_output=True, text=True, timeout=600, check=False, env={**os.environ}
    )


def in_a_clone(folder: Path) -> Path:
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("*.alibi.onnx", "*.engine"))
    return folder


@pytest.mark.parametrize("page", [pytest.param(p, marks=BESIDE) if p == "start-gpu" else p for p in PAGES])
def test_a_whole_session(page: str, tmp_path: Path) -> None:
    for module in PAGES[page]:
        pytest.importorskip(module)
    if library_path() is None:
        pytest.skip("the libraries were not built: no C++ compiler")
    folder = in_a_clone(tmp_path)
    there = [command for command in commands(page) if not command.needs_a_gpu]
    assert len(there) >= 2
    for command in there:
        done = run(command, folder)
        assert done.returncode == 0, done.stderr
        assert shape(done.stdout, command.words) == shape(command.shown, command.words)


@pytest.mark.gpu
@pytest.mark.parametrize("page", ["start-gpu", "start-tensorrt"])
def test_the_part_that_needs_a_gpu(page: str, tmp_path: Path) -> None:
    if not has_a_gpu():
        pytest.skip("needs a GPU and onnxruntime-gpu; test_a_whole_session ran the part of this page that does not")
    folder = in_a_clone(tmp_path)
    for command in commands(page):
        done = run(command, folder)
        assert done.returncode == 0, done.stderr


def test_every_page_is_a_session() -> None:
    """A measurement's times are not compared, but its lines are.  Every such page is tested."""
    assert sorted(PAGES) == sorted(path.stem for path in (ROOT / "docs").glob("start-*.md"))
    measured = (
        "  1 x 64   27.1 ms  73 MiB   9.7 ms  0.73 x?  72 MiB\n  ?: the machine is noisy\n  our kernels run all\n"
    )
    steady = "  1 x 64    1.2 s  1.1 GiB   30 ms  2.00 x  80 MiB\n  our kernels run all\n"
    assert shape(measured, "rewrite bench m.onnx") == shape(steady, "rewrite bench m.onnx")
    assert shape(measured, "rewrite bench m.onnx") != shape(steady.replace("1 x 64", "1 x 65"), "rewrite bench m.onnx")
