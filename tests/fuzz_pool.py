"""Numbered tasks in processes that may hang, take all memory or die: the run goes on, and says which one it was.

Time is limited from outside, so that code in C counts as well.  Memory is limited twice: an address space ends what
asks for too much at once, and the peak of every task is measured.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

Task = Callable[[int, Path], str]
"""Takes a number and an empty folder; says what became of it."""

SPARE = 2 << 30
"""Address space beyond the limit on memory: libraries map more than they use."""


@dataclass(frozen=True)
class Limits:
    """What every task gets.

    Attributes:
        seconds: Time.
        memory: Bytes of memory.
        jobs: Processes at a time.
    """

    seconds: float
    memory: int
    jobs: int = 1


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    folder: Path
    number: int | None = None
    started: float = 0.0


def run(task: Task, numbers: Iterable[int], limits: Limits) -> Iterator[tuple[int, str]]:
    """What became of every number, as they end.

    Args:
        task: What to do.  It must not depend on what it did before.
        numbers: With which.
        limits: For each.
    """
    context = multiprocessing.get_context("fork")
    pending = iter(numbers)
    workers: list[_Worker] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:

        def start() -> _Worker:
            ours, theirs = context.Pipe()
            folder = Path(tempfile.mkdtemp(dir=root))
            process = context.Process(target=_work, args=(task, theirs, folder, limits), daemon=True)
            process.start()
            theirs.close()
            return _Worker(process, ours, folder)

        def give(worker: _Worker) -> None:
            worker.number, worker.started = next(pending, None), time.monotonic()
            if worker.number is not None:
                worker.pipe.send(worker.number)

        try:
            workers = [start() for _ in range(limits.jobs)]
            for worker in workers:
                give(worker)
            while busy := [w for w in workers if w.number is not None]:
                wait([w.pipe for w in busy], timeout=0.5)
                for worker in busy:
                    answer = _answer(worker, limits)
                    if answer is None:
                        continue
                    assert worker.number is not None
                    outcome, goes_on = answer
                    yield worker.number, outcome
                    if not goes_on:
                        _end(worker)
                        workers[workers.index(worker)] = worker = start()
                    give(worker)
        finally:
            for worker in workers:
                _end(worker)


def _answer(worker: _Worker, limits: Limits) -> tuple[str, bool] | None:
    """What a worker says, or what became of it, and whether it goes on; None while it works."""
    try:
        if worker.pipe.poll():
            outcome, goes_on = worker.pipe.recv()
            return str(outcome), bool(goes_on)
    except (EOFError, ConnectionError):
        worker.process.join()
        code = worker.process.exitcode or 0
        return (f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"), False
    if time.monotonic() - worker.started > limits.seconds:
        return f"more than {limits.seconds:g} s", False
    return None


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()
    shutil.rmtree(worker.folder, ignore_errors=True)


def _work(task: Task, pipe: Connection, folder: Path, limits: Limits) -> None:
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    inherited = _status("VmRSS")  # a fork begins with what its parent has
    space = _status("VmSize") + limits.memory + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            number = pipe.recv()
        except EOFError:
            return
        _forget_peak()
        try:
            outcome = task(number, folder)
        except MemoryError:
            outcome = "MemoryError"
        peak = _status("VmHWM") - inherited
        if peak > limits.memory:
            outcome = f"more than {limits.memory >> 20} MiB"
        goes_on = peak <= limits.memory // 2  # otherwise the next one starts small
        pipe.send((outcome, goes_on))
        if not goes_on:
            return


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(field: str) -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(f"{field}:")), 0)
