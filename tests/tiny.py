"""Tiny models of one attention, made operator by operator, and what is asked of each: refused, or equal everywhere.

The proof alone judges: no self-check, no verification.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from alibi_rewriter.rewriter.verdicts import Refusal
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = npt.NDArray[np.generic]

BARE = Options(verify=False, probe=False)
HEADS, WIDTH = 4, 8
SLOPES = np.array([0.5, 0.25, 0.125, 0.0625], np.float32).reshape(HEADS, 1, 1)
LOWEST = float(np.finfo(np.float32).min)


class Graph:
    """A graph that grows by one node a call; names are given in order."""

    def __init__(self, opset: int = 18, prefix: str = "") -> None:
        self.opset = opset
        self.prefix = prefix
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def const(self, value: object, dtype: npt.DTypeLike = np.float32) -> str:
        name = f"{self.prefix}c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def number(self, value: int) -> str:
        return self.const(value, np.int64)

    def add(self, op: str, *inputs: str, results: int = 1, domain: str = "", **attributes: object) -> str:
        made = [f"{self.prefix}v{len(self.nodes)}" + (f"_{k}" if k else "") for k in range(results)]
        self.nodes.append(
            helper.make_node(
                op, list(inputs), made, name=f"{self.prefix}{op}_{len(self.nodes)}", domain=domain, **attributes
            )
        )
        return made[0]

    # --- parts of attentions --------------------------------------------------------------------------------

    def extent(self, tensor: str, axis: int) -> str:
        """One extent of a tensor, a scalar."""
        return self.add("Gather", self.add("Shape", tensor), self.number(axis))

    def range(self, limit: str, start: int = 0, step: int = 1) -> str:
        return self.add("Range", self.number(start), limit, self.number(step))

    def column(self, row: str) -> str:
        return self.add("Unsqueeze", row, self.ints(1))

    def distance(self, query: str = "q", key: str = "k", *, offset: bool = True) -> str:
        """J - row(i), [S_q, S_kv] int64; without offset row(i) is i."""
        rows, keys = self.extent(query, 2), self.extent(key, 2)
        i = self.range(rows)
        if offset:
            i = self.add("Add", i, self.add("Sub", keys, rows))
        return self.add("Sub", self.range(keys), self.column(i))

    def bias(self, query: str = "q", key: str = "k", *, symmetric: bool = False, offset: bool = True) -> str:
        """Slope times distance, [1, H, S_q, S_kv]."""
        distance = self.add("Cast", self.distance(query, key, offset=offset), to=TensorProto.FLOAT)
        if symmetric:
            distance = self.add("Neg", self.add("Abs", distance))
        return self.add("Unsqueeze", self.add("Mul", distance, self.const(SLOPES)), self.ints(0))

    def scores(self, query: str = "q", key: str = "k") -> str:
        turned = self.add("Transpose", key, perm=[0, 1, 3, 2])
        return self.add("Mul", self.add("MatMul", query, turned), self.const(WIDTH**-0.5))

    def attend(self, scores: str, value: str = "v") -> str:
        return self.add("MatMul", self.add("Softmax", scores, axis=-1), value)

    def operands(self, rows: str = "S", keys: str = "S", heads: int = HEADS) -> None:
        self.input("q", ("B", HEADS, rows, WIDTH))
        self.input("k", ("B", heads, keys, WIDTH))
        self.input("v", ("B", heads, keys, WIDTH))

    # --- the whole ------------------------------------------------------------------------------------------

    def body(self, *outputs: str, name: str = "body") -> onnx.GraphProto:
        results = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        return helper.make_graph(self.nodes, name, self.inputs, results, self.constants)

    def model(self, *outputs: str) -> ModelProto:
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(self.body(*outputs, name="tiny"), opset_imports=opsets, ir_version=10)


def refusals(model: ModelProto) -> list[Refusal]:
    """Why sites of a model are refused, by the proof alone; empty if no site is."""
    return [s.refusal for s in rewrite(model, options=BARE).analysis.sites if s.refusal is not None]


def codes(model: ModelProto) -> list[str]:
    return [refusal.code.number for refusal in refusals(model)]


def fused(model: ModelProto) -> ModelProto:
    """The rewritten model; fails where it is refused."""
    result = rewrite(model, options=BARE)
    assert result.model is not None, [str(s.refusal) for s in result.analysis.sites]
    return result.model


def run(model: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, dict(feeds))
    return found


def draw(model: ModelProto, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
    """Inputs: floats normal, booleans and integers 0 or 1 with the last of each row 1."""
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [d.dim_value or sizes[d.dim_param] for d in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if kind.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
            feeds[value.name] = random.standard_normal(shape).astype(dtype)
        else:
            drawn = random.random(shape) < 0.7
            if drawn.ndim:
                drawn[..., -1] = True
            feeds[value.name] = np.asarray(drawn, dtype)
    return feeds


def gaps(
    model: ModelProto,
    rewritten: ModelProto,
    every: Sequence[Mapping[str, int]],
    feeds: Mapping[str, Array] | None = None,
) -> Iterator[float]:
    """Per set of sizes, how far the outputs are apart; where the original does not run, nothing is compared."""
    for seed, sizes in enumerate(every):
        given = {**draw(model, sizes, seed), **(feeds or {})}
        try:
            wanted = run(model, given)
        except Exception:  # noqa: BLE001 - sizes that the original does not take; any backend error type
            continue
        for want, got in zip(wanted, run(rewritten, given), strict=True):
            keep = np.isfinite(want)
            yield float(np.abs(np.asarray(want, np.float64) - got)[keep].max(initial=0.0))
