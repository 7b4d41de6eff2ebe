"""Nodes per attention that onnxruntime runs: of the original, and of the rewritten model without and with views.

``python benchmarks/onnxruntime/nodes.py MODEL...`` rewrites each model, lets onnxruntime optimize all three as it does
in a session, and counts the nodes that are left.  Everything counts, the layers' products and norms as well.  What
differs between columns is the attention and what stands around it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
from alibi_rewriter import rewrite
from alibi_rewriter.runtime import get_library_path

MOVES = ("Transpose", "Reshape", "Split", "Slice", "Gather", "Concat", "Squeeze", "Unsqueeze", "Expand")


def optimized(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Nodes by operator, as they are when a session on the CPU has optimized a model."""
    given, left = folder / "given.onnx", folder / "left.onnx"
    onnx.save(model, given)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(get_library_path())
    options.optimized_model_filepath = str(left)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(left, load_external_data=False).graph.node)


def row(path: Path) -> str:
    """One line of the table."""
    models = {"original": onnx.load(path)}
    plain = rewrite(str(path), verify=False, views=False)
    views = rewrite(str(path), verify=False)
    if plain.model is None or views.model is None:
        return f"| {path.stem} | not rewritten |||||"
    models |= {"plain": plain.model, "views": views.model}
    attentions = len(views.fused)
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        for model in models.values():
            found = optimized(model, Path(folder))
            moves = sum(found[name] for name in MOVES)
            cells.append(f"{found.total() / attentions:.1f} | {moves / attentions:.1f}")
    return f"| {path.stem} | {attentions} | {' | '.join(cells)} |"


def main() -> None:
    """Prints the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("models", metavar="MODEL", type=Path, nargs="+")
    print("| per attention: nodes, and moves among them | attentions | original | | copied operands | | views | |")
    print("|---|---|---|---|---|---|---|---|")
    for path in arguments.parse_args().models:
        print(row(path), flush=True)


if __name__ == "__main__":
    main()
