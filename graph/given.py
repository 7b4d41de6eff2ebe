"""Models in the kinds that Python programs hold them in, and the way back to the same kind."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from ..base.cures import install
from ..base.errors import MissingDependency, ModelRejected, UsageError
from . import surgeon
from .load import ModelFile, checked, load, parse


@dataclass(frozen=True)
class Given:
    """A model as it was given.

    Attributes:
        source: What the pass reads.
        back: Makes a rewritten model the kind that this one was.
    """

    source: ModelFile
    back: Callable[[ModelProto], Any]


def given(model: Any) -> Given:
    """Take a path, the bytes of a file, a ``ModelProto``, an ``onnx_ir.Model`` or a ``gs.Graph``.

    Raises:
        ModelRejected: The file or the bytes hold no model that can be read safely.
        UsageError: It is something else.
        MissingDependency: The package that made it cannot be imported.
    """
    if isinstance(model, ModelProto):
        return Given(ModelFile(None, model, Path.cwd(), ""), _as_it_is)
    if isinstance(model, (bytes, bytearray, memoryview)):
        name = "the model"
        return Given(checked(parse(bytes(model), name), None, Path.cwd(), name), ModelProto.SerializeToString)
    if isinstance(model, (str, os.PathLike)):
        return Given(load(Path(model)), _as_it_is)
    if surgeon.is_graph(model):
        return Given(ModelFile(None, surgeon.to_model(model), Path.cwd(), ""), surgeon.to_graph)
    if _is_ir(model):
        return _of_ir(model)
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    raise UsageError(f"a model is a path, bytes, a ModelProto, an onnx_ir.Model or a gs.Graph, not a {kind}.")


def _as_it_is(model: ModelProto) -> ModelProto:
    return model


def _is_ir(model: object) -> bool:
    return any(base.__name__ == "Model" and base.__module__.startswith("onnx_ir") for base in type(model).__mro__)


def _of_ir(model: Any) -> Given:
    """An ``onnx_ir.Model``; its external data stay where they are, and where that is goes back with it."""
    try:
        ir = importlib.import_module("onnx_ir")
    except ImportError as error:
        raise MissingDependency(f"onnx_ir cannot be imported ({error}). Run: {install('onnx-ir')}") from error
    tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    folders = sorted({str(tensor.base_dir) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)})
    if len(folders) > 1:
        raise ModelRejected(f"external data of the model lie in several folders: {', '.join(folders)}. Save it first.")
    folder = Path(folders[0]) if folders else Path.cwd()

    def back(proto: ModelProto) -> Any:
        made = ir.from_proto(proto)
        if folders:
            ir.external_data.set_base_dir(made.graph, folder)
        return made

    return Given(checked(ir.to_proto(model), None, folder, "the model"), back)
