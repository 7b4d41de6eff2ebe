"""What a session needs so that fused nodes run on our kernels and not as their function bodies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from onnx import ModelProto

from ...base import telemetry
from ...graph import bounded
from ...plugin.custom_ops import NoLibrary, get_library_path


class Kernels(Protocol):
    """The kernels of one execution provider."""

    @property
    def where(self) -> str:
        """As ``--verify-on`` calls it."""

    def problem(self) -> str | None:
        """Why they cannot run here, or None."""

    def ready(self, model: ModelProto, folder: Path | None) -> tuple[bytes, list[Any]]:
        """The model as onnxruntime gets it, and its execution providers.

        Args:
            model: A rewritten model; it is not changed.
            folder: Where its external data lie; None if it has none.

        Raises:
            LimitError: There are no kernels for one of its nodes.
        """


class CpuKernels:
    """Those of the CPU, which take every node."""

    where = "cpu"

    def problem(self) -> str | None:
        """Why they cannot run here, or None."""
        try:
            telemetry.onnxruntime().SessionOptions().register_custom_ops_library(get_library_path())
        except NoLibrary as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no base but Exception
            return str(error).strip().split("\n", 1)[0]
        return None

    def ready(self, model: ModelProto, folder: Path | None) -> tuple[bytes, list[Any]]:
        """The model as it is."""
        return model.SerializeToString(), list(bounded.CPU)
