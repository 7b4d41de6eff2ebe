"""The plugin's interface against NVIDIA's headers: ``python tests/engine/compare_headers.py INCLUDE [INCLUDE ...]``.

Each INCLUDE is a folder with ``NvInferRuntime.h`` (TensorRT 10.1 or later), or one that holds such folders, one per
version.  CUDA's ``cuda_runtime_api.h`` is looked for beside it, in ``--cuda`` and in /usr/local/cuda.  g++ is needed, a
GPU or a TensorRT library is not.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from alibi_rewriter.fused.family import KERNEL_MEMBERS

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "native"
HEADER, CUDA = "NvInferRuntime.h", "cuda_runtime_api.h"


def compare(tensorrt: Path, cuda: Path, library: Path, bundle: Path, folder: Path) -> str | None:
    """What is different, or None.

    Args:
        tensorrt, cuda: Folders with headers.
        library: The plugin library.
        bundle: Kernels that a plugin can be made with.
        folder: For the program that is compiled.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or "g++"
    program = folder / "headers"
    # NVIDIA's headers are not free of warnings; ours are checked elsewhere.
    options = ["-std=c++17", "-w", f"-I{NATIVE}", f"-I{tensorrt}", f"-I{cuda}"]
    command = [compiler, *options, str(HERE / "headers.cpp"), "-o", str(program), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[-300:])
    family = ",".join(member.op_type for member in KERNEL_MEMBERS)
    done = subprocess.run(
        [str(program), str(library), str(bundle), family], capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else f"exit status {done.returncode}: {done.stderr.strip()[-300:]}"


def found_in(places: Sequence[Path], header: str) -> list[Path]:
    """Folders that hold a header: the places themselves, and what lies in them."""
    return [p.parent for place in places for p in sorted({*place.glob(header), *place.glob(f"*/**/{header}")})]


def version_of(tensorrt: Path) -> str:
    """As ``NvInferVersion.h`` says."""
    text = "".join(p.read_text(errors="replace") for p in tensorrt.glob("NvInferVersion.h"))
    parts = [
        re.search(rf"#define\s+(?:NV_TENSORRT|TRT)_{name}(?:_ENTERPRISE)?\s+(\d+)", text) for name in ("MAJOR", "MINOR")
    ]
    return ".".join(part.group(1) if part else "?" for part in parts)


def main() -> int:
    """The command; the exit status is 0 if everything agrees."""
    parser = argparse.ArgumentParser(description="The plugin's interface against NVIDIA's headers.")
    parser.add_argument("include", nargs="+", type=Path)
    parser.add_argument("--cuda", type=Path, action="append", default=[])
    options = parser.parse_args()
    sys.path[:0] = [str(HERE), str(HERE.parent / "kernels"), str(HERE.parent)]
    from alibi_rewriter.plugin import library_path
    from bundles import encoded

    library = library_path()
    cuda = found_in([*options.cuda, *options.include, Path("/usr/local/cuda/include"), Path("/usr/include")], CUDA)
    tensorrt = sorted(
        found_in(options.include, HEADER), key=lambda p: [int(n) for n in re.findall(r"\d+", version_of(p))]
    )
    if library is None or not cuda or not tensorrt:
        parser.error(f"needs the plugin library, {HEADER} and {CUDA}")
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = folder / "bundle"
        bundle.write_bytes(encoded(folder))
        for place in tensorrt:
            wrong = compare(place, cuda[0], library, bundle, folder)
            failed += wrong is not None
            sys.stdout.write(f"{'PASS' if wrong is None else 'FAIL'} TensorRT {version_of(place)} in {place}")
            sys.stdout.write("\n" if wrong is None else f": {wrong}\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
