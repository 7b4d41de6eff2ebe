"""Compiles the kernels of a request ahead of time and writes the bundle: images and launch description.

No GPU is needed.  Triton is imported by a worker process only, so that this module imports without it and an
abort inside LLVM becomes an exception here.

    python -m alibi_rewriter.kernels.compile.compiler AlibiAttentionCausal bfloat16 128 --arch 90 --output bundle/
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ...base import hidden, isolation
from ..launch.description import FORMAT, Buffer, Condition, Description, Extent, Factor, Selection
from ..requests import MASK_DTYPES, MAX_SPLITS, BufferLayout, KernelRequest
from .configurations import Configuration, certifies, configurations, reads_mask_rows, with_mask_rows

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
DESCRIPTION = "description.json"

WORKSPACE = (
    Buffer("key_norms", 4, Extent((Factor(("batch", "kv_heads")), Factor(("s_kv",), 64)))),
    Buffer("ticket", 4, Extent()),
    Buffer("previous", 4, Extent((Factor(("batch", "heads")), Factor(("s_q",), 128)))),
    Buffer("key_terms", 4, Extent((Factor(("batch", "heads")), Factor(("s_kv",), 64)))),
    Buffer("reach", 8, Extent((Factor(("batch", "heads")), Factor(("s_q",), 128)))),
    # Two bytes for a block of MASK_BLOCK keys.
    Buffer(
        "blocks", 8, Extent((Factor(("mask_batches", "mask_heads")), Factor(("s_q",), 128), Factor(("s_kv",), 256)))
    ),
    Buffer("partial", 4, Extent((Factor(("batch", "heads", "s_q", "splits", "value_dim")),))),
    Buffer("partial_sums", 8, Extent((Factor(("batch", "heads", "s_q", "splits")),))),
)
SELECTION = Selection(decode_rows=16, min_keys=256, max_splits=MAX_SPLITS)


QUIET = {"TRITON_DISABLE_LINE_INFO": "1"}
"""Line tables would quadruple the images and carry paths of the machine that compiled."""


class CompileError(RuntimeError):
    """A kernel that could not be compiled; the message names it and says why."""


@dataclass
class Worker:
    """A compiling process in a folder of its own; use as a context manager."""

    process: subprocess.Popen[str] | None = None
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            with contextlib.suppress(BrokenPipeError):
                self._pipe(self.process.stdin).close()
            self.process.wait()
            self.process = None
        self._held.close()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        if pipe is None:
            raise CompileError("the compiling process has no pipes")
        return pipe

    def compile(self, job: dict[str, Any]) -> dict[str, Any]:
        """Runs one job (see ``worker.compile_job``).

        Raises:
            CompileError: If the job fails or the process dies.
        """
        if self.process is None or self.process.poll() is not None:
            self.process = self._start()
        requests, answers = self._pipe(self.process.stdin), self._pipe(self.process.stdout)
        try:
            requests.write(json.dumps(job) + "\n")
            requests.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise CompileError(f"{job['role']} for sm_{job['arch']}: the compiler died (is Triton installed?)")
        answer = json.loads(line)
        if "error" in answer:
            raise CompileError(f"{job['role']} for sm_{job['arch']}: {answer['error']}")
        return dict(answer["result"])

    def _start(self) -> subprocess.Popen[str]:
        place = self._held.enter_context(hidden.scratch_folder())
        # Triton keeps what it compiled, too: here, and not where somebody else may have put something.
        variables = {**QUIET, "TRITON_HOME": str(place.path), "TRITON_CACHE_DIR": str(place.path / "cache")}
        return isolation.start(
            "kernels.compile.worker", folder=place.path, variables=variables,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            pass_fds=(place.handle,),
        )  # fmt: skip


def grid_of(configuration: Configuration) -> tuple[Extent, Extent, Extent]:
    """How many programs a kernel is launched with."""
    one = Extent()
    tile = configuration.tile
    rows = Factor(("s_q",), tile.block_m)
    if configuration.engine == "hopper":
        return Extent((rows, Factor(("batch", "heads"))), at_most="multiprocessors"), one, one
    # What may be large is on the first axis; the others end at 65,535.
    if configuration.role in ("prefill", "reach"):
        return Extent((rows, Factor(("batch", "heads")))), one, one
    if configuration.role == "combine":
        return Extent((Factor(("batch", "heads")),)), Extent((Factor(("s_q",)),)), one
    if configuration.role == "blocks":
        keys, entries = Factor(("s_kv",), tile.block_n), Factor(("mask_batches",))
        return Extent((rows, keys, entries)), Extent((Factor(("mask_heads",)),)), one
    if configuration.role == "key_norms":
        return Extent((Factor(("s_kv",), 64), Factor(("batch", "kv_heads")))), one, one
    packed, splits = Extent((Factor(("rows",), tile.block_m),)), Extent((Factor(("splits",)),))
    return Extent((Factor(("batch", "kv_heads")),)), packed, splits


def described(found: dict[str, Any], configuration: Configuration, layout: BufferLayout) -> dict[str, Any]:
    """The kernel's part of the description, as JSON."""
    role = configuration.role
    conditions = list(configuration.conditions)
    if configuration.engine == "hopper" and not configuration.options.get("SKIP"):
        conditions.append(Condition("surplus", at_least=0))
    fields = {key: value for key, value in found.items() if key != "serialized"}
    spot = "" if layout.contiguous else "-strided"
    spot += "-rows" if layout.mask_rows else ""
    spot += "-dense" if layout.mask_dense else ""
    spot += "-skip" if configuration.options.get("SKIP") else ""
    sizes = "".join(f"-{c.size}{c.at_least or 0}.{c.at_most or ''}" for c in configuration.conditions)
    return {
        **fields,
        "name": f"{role}-sm{configuration.arch}-{configuration.engine}-{configuration.tile.text}{spot}{sizes}",
        "role": configuration.role,
        "arch": configuration.arch,
        "exact_arch": configuration.arch >= 90,
        "layout": dataclasses.asdict(layout),
        "conditions": [dataclasses.asdict(condition) for condition in conditions],
        "grid": [dataclasses.asdict(extent) for extent in grid_of(configuration)],
        "tile": f"{configuration.engine} {configuration.tile.text}",
        "programs": configuration.programs,
    }


