"""Graphs of onnx-graphsurgeon in, graphs out.  Users of files do not need the package."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter import Options, rewrite
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.rewriter.pipeline import default_target
from textgraphs import REFUSED, feeds_of, fused, read, run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["forms/linear_causal", "positions/counted", "refusals/quadratic"])
def test_a_graph_in_and_a_graph_out(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gs = pytest.importorskip("onnx_graphsurgeon")
    monkeypatch.chdir(tmp_path)
    original = read(name)
    graph = gs.import_onnx(original)
    before = len(graph.nodes)
    result = rewrite(graph, options=Options(verify=False))
    assert len(graph.nodes) == before and list(tmp_path.iterdir()) == []
    made = gs.export_onnx(result.graph(), do_type_check=False)
    onnx.checker.check_model(made)
    if name in REFUSED:
        assert result.exit_code is ExitCode.NOT_REWRITTEN and fused(made) == []
        return
    assert result.exit_code is ExitCode.DONE and len(fused(made)) == len(result.fused) == 1
    feeds = feeds_of(original, 0)
    np.testing.assert_allclose(run(made, feeds)[0], run(original, feeds)[0], atol=2e-5)


def test_a_graph_is_verified_and_written_where_it_is_asked_for(tmp_path: Path) -> None:
    gs = pytest.importorskip("onnx_graphsurgeon")
    pytest.importorskip("onnxruntime")
    target = default_target(tmp_path / "m.onnx")
    result = rewrite(gs.import_onnx(read("forms/linear")), target)
    assert result.verification is not None and result.verification.passed
    assert fused(onnx.load(target)) == ["AlibiAttentionLinear"]


def test_nobody_needs_the_package(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(read("forms/linear"), path)
    code = (
        "import sys; sys.modules['onnx_graphsurgeon'] = None\n"
        "from alibi_rewriter import Options, rewrite\n"
        "from alibi_rewriter.base.errors import MissingDependency\n"
        f"result = rewrite({str(path)!r}, {str(path)!r} + '.out', options=Options(verify=False))\n"
        "assert result.output is not None\n"
        "try:\n    result.graph()\n"
        "except MissingDependency as error:\n    sys.exit('pip install' not in str(error))\n"
        "sys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_first_command_installs_what_it_needs_and_no_more() -> None:
    """Packages of hundreds of megabytes are for engines only."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")

    def wanted(text: str) -> list[str]:
        return [line.split(">=")[0] for line in text.splitlines() if line.strip() and not line.startswith("#")]

    assert wanted(setup["options"]["install_requires"]) == ["numpy", "onnx"]
    extras = setup["options.extras_require"]
    assert wanted(extras["cpu"]) == ["onnxruntime"]
    assert wanted(extras["engine"]) == ["tensorrt-rtx-cu13", "triton"]
    assert wanted(extras["graphsurgeon"]) == ["onnx-graphsurgeon"]
    assert "'.[cpu]'" in (ROOT / "README.md").read_text(encoding="utf-8")
