"""Kernels for the fused nodes of a model on the GPU that is here, attached before onnxruntime sees the model.

The kernels of a node travel in its attribute ``kernels``.  A file that has none gets them in memory, from the compile
cache or compiled now; the file itself stays as it is.  A node that no kernel takes would make the session fail, since
onnxruntime never uses the function of an operator that somebody registered.  Such nodes are given another name, whose
function is the same, and run as that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto

from ..engine.attach import ATTRIBUTE, bundle_of
from ..engine.devices import Gpu, devices
from ..engine.needs import Need, Unserved, each_need
from ..engine.targets import PORTABLE, Images, images_for, text
from ..kernels.compiler import Worker
from ..rewriter.edit import call_as, set_attribute
from ..rewriter.errors import AlibiError

AS_FUNCTION = "alibi.function"
"""Domain of the nodes that run as their function although the library is registered."""

WITHOUT = "Without the kernels the file runs in onnxruntime.InferenceSession, as its function bodies."


class NoKernels(RuntimeError):
    """Fused nodes have no kernels for the GPU and cannot get them; the message holds the command that cures it."""


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
    """The GPU that onnxruntime's CUDA provider takes for a ``device_id``; None if there is none."""
    found = devices()
    return found[index] if 0 <= index < len(found) else None


def prepare(model: ModelProto, folder: Path, gpu: Gpu, *, skip: bool = False, cache: Path | None = None) -> Prepared:
    """Give every fused node that has none its kernels.

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
    """What to compile for one GPU: machine code where there is any for it, else PTX that its driver compiles."""
    code = images_for([gpu.capability]).machine_code
    return Images(code, () if code else (PORTABLE,))


def _attach(wanted: list[tuple[onnx.NodeProto, Need]], gpu: Gpu, skip: bool, cache: Path | None) -> None:
    some = f"{len(wanted)} fused node{'s' if len(wanted) > 1 else ''}, '{wanted[0][1].node}' first"
    if gpu.capability < PORTABLE:
        raise NoKernels(
            f"{some}: the kernels need compute capability 8.0 or later, and {gpu.name} is {text(gpu.capability)}. "
            f"{WITHOUT}"
        )
    made: dict[tuple[object, bool], bytes] = {}
    try:
        with Worker() as worker:
            for node, need in wanted:
                kind = (need.request, need.mask_rows)
                if kind not in made:
                    made[kind] = bundle_of(need, images_on(gpu), worker, skip=skip, cache=cache)
                set_attribute(node, ATTRIBUTE, made[kind])
    except AlibiError as error:
        why = str(error).rstrip(".")
        raise NoKernels(
            f"{some}: no kernels for {gpu.name} ({text(gpu.capability)}), {why}. Or attach them on another machine: "
            f"rewrite MODEL --embed-kernels --target {text(gpu.capability)}. {WITHOUT}"
        ) from error