def _widened(request: KernelRequest, layouts: Sequence[BufferLayout]) -> list[BufferLayout]:
    """With a mask, every layout twice: first the one whose masks are read in vectors."""
    if request.mask_dtype is None:
        return list(layouts)
    return [dataclasses.replace(layout, mask_dense=dense) for layout in layouts for dense in (True, False)]


def jobs(
    request: KernelRequest, architectures: Sequence[int], layouts: Sequence[BufferLayout], skip: bool
) -> Iterator[tuple[Configuration, BufferLayout]]:
    """Every kernel of a bundle: which configuration, for which layout."""
    for arch in architectures:
        found = configurations(request, arch, skip=skip)
        # The bulk copies take any strides: one image serves every layout whose mask differs by key only.
        if not request.variant.window and not all(layout.mask_rows for layout in layouts):
            yield from ((x, BufferLayout(contiguous=False)) for x in found if x.engine == "hopper")
        rows = request.variant.window or any(layout.mask_rows for layout in layouts)
        if rows and reads_mask_rows(request):
            yield from _mask_row_jobs(request, found)
        for layout in _widened(request, layouts):
            # A kernel for one row is the general one where masks differ by key only.
            portable = (x for x in found if x.engine != "hopper")
            # And nothing is certified where they have rows.
            yield from (
                (x, layout) for x in portable if not (certifies(x) if layout.mask_rows else "MASK_ROWS" in x.options)
            )


def _mask_row_jobs(
    request: KernelRequest, found: Sequence[Configuration]
) -> Iterator[tuple[Configuration, BufferLayout]]:
    """The Hopper kernel without conditions for masks with rows or windows, and what looks at them; vectors first."""
    general = [x for x in found if x.engine == "hopper" and not x.conditions and not x.options.get("SKIP")]
    for configuration in general[:1]:
        for dense in (True, False) if request.mask_dtype is not None else (False,):
            for each in with_mask_rows(configuration):
                yield each, BufferLayout(contiguous=False, mask_rows=True, mask_dense=dense)


def compile_bundle(
    request: KernelRequest, directory: Path, *, architectures: Sequence[int] = ARCHITECTURES,
    layouts: Sequence[BufferLayout] = (BufferLayout(),), skip: bool = False, worker: Worker | None = None,
) -> Description:  # fmt: skip
    """Compiles all kernels of ``request`` and writes the bundle into ``directory``.

    Args:
        request: The kind of node.
        directory: Created if need be; images and ``description.json`` go there.
        architectures: Compute capabilities times ten.
        layouts: What may be assumed about the buffers.
        skip: With certified skipping of far blocks (docs/kernels.md).
        worker: A running one, to save its start.

    Raises:
        CompileError: If a kernel does not compile.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kernels = []
    with contextlib.nullcontext(worker) if worker is not None else Worker() as compiler:
        for configuration, layout in jobs(request, architectures, layouts, skip):
            found = compiler.compile(job_of(request, configuration, layout, directory))
            kernels.append(described(found, configuration, layout))
    triton_version = importlib.metadata.version("triton")
    document = {
        "format": FORMAT,
        "request": dataclasses.asdict(request),
        "generator": f"triton {triton_version}",
        "selection": dataclasses.asdict(SELECTION),
        "workspace": [dataclasses.asdict(buffer) for buffer in WORKSPACE],
        "kernels": kernels,
    }
    description = Description.from_json(json.dumps(document))
    (directory / DESCRIPTION).write_text(description.to_json())
    return description


def job_of(
    request: KernelRequest, configuration: Configuration, layout: BufferLayout, directory: Path
) -> dict[str, Any]:
    """The worker's job for one kernel."""
    return {
        "engine": configuration.engine,
        "role": configuration.role,
        "request": dataclasses.asdict(request),
        "tile": dataclasses.asdict(configuration.tile),
        "layout": dataclasses.asdict(layout),
        "arch": configuration.arch,
        "options": configuration.options,
        "directory": str(directory.absolute()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compiles the kernels of one kind of fused node ahead of time.")
    parser.add_argument("op_type")
    parser.add_argument("dtype")
    parser.add_argument("head_dim", type=int)
    parser.add_argument("--value-dim", type=int)
    parser.add_argument("--mask-dtype", choices=MASK_DTYPES)
    parser.add_argument("--mask-rows", action="store_true", help="the mask differs between heads or query rows")
    parser.add_argument("--strided", action="store_true", help="also kernels for buffers with any strides")
    parser.add_argument("--skip", action="store_true", help="certified skipping of far blocks")
    parser.add_argument("--arch", type=int, action="append", choices=ARCHITECTURES)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        request = KernelRequest(
            options.op_type, options.dtype, options.head_dim, options.value_dim or options.head_dim, options.mask_dtype
        )
        layouts = [
            BufferLayout(contiguous, options.mask_rows)
            for contiguous in ((True, False) if options.strided else (True,))
        ]
        description = compile_bundle(
            request, options.output, architectures=options.arch or ARCHITECTURES, layouts=layouts, skip=options.skip
        )
    except (ValueError, CompileError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    sys.stdout.write(f"{len(description.kernels)} kernels in {options.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
