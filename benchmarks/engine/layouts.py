"""What TensorRT-RTX launches for a layer whose fused node has views of its tensors, and for one with transposes around.

    python benchmarks/engine/layouts.py [--names]

Layers of float16 with the projections, packed as exporters pack them, and the output projection.  *moved*: a fused node
of [B, H, S, D] between reshapes, slices and transpositions, as the files have them.  *views*: the fused node reads the
projections and writes [B, S, H * D] itself.  Engines are built on a CPU, for sm_89, with our kernels and with the
function bodies.  Counted is the listing of its program that a plan holds, which is undocumented: steps per layer, as
the difference of two layers and one, and how many attentions of two became one kernel or our plugin.  Nothing is
executed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from alibi_rewriter.engine.build import build_engine
from alibi_rewriter.engine.options import EngineOptions
from alibi_rewriter.fused.body import function_proto
from alibi_rewriter.fused.family import BY_OP_TYPE, FusedAttention
from alibi_rewriter.fused.layout import OPERANDS, PLAIN, Layout, Moves, OperandView, OutputView, in_order, packed
from onnx import ModelProto, TensorProto, helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from graphs import Graph

OPSET, DEPTH, HEADS = 18, 64, 8

LAUNCHED = ("function", "fully_connected", "runtime_fusion", "custom_layer", "copy", "memset")
"""Steps of a program that run on the GPU; a plugin is one ``custom_layer``, of one to three kernels."""


@dataclass(frozen=True)
class Shape:
    """One layer.

    Attributes:
        name: The family of models that has such layers.
        op_type: Its member.
        layout: Where the operands are.
        sources: For each operand, which projection it is in.
        widths: Of the projections.
        kv_heads: Heads of key and value.
        pieces: The queries lie in groups, each before its key and value.  No view describes them, so they are cut out
            in both forms.
    """

    name: str
    op_type: str
    layout: Layout
    sources: tuple[int, int, int]
    widths: tuple[int, ...]
    kv_heads: int = HEADS
    pieces: bool = False


def shapes() -> list[Shape]:
    """The layers of five families."""
    wide, out = HEADS * DEPTH, OutputView((0, 2, 1, 3), (0, 0, HEADS * DEPTH))

    def part(heads: int, head_width: int, of: int, first: int = 0, within: int = 0) -> OperandView:
        return packed(heads, DEPTH, head_width=head_width, of=of, first=first, within=within, order="BSHD")

    woven = Layout(*(part(HEADS, 3 * DEPTH, 3 * wide, within=i * DEPTH) for i in range(3)), out)
    thirds = Layout(*(part(HEADS, DEPTH, 3 * wide, first=i * HEADS) for i in range(3)), out)
    apart = Layout(*(part(HEADS, DEPTH, wide) for _ in range(3)), out)
    kv = 2
    group = (HEADS // kv + 2) * DEPTH
    pairs = (part(kv, group, kv * group, within=(HEADS // kv + i) * DEPTH) for i in range(2))
    masked = "AlibiAttentionCausalBooleanMask"
    return [
        Shape("BLOOM", masked, woven, (0, 0, 0), (3 * wide,)),
        Shape("MPT", masked, thirds, (0, 0, 0), (3 * wide,)),
        Shape("Falcon", masked, Layout(in_order("BSHD"), *pairs, out), (0, 0, 0), (kv * group,), kv, True),
        Shape("Jina", "AlibiAttentionSymmetricAdditiveMask", apart, (0, 1, 2), (wide,) * 3),
        Shape("Baichuan", "AlibiAttentionCausal", thirds, (0, 0, 0), (3 * wide,)),
    ]


def model(shape: Shape, layers: int, *, views: bool) -> ModelProto:
    """So many layers."""
    graph, rng, variant = Graph(np.int64), np.random.default_rng(1), BY_OP_TYPE[shape.op_type]
    wide = HEADS * DEPTH
    slopes = graph.constant(2.0 ** -np.arange(1, HEADS + 1), np.float32)
    layout = shape.layout if views else PLAIN
    node = FusedAttention(variant, DEPTH**-0.5, layout=layout)

    def dense(x: str, rows: int, columns: int) -> str:
        return graph("MatMul", x, graph.constant(rng.standard_normal((rows, columns)) * rows**-0.5, np.float16))

    def operand(name: str, x: str) -> str:
        view = shape.layout[name]
        if shape.pieces and name == "query":
            group = HEADS // shape.kv_heads
            whole = graph("Reshape", x, graph.constant([0, 0, shape.kv_heads, group + 2, DEPTH]))
            part = graph("Slice", whole, *(graph.constant([n]) for n in (0, group, 3)))
            x = graph("Reshape", part, graph.constant([0, 0, HEADS, DEPTH]))
        if views:
            return x
        if view.reshapes:
            x = graph("Reshape", x, graph.constant(view.shape))
        if view.slices:
            x = graph("Slice", x, *(graph.constant(n) for n in (view.starts, view.ends, (2, 3))))
        return graph("Transpose", x, perm=view.perm)

    x = "x"
    for _ in range(layers):
        made = [dense(x, wide, width) for width in shape.widths]
        inputs = [operand(name, made[source]) for name, source in zip(OPERANDS, shape.sources, strict=True)]
        inputs += [slopes, *(["mask"] if "mask" in variant.inputs else [])]
        y = graph(shape.op_type, *inputs, domain="alibi", **node.attributes())
        if not views:
            y = graph("Reshape", graph("Transpose", y, perm=(0, 2, 1, 3)), graph.constant([0, 0, wide]))
        x = graph("Add", x, dense(y, wide, wide))
    entries = [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["B", "S", wide])]
    if "mask" in variant.inputs:
        kind = TensorProto.BOOL if variant.mask == "boolean" else TensorProto.FLOAT16
        entries.append(helper.make_tensor_value_info("mask", kind, ["B", 1, 1, "S"]))
    output = helper.make_tensor_value_info(x, TensorProto.FLOAT16, ["B", "S", wide])
    body = function_proto(
        variant, OPSET, grouped=shape.kv_heads != HEADS, zero_rows=False, query_type=TensorProto.FLOAT16,
        moves=Moves.of([layout]),
    )  # fmt: skip
    made_graph = helper.make_graph(graph.nodes, shape.name, entries, [output], graph.constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("alibi", 1)]
    return helper.make_model(made_graph, opset_imports=opsets, ir_version=10, functions=[body])


def launches(plan: bytes) -> Counter[str]:
    """What the program in a plan runs: products by their kind, other kernels by name."""
    found: Counter[str] = Counter()
    for program in re.findall(rb"\nmain \{\n(.*?)\n\}", plan, re.DOTALL):
        for kind, name in re.findall(rb"\n? +(\w+)=\{ name=\"?(\w+)", program):
            if kind.decode() in LAUNCHED:
                found[name.decode() if kind == b"function" else kind.decode()] += 1
    return found


def built(made: ModelProto, strategy: str) -> Counter[str]:
    """The launches of a model's engine."""
    with tempfile.TemporaryDirectory() as folder:
        path, plan = Path(folder) / "m.onnx", Path(folder) / "m.plan"
        onnx.save(made, path)
        build_engine(path, plan, EngineOptions(backend="tensorrt-rtx", strategy=strategy, targets=(89,)))
        return launches(plan.read_bytes())


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", action="store_true", help="print what is launched")
    options = parser.parse_args(arguments)
    print("| layer | strategy | moved: launches | attention | views: launches | attention |\n|---|---|---|---|---|---|")
    for shape in shapes():
        for strategy in ("native", "plugin"):
            cells, names = [], []
            for views in (False, True):
                one, two = (built(model(shape, layers, views=views), strategy) for layers in (1, 2))
                more = {name: two[name] - one[name] for name in sorted(two | one) if two[name] != one[name]}
                attention = sum(n for name, n in two.items() if "mha" in name or name == "custom_layer")
                cells += [str(two.total() - one.total()), f"{attention} of 2"]
                names.append(f"  {'views' if views else 'moved'}: {more}")
            print(f"| {shape.name} | {strategy} | {' | '.join(cells)} |", flush=True)
            if options.names:
                print("\n".join(names), flush=True)


if __name__ == "__main__":
    main()
