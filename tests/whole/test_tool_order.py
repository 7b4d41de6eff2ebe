"""Other tools before and after `rewrite`: what docs/tool-order.md says of each is so.

Tools that are not installed skip their tests, with the reason.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import pytest
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.intact import check
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from slow import SLOW

onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tool-order.md"
MODEL = ROOT / "examples" / "bloom-tiny.onnx"
Tool = Callable[[Path, Path], None]


def needed(name: str) -> Any:
    """A module, or a skip that says what is missing.  Some tools of onnxruntime need torch."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} cannot be imported: {error}")


def onnxslim(source: Path, target: Path) -> None:
    onnx.save(needed("onnxslim").slim(str(source)), target)


def onnxsim(source: Path, target: Path) -> None:
    onnx.save(needed("onnxsim").simplify(onnx.load(source))[0], target)


def onnxscript(source: Path, target: Path) -> None:
    onnx.save(needed("onnxscript.optimizer").optimize(onnx.load(source)), target)


def onnxscript_without_inlining(source: Path, target: Path) -> None:
    onnx.save(needed("onnxscript.optimizer").optimize(onnx.load(source), inline=False), target)


def ir_passes(source: Path, target: Path) -> None:
    ir, common = needed("onnx_ir"), needed("onnx_ir.passes.common")
    model = ir.load(str(source))
    for step in (common.RemoveUnusedFunctionsPass(), common.RemoveUnusedNodesPass()):
        model = step(model).model
    ir.save(model, str(target))


def transformers_optimizer(source: Path, target: Path) -> None:
    optimize = needed("onnxruntime.transformers.optimizer").optimize_model
    optimize(str(source), "gpt2", 6, 48, opt_level=0).save_model_to_file(str(target))


def saved_by_a_session(source: Path, target: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def float16_of_onnxruntime(source: Path, target: Path) -> None:
    convert = needed("onnxruntime.transformers.float16").convert_float_to_float16
    onnx.save(convert(onnx.load(source)), target)


def float16_of_onnxconverter_common(source: Path, target: Path) -> None:
    convert = needed("onnxconverter_common.float16").convert_float_to_float16
    onnx.save(convert(onnx.load(source)), target)


def quantize_dynamic(source: Path, target: Path) -> None:
    needed("onnxruntime.quantization").quantize_dynamic(str(source), str(target))


def quantize_static(source: Path, target: Path) -> None:
    class Reader:
        """Two batches."""

        def __init__(self) -> None:
            self.left = [feeds(seed) for seed in range(2)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    needed("onnxruntime.quantization").quantize_static(str(source), str(target), Reader())


def four_bits(source: Path, target: Path) -> None:
    module = needed("onnxruntime.quantization.matmul_nbits_quantizer")
    quantizer = module.MatMulNBitsQuantizer(onnx.load(source), block_size=16, is_symmetric=True)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target))


def version_converter(source: Path, target: Path) -> None:
    onnx.save(onnx.version_converter.convert_version(onnx.load(source), 21), target)


def inliner(source: Path, target: Path) -> None:
    onnx.save(onnx.inliner.inline_local_functions(onnx.load(source)), target)


def graphsurgeon(source: Path, target: Path) -> None:
    gs = needed("onnx_graphsurgeon")
    onnx.save(gs.export_onnx(gs.import_onnx(onnx.load(source)).cleanup().toposort()), target)


INTACT, NARROWED, INLINED, WITHOUT_BODIES = "intact", "narrowed", "inlined", "bodies dropped"

AFTER: dict[Tool, str] = {
    onnxslim: INTACT,
    onnxsim: INTACT,
    onnxscript: INLINED,
    onnxscript_without_inlining: INTACT,
    ir_passes: INTACT,
    transformers_optimizer: INTACT,
    saved_by_a_session: INLINED,
    float16_of_onnxruntime: NARROWED,
    quantize_dynamic: INTACT,
    quantize_static: INTACT,
    four_bits: INTACT,
    version_converter: WITHOUT_BODIES,
    inliner: INLINED,
    graphsurgeon: INTACT,
}
"""What becomes of a rewritten file."""

BEFORE: dict[Tool, ExitCode] = dict.fromkeys([*AFTER, float16_of_onnxconverter_common], ExitCode.DONE)
BEFORE[quantize_static] = ExitCode.NOT_REWRITTEN
"""What `rewrite` says of the tool's result."""

CLOSE = {onnxslim, onnxsim, onnxscript_without_inlining, ir_passes, transformers_optimizer, graphsurgeon}
"""Tools that change no number."""


def feeds(seed: int = 0) -> dict[str, np.ndarray]:
    mask = np.ones((2, 9), np.int64)
    mask[1, :3] = 0
    return {"input_ids": np.random.default_rng(seed).integers(0, 20, (2, 9)), "attention_mask": mask}


def logits(path: Path) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds())[0], np.float64)[0]


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewritten") / "m.alibi.onnx"
    assert rewrite(MODEL, path, options=Options(verify=False)).output == path
    return path


def named(tool: Tool) -> str:
    return tool.__name__


