"""The fused node in onnxruntime: the library of custom ops, and what a session made of it.

>>> import onnxruntime, alibi_rewriter
>>> options = onnxruntime.SessionOptions()
>>> options.register_custom_ops_library(alibi_rewriter.get_library_path())
>>> session = onnxruntime.InferenceSession("model.alibi.onnx", options)                # doctest: +SKIP

or, which does the same and says what came of it:

>>> session = alibi_rewriter.InferenceSession("model.alibi.onnx")                      # doctest: +SKIP
>>> alibi_rewriter.claimed_nodes(session)                                              # doctest: +SKIP
Claim(claimed=24, fused=24)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..plugin.custom_ops import NoLibrary, get_library_path, instruction_set, self_test

if TYPE_CHECKING:
    from .session import Claim, InferenceSession

__all__ = ["NoLibrary", "claimed_nodes", "get_library_path", "instruction_set", "self_test"]


def claimed_nodes(session: InferenceSession) -> Claim:
    """How many of a model's fused nodes run on the library's kernels in this session.

    Args:
        session: One made by :class:`alibi_rewriter.InferenceSession`.

    Raises:
        TypeError: It is another session, of which onnxruntime does not say what its kernels are.
    """
    from .session import claimed_nodes as claimed

    return claimed(session)
