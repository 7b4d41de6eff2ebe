"""alibi-rewriter: finds materialised ALiBi biases in ONNX models, proves them, fuses the attentions.

>>> from alibi_rewriter import rewrite
>>> result = rewrite("model.onnx")             # doctest: +SKIP
>>> result.exit_code, result.output            # doctest: +SKIP
(<ExitCode.DONE: 0>, PosixPath('model.alibi.onnx'))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base.version import __version__

if TYPE_CHECKING:
    from .base.errors import AlibiError as AlibiError
    from .rewriter.pipeline import rewrite as rewrite
    from .rewriter.result import Options as Options
    from .rewriter.result import RewriteResult as RewriteResult
    from .runtime import claimed_nodes as claimed_nodes
    from .runtime import get_library_path as get_library_path
    from .runtime.session import InferenceSession as InferenceSession

__all__ = [
    "AlibiError",
    "InferenceSession",
    "Options",
    "RewriteResult",
    "__version__",
    "claimed_nodes",
    "get_library_path",
    "rewrite",
]


def __getattr__(name: str) -> object:
    # onnx takes half a second to import; ``rewrite --version`` should not.
    if name == "AlibiError":
        from .base.errors import AlibiError

        return AlibiError
    if name in ("Options", "RewriteResult", "rewrite"):
        from .rewriter import pipeline

        return getattr(pipeline, name)
    if name in ("claimed_nodes", "get_library_path"):
        from . import runtime

        return getattr(runtime, name)
    if name == "InferenceSession":
        from .runtime.session import InferenceSession

        return InferenceSession
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
