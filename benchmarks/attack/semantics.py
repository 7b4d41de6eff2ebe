"""Every element rule against onnx's reference and onnxruntime, cell by cell (see README.md)."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from semantics.run import main

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
