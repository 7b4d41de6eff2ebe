"""Ranks without GPUs: processes on stand-ins for the CUDA driver, for NCCL and for onnxruntime."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from programs import CHECKED, compiled_once

HERE = Path(__file__).parent
TIME = 60
"""Seconds after which a rank has hung."""

Step = tuple[str, dict[str, Any]]


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass(frozen=True)
class Ended:
    """What became of a rank: what it told of each step, its exit status and its errors."""

    told: list[dict[str, Any]]
    status: int
    errors: str

    @property
    def results(self) -> list[Any]:
        """Of all steps; fails with the first error."""
        assert all("error" not in step for step in self.told), (self.told, self.errors)
        return [step["result"] for step in self.told]

    def error(self, step: int) -> str:
        """Of one step."""
        return str(self.told[step]["error"])


class StandIns:
    """The compiled parts, and a way to start ranks on them."""

    def __init__(self, folder: Path, options: Sequence[str] = CHECKED) -> None:
        def made(name: str, *more: str) -> Path:
            return compiled_once(name, [*options, *more, "-shared", str(HERE / f"{name}.cpp")])

        self.folder = folder
        self.host, self.nccl = made("collective_host"), made("stub_nccl")
        self.lacking = made("stub_nccl", "-DWITHOUT_GATHER")
        (folder / "driver").mkdir()
        (folder / "driver" / "libcuda.so.1").symlink_to(made("stub_driver"))
        self.port = free_port()

    def environment(self, rank: int | None, size: int, given: dict[str, str]) -> dict[str, str]:
        """Of a rank; None is a process that nobody has started as one of several."""
        exchange = self.folder / f"exchange{self.port}"
        exchange.mkdir(exist_ok=True)
        made = {
            **os.environ,
            "LD_LIBRARY_PATH": str(self.folder / "driver"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "ALIBI_NCCL_LIBRARY": str(self.nccl),
            "STUB_NCCL_FOLDER": str(exchange),
            "STUB_DEVICES": str(size),
        }
        if rank is not None:
            here = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_PORT": self.port - 1}
            made.update({name: str(value) for name, value in here.items()}, MASTER_ADDR="127.0.0.1")
        return {**made, **given}

    def start(self, rank: int | None, size: int, steps: Sequence[Step], **given: str) -> subprocess.Popen[str]:
        """A rank that does these steps."""
        command = [sys.executable, str(HERE / "ranks.py"), str(self.host), json.dumps(steps)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment(rank, size, given)
        )

    def run(self, *steps: Sequence[Step], **given: str) -> list[Ended]:
        """As many ranks as there are lists of steps."""
        return [ended(each) for each in [self.start(i, len(steps), each, **given) for i, each in enumerate(steps)]]

    def alone(self, *steps: Step, **given: str) -> Ended:
        """One process that is rank 0 of 1."""
        return ended(self.start(0, 1, steps, **given))


def ended(rank: subprocess.Popen[str]) -> Ended:
    """Waits for a rank; one that hangs fails the test."""
    try:
        out, errors = rank.communicate(timeout=TIME)
    except subprocess.TimeoutExpired:
        rank.kill()
        rank.communicate()
        pytest.fail("a rank has not ended")
    return Ended([json.loads(line) for line in out.splitlines()], rank.returncode, errors)
