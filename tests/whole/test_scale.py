"""Size: weights are not loaded, large tables are fitted in pieces, time grows with the number of layers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.rewriter.interpret.tables import blocks
from alibi_rewriter.rewriter.interpret.tables.fitting import fit
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from large import deep, external, sparse_file
from onnx import TensorProto, helper, numpy_helper
from textgraphs import read

QUICK = Options(verify=False)
MEGABYTE = 1 << 20


MEASURE = r"""
import re, sys
from pathlib import Path
from alibi_rewriter import Options, rewrite
target = Path(sys.argv[1]).with_suffix(".alibi.onnx")
result = rewrite(sys.argv[1], target, options=Options(verify=False))
# Not ru_maxrss, which a process inherits from the one that started it.
print(len(result.fused), int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text()).group(1)) // 1024)
"""


def measured(path: Path) -> tuple[int, int]:
    """Fused sites and peak MiB of a pass in a process of its own."""
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    fused, peak = done.stdout.split()
    return int(fused), int(peak)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and sparse files")
def test_weights_of_gigabytes_are_neither_loaded_nor_rewritten(tmp_path: Path) -> None:
    """6 GB of weights beside an attention: the pass stays below 400 MB and shares the data file."""
    made = read("forms/linear_causal")
    count, size = 6, 1 << 30
    for k in range(count):
        made.graph.initializer.append(external(f"w{k}", [8, size // 32], TensorProto.FLOAT, "weights.bin", k * size))
        made.graph.node.append(helper.make_node("MatMul", ["y", f"w{k}"], [f"z{k}"]))
        made.graph.output.append(helper.make_tensor_value_info(f"z{k}", TensorProto.FLOAT, None))
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    sparse_file(tmp_path / "weights.bin", count * size)
    before = (tmp_path / "weights.bin").stat()
    fused, peak = measured(path)
    assert fused == 1
    assert peak < 400, f"{peak} MiB"
    after = (tmp_path / "weights.bin").stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_blocks) == (before.st_ino, before.st_mtime_ns, before.st_blocks)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.alibi.onnx", "model.onnx", "weights.bin"]


def with_table(folder: Path, data: np.ndarray) -> Path:
    """A causal attention that adds a slice of an external table [H, S, S]."""
    heads, length = data.shape[0], data.shape[-1]
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[B,{heads},S,8] q, float[B,{heads},S,8] k, float[B,{heads},S,8] v) => (float[B,{heads},S,8] y)
    <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}}>
    {{
        shape = Shape (q)
        size = Gather <axis = 0> (shape, two)
        rows = Slice (table, zero, size, one)
        bias = Slice (rows, zero, size, two)
        kt = Transpose <perm = [0, 1, 3, 2]> (k)
        qk = MatMul (q, kt)
        s = Add (qk, bias)
        p = Softmax <axis = -1> (s)
        y = MatMul (p, v)
    }}
    """
    made = onnx.parser.parse_model(text)
    made.graph.initializer.append(external("table", [heads, length, length], TensorProto.FLOAT, "table.bin"))
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    data.astype(np.float32).tofile(folder / "table.bin")
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_table_of_a_quarter_gigabyte_is_fitted_in_pieces(tmp_path: Path) -> None:
    """The whole table is compared, but never in memory as a whole; a float64 copy of it would be half a gigabyte."""
    length = 4096
    distance = -np.abs(np.arange(length)[:, None] - np.arange(length)).astype(np.float32)
    table = np.empty((4, length, length), np.float32)
    for head in range(4):
        table[head] = distance * 2.0 ** -(head + 1)
    path = with_table(tmp_path, table)
    del table
    fused, peak = measured(path)
    assert fused == 1
    assert peak < 400, f"{peak} MiB"


