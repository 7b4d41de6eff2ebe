"""Hashes of the compiled kernels: what a change of their text must leave as it is.  No GPU is needed.

    python benchmarks/pins/kernels.py record kernels.json      before the change
    python benchmarks/pins/kernels.py compare kernels.json     after it; exits with 1 and names what differs

What is pinned: one kernel of every way through the sources (of those that differ in numbers only, such as strides and
tiles, the first), and on every architecture the tiles of the table of configurations.

A kernel has two hashes: ``ptx_sha256``, which the description of a bundle carries, too, and ``ir``, of Triton's first
representation after functions are inlined.  Equal ``ir`` makes equal PTX, because the same compiler goes on from there.
``compare`` therefore compiles to the end only where ``ir`` differs; with ``--whole``, everywhere.

Everything takes hours of one processor: a kernel for Hopper ten seconds, another one two, its ``ir`` a third of that.
``--arch``, ``--only`` and ``--every`` choose a sample, ``record --first`` leaves the PTX out; ``compare`` takes of the
file what the same choice takes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from alibi_rewriter.fused.family import KERNEL_MEMBERS, MaskKind, Variant
from alibi_rewriter.kernels.compile import worker
from alibi_rewriter.kernels.compile.compiler import ARCHITECTURES, QUIET, described, job_of, jobs
from alibi_rewriter.kernels.compile.configurations import Configuration
from alibi_rewriter.kernels.compile.resources import requests as tabled
from alibi_rewriter.kernels.requests import DTYPES, BufferLayout, KernelRequest
from triton import knobs

SIZES = {"float16": (64, 80, 256), "bfloat16": (64, 80, 256), "float32": (64,)}
"""Head sizes of which ways are looked for: one chunk, two chunks, and one that has room for one tile's queries only."""
LAYOUTS = (BufferLayout(), BufferLayout(mask_rows=True))
CUTS = frozenset({
    "BLOCK_M", "BLOCK_N", "STAGES", "CONSUMERS", "BUNDLE_MIB", "CONSUMER_REGISTERS", "PRODUCER_REGISTERS", "BLOCK", "D",
    "V", "D_PADDED", "V_PADDED", "D0", "V0", "LEAST_TOTAL",
})  # fmt: skip
"""Constants that change numbers in the code, not the way through the sources; strides do not either."""
CHUNKS = frozenset({"D1", "V1"})
"""Constants of which only matters whether they are zero."""
ROUND = 20
"""After so many kernels ``record`` writes what it has."""


class Reached(Exception):
    """A stage of a compilation that nothing has to be compiled beyond."""


def requests() -> Iterator[KernelRequest]:
    """Every member, type of elements and type of mask."""
    for variant in KERNEL_MEMBERS:
        for dtype in DTYPES:
            for mask in masks(variant, dtype):
                for size in SIZES[dtype]:
                    yield KernelRequest(variant.op_type, dtype, size, size, mask)


def masks(variant: Variant, dtype: str) -> list[str | None]:
    """The types of masks that a member is pinned with."""
    if variant.mask == MaskKind.ADDITIVE.value:
        return sorted({dtype, "float32"})
    return ["bool" if variant.mask == MaskKind.BOOLEAN.value else None]


