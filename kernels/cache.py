"""Bundles on disk, compiled when they are first asked for and again when the sources of the kernels change."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from .compiler import DESCRIPTION, Worker, compile_bundle
from .description import Description, DescriptionError
from .variants import Layout, Request


def source_digest() -> str:
    """Changes when anything changes that an image depends on: the modules and data of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*")):
        if path.suffix in (".py", ".json") and path.name not in (
            "resources.json",
            "resources.py",
            "launcher.py",
            "plan.py",
        ):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def bundle_name(request: Request, layouts: Sequence[Layout], skip: bool) -> str:
    """A directory name that tells requests apart."""
    parts = [request.op_type, request.dtype, f"d{request.head_dim}"]
    if request.value_dim != request.head_dim:
        parts.append(f"v{request.value_dim}")
    if request.mask_dtype:
        parts.append(request.mask_dtype)
    parts += [
        f"{'dense' if layout.contiguous else 'strided'}{'-rows' if layout.mask_rows else ''}" for layout in layouts
    ]
    return "-".join(parts) + ("-skip" if skip else "")


def cached_bundle(
    request: Request, root: Path, architectures: Sequence[int], *, layouts: Sequence[Layout] = (Layout(),),
    skip: bool = False, worker: Worker | None = None,
) -> Path:  # fmt: skip
    """The directory of the bundle, compiled if need be.

    Args:
        request: The kind of node.
        root: Where bundles are kept.
        architectures: Compute capabilities times ten that the bundle has to serve.
        layouts: What may be assumed about the buffers.
        skip: With certified skipping.
        worker: A running compiler, to save its start.

    Raises:
        CompileError: If a kernel does not compile.
    """
    directory = root / bundle_name(request, layouts, skip)
    stamp, current = directory / "sources.sha256", source_digest()
    if stamp.exists() and stamp.read_text() == current:
        try:
            found = Description.from_json((directory / DESCRIPTION).read_text())
        except (OSError, DescriptionError):
            found = None
        if found is not None and set(architectures) <= {kernel.arch for kernel in found.kernels}:
            return directory
    compile_bundle(request, directory, architectures=architectures, layouts=layouts, skip=skip, worker=worker)
    stamp.write_text(current)
    return directory