@pytest.mark.parametrize("tool", AFTER, ids=named)
def test_after_rewrite(tool: Tool, rewritten: Path, tmp_path: Path) -> None:
    target = tmp_path / "after.onnx"
    tool(rewritten, target)
    found = check(target)
    wanted = AFTER[tool]
    problems = "\n".join(found.problems)
    if wanted == INTACT:
        assert (found.exit_code, found.found.total()) == (ExitCode.DONE, 2), problems
    else:
        assert found.exit_code is ExitCode.NOT_INTACT
    if wanted == NARROWED:
        assert "slopes" in problems and "float16 instead of float32" in problems
    if wanted == INLINED:
        assert "2 of 2 nodes" in problems and found.found.total() == 0
    if wanted == WITHOUT_BODIES:
        assert "function body" in problems and "is gone" in problems
        with pytest.raises(Exception, match="not a registered function"):
            logits(target)
        return
    got = logits(target)  # every other file loads and runs
    if tool in CLOSE or wanted == INLINED:
        assert np.abs(got - logits(MODEL)).max() < 1e-4
    if wanted == NARROWED:
        assert np.abs(got - logits(MODEL)).max() < 0.03


@pytest.mark.parametrize(
    "tool", [pytest.param(t, marks=SLOW) if t in (four_bits, version_converter) else t for t in BEFORE], ids=named
)
def test_before_rewrite(tool: Tool, tmp_path: Path) -> None:
    source, target = tmp_path / "before.onnx", tmp_path / "m.alibi.onnx"
    tool(MODEL, source)
    changes_numbers = tool not in CLOSE | {inliner, onnxscript, saved_by_a_session}
    result = rewrite(source, target, options=Options(verify=changes_numbers))
    assert result.exit_code is BEFORE[tool], [str(site.refusal) for site in result.analysis.sites]
    if result.output is not None:
        assert len(result.fused) == 2
        assert check(target).exit_code is ExitCode.DONE


def test_a_float16_model_keeps_its_slopes_wide_if_the_converter_comes_first(tmp_path: Path) -> None:
    source, target = tmp_path / "half.onnx", tmp_path / "half.alibi.onnx"
    float16_of_onnxruntime(MODEL, source)
    assert rewrite(source, target).output == target
    assert not check(target).problems
    assert np.abs(logits(target) - logits(MODEL)).max() < 0.03


@SLOW
def test_quantising_all_but_the_core_of_attention(tmp_path: Path) -> None:
    """The order for static quantisation: leave MatMul and Softmax of the scores out, or rewrite first."""
    source = tmp_path / "static.onnx"
    quantization = needed("onnxruntime.quantization")
    original = onnx.load(MODEL)
    weights = {tensor.name for tensor in original.graph.initializer}
    projections = [n.name for n in original.graph.node if n.op_type == "MatMul" and set(n.input) & weights]

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left = [feeds(0)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    quantization.quantize_static(str(MODEL), str(source), Reader(), nodes_to_quantize=projections)
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(source).graph.node)
    result = rewrite(source, tmp_path / "m.alibi.onnx")
    assert (result.exit_code, len(result.fused)) == (ExitCode.DONE, 2)


def test_the_page_has_a_row_for_every_tool() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = {
        cells[0]: cells[1:]
        for line in text.splitlines()
        if line.startswith("| `") and (cells := [cell.strip() for cell in line.strip("|").split("|")])
    }
    titles = {
        onnxslim: "`onnxslim`",
        onnxsim: "`onnxsim`",
        onnxscript: "`onnxscript.optimizer.optimize`",
        onnxscript_without_inlining: "`onnxscript.optimizer.optimize(inline=False)`",
        ir_passes: "`onnx_ir.passes.common`",
        transformers_optimizer: "`onnxruntime.transformers.optimizer`, `opt_level=0`",
        saved_by_a_session: "`SessionOptions.optimized_model_filepath`",
        float16_of_onnxruntime: "`onnxruntime.transformers.float16`",
        quantize_dynamic: "`quantize_dynamic`",
        quantize_static: "`quantize_static`",
        four_bits: "`MatMulNBitsQuantizer`",
        version_converter: "`onnx.version_converter`",
        inliner: "`onnx.inliner`",
        graphsurgeon: "`onnx_graphsurgeon`",
    }
    assert set(titles) == set(AFTER)
    for tool, title in titles.items():
        before, after = rows[title][:2]
        assert re.match("fused" if BEFORE[tool] is ExitCode.DONE else "refused", before), title
        assert after.startswith(AFTER[tool]), title


def test_blocked_nodes_stay_wide_in_a_conversion_after_rewriting(rewritten: Path, tmp_path: Path) -> None:
    module = needed("onnxruntime.transformers.float16")
    model = onnx.load(rewritten)
    fused = sorted({node.op_type for node in model.graph.node if node.domain == "alibi"})
    target = tmp_path / "mixed.onnx"
    onnx.save(module.convert_float_to_float16(model, op_block_list=[*module.DEFAULT_OP_BLOCK_LIST, *fused]), target)
    assert check(target).problems == []
    assert np.abs(logits(target) - logits(MODEL)).max() < 0.03
