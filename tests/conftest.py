"""What holds for a whole run of the tests."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

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


def one_thread_each() -> None:
    """Sessions of onnxruntime that say nothing of threads get one.

    Several workers share the processors, and onnxruntime's threads spin while they wait: a fifth of the time.
    """
    import onnxruntime

    plain, begin = onnxruntime.SessionOptions, onnxruntime.InferenceSession.__init__

    class OneThread(plain):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = self.inter_op_num_threads = 1

    def started(self: Any, model: Any, sess_options: Any = None, *given: Any, **named: Any) -> None:
        begin(self, model, sess_options or OneThread(), *given, **named)

    onnxruntime.SessionOptions, onnxruntime.InferenceSession.__init__ = OneThread, started


if importlib.util.find_spec("onnxruntime") is not None:
    one_thread_each()

FIRST = ("repository", "kernels", "engine")
"""Their tests compile, and run whole pages in processes of their own: half a minute each, best not the last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: short ones at the end leave no worker of pytest-xdist without work."""
    if not (os.environ.get("ALIBI_BESIDE") or os.environ.get("ALIBI_SLOW")):
        left = pytest.mark.skip(
            reason="half a minute: .ci/run runs it beside its other checks; ALIBI_BESIDE=1 does, too"
        )
        for item in items:
            if item.get_closest_marker("beside"):
                item.add_marker(left)
    items.sort(key=lambda item: item.path.relative_to(Path(__file__).parent).parts[0] not in FIRST)


def pytest_collection_finish() -> None:
    """Some 200 000 objects of thousands of collected tests live to the end: no collection of garbage looks at them."""
    gc.collect()
    gc.freeze()
