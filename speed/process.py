"""A model in a process of its own, as seen from outside."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from ..base.cures import install
from ..base.errors import MissingDependency
from ..base.isolation import start
from ..verify.run.runtime import Arrays

Record = dict[str, Any]


class RunFailed(Exception):
    """The model does not load or does not run; the message is onnxruntime's first line."""


class Runner:
    """One model in a child process.

    Args:
        model: The ONNX file.
        folder: A folder of ours, for inputs; the child works in it.
        library: Register our kernels.
        provider: ``cpu`` or ``cuda``.
        threads: Threads within an operator; 0 for onnxruntime's choice.

    Raises:
        RunFailed: It does not load.
        MissingDependency: onnxruntime is not installed.
    """

    def __init__(self, model: Path, folder: Path, *, library: bool, provider: str, threads: int) -> None:
        read, write = os.pipe()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        try:
            self._process = start(
                "speed.child",
                folder=folder,
                variables={"ALIBI_ANSWERS": str(write)},
                stdin=subprocess.PIPE,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=(write,),
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self._answers = os.fdopen(read, "r", encoding="utf-8", errors="replace")
        self._folder = folder
        opened = self._ask({"open": str(model.resolve()), "library": library, "provider": provider, "threads": threads})
        self.claimed: int | None = opened["claimed"]
        self.note: str = opened["note"]

    def give(self, arrays: Arrays) -> None:
        """Sets the inputs and runs once.

        Raises:
            RunFailed: The model does not take them.
        """
        path = self._folder / "inputs.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        self._ask({"inputs": str(path)})

    def seconds(self, runs: int) -> list[float]:
        """Seconds of so many runs."""
        return [float(s) for s in self._ask({"runs": runs})["seconds"]]

    def memory(self) -> tuple[int | None, int | None]:
        """Peak bytes on the host, and bytes held on the device."""
        answer = self._ask({"memory": True})
        return answer["host"], answer["device"]

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._answers, self._errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # a request that a dead process never read
                    stream.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: Record) -> Record:
        stream = self._process.stdin
        assert stream is not None
        try:
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        except BaseException:
            self.close()
            raise
        answer: Record = json.loads(line) if line else {"error": self._death()}
        if "error" not in answer:
            return answer
        self.close()
        if "No module named 'onnxruntime'" in answer["error"]:
            cure = install("onnxruntime")
            raise MissingDependency(f"`rewrite bench` runs models in onnxruntime. Install it with: {cure}")
        raise RunFailed(str(answer["error"]))

    def _death(self) -> str:
        status = self._process.wait()
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 2000))
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        if status == -9:
            return "the process was killed (out of memory?)"
        return f"the process ended with status {status}" + (f": {said[-1][:300]}" if said else "")
