"""What holds for a whole run of the tests."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

# The tests start the command some hundred times.  Where the environment forbids files of bytecode, each start compiles
# the whole package again, and each run rewrites every assertion.  ALIBI_NO_BYTECODE is for who changes sources faster
# than the time stamps in such files tell.
if "ALIBI_NO_BYTECODE" not in os.environ:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False

# Kernels that tests compile are kept here, and not in the user's folder.  One takes seconds to compile, and the name of
# a bundle holds the digest of its sources and of the compiler: what has changed is compiled anew.
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parents[1] / "build" / "cache")

FIRST = ("repository", "kernels", "engine")
"""Their tests compile, and run whole pages in processes of their own: half a minute each, best not the last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: short ones at the end leave no worker of pytest-xdist without work."""
    items.sort(key=lambda item: item.path.relative_to(Path(__file__).parent).parts[0] not in FIRST)


def pytest_collection_finish() -> None:
    """Some 200 000 objects of thousands of collected tests live to the end: no collection of garbage looks at them."""
    gc.collect()
    gc.freeze()
