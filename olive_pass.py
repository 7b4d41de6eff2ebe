"""The rewriter as a pass of Olive, to stand in a workflow with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base.cures import install
from .base.errors import MissingDependency

try:
    from olive.model import ONNXModelHandler
    from olive.passes import Pass
    from olive.passes.pass_config import PassConfigParam
except ImportError as error:
    raise MissingDependency(f"olive cannot be imported ({error}). Run: {install('olive-ai')}") from error

from .api import rewrite, unverified


class AlibiRewrite(Pass):  # type: ignore[misc,unused-ignore]
    """Fuses every attention whose bias is proven to be ALiBi; the model that goes in is not changed.

    A model of which nothing is rewritten goes on as it is.  Passes that inline functions go before it:
    ``docs/tool-order.md``.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:
        switches = {
            "verify": (True, "Compare original and result in onnxruntime."),
            "allow_partial": (False, "Rewrite what is proven though another site is refused."),
            "inline": (False, "Write the function bodies into the graph, for runtimes that refuse functions."),
        }
        return {
            name: PassConfigParam(type_=bool, default_value=value, description=text)
            for name, (value, text) in switches.items()
        }

    def _run_for_config(self, model: ONNXModelHandler, config: Any, output_model_path: str) -> ONNXModelHandler:
        """Rewrite a model.

        Raises:
            RuntimeError: The verification failed, or nothing could be compared.
            AlibiError: As ``rewrite`` says.
        """
        folder = Path(output_model_path)
        if folder.suffix == ".onnx":
            folder = folder.parent
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / "model.onnx"
        options = {name: getattr(config, name) for name in ("verify", "allow_partial", "inline")}
        result = rewrite(Path(model.model_path), target, **options)
        if why := unverified(result):
            raise RuntimeError(why)
        if not target.exists():
            return model
        attributes = model.model_attributes
        return ONNXModelHandler(model_path=str(folder), onnx_file_name=target.name, model_attributes=attributes)
