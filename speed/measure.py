"""Alternating runs: whatever else the machine does, it does to all models alike."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..verify.run.runtime import Arrays
from .cases import BenchCase
from .process import RunFailed, Runner

VISIT_SECONDS = 0.05
"""A model runs at least so long before it is another's turn: a single short run measures the caches."""

MOST_RUNS = 50
FEWEST_ROUNDS = 3

NOISY = 0.10
"""A machine whose ratios differ by more than this between their quartiles is called noisy."""


@dataclass(frozen=True)
class Contender:
    """One of the models that are compared.

    Attributes:
        name: ``original``, ``function`` (rewritten, function bodies) or ``kernel`` (rewritten, our kernels).
        model: Its file.
        library: Whether our kernels are registered.
    """

    name: str
    model: Path
    library: bool = False


@dataclass
class Measured:
    """What one model did in one case.

    Attributes:
        seconds: Median of one run, None if it failed.
        host, device: Peak memory of its process in bytes; None where it cannot be read.
        claimed: Fused nodes that our kernels run; None without the library.
        failure: Why it did not run.
        note: What had to be done so that it runs.
        visits: Median seconds of each visit, in order.
    """

    seconds: float | None = None
    host: int | None = None
    device: int | None = None
    claimed: int | None = None
    failure: str = ""
    note: str = ""
    visits: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """One case, all models."""

    case: BenchCase
    results: dict[str, Measured]

    def ratio(self, name: str) -> float | None:
        """How many times faster than the original: the median over pairs of neighbouring visits."""
        pairs = self._pairs(name)
        return statistics.median(pairs) if pairs else None

    def is_noisy(self, name: str) -> bool:
        """Whether the quartiles of the pairs' ratios are far apart."""
        pairs = self._pairs(name)
        if len(pairs) < FEWEST_ROUNDS:
            return False
        low, middle, high = statistics.quantiles(pairs, n=4)
        return (high - low) / middle > NOISY

    def _pairs(self, name: str) -> list[float]:
        return [a / b for a, b in zip(self.results["original"].visits, self.results[name].visits, strict=False)]


def measure(
    case: BenchCase,
    contenders: Sequence[Contender],
    folder: Path,
    *,
    provider: str,
    threads: int,
    rounds: int,
    seconds: float,
    progress: Callable[[str], None] = lambda _: None,
) -> Row:
    """Runs all models on one case in turn.

    Args:
        case: Its inputs.
        contenders: The models; the first is the original.
        folder: A folder of ours.
        provider: ``cpu`` or ``cuda``.
        threads: Threads within an operator; 0 for onnxruntime's choice.
        rounds: Visits to each model.
        seconds: About how long the case may take; there are always ``FEWEST_ROUNDS`` rounds.
        progress: Told what is being done.
    """
    results = {contender.name: Measured() for contender in contenders}
    with contextlib.ExitStack() as stack:
        runners: dict[str, Runner] = {}
        arrays: Arrays | None = None
        for contender in contenders:
            progress(f"{case.name}: loading {contender.name}")
            result = results[contender.name]
            try:
                runner, arrays = _open(contender, case, arrays, folder, provider, threads)
            except RunFailed as error:
                result.failure = str(error)
                continue
            runners[contender.name] = stack.enter_context(runner)
            result.claimed, result.note = runner.claimed, runner.note
        _rounds(case, runners, results, rounds, seconds, progress)
    for result in results.values():
        if result.visits and not result.failure:
            result.seconds = statistics.median(result.visits)
    return Row(case, results)


def _open(
    contender: Contender, case: BenchCase, arrays: Arrays | None, folder: Path, provider: str, threads: int
) -> tuple[Runner, Arrays]:
    """A runner that has run once; its inputs are those of the models before it, or the first choice that works."""
    choices = case.choices if arrays is None else (arrays,)
    refusal: RunFailed | None = None
    for choice in choices:
        runner = Runner(contender.model, folder, library=contender.library, provider=provider, threads=threads)
        try:
            runner.give(choice)
        except RunFailed as error:
            refusal = refusal or error
            continue
        return runner, choice
    assert refusal is not None
    raise refusal


def _rounds(
    case: BenchCase,
    runners: dict[str, Runner],
    results: dict[str, Measured],
    rounds: int,
    seconds: float,
    progress: Callable[[str], None],
) -> None:
    started = time.monotonic()
    runs = dict.fromkeys(runners, 1)
    for number in range(rounds):
        progress(f"{case.name}: round {number + 1} of {rounds}")
        for name, runner in list(runners.items()):
            try:
                taken = runner.seconds(runs[name])
                results[name].host, results[name].device = runner.memory()
            except RunFailed as error:
                results[name].failure = str(error)
                del runners[name]
                continue
            middle = statistics.median(taken)
            results[name].visits.append(middle)
            runs[name] = max(1, min(MOST_RUNS, math.ceil(VISIT_SECONDS / max(middle, 1e-6))))
        if number + 1 >= FEWEST_ROUNDS and time.monotonic() - started > seconds:
            break
