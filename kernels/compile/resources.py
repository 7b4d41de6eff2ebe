"""What every chosen configuration needs on every architecture: registers, spills, shared memory.

    python -m alibi_rewriter.kernels.compile.resources             # compiles everything and rewrites resources.json
    python -m alibi_rewriter.kernels.compile.resources --missing   # only the rows that are not in it yet
    python -m alibi_rewriter.kernels.compile.resources --jobs 16   # with so many processes

The table is in the repository; a test fails when a chosen configuration spills in an inner loop, does not fit,
or is missing from it.  The Hopper kernel reloads a few scalars around its loops: the test holds it to a small
number of local-memory instructions instead.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..requests import BufferLayout, KernelRequest
from .compiler import ARCHITECTURES, Worker, job_of
from .configurations import Configuration, configurations

SHARED_KIB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""Shared memory that one program may have."""
TABLE = Path(__file__).with_name("resources.json")
_MATRIX = ("HGMMA", "HMMA", "UTCHMMA")
_LOCAL = ("LDL", "STL")


def requests() -> Iterator[tuple[KernelRequest, BufferLayout]]:
    """The variants of the table: the forms, a mask with rows, the head sizes that tiles were chosen for."""
    for dtype, sizes in (("bfloat16", (64, 128)), ("float16", (80, 256)), ("float32", (64, 128))):
        for size in sizes:
            for symmetric, causal, positions, mask in (
                (False, True, False, None), (True, False, False, None), (False, False, True, "float32"),
                (False, True, True, "bool"), (True, False, False, "bool"),
            ):  # fmt: skip
                request = KernelRequest.of(
                    symmetric=symmetric, causal=causal, positions=positions, mask_dtype=mask, dtype=dtype, head_dim=size
                )
                yield request, BufferLayout(True, mask == "float32", mask is not None)


def row_name(request: KernelRequest, configuration: Configuration) -> str:
    """How the table calls a kernel."""
    return " ".join((
        f"sm_{configuration.arch}", configuration.role, configuration.engine, request.op_type, request.dtype,
        f"d{request.head_dim}", configuration.tile.text, *(["terms"] if configuration.options.get("TERMS") else []),
    ))  # fmt: skip


def wanted() -> Iterator[tuple[str, KernelRequest, Configuration, BufferLayout]]:
    """Every row that the table has to have."""
    for arch in ARCHITECTURES:
        for request, layout in requests():
            for configuration in configurations(request, arch):
                if request.mask_dtype == "bool" and configuration.engine != "hopper":
                    continue  # the additive mask is the larger case of the portable kernels
                if configuration.role in ("prefill", "decode_split"):
                    yield row_name(request, configuration), request, configuration, layout


def loop_spills(listing: str) -> int:
    """Local-memory instructions inside innermost loops that hold matrix instructions, in a disassembly."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        label = re.match(r"\s*(\.L_x?_?\w+):", line)
        if label:
            labels[label.group(1)] = len(instructions)
        text = re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?);", line)
        if text:
            instructions.append(text.group(1))
    spans = []
    for index, text_of in enumerate(instructions):
        branch = re.search(r"\bBRA(?:\.\w+)*\s.*?`?\(?(\.L_x?_?\w+)\)?", text_of)
        if branch and labels.get(branch.group(1), index + 1) <= index:
            spans.append((labels[branch.group(1)], index))
    inner = [a for a in spans if not any(b != a and b[0] >= a[0] and b[1] <= a[1] for b in spans)]
    count = 0
    for first, last in inner:
        body = instructions[first : last + 1]
        if any(re.search(rf"\b{name}\b", text_of) for text_of in body for name in _MATRIX):
            count += sum(bool(re.search(rf"\b{name}\b", text_of)) for text_of in body for name in _LOCAL)
    return count


def disassemble(cubin: Path) -> str:
    """The listing that nvdisasm of the installed Triton makes."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    return subprocess.run([str(tool), "-c", str(cubin)], capture_output=True, text=True, check=False).stdout


Row = dict[str, Any]


def _measured(worker: Worker, request: KernelRequest, configuration: Configuration, layout: BufferLayout) -> Row:
    """Compiles one row."""
    with tempfile.TemporaryDirectory() as directory:
        found = worker.compile(job_of(request, configuration, layout, Path(directory)))
        cubin = Path(directory) / found["image"]["cubin"]
        spilled = loop_spills(disassemble(cubin)) if found["spill_bytes"] else 0
    return {
        "registers": found["registers"], "spill_bytes": found["spill_bytes"], "loop_spills": spilled,
        "shared_bytes": found["shared_bytes"], "threads": found["threads"], "serialized": found["serialized"],
    }  # fmt: skip


def measure(known: dict[str, Row], jobs: int = 1) -> dict[str, Row]:
    """Compiles every row that is not known, several side by side if need be."""
    rows = {name: (request, configuration, layout) for name, request, configuration, layout in wanted()}
    missing = [name for name in rows if name not in known]

    def part(first: int) -> dict[str, Row]:
        table = {}
        with Worker() as worker:
            for name in missing[first::jobs]:
                table[name] = _measured(worker, *rows[name])
                sys.stderr.write(f"{name}: {json.dumps(table[name])}\n")
        return table

    with ThreadPoolExecutor(jobs) as pool:
        found = {name: row for table in pool.map(part, range(jobs)) for name, row in table.items()}
    return {name: known[name] if name in known else found[name] for name in rows}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="Records what every chosen configuration needs.")
    parser.add_argument("--missing", action="store_true", help="keep the rows that are there")
    parser.add_argument("--jobs", type=int, default=1, help="compiling processes")
    options = parser.parse_args(arguments)
    rows = measure(json.loads(TABLE.read_text()) if options.missing else {}, options.jobs)
    lines = ",\n ".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    TABLE.write_text(f"{{\n {lines}\n}}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