def pinned() -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, job) of all kernels that are pinned."""
    names: set[str] = set()
    ways: set[str] = set()
    for request in requests():
        for arch, engines in ((80, ("portable",)), (90, ("hopper",))):
            for configuration, layout in jobs(request, [arch], LAYOUTS, True):
                if configuration.engine not in engines and configuration.role != "blocks":
                    continue
                job = job_of(request, configuration, layout, Path())
                taken = way(job)
                if taken not in ways:
                    ways.add(taken)
                    names.add(name_of(request, configuration, layout))
                    yield name_of(request, configuration, layout), job
    for request, layout in tabled():
        for configuration, layout_of in jobs(request, ARCHITECTURES, [layout], False):
            name = name_of(request, configuration, layout_of)
            if name not in names:
                names.add(name)
                yield name, job_of(request, configuration, layout_of, Path())


def name_of(request: KernelRequest, configuration: Configuration, layout: BufferLayout) -> str:
    """A name that no other kernel has."""
    kind = f"{request.op_type} {request.dtype} d{request.head_dim} {request.mask_dtype or 'no mask'}"
    return f"{described({}, configuration, layout)['name']} {kind}"


def way(job: dict[str, Any]) -> str:
    """What decides how a kernel goes through its sources; equal for kernels that differ in numbers only."""
    source = worker.compilation_of(job).source
    constants = {source.fn.arg_names[place[0]]: value for place, value in source.constants.items()}
    decisive = {
        name: bool(value) if name in CHUNKS else value
        for name, value in constants.items()
        if name not in CUTS and not name.endswith(("_batch", "_head", "_row", "_column"))
    }
    return json.dumps([source.name, sorted((name, repr(value)) for name, value in decisive.items())])


def chosen(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """The sample that the options ask for."""
    for name, job in pinned():
        wanted = not options.arch or job["arch"] in options.arch
        # By name, so that the choice stays when others come.
        share = int(hashlib.sha256(name.encode()).hexdigest(), 16) % options.every
        if wanted and share == 0 and re.search(options.only, name):
            yield name, job


def compiled(job: dict[str, Any], known: str | None, first: bool = False) -> dict[str, str]:
    """The hashes of a kernel; with ``first``, or if the first representation is the ``known`` one, that one's alone."""
    found: dict[str, str] = {}
    asked = worker.compilation_of(job)

    def watch(_: Any, stages: dict[str, Any], *__: Any) -> None:
        earliest = next(iter(stages))
        begin, end = stages[earliest], stages["ptx"]

        def represented(source: Any, metadata: dict[str, Any]) -> Any:
            module = begin(source, metadata)
            found["ir"] = digest(module.str_nodebug())
            if first or found["ir"] == known:
                raise Reached
            return module

        def written(source: Any, metadata: dict[str, Any]) -> Any:
            found["ptx_sha256"] = digest(worker.image_text(end(source, metadata), asked.arguments))
            raise Reached

        stages[earliest], stages["ptx"] = represented, written

    knobs.runtime.add_stages_inspection_hook = watch
    try:
        triton.compile(asked.source, target=asked.target, options=asked.options)
    except Reached:
        return found
    raise RuntimeError("the compilation ended without PTX")


def digest(text: str) -> str:
    """The name of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def record(options: argparse.Namespace) -> int:
    """Compile the sample and write its hashes; the exit status."""
    found: dict[str, dict[str, str]] = {}

    def keep() -> None:
        document = {"triton": triton.__version__, "kernels": found}
        options.file.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    for name, job in chosen(options):
        found[name] = compiled(job, None, options.first)
        if len(found) % ROUND == 0:
            keep()
    keep()
    sys.stdout.write(f"{len(found)} kernels recorded\n")
    return 0


def compare(options: argparse.Namespace) -> int:
    """Compile those of the sample that the file has, and name what differs; the exit status."""
    document = json.loads(options.file.read_text(encoding="utf-8"))
    if document["triton"] != triton.__version__:
        sys.exit(f"{options.file} was recorded with Triton {document['triton']}, this is {triton.__version__}")
    known = document["kernels"]
    present = shorter = different = 0
    for name, job in chosen(options):
        if name not in known:
            continue
        present += 1
        before = known[name]
        lowered = options.whole and "ptx_sha256" in before
        found = compiled(job, None if lowered else before["ir"])
        if "ptx_sha256" not in found:
            shorter += 1
        elif found["ptx_sha256"] != before.get("ptx_sha256"):
            different += 1
            what = "the PTX differs" if "ptx_sha256" in before else "ir differs, and the PTX was not recorded"
            sys.stdout.write(f"{name}: {what}\n")
        elif found["ir"] != before["ir"]:
            sys.stdout.write(f"{name}: only the first representation differs\n")
        sys.stdout.flush()
    sys.stdout.write(
        f"{present} of {len(known)} kernels compared, {shorter} by their first representation; {different} differ\n"
    )
    return 1 if different or not present else 0


def main() -> int:
    """The command; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["record", "compare", "list"])
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--arch", type=int, action="append", choices=ARCHITECTURES, help="may be given more than once")
    parser.add_argument("--only", default="", metavar="PATTERN", help="names that this regular expression is found in")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one in N")
    parser.add_argument("--whole", action="store_true", help="compare the PTX of all")
    parser.add_argument("--first", action="store_true", help="record the first representation alone")
    options = parser.parse_args()
    if options.what == "list":
        for name, _ in chosen(options):
            sys.stdout.write(f"{name}\n")
        return 0
    if options.file is None:
        parser.error("a file to record into or to compare with is needed")
    with tempfile.TemporaryDirectory() as folder:
        # As the kernels of the product are compiled; and Triton may not answer from an older compilation.
        os.environ.update({**QUIET, "TRITON_HOME": folder, "TRITON_CACHE_DIR": folder})
        return record(options) if options.what == "record" else compare(options)


if __name__ == "__main__":
    sys.exit(main())
