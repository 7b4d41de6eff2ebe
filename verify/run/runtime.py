"""onnxruntime on the CPU: the one place of the verification that imports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...base import telemetry
from ...base.cures import install
from ...base.memory import available_memory
from ...graph import bounded
from ...graph.tensors import declared_bytes
from ...plugin.custom_ops import claimed_here, get_library_path
from ..errors import LimitError, MemoryLimitError, RunError, RuntimeMissingError
from .kernels import Kernels
from .widen import TO_FLOAT64, widen

SHARE_OF_MEMORY = 0.5
"""Share of the available memory for the tensors of a session.  Outputs are copied once, and compared in float64."""

MOST_BYTES = 1 << 29
"""Memory that the tensors of a session get besides the weights and what the attention needs (``Model.room``).

A file of a few bytes can ask for as much as there is.  What needs more than this is compared site by site."""

_WEIGHTS_FACTOR = 3

MOST_SECONDS = 1800.0
"""For one run of a model.  Some models need minutes, and some never end."""

_OUT_OF_MEMORY = ("BFCArena", "bad allocation", "bad_alloc", "Failed to allocate memory")

Array = NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Model:
    """A model to run.

    Attributes:
        proto: The model; its external tensors, if any, are not loaded.
        folder: Where the files of its external tensors are; None if it has none.
        wide: Run it in float64: every float32 becomes a float64 when it is loaded.
        kernels: Its fused nodes run on these; None for their function bodies.
        nodes: How many of them have to.
        room: Bytes that its scores take; None if its tensors may take whatever there is, because the user says so.
    """

    proto: onnx.ModelProto
    folder: Path | None
    wide: bool = False
    kernels: Kernels | None = None
    nodes: int = 0
    room: int | None = 0


def import_onnxruntime() -> ModuleType:
    """Imports onnxruntime.

    Raises:
        RuntimeMissingError: If it is not installed.
    """
    try:
        return telemetry.onnxruntime()
    except ImportError as error:
        raise RuntimeMissingError(
            f"the verification runs both models in onnxruntime, which cannot be imported ({error}). "
            f"Install it with: {install('onnxruntime')}   or leave the verification out with --no-verify"
        ) from error


class Session:
    """A model loaded into onnxruntime as it is written.

    It runs without graph optimizations, since the file is compared and not what an optimizer makes of it.

    Args:
        model: What to run.
        threads: Threads within an operator.  The result depends on this number at most, never on timing.

    Raises:
        RunError: If onnxruntime does not take the model.
        RuntimeMissingError: If onnxruntime is not installed.
    """

    def __init__(self, model: Model, *, threads: int = 1) -> None:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Packed copies of the weights only pay off after many runs, and double the memory.
        options.add_session_config_entry("session.disable_prepacking", "1")
        proto = model.proto
        if model.wide:
            proto = onnx.ModelProto()
            proto.CopyFrom(model.proto)
            widen(proto, TO_FLOAT64)
        available = available_memory()
        content, providers = proto.SerializeToString(), list(bounded.CPU)
        if model.kernels:
            content, providers = model.kernels.ready(proto, model.folder)
            options.register_custom_ops_library(get_library_path())
        before = claimed_here() if model.kernels else 0
        limits = [] if available is None else [int(available * SHARE_OF_MEMORY)]
        if model.room is not None:
            weights = len(content) + sum(declared_bytes(t) for t in proto.graph.initializer if _is_external(t))
            limits.append(MOST_BYTES + (1 + model.wide) * (_WEIGHTS_FACTOR * weights + model.room))
        try:
            limit = min(limits, default=None)
            self._session = bounded.session(ort, content, options, limit, model.folder, providers)
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise _run_error(error) from error
        if model.kernels and claimed_here() - before < model.nodes:
            raise RunError(f"{claimed_here() - before} of {model.nodes} fused nodes run on the kernels")
        self._runtime = ort
        self.input_types: dict[str, str] = {entry.name: entry.type for entry in self._session.get_inputs()}
        self.output_names: tuple[str, ...] = tuple(entry.name for entry in self._session.get_outputs())

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Runs the model.

        Args:
            inputs: Arrays by name; floating ones are cast to what the model declares.

        Returns:
            Outputs by name; outputs that are not tensors are left out.

        Raises:
            RunError: If onnxruntime refuses the inputs or fails.
            LimitError: If it does not end.
        """
        feed = {name: self._typed(name, array) for name, array in inputs.items()}
        try:
            values = bounded.run(self._runtime, self._session, None, feed, MOST_SECONDS)
        except TimeoutError as error:
            raise LimitError(f"a model was stopped in onnxruntime: {error}") from error
        except Exception as error:
            raise _run_error(error) from error
        return {
            name: value for name, value in zip(self.output_names, values, strict=True) if isinstance(value, np.ndarray)
        }

    def _typed(self, name: str, array: Array) -> Array:
        wanted = _FLOATS.get(self.input_types.get(name, ""))
        if wanted is None or not np.issubdtype(array.dtype, np.floating):
            return array
        return array.astype(wanted)


_FLOATS: dict[str, type[np.floating[Any]]] = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _run_error(error: Exception) -> RunError:
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
        return MemoryLimitError(f"it takes more memory than is available: {_first_line(error)}")
    return RunError(_first_line(error))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:400]
