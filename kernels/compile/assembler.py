"""PTX as text: parameters that nobody passes are cut, ptxas makes the cubin and reports what it uses."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_ENTRY = re.compile(r"(\.visible \.entry (\w+)\()(.*?)(\n\))", re.S)


class AssemblyError(RuntimeError):
    """PTX that is not as expected, or that ptxas refuses."""


@dataclass(frozen=True)
class Usage:
    """What ptxas reports for a kernel.

    Attributes:
        registers: Per thread.
        spill_bytes: Stored to and loaded from local memory, per thread, summed over the code.
        serialized: ptxas could not keep asynchronous matrix products in flight.
    """

    registers: int
    spill_bytes: int
    serialized: bool


def strip_comments(ptx: str) -> str:
    """Drops comment lines, which carry paths of the machine that compiled."""
    return re.sub(r"^\s*//.*\n", "", ptx, flags=re.M)


def _entry(ptx: str) -> re.Match[str]:
    match = _ENTRY.search(ptx)
    if match is None:
        raise AssemblyError("no entry point in the PTX")
    return match


def reads_parameter(ptx: str, position: int) -> bool:
    """Whether the body of the kernel mentions the parameter at ``position``."""
    match = _entry(ptx)
    return re.search(rf"\b{match.group(2)}_param_{position}\b", ptx[match.end() :]) is not None


def strip_parameters(ptx: str, keep: int) -> str:
    """Cuts the parameters beyond the first ``keep``: Triton appends scratch pointers to every kernel.

    A launcher that does not know of them would let the driver read beyond its array of arguments.

    Raises:
        AssemblyError: If a parameter that would be cut is read.
    """
    match = _entry(ptx)
    parameters = [line.strip().rstrip(",") for line in match.group(3).strip().split("\n")]
    for position in range(keep, len(parameters)):
        if reads_parameter(ptx, position):
            raise AssemblyError(f"hidden parameter {position} is read")
    if len(parameters) < keep:
        raise AssemblyError(f"{len(parameters)} parameters where {keep} are described")
    kept = ",\n\t".join(parameters[:keep])
    return f"{ptx[: match.start()]}{match.group(1)}\n\t{kept}{match.group(4)}{ptx[match.end() :]}"


def tool(arch: int) -> Path:
    """The ptxas of the installed Triton for an architecture; the older one writes cubins that older drivers load."""
    import triton

    directory = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    return directory / ("ptxas-blackwell" if arch >= 100 else "ptxas")


def assemble(ptx: str, arch: int) -> tuple[bytes, Usage]:
    """Assembles for ``sm_<arch>`` (``sm_<arch>a`` from 90 on, as Triton targets).

    Raises:
        AssemblyError: If ptxas fails; carries its last words.
    """
    suffix = "a" if arch >= 90 else ""
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory) / "kernel.ptx", Path(directory) / "kernel.cubin"
        source.write_text(ptx)
        command = [str(tool(arch)), "-v", f"--gpu-name=sm_{arch}{suffix}", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssemblyError(f"ptxas failed: {done.stderr[-800:]}")
        code = target.read_bytes()

    def number(pattern: str) -> int:
        match = re.search(pattern, done.stderr)
        return int(match.group(1)) if match else 0

    spills = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
    return code, Usage(number(r"Used (\d+) registers"), spills, "are serialized due to" in done.stderr)
