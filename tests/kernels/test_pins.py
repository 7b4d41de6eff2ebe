"""The hashes that pin the kernels: what they are of, which kernels have them, and that a difference is noticed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from slow import SLOW

ROOT = Path(__file__).parent.parent.parent
COMMAND = ROOT / "benchmarks" / "pins" / "kernels.py"
COMBINE = "^combine-sm80.* AlibiAttentionCausal float16 d64 no mask$"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(COMMAND), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def names() -> list[str]:
    """All kernels that are pinned."""
    return run("list").stdout.splitlines()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hashes of one small kernel."""
    file = tmp_path_factory.mktemp("pins") / "pins.json"
    assert run("record", str(file), "--only", COMBINE).stdout == "1 kernels recorded\n"
    return file.read_text()


def test_every_kernel_of_every_engine_is_pinned(names: list[str]) -> None:
    assert len(set(names)) == len(names)
    kinds = {tuple(name.split("-")[:3]) for name in names}
    for arch in (80, 86, 89, 90, 100, 120):
        assert {(role, f"sm{arch}", "portable") for role in ("prefill", "decode", "decode_split", "combine")} <= kinds
    assert ("prefill", "sm90", "hopper") in kinds
    assert {role for role, _, _ in kinds} >= {"blocks", "extend", "key_norms", "reach"}


@pytest.mark.parametrize("member", ["", "BooleanMask", "AdditiveMask", "Window", "WindowBooleanMask"])
def test_every_kind_of_mask_is_pinned_on_hopper(names: list[str], member: str) -> None:
    for form in ("Causal", "Linear", "Symmetric"):
        for dtype in ("float16", "bfloat16"):
            found = [n for n in names if "-hopper-" in n and f" AlibiAttention{form}{member} {dtype} " in n]
            rows = {"-rows" in n.split()[0] for n in found}
            assert rows >= ({True} if member else {False}), (form, member, dtype)


@SLOW
def test_a_difference_is_noticed_and_named(recorded: str, tmp_path: Path) -> None:
    file = tmp_path / "pins.json"
    file.write_text(recorded)
    document: dict[str, Any] = json.loads(recorded)
    ((name, pins),) = document["kernels"].items()
    same = run("compare", str(file), "--only", COMBINE)
    assert (same.returncode, same.stdout) == (
        0, "1 of 1 kernels compared, 1 by their first representation; 0 differ\n",
    )  # fmt: skip
    # Another way to the same PTX.
    pins["ir"] = "0" * 64
    file.write_text(json.dumps(document))
    shorter = run("compare", str(file), "--only", COMBINE)
    assert shorter.returncode == 0
    assert f"{name}: only the first representation differs" in shorter.stdout
    pins["ptx_sha256"] = "0" * 64
    file.write_text(json.dumps(document))
    other = run("compare", str(file), "--only", COMBINE)
    assert other.returncode == 1
    assert f"{name}: the PTX differs" in other.stdout
    del pins["ptx_sha256"]
    file.write_text(json.dumps(document))
    unknown = run("compare", str(file), "--only", COMBINE)
    assert unknown.returncode == 1
    assert f"{name}: ir differs, and the PTX was not recorded" in unknown.stdout


def test_a_hash_is_that_of_an_image(recorded: str, tmp_path: Path) -> None:
    from alibi_rewriter.kernels.compile.compiler import Worker, job_of, jobs
    from alibi_rewriter.kernels.requests import BufferLayout, KernelRequest

    (pins,) = json.loads(recorded)["kernels"].values()
    request = KernelRequest("AlibiAttentionCausal", "float16", 64, 64)
    found = [x for x in jobs(request, [80], [BufferLayout()], False) if x[0].role == "combine"]
    with Worker() as worker:
        image = worker.compile(job_of(request, *found[0], tmp_path))["image"]
    assert image["ptx_sha256"] == pins["ptx_sha256"]


def test_another_compiler_is_no_difference_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "pins.json"
    file.write_text(json.dumps({"triton": "0.0", "kernels": {}}))
    done = run("compare", str(file))
    assert done.returncode == 1
    assert "was recorded with Triton 0.0" in done.stderr
