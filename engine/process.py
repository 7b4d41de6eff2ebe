"""Starts the child process, and turns how it ends into an answer or one clear error."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from ..base import hidden, isolation
from ..base.cures import install
from ..base.errors import AlibiError, EngineFailed, MissingDependency, PluginNotUsed, UsageError

Event = dict[str, Any]

INSTALL = {
    "tensorrt": f"{install('tensorrt')} (it needs an NVIDIA GPU to build)",
    "tensorrt-rtx": install("tensorrt-rtx"),
}

OWN_LOG = "alibi plugin, "
"""How lines of the plugin library start."""


def run_child(
    arguments: list[str],
    backend: str,
    *,
    job: str = "",
    on_event: Callable[[Event], None] = lambda _: None,
    locks: tuple[int, ...] = (),
) -> Event:
    """Runs one command of ``engine.child`` and returns its result.

    Args:
        arguments: The command.
        backend: For messages.
        job: What the child reads from standard input.
        on_event: Told every event but the last.
        locks: Open files that stay locked as long as the child lives, even if this process is killed.

    Raises:
        EngineFailed: The build failed or the process died.
        PluginNotUsed: TensorRT did not use the plugin everywhere.
        MissingDependency: The backend is not installed.
    """
    with _workplace() as (output, place):
        read, write = os.pipe()
        try:
            process = isolation.start(
                "engine.child",
                arguments,
                folder=place.path,
                variables={"ALIBI_EVENTS": str(write)},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(write, place.handle, *locks),
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        try:
            last = _converse(process, read, job, on_event)
        except BaseException:
            process.kill()
            process.wait()
            raise
        status = process.wait()
        output.seek(max(0, output.seek(0, os.SEEK_END) - 2000))
        said = output.read().decode(errors="replace").strip()
    if last is not None and last["event"] == "result" and status == 0:
        return last
    if last is not None and last["event"] == "failed":
        # The plugin library logs here if TensorRT has given it no logger, and its message is the cause.
        own = [line.removeprefix(OWN_LOG) for line in said.splitlines() if line.startswith(OWN_LOG)]
        raise _error(str(last["kind"]), "; ".join([str(last["message"]), *dict.fromkeys(own)]), backend)
    raise EngineFailed(_death(status, said, backend))


@contextlib.contextmanager
def _workplace() -> Iterator[tuple[IO[bytes], hidden.Hidden]]:
    """Where the child's words go, and a folder that it works in."""
    with contextlib.ExitStack() as held:
        try:
            output = held.enter_context(tempfile.TemporaryFile())
            place = held.enter_context(hidden.scratch_folder())
        except OSError as error:
            raise EngineFailed(
                f"there is no room for the build process among the temporary files: {error.strerror}. Set TMPDIR to a "
                "folder that can be written."
            ) from error
        yield output, place


def _converse(process: subprocess.Popen[bytes], read: int, job: str, on_event: Callable[[Event], None]) -> Event | None:
    last: Event | None = None
    with os.fdopen(read, "r", encoding="utf-8", errors="replace") as events:
        _send(process.stdin, job)
        for line in events:
            event: Event = json.loads(line)
            if event["event"] in ("result", "failed"):
                last = event
            else:
                on_event(event)
    return last


def _send(stream: IO[bytes] | None, job: str) -> None:
    if stream is None:
        return
    try:
        stream.write(job.encode() + b"\n")
        stream.close()
    except BrokenPipeError:
        pass  # it died before it listened; its exit status tells


def _error(kind: str, message: str, backend: str) -> AlibiError:
    if kind == "missing":
        return MissingDependency(f"{backend} cannot be imported: {message}. Run: {INSTALL[backend]}")
    if kind in ("unused", "plugin"):
        return PluginNotUsed(
            f"{message}. Check with `rewrite doctor` that the plugin library fits, or build with --strategy native."
        )
    if kind in ("target", "profile"):
        return UsageError(message)
    hints = {
        "parse": f"{backend}'s parser refuses the model: {{}}",
        "parser": "{} (TensorRT-RTX would abort the process). Use version 1.7 or later on Linux.",
        "memory": "{}: give the machine more, or build with smaller --max-shapes.",
    }
    return EngineFailed(hints.get(kind, f"{backend} cannot build the engine: {{}}").format(message))


def _death(status: int, said: str, backend: str) -> str:
    tail = f" Its last words: {said.splitlines()[-1]}" if said else ""
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        if -status == signal.SIGKILL:
            return f"the build process was killed (out of memory?). Use smaller --max-shapes or a larger machine.{tail}"
        return (
            f"{backend} ended the build process with {name}.{tail} This is a fault of the installed TensorRT: "
            "`rewrite doctor` says what is installed; try another version, or --strategy native."
        )
    return f"the build process ended with status {status} and without a result.{tail}"
