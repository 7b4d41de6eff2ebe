"""What the tests of the onnxruntime library share: models of one fused node, and their answer in float64."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