@pytest.mark.parametrize("place", [(2, 700, 11), (0, 0, 0), (1, 599, 799), (2, 312, 600)])
def test_one_wrong_entry_anywhere_in_a_large_table_refuses(tmp_path: Path, place: tuple[int, int, int]) -> None:
    """The guess is made from some rows; the verdict is over all entries."""
    length = 800
    table = -np.abs(np.arange(length)[:, None] - np.arange(length)) * np.array([0.5, 0.25, 0.125])[:, None, None]
    sound = rewrite(with_table(tmp_path, table), options=QUICK)
    assert sound.exit_code is ExitCode.DONE
    table[place] += 0.5
    refused = rewrite(with_table(tmp_path, table), options=QUICK)
    assert refused.exit_code is ExitCode.NOT_REWRITTEN


@pytest.mark.parametrize("form", ["distance", "affine", "ramp", "hidden", "shifted", "end"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_sampled_rows_give_the_same_formula(form: str, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large tables are guessed from some rows and small ones from all.  Both find the same."""
    i, j = np.arange(300)[:, None], np.arange(320)[None, :]
    made = {
        "distance": -np.abs(i - j) * 0.5,
        "affine": (j - i) * 0.25 + 3.0,
        "ramp": np.where(j > i, (j - i) * 0.5, (j - i) * 0.25),
        "hidden": np.where(j > i, -np.inf, j * 0.5 + 0.0 * i),
        "shifted": -np.abs(i + 20 - j) * 0.5,
        "end": (j - 319 + 0 * i) * 0.125,
    }[form]
    table = np.stack([made, made * 0.5]).astype(dtype)
    whole = fit(table, (0, 0, 0))
    monkeypatch.setattr("alibi_rewriter.rewriter.interpret.tables.fitting.BLOCK", 4096)
    monkeypatch.setattr(blocks, "BLOCK", 4096)
    sampled = fit(table, (0, 0, 0))
    assert whole.form and (whole.form, whole.visible, whole.positions) == (
        sampled.form,
        sampled.visible,
        sampled.positions,
    )
    for one, other in zip(whole.coefficients, sampled.coefficients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_blocks_cover_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 10)
    for shape in ((), (7,), (25,), (3, 4), (2, 3, 17), (4, 0), (1, 1, 1), (30, 2, 2)):
        seen = np.zeros(shape, np.int64)
        for place in blocks.blocks(shape):
            seen[place] += 1
            assert seen[place].size <= 10
        assert (seen == 1).all()


MOST_CALLS = 46_000
"""Function calls per layer of the pass.  They are 1.1 times what the first proofs took, before numbers had types."""


def test_work_grows_with_the_number_of_layers() -> None:
    """Function calls, which do not depend on the machine, are in proportion to the layers, and few for each."""

    def calls(layers: int) -> int:
        count = 0

        def hook(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        model = deep(layers)
        sys.setprofile(hook)
        try:
            result = rewrite(model, options=QUICK)
        finally:
            sys.setprofile(None)
        assert len(result.fused) == layers
        return count

    calls(2)  # imports and caches
    ten, thirty = calls(10), calls(30)
    assert thirty < 3.6 * ten
    assert thirty - ten < 20 * MOST_CALLS


def test_a_constant_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    """A declared size of terabytes costs nothing.  The file is too short, and that is said before anything is read."""
    made = read("forms/linear_causal")
    made.graph.initializer.append(external("w", [1 << 20, 1 << 20], TensorProto.FLOAT, "weights.bin"))
    made.graph.node.append(helper.make_node("MatMul", ["y", "w"], ["z"]))
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    (tmp_path / "weights.bin").write_bytes(bytes(64))
    from alibi_rewriter.base.errors import ModelRejected

    with pytest.raises(ModelRejected, match="beyond the end"):
        rewrite(path, options=QUICK)


def test_inline_weights_are_kept_as_they_are() -> None:
    made = read("forms/linear_causal")
    weight = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    made.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    made.graph.node.append(helper.make_node("MatMul", ["y", "w"], ["z"]))
    made.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    result = rewrite(made, options=QUICK)
    assert result.model is not None
    kept = next(t for t in result.model.graph.initializer if t.name == "w")
    assert kept.SerializeToString() == made.graph.initializer[-1].SerializeToString()
