"""What holds for a whole run of the tests."""

from __future__ import annotations

import os
import sys

# The tests start the command some hundred times.  Where the environment forbids files of bytecode, each start compiles
# the whole package again, and each run rewrites every assertion.  That is most of what such a process does.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
