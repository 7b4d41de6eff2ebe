"""onnxruntime, imported without its telemetry.

Its Linux wheels from 1.29 on record what is run, names of graphs included, in ``~/.cache/Microsoft``, and look up a
server.  This tool reads other people's models, so the telemetry is off unless the user says otherwise.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
"""What onnxruntime calls the execution providers that there are kernels for."""

SWITCH = "ORT_DISABLE_TELEMETRY"
"""What onnxruntime looks at when it is imported; a user's own setting is left alone."""


def onnxruntime() -> ModuleType:
    """The module ``onnxruntime``.

    Raises:
        ImportError: It is not installed, or cannot be loaded.
    """
    if SWITCH in os.environ:
        return importlib.import_module("onnxruntime")
    os.environ[SWITCH] = "1"
    try:
        module = importlib.import_module("onnxruntime")
    finally:
        del os.environ[SWITCH]  # it belongs to the process, and not to us
    # The user has imported it before, or it is a version that looks later.
    disable = getattr(module, "disable_telemetry_events", None)
    if disable is not None:
        disable()
    return module
