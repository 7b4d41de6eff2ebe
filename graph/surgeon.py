"""Models as graphs of onnx-graphsurgeon, the ecosystem's graph editor: taken and given, where it is installed."""

from __future__ import annotations

import importlib
from typing import Any

from onnx import ModelProto

from ..base.cures import install
from ..base.errors import MissingDependency


def is_graph(model: object) -> bool:
    """Whether this is a ``gs.Graph``.  Nothing is imported to find out."""
    return any(
        base.__name__ == "Graph" and base.__module__.startswith("onnx_graphsurgeon") for base in type(model).__mro__
    )


def to_model(graph: Any) -> ModelProto:
    """A graph as a model; the graph is not changed.

    Raises:
        MissingDependency: onnx-graphsurgeon is not installed.
    """
    model: ModelProto = _surgeon().export_onnx(graph, do_type_check=False)
    return model


def to_graph(model: ModelProto) -> Any:
    """A model as a graph, its local functions included.

    Raises:
        MissingDependency: onnx-graphsurgeon is not installed.
    """
    return _surgeon().import_onnx(model)


def _surgeon() -> Any:
    try:
        return importlib.import_module("onnx_graphsurgeon")
    except ImportError as error:
        cure = install("onnx-graphsurgeon")
        raise MissingDependency(f"onnx-graphsurgeon cannot be imported ({error}). Run: {cure}") from error
