"""The rewriter as a pass of ``onnx_ir.passes``, to stand in a row with others."""

from __future__ import annotations

from typing import Any

from .base.cures import install
from .base.errors import MissingDependency

try:
    import onnx_ir
    from onnx_ir.passes import FunctionalPass, PassError, PassResult
except ImportError as error:
    raise MissingDependency(f"onnx_ir cannot be imported ({error}). Run: {install('onnx-ir')}") from error

from .api import RewriteResult, rewrite, unverified


class RewritePass(FunctionalPass):
    """Fuses every attention whose bias is proven to be ALiBi; the model that goes in is not changed.

    Passes that inline functions go before it: ``docs/tool-order.md``.

    Args:
        **options: Keywords of :func:`alibi_rewriter.rewrite`.

    Attributes:
        result: Of the last call.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.result: RewriteResult | None = None

    def call(self, model: onnx_ir.Model) -> PassResult:
        """Rewrite a model.

        Raises:
            PassError: The verification failed, or nothing could be compared.
            AlibiError: As ``rewrite`` says.
        """
        self.result = rewrite(model, **self.options)
        if why := unverified(self.result):
            raise PassError(why)
        if self.result.model is None:
            return PassResult(model.clone(), modified=False)
        return PassResult(self.result.model, modified=True)
