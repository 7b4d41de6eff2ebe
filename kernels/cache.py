"""Bundles on disk, compiled when they are first asked for and again when the sources of the kernels change."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..rewriter import hidden
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
    architectures = tuple(sorted(architectures))
    stamp = hashlib.sha256(f"{source_digest()} {_compiler()} {architectures}".encode()).hexdigest()
    directory = root / bundle_name(request, layouts, skip) / stamp[:16]
    try:
        Description.from_json((directory / DESCRIPTION).read_text())
    except (OSError, DescriptionError):
        pass
    else:
        return directory
    # Compiled aside and renamed, so that a run that is killed, or two at once, leave no half of a bundle.
    directory.parent.mkdir(parents=True, exist_ok=True)
    with hidden.folder(directory) as making:
        made = making.path / "bundle"
        compile_bundle(request, made, architectures=architectures, layouts=layouts, skip=skip, worker=worker)
        shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):  # another run was faster: its bundle is the same
            made.rename(directory)
    return directory


def _compiler() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "none"
