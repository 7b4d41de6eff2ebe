"""Bundles on disk, compiled when they are first asked for and again when the sources of the kernels change."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...base import hidden
from ..launch.description import Description
from ..requests import BufferLayout, KernelRequest
from .compiler import DESCRIPTION, Worker, compile_bundle

SEAL = "seal.json"
"""What a bundle was compiled for, and the digest of its description."""

NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""A link is not followed, and a pipe not waited for."""


def source_digest() -> str:
    """Changes when anything changes that an image depends on: the modules and data of the kernels."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*")):
        if path.suffix in (".py", ".json") and path.name not in (
            "resources.json",
            "resources.py",
            "launcher.py",
            "plan.py",
        ):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def bundle_name(request: KernelRequest, layouts: Sequence[BufferLayout], skip: bool) -> str:
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


@dataclass(frozen=True)
class Wanted:
    """What is asked of the cache.

    Attributes:
        request: The kind of node.
        architectures: Compute capabilities times ten, ascending, that the bundle has to serve.
        layouts: What may be assumed about the buffers.
        skip: With certified skipping.
    """

    request: KernelRequest
    architectures: tuple[int, ...]
    layouts: tuple[BufferLayout, ...] = (BufferLayout(),)
    skip: bool = False

    def digest(self) -> str:
        """Changes with everything that the images depend on: request, sources and compiler."""
        asked = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(f"{source_digest()} {_compiler()} {asked}".encode()).hexdigest()

    def place(self, root: Path) -> Path:
        """Where the bundle lies below the cache."""
        return root / bundle_name(self.request, self.layouts, self.skip) / self.digest()[:16]


def cached_bundle(
    request: KernelRequest, root: Path, architectures: Sequence[int], *,
    layouts: Sequence[BufferLayout] = (BufferLayout(),), skip: bool = False, worker: Worker | None = None,
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
        OSError: If the cache cannot be written.
    """
    wanted = Wanted(request, tuple(sorted(architectures)), tuple(layouts), skip)
    return open_bundle(wanted, root, worker=worker)[0]


def open_bundle(
    wanted: Wanted, root: Path, *, worker: Worker | None = None, note: Callable[[str], None] = lambda _: None
) -> tuple[Path, Description]:
    """The directory of the bundle and its description, compiled if need be.

    What lies in the cache becomes machine code in an engine.  It is used only if it is this user's (or the system's),
    nobody else may write it, and it is sealed for exactly this request; the description holds digests of the images.

    Args:
        wanted: What is asked for.
        root: Where bundles are kept.
        worker: A running compiler, to save its start.
        note: Told why something in the cache is not used.

    Raises:
        CompileError: If a kernel does not compile.
        OSError: If the cache cannot be written.
    """
    directory = wanted.place(root)
    found = _sealed(directory, wanted, note)
    if found is not None:
        return directory, found
    # Compiled aside and renamed, so that a run that is killed, or two at once, leave no half of a bundle.
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    with hidden.folder(directory) as making:
        made = making.path / "bundle"
        compile_bundle(
            wanted.request, made, architectures=wanted.architectures, layouts=wanted.layouts, skip=wanted.skip,
            worker=worker,
        )  # fmt: skip
        _seal(made, wanted)
        shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):  # another run was faster: its bundle is the same
            made.rename(directory)
    found = _sealed(directory, wanted, note)
    if found is None:
        raise PermissionError(errno.EPERM, "it holds kernels that are not yours and cannot be removed", str(directory))
    return directory, found


def _seal(directory: Path, wanted: Wanted) -> None:
    """Say what a bundle is for, and keep it from others, whatever the umask is."""
    description = (directory / DESCRIPTION).read_bytes()
    seal = {"for": wanted.digest(), "description": hashlib.sha256(description).hexdigest()}
    (directory / SEAL).write_text(json.dumps(seal) + "\n")
    for path in directory.iterdir():
        path.chmod(0o600)
    directory.chmod(0o700)


def _sealed(directory: Path, wanted: Wanted, note: Callable[[str], None]) -> Description | None:
    """The description of a bundle that is what was asked for; None if there is none, and a note if it is another."""
    if not os.path.lexists(directory):
        return None
    try:
        seal = json.loads(_own(directory / SEAL))
        content = _own(directory / DESCRIPTION)
        if seal != {"for": wanted.digest(), "description": hashlib.sha256(content).hexdigest()}:
            raise ValueError("they are sealed for something else")
        description = Description.from_json(content.decode())
        for image in (kernel.image for kernel in description.kernels):
            for name, digest in ((image.cubin, image.cubin_sha256), (image.ptx, image.ptx_sha256)):
                if Path(name).name != name or hashlib.sha256(_own(directory / name)).hexdigest() != digest:
                    raise ValueError(f"'{name}' is damaged")
    except (OSError, ValueError) as error:
        reason = f"{error.strerror}" if isinstance(error, OSError) else str(error)
        note(f"kernels in '{directory}' are compiled anew: {reason}")
        return None
    return description


def _own(path: Path) -> bytes:
    """The content of a file that nobody else can have written.

    Raises:
        OSError: It cannot be read.
        ValueError: Somebody else can have written it.
    """
    handle = os.open(path, os.O_RDONLY | NO_LINKS)
    with os.fdopen(handle, "rb") as stream:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"'{path.name}' is no file")
        if os.name == "posix":
            if found.st_uid not in (0, os.geteuid()):
                raise ValueError(f"'{path.name}' belongs to another user")
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ValueError(f"'{path.name}' may be written by others")
        return stream.read()


def _compiler() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "none"
