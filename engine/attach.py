"""Compiles the kernels that a model needs and attaches them to its fused nodes."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto

from ..base.cures import install
from ..base.errors import EngineFailed, MissingDependency
from ..graph.edit import set_attribute
from ..kernels.compile.cache import Wanted, open_bundle
from ..kernels.compile.compiler import CompileError, Worker
from ..kernels.compile.configurations import why_not_skipped
from .container import encode
from .needs import Need, needs
from .targets import Images

ATTRIBUTE = "kernels"
"""The node attribute (a STRING, binary) that the plugin library reads its kernels from."""

NO_TRITON = f"compiling kernels needs Triton, which is not installed. Run: {install('triton')}"


@dataclass
class Attached:
    """What was attached.

    Attributes:
        nodes: Name of every fused node, in graph order.
        bundles: Bytes per distinct kind of node, by op_type, type and head size.
        images: Architectures.
    """

    images: Images
    nodes: list[str] = field(default_factory=list)
    bundles: dict[str, int] = field(default_factory=dict)
    bytes: int = 0


def cache_root() -> Path:
    """Where compiled kernels are kept between runs (``XDG_CACHE_HOME``)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "alibi-rewriter" / "kernels"


def attach_kernels(
    model: ModelProto,
    base_dir: Path,
    images: Images,
    *,
    skip: bool = False,
    cache: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Attached:
    """Give every fused node of a model its compiled kernels.

    Args:
        model: A rewritten model; its nodes get the attribute ``kernels``.
        base_dir: Where its external data lie.
        images: What to compile for.
        skip: With certified skipping of far keys, where it is defined (docs/kernels.md).
        cache: Where compiled kernels are kept; the user's cache folder by default.
        progress: Told what is being compiled.
        note: Told why kernels in the cache are not used.

    Raises:
        EngineFailed: A kernel does not compile, or a type or head size has none.
        MissingDependency: Triton is not installed.
    """
    attached = Attached(images)
    made: dict[tuple[object, ...], bytes] = {}
    with Worker() as worker:
        for node, need in needs(model, base_dir):
            kind = (need.request, need.layout)
            if kind not in made:
                progress(_name(need))
                made[kind] = bundle_of(need, images, worker, skip=skip, cache=cache, note=note)
                attached.bundles[_name(need)] = len(made[kind])
            set_attribute(node, ATTRIBUTE, made[kind])
            attached.nodes.append(need.node)
            attached.bytes += len(made[kind])
    return attached


def _name(need: Need) -> str:
    request = need.request
    widths = (
        str(request.head_dim) if request.head_dim == request.value_dim else f"{request.head_dim}/{request.value_dim}"
    )
    return f"{request.op_type} {request.dtype} D={widths}"


def bundle_of(
    need: Need,
    images: Images,
    worker: Worker,
    *,
    skip: bool = False,
    cache: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> bytes:
    """The kernels of one kind of node, from the cache or compiled now.

    Args:
        need: The node.
        images: What to compile for.
        worker: A compiler.
        skip: With certified skipping of far keys, where it is defined.
        cache: Where compiled kernels are kept; the user's cache folder by default.
        note: Told why kernels in the cache are not used.

    Raises:
        EngineFailed: A kernel does not compile, or what was compiled cannot be kept.
        MissingDependency: It has to be compiled, and Triton is not installed.
    """
    cache = cache or cache_root()
    try:
        reason = why_not_skipped(need.request, need.layout)
        if skip and reason:
            note(f"nothing is skipped in '{need.node}' and nodes like it: {reason}.")
        wanted = Wanted(need.request, images.architectures, (need.layout,), skip and not reason)
        directory, description = open_bundle(wanted, cache, worker=worker, note=note)
        return encode(description, directory, machine_code=images.machine_code, ptx=images.ptx)
    except (CompileError, LookupError) as error:
        if importlib.util.find_spec("triton") is None:
            raise MissingDependency(NO_TRITON) from error
        raise EngineFailed(f"the kernels of '{need.node}' ({_name(need)}) do not compile: {error}") from error
    except (OSError, ValueError) as error:  # a file that changed after it was looked at is a ValueError
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise EngineFailed(
            f"compiled kernels cannot be kept in '{cache}': {reason}. Set XDG_CACHE_HOME to a folder that can "
            "be written."
        ) from error
