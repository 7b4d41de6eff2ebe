"""What a test has shown, recorded where ``ALIBI_EVIDENCE`` names a file: ``docs/executed.py`` counts it.

ALIBI_EVIDENCE=build/evidence pytest tests/engine tests/fused tests/whole/test_exported.py
python docs/executed.py build/evidence
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

FILE = Path(os.environ["ALIBI_EVIDENCE"]).absolute() if os.environ.get("ALIBI_EVIDENCE") else None
"""Where evidence goes; looked up once, because tests change the working folder."""


class Level(Enum):
    """How far confidence goes, from little to much."""

    GRAPH = "graph"
    PLAN = "plan"
    REGISTRY = "registry"
    EXECUTED = "executed"
    FLOAT64 = "float64"
    END_TO_END = "end to end"


def record(runtime: str, level: Level, members: Iterable[str], *, where: str, what: str = "") -> None:
    """Note that something holds; called behind the assertions that show it.

    Args:
        runtime: What ran it, as in ``docs/executed.py: RUNTIMES``.
        level: How far.
        members: Op_types of fused nodes.
        where: On what: ``CPU``, or the name of a GPU.
        what: The model, if it is a whole one.
    """
    if FILE is None:
        return
    lines = [
        json.dumps({"runtime": runtime, "level": level.value, "member": m, "where": where, "what": what})
        for m in sorted(set(members))
    ]
    FILE.parent.mkdir(parents=True, exist_ok=True)
    with FILE.open("a", encoding="utf-8") as stream:
        stream.write("".join(f"{line}\n" for line in lines))
