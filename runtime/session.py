"""onnxruntime's session with the fused kernels registered.  It knows how many nodes they took."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import telemetry
from ..base.telemetry import CPU, CUDA
from ..plugin.custom_ops import NoLibrary, claimed_here, get_library_path

if TYPE_CHECKING:
    import onnx
    import onnxruntime
else:
    onnxruntime = telemetry.onnxruntime()

DATA_FOLDER = "session.model_external_initializers_file_folder_path"
"""onnxruntime's session configuration: where the external data of a model in memory lie."""

SKIP = "alibi.skip"
"""Session configuration: ``none``, ``underflow`` (the default) or ``certified``."""


class Fallback(UserWarning):
    """Fused nodes run as their function body; the message says why and what to do."""


@dataclass(frozen=True)
class Claim:
    """What became of a model's fused nodes.

    Attributes:
        claimed: Nodes that run on the library's kernels.
        fused: Fused nodes in the model.
    """

    claimed: int
    fused: int


class InferenceSession(onnxruntime.InferenceSession):  # type: ignore[misc]  # onnxruntime has no types
    """As ``onnxruntime.InferenceSession``, with the fused kernels where they can be used.

    Where they cannot, the nodes run as their function body, and a warning says why.  With ``CUDAExecutionProvider``
    nodes without kernels get them in memory, from the compile cache or compiled now, for the GPU that is here.

    Args:
        path_or_bytes: The model.
        sess_options: The library is registered in these.
        providers: Execution providers, the CPU unless told otherwise; kernels are there for it and for CUDA.
        provider_options: As onnxruntime takes them.
        skip: What the kernels may leave out: ``none``; ``underflow``, keys whose weight is 0 in float32; or
            ``certified``, keys that together are proven to weigh less than 2^-24.  None: as the options say.

    Raises:
        NoKernels: On CUDA, nodes have no kernels and cannot get them; the message names the command that cures it.
        onnxruntime's own exceptions, for what it does not take.
    """

    def __init__(
        self,
        path_or_bytes: str | bytes | os.PathLike[str],
        sess_options: onnxruntime.SessionOptions | None = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[dict[Any, Any]] | None = None,
        *,
        skip: str | None = None,
        **more: Any,
    ) -> None:
        options = onnxruntime.SessionOptions() if sess_options is None else sess_options
        providers = [CPU] if providers is None else list(providers)
        if skip is not None:
            options.add_session_config_entry(SKIP, skip)
        self._alibi_model = path_or_bytes if isinstance(path_or_bytes, bytes) else os.fspath(path_or_bytes)
        self._alibi_claimed = 0
        problem = _register(options, providers)
        model: str | bytes = self._alibi_model
        functions: tuple[str, ...] = ()
        if problem is None:
            model, functions = _with_kernels(model, options, _device(providers, provider_options))
            for reason in functions:
                warnings.warn(f"{reason}, so it runs as its function", Fallback, stacklevel=2)
        before = claimed_here() if problem is None else 0
        super().__init__(model, options, providers, provider_options, **more)
        if problem is None:
            self._alibi_claimed = claimed_here() - before
            if self._alibi_claimed == 0 and not functions:
                problem = "no node of this model runs on them; is it a file that `rewrite` wrote?"
        if problem is not None:
            warnings.warn(f"alibi-rewriter's kernels are not used: {problem}", Fallback, stacklevel=2)


def _register(options: onnxruntime.SessionOptions, providers: Sequence[Any]) -> str | None:
    """Registers the library.  Returns why that is not possible, or None."""
    others = [name for name in map(_name, providers) if name not in (CPU, CUDA)]
    if others:
        return f"there are none for {', '.join(map(str, others))}"
    try:
        options.register_custom_ops_library(get_library_path())
    except NoLibrary as error:
        return str(error)
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
        if SKIP in str(error):
            raise ValueError(str(error)) from None
        return str(error)  # too old a version
    return None


def _name(provider: Any) -> Any:
    return provider[0] if isinstance(provider, tuple) else provider


def _device(providers: Sequence[Any], options: Sequence[dict[Any, Any]] | None) -> int | None:
    """The ``device_id`` of the CUDA provider; None without one, or where this onnxruntime lacks that provider."""
    if CUDA not in onnxruntime.get_available_providers():
        return None
    for place, provider in enumerate(providers):
        if _name(provider) == CUDA:
            given = provider[1] if isinstance(provider, tuple) else options[place] if options else {}
            return int(given.get("device_id", 0))
    return None


def _with_kernels(
    model: str | bytes, options: onnxruntime.SessionOptions, device: int | None
) -> tuple[str | bytes, tuple[str, ...]]:
    """The model with kernels for a GPU, and why nodes run as their function."""
    if device is None:
        return model, ()
    from .gpu import gpu_at, prepare

    gpu = gpu_at(device)
    if gpu is None:
        return model, ()  # onnxruntime says so, and takes the next provider
    # A model in memory has no folder of its own; the working folder is not looked at.
    given = Path(_entry(options, DATA_FOLDER) or os.devnull)
    folder = given if isinstance(model, bytes) else Path(model).parent
    prepared = prepare(_load(model), folder, gpu, skip=_entry(options, SKIP) == "certified")
    if prepared.content is None:
        return model, ()
    if not isinstance(model, bytes):
        options.add_session_config_entry(DATA_FOLDER, str(folder.resolve()))
    return prepared.content, prepared.as_functions


def _entry(options: onnxruntime.SessionOptions, key: str) -> str:
    try:
        return str(options.get_session_config_entry(key))
    except RuntimeError:  # it was never set
        return ""


def claimed_nodes(session: InferenceSession) -> Claim:
    """See :func:`alibi_rewriter.claimed_nodes`."""
    if not isinstance(session, InferenceSession):
        raise TypeError("claimed_nodes needs a session that was made by alibi_rewriter.InferenceSession")
    from ..graph.note import fused_nodes

    return Claim(session._alibi_claimed, len(fused_nodes(_load(session._alibi_model))))


def _load(model: str | bytes) -> onnx.ModelProto:
    """A model without its external data."""
    import onnx

    if isinstance(model, bytes):
        return onnx.load_model_from_string(model)
    return onnx.load_model(Path(model), load_external_data=False)
