"""alibi-rewriter: finds materialised ALiBi biases in ONNX models, proves them, fuses the attentions.

>>> from alibi_rewriter import rewrite
>>> result = rewrite("model.onnx", "model.alibi.onnx")             # doctest: +SKIP
>>> result                                                         # doctest: +SKIP
<RewriteResult DONE: 2 of 2 attention sites fused, verification passed, written to 'model.alibi.onnx'>
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .base.version import __version__

if TYPE_CHECKING:
    from .api import RewriteResult as RewriteResult
    from .api import build_engine as build_engine
    from .api import rewrite as rewrite
    from .base.errors import AlibiError as AlibiError
    from .base.errors import EngineFailed as EngineFailed
    from .base.errors import ExitCode as ExitCode
    from .base.errors import MissingDependency as MissingDependency
    from .base.errors import ModelRejected as ModelRejected
    from .base.errors import NotRewritten as NotRewritten
    from .base.errors import PluginNotUsed as PluginNotUsed
    from .base.errors import UsageError as UsageError
    from .intact import check as check
    from .ir_pass import RewritePass as RewritePass
    from .rewriter.result import Options as Options
    from .runtime import claimed_nodes as claimed_nodes
    from .runtime import get_library_path as get_library_path
    from .runtime.decoder import CacheFull as CacheFull
    from .runtime.decoder import Decoder as Decoder
    from .runtime.sampling import Sampling as Sampling
    from .runtime.session import InferenceSession as InferenceSession

_PLACES = {
    "AlibiError": "base.errors",
    "CacheFull": "runtime.decoder",
    "Decoder": "runtime.decoder",
    "EngineFailed": "base.errors",
    "ExitCode": "base.errors",
    "InferenceSession": "runtime.session",
    "MissingDependency": "base.errors",
    "ModelRejected": "base.errors",
    "NotRewritten": "base.errors",
    "Options": "rewriter.result",
    "PluginNotUsed": "base.errors",
    "RewritePass": "ir_pass",
    "RewriteResult": "api",
    "Sampling": "runtime.sampling",
    "UsageError": "base.errors",
    "build_engine": "api",
    "check": "intact",
    "claimed_nodes": "runtime",
    "get_library_path": "runtime",
    "rewrite": "api",
}
"""Where each name comes from; it is imported when it is asked for, because onnx takes half a second."""

__all__ = [
    "AlibiError",
    "CacheFull",
    "Decoder",
    "EngineFailed",
    "ExitCode",
    "InferenceSession",
    "MissingDependency",
    "ModelRejected",
    "NotRewritten",
    "Options",
    "PluginNotUsed",
    "RewritePass",
    "RewriteResult",
    "Sampling",
    "UsageError",
    "__version__",
    "build_engine",
    "check",
    "claimed_nodes",
    "get_library_path",
    "rewrite",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})


def __getattr__(name: str) -> object:
    if name in _PLACES:
        return getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
