"""Time and peak memory of the pass on one attention among a million other nodes.

``python benchmarks/pass/nodes.py --nodes 10000 100000 1000000`` writes, per number of nodes, three models: ``deep`` (a
chain before the query and behind the output), ``wide`` (nodes that all read the query, and one that reads them all) and
``layers`` (attentions in a row).  Each is rewritten in a process of its own: load, find, prove, edit and save, without
verification.  Times are those of a clock, and of the processor; imports are not counted in them, but in memory.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
import onnx.parser
from onnx import ModelProto, NodeProto

ATTENTION = """
<ir_version: 8, opset_import: ["" : 17]>
attention (float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,8] v) => (float[B,4,S,8] y)
<float[4,1,1] slopes = {0.5, 0.25, 0.125, 0.0625}, int64 zero = {0}, int64 one = {1}, float scale = {0.35355338},
 int64[1] axis0 = {0}>
{
   extent = Shape<start=2, end=3>(k)
   keys = Squeeze(extent, axis0)
   ji = Range(zero, keys, one)
   j = Cast<to=1>(ji)
   bias = Mul(slopes, j)
   kt = Transpose<perm=[0, 1, 3, 2]>(k)
   qk = MatMul(q, kt)
   scaled = Mul(qk, scale)
   s = Add(scaled, bias)
   p = Softmax<axis=-1>(s)
   y = MatMul(p, v)
}
"""

RUN = r"""
import json, re, sys, time
from pathlib import Path
from alibi_rewriter import Options, rewrite
start, worked = time.perf_counter(), time.process_time()
result = rewrite(sys.argv[1], sys.argv[2], options=Options(verify=False))
seconds, worked = time.perf_counter() - start, time.process_time() - worked
peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text()).group(1)) // 1024
print("RESULT", json.dumps([seconds, worked, peak, len(result.fused), result.seconds]))
"""


def deep(count: int) -> ModelProto:
    """Half of the nodes in a chain before the query, half behind the output."""
    made = onnx.parser.parse_model(ATTENTION)
    nodes = list(made.graph.node)
    before, after = count // 2, count - count // 2
    product = next(n for n in nodes if n.op_type == "MatMul" and "q" in n.input)
    product.input[0] = f"before{before - 1}"
    nodes[-1].output[0] = "attended"
    first = chain("q", "before", before)
    last = chain("attended", "after", after)
    last[-1].output[0] = "y"
    return assembled(made, [*first, *nodes, *last])


def chain(start: str, name: str, count: int) -> list[NodeProto]:
    """Cheap nodes, each on what the one before made."""
    names = [start, *(f"{name}{k}" for k in range(count))]
    kinds = ("Relu", "Neg", "Abs", "Tanh")
    return [NodeProto(op_type=kinds[k % 4], input=[names[k]], output=[names[k + 1]]) for k in range(count)]


def wide(count: int) -> ModelProto:
    """Nodes that read the query beside the attention, and one that adds all of them up."""
    made = onnx.parser.parse_model(ATTENTION)
    beside = [NodeProto(op_type="Relu", input=["q"], output=[f"beside{k}"]) for k in range(count)]
    whole = NodeProto(op_type="Sum", input=[n.output[0] for n in beside], output=["z"])
    made.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))
    return assembled(made, [*made.graph.node, *beside, whole])


def layers(count: int) -> ModelProto:
    """Attentions in a row, each with its own bias, 11 nodes each."""
    made = onnx.parser.parse_model(ATTENTION)
    block = list(made.graph.node)
    outputs = {o for n in block for o in n.output}
    nodes = []
    total = max(1, count // len(block))
    for layer in range(total):
        for node in block:
            copy = NodeProto.FromString(node.SerializeToString())
            copy.input[:] = [
                f"{i}_{layer}" if i in outputs else f"y_{layer - 1}" if i == "q" and layer else i for i in node.input
            ]
            copy.output[:] = [f"{o}_{layer}" for o in node.output]
            nodes.append(copy)
    nodes[-1].output[0] = "y"
    return assembled(made, nodes)


def assembled(made: ModelProto, nodes: list[NodeProto]) -> ModelProto:
    """The model with these nodes."""
    copies = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del made.graph.node[:]
    made.graph.node.extend(copies)
    return made


KINDS = {"deep": deep, "wide": wide, "layers": layers}


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["deep", "wide"])
    options = parser.parse_args()
    for kind in options.kinds:
        for count in options.nodes:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                path.write_bytes(KINDS[kind](count).SerializeToString())
                size = path.stat().st_size / 2**20
                command = [sys.executable, "-W", "ignore", "-c", RUN, str(path), str(path.with_name("out.onnx"))]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
                if found is None:
                    print(f"{kind} {count} nodes: failed: {done.stderr[-500:]}", flush=True)
                    continue
                seconds, worked, peak, fused, phases = json.loads(found.group(1))
                told = ", ".join(f"{name} {part:.2f}" for name, part in phases.items())
                costs = f"{seconds:.2f} s, {worked:.2f} s of a processor, {peak} MiB"
                print(f"{kind} {count} nodes, {size:.1f} MiB: {costs}, {fused} fused ({told})", flush=True)


if __name__ == "__main__":
    main()
