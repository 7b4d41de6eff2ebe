"""The third run of the verification: original = specification = kernel, and what is said where that is not so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from alibi_rewriter import Options, rewrite
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.rewriter import compared
from alibi_rewriter.runtime import NoLibrary, get_library_path, gpu
from alibi_rewriter.verify import Verification, kernels
from alibi_rewriter.verify.errors import KernelsMissingError, LimitError
from alibi_rewriter.verify.run import kernels as run_kernels
from alibi_rewriter.verify.run import runtime
from alibi_rewriter.verify.run.kernels import CpuKernels
from test_verify import FAMILY, Tiny, run_verify

try:
    get_library_path()
except NoLibrary:
    pytest.skip("the library was not built: no C++ compiler", allow_module_level=True)

EXAMPLE = Path(__file__).parents[2] / "examples" / "bloom-tiny.onnx"


def check(folder: Path, tiny: Tiny, **options: object) -> Verification:
    return run_verify(folder, tiny.original(), tiny.rewritten(), kernels="auto", **options)


@pytest.mark.parametrize("name", FAMILY)
def test_original_specification_and_kernel_agree(name: str, tmp_path: Path) -> None:
    result = check(tmp_path, FAMILY[name])
    assert result.status == "passed"
    (found,) = result.kernels
    assert (found.where, found.passed, found.own_type) == ("cpu", True, None)
    assert [one.name for one in found.sets] == [one.name for one in result.sets]
    assert any(entry.compared for one in found.sets for entry in one.outputs)
    assert found.power is not None and found.power.counted > 0 and not found.power.weak
    assert found.summary().startswith("original = specification = kernel")


def test_mutants_run_on_the_kernel_as_well(tmp_path: Path) -> None:
    result = check(tmp_path, FAMILY["causal positions mask"])
    assert result.power is not None
    (found,) = result.kernels
    assert found.power is not None
    outcomes = {mutant.kind: mutant.verdict for mutant in found.power.mutants}
    assert outcomes.keys() == {mutant.kind for mutant in result.power.mutants}
    assert outcomes.pop("row_position_offset_by_one") == "not_applicable", "a kernel's rows cannot be moved"
    assert outcomes["causality_changed"] == outcomes["key_position_offset_by_one"] == "killed"


def test_the_report_holds_it(tmp_path: Path) -> None:
    first, second = (check(tmp_path, FAMILY["causal mask"]).to_json()["kernels"] for _ in range(2))
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)
    assert list(first[0]) == ["where", "nodes", "passed", "summary", "skipped_reason", "sets", "power", "own_type"]
    assert run_verify(tmp_path, FAMILY["causal"].original(), FAMILY["causal"].rewritten()).to_json()["kernels"] == []


class Wrong(CpuKernels):
    """Kernels that scale scores by one percent more than they are asked to."""

    def ready(self, model: onnx.ModelProto, folder: Path | None) -> tuple[bytes, list[Any]]:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        for node in changed.graph.node:
            for attribute in node.attribute:
                if node.domain == "alibi" and attribute.name == "scale":
                    attribute.f *= 1.01
        return super().ready(changed, folder)


class Missing(CpuKernels):
    """Kernels that take no node."""

    def ready(self, model: onnx.ModelProto, folder: Path | None) -> tuple[bytes, list[Any]]:
        raise LimitError("fused node 'x': there are no kernels for it")


def test_a_kernel_that_computes_something_else_fails(tmp_path: Path) -> None:
    result = check(tmp_path, FAMILY["causal mask"], known=(Wrong(),))
    assert all(one.passed for one in result.sets), "the graph is right"
    assert result.status == "failed" and "failed: the kernel differs" in result.summary()
    assert result.kernels[0].power is None


def test_a_node_that_the_kernels_do_not_take_is_no_agreement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "claimed_here", lambda: 0)
    result = check(tmp_path, FAMILY["causal"])
    assert result.status == "failed"
    assert "0 of 1 fused nodes run on the kernels" in result.summary()


def test_16_bit_models_run_on_the_kernel_in_their_own_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Tiny(dtype=np.float16, mask=True, scale=0.34375)
    result = check(tmp_path, tiny)
    (found,) = result.kernels
    assert result.status == "passed" and found.own_type is not None and result.precision is not None
    for name, error in found.own_type.items():
        assert 0 < error < 4 * result.precision.rewritten[name] + 2.0**-8
    assert "in 16 bits" in found.summary()
    monkeypatch.setattr(kernels, "errors_of", lambda *_, **__: dict.fromkeys(found.own_type, 0.1))
    result = check(tmp_path, tiny)
    assert result.status == "failed" and "1.0e-01 of its largest magnitude" in result.summary()


def test_without_the_library_a_note_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise NoLibrary("it was not built")

    monkeypatch.setattr(run_kernels, "get_library_path", missing)
    result = check(tmp_path, FAMILY["causal"])
    assert result.status == "passed" and not result.kernels
    assert "the rewritten model was not run on the kernels of the CPU: it was not built" in result.notes
    with pytest.raises(KernelsMissingError, match="--verify-on cpu: it was not built"):
        run_verify(tmp_path, FAMILY["causal"].original(), FAMILY["causal"].rewritten(), kernels="cpu")


def test_asked_for_a_gpu_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "devices", list)
    models = FAMILY["causal"].original(), FAMILY["causal"].rewritten()
    with pytest.raises(KernelsMissingError, match=r"--verify-on cuda: (this onnxruntime has no CUDA|there is no GPU)"):
        run_verify(tmp_path, *models, kernels="cuda", known=(CpuKernels(), gpu.CudaKernels()))
    with pytest.raises(KernelsMissingError, match=r"--verify-on cuda: it is not known here"):
        run_verify(tmp_path, *models, kernels="cuda")
    result = run_verify(tmp_path, *models, kernels="auto", known=(CpuKernels(), gpu.CudaKernels()))
    assert [entry.where for entry in result.kernels] == ["cpu"]


def test_a_node_without_kernels_is_left_out_with_the_reason(tmp_path: Path) -> None:
    result = check(tmp_path, FAMILY["causal"], known=(Missing(),))
    assert result.status == "passed" and result.kernels[0].skipped_reason is not None
    assert "no kernels for it" in result.kernels[0].summary()


def test_sites_alone_run_on_the_kernels_as_well(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    shutil.copy2(EXAMPLE, source)
    result = rewrite(source, tmp_path / "out.onnx", options=Options(verify_sites=True)).verification
    assert result is not None and result.by_sites is not None and result.status == "passed"
    (found,) = result.kernels
    assert (found.where, found.nodes, found.power) == ("cpu", 2, None)
    assert [one.name for one in found.sets] == [one.name for one in result.sets]
    assert any(entry.compared for one in found.sets for entry in one.outputs)


def test_a_site_that_a_kernel_computes_otherwise_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "model.onnx"
    shutil.copy2(EXAMPLE, source)
    monkeypatch.setattr(compared, "CpuKernels", Wrong)
    result = rewrite(source, tmp_path / "out.onnx", options=Options(verify_sites=True))
    assert result.exit_code is ExitCode.VERIFICATION_FAILED and result.output is None
    assert result.verification is not None and "the kernel differs" in result.verification.summary()
