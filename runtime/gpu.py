"""Kernels for the fused nodes of a model on the GPU that is here, attached before onnxruntime sees the model.

The kernels of a node travel in its attribute ``kernels``.  A file without them gets them in memory, from the compile
cache or compiled now.  The file itself stays as it is.  A node that no kernel takes would make the session fail, since
onnxruntime never uses the function of an operator that is registered.  Such nodes are given another name with the same
function, and run as that function.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from ..base import telemetry
from ..base.errors import AlibiError
from ..base.telemetry import CPU, CUDA
from ..engine.attach import ATTRIBUTE, bundle_of
from ..engine.devices import Gpu, devices
from ..engine.needs import Need, Unserved, each_need
from ..engine.targets import PORTABLE, Images, images_for, text
from ..graph.edit import call_as, set_attribute
from ..kernels.compile.compiler import Worker
from ..verify.errors import LimitError

AS_FUNCTION = "alibi.function"
"""Domain of the nodes that run as their function although the library is registered."""

WITHOUT = "Without the kernels the file runs in onnxruntime.InferenceSession, as its function bodies."


class NoKernels(RuntimeError):
    """Fused nodes have no kernels for the GPU and cannot get them.  The message holds the command that cures it."""


@dataclass(frozen=True)
class Prepared:
    """A model as onnxruntime gets it.

    Attributes:
        content: The model with its kernels; None if the file can be taken as it is.
        attached: Nodes that got kernels now.
        as_functions: Why nodes run as their function, by node.
    """

    content: bytes | None
    attached: int = 0
    as_functions: tuple[str, ...] = ()


def gpu_at(index: int) -> Gpu | None:
    """The GPU that onnxruntime's CUDA provider takes for a ``device_id``; None without a GPU."""
    found = devices()
    return found[index] if 0 <= index < len(found) else None


def prepare(model: ModelProto, folder: Path, gpu: Gpu, *, skip: bool = False, cache: Path | None = None) -> Prepared:
    """Give every fused node without kernels its kernels.

    Args:
        model: A rewritten model; it is changed.  External tensors are not needed.
        folder: Where its external data lie.
        gpu: What it will run on.
        skip: With certified skipping of far keys, where it is defined (docs/kernels.md).
        cache: Where compiled kernels are kept; the user's cache folder by default.

    Raises:
        NoKernels: Kernels are needed and cannot be compiled here, or the GPU is too old for them.
    """
    wanted: list[tuple[onnx.NodeProto, Need]] = []
    unserved: list[tuple[onnx.NodeProto, str]] = []
    for node, found in each_need(model, folder):
        if isinstance(found, Unserved):
            unserved.append((node, str(found)))
        elif not any(a.name == ATTRIBUTE and a.s for a in node.attribute):
            wanted.append((node, found))
    if wanted:
        _attach(wanted, gpu, skip, cache)
    for node, _ in unserved:
        call_as(model, node, AS_FUNCTION)
    if not wanted and not unserved:
        return Prepared(None)
    return Prepared(model.SerializeToString(), len(wanted), tuple(reason for _, reason in unserved))


def images_on(gpu: Gpu) -> Images:
    """What to compile for one GPU: machine code where that exists for it, else PTX that its driver compiles."""
    code = images_for([gpu.capability]).machine_code
    return Images(code, () if code else (PORTABLE,))


def _attach(wanted: list[tuple[onnx.NodeProto, Need]], gpu: Gpu, skip: bool, cache: Path | None) -> None:
    some = f"{len(wanted)} fused node{'s' if len(wanted) > 1 else ''}, '{wanted[0][1].node}' first"
    if gpu.capability < PORTABLE:
        raise NoKernels(
            f"{some}: the kernels need compute capability 8.0 or later, and {gpu.name} is {text(gpu.capability)}. "
            f"{WITHOUT}"
        )
    made: dict[tuple[object, object], bytes] = {}
    try:
        with Worker() as worker:
            for node, need in wanted:
                kind = (need.request, need.layout)
                if kind not in made:
                    made[kind] = bundle_of(need, images_on(gpu), worker, skip=skip, cache=cache)
                set_attribute(node, ATTRIBUTE, made[kind])
    except AlibiError as error:
        why = str(error).rstrip(".")
        raise NoKernels(
            f"{some}: no kernels for {gpu.name} ({text(gpu.capability)}), {why}. Or attach them on another machine: "
            f"rewrite MODEL --embed-kernels --target {text(gpu.capability)}. {WITHOUT}"
        ) from error


class CudaKernels:
    """Those of the first GPU, for the verification."""

    where = "cuda"

    def problem(self) -> str | None:
        """Why they cannot run here, or None."""
        if CUDA not in telemetry.onnxruntime().get_available_providers():
            return f"this onnxruntime has no {CUDA}. Run: pip install onnxruntime-gpu"
        return None if devices() else "there is no GPU here"

    def ready(self, model: ModelProto, folder: Path | None) -> tuple[bytes, list[Any]]:
        """The model with its kernels attached.

        Raises:
            LimitError: There are no kernels for one of its nodes, or they cannot be compiled here.
        """
        copied = ModelProto()
        copied.CopyFrom(model)
        try:
            prepared = prepare(copied, folder or Path(os.devnull), devices()[0])
        except NoKernels as error:
            raise LimitError(str(error)) from error
        if prepared.as_functions:
            raise LimitError(prepared.as_functions[0])
        # Products of float32 are products of float32.
        providers = [(CUDA, {"use_tf32": "0"}), CPU]
        return prepared.content or model.SerializeToString(), providers
