"""The interpreter of a model that is written as text, for tests that ask single parts of the pass."""

from __future__ import annotations

from pathlib import Path

import onnx.parser
from alibi_rewriter.graph.index import index_graph, opset_versions
from alibi_rewriter.rewriter.interpret import Interpreter
from alibi_rewriter.rewriter.interpret.scopes import interpreted
from onnx import ModelProto


def interpreter_of(model: ModelProto) -> Interpreter:
    """The interpreter of the main graph, with extents and types."""
    return next(interpreted(index_graph(model.graph, opset_versions(model), Path())))


def read_text(inputs: str, body: str, constants: str = "", opset: int = 18) -> Interpreter:
    """The interpreter of a body over these inputs, whose last tensor is ``y``.

    Args:
        inputs: As in ONNX text syntax, such as ``float[B,S,32] x``.
        body: Its nodes, a line each.
        constants: Initializers, as in ONNX text syntax.
        opset: Of the default domain.
    """
    named = f"<{constants}>" if constants else ""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => (float y) {named} {{ {body} }}'
    return interpreter_of(onnx.parser.parse_model(text))
