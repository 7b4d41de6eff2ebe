"""Every element rule against onnx's reference and onnxruntime, cell by cell: ``python benchmarks/attack/semantics.py``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from semantics.run import main  # noqa: E402 - after the path is set

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
