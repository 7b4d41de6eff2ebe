"""Writes ``native/cuda/append_ptx.h``: the kernels of ``append.cu`` as PTX, which drivers compile for the GPU at hand.

    python benchmarks/pins/append.py            needs nvcc; a test compares the file with what this makes

The PTX is that of the oldest GPUs that there are kernels for, and asks for the oldest version of PTX that has what it
uses, so that drivers of CUDA 11 take it, too.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "native/cuda/append.cu"
HEADER = REPOSITORY / "native/cuda/append_ptx.h"

ARCHITECTURE = "compute_80"
PTX_VERSION = "7.0"

TEXT = """\
// Written by benchmarks/pins/append.py from append.cu with nvcc {nvcc}.
#pragma once

namespace alibi::cuda {{

constexpr char const* kAppendPtx = R"ptx({ptx})ptx";

}}  // namespace alibi::cuda
"""


def release() -> str:
    """The release of nvcc, such as ``13.0``."""
    said = subprocess.run(["nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"release ([\d.]+)", said)
    return "unknown" if found is None else found.group(1)


def header() -> str:
    """The text of the header."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "append.ptx"
        subprocess.run(["nvcc", "-ptx", f"-arch={ARCHITECTURE}", SOURCE, "-o", target], check=True)
        ptx = target.read_text()
    ptx = re.sub(r"//.*", "", ptx)
    ptx = re.sub(r"^\.version .*$", f".version {PTX_VERSION}", ptx, flags=re.MULTILINE)
    lines = (line.rstrip() for line in ptx.splitlines())
    return TEXT.format(nvcc=release(), ptx="\n" + "\n".join(line for line in lines if line) + "\n")


if __name__ == "__main__":
    HEADER.write_text(header())
