"""Running both models on the input sets.  Inputs that the original does not take are not used."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from .errors import LimitError, MemoryLimitError, RunError
from .inputs.draw import Case, InputSet
from .inputs.sizes import DrawnSizes, Relation
from .run.runtime import Arrays, Model, Session

_MOST_OUTPUT_NUMBERS = 1 << 25
"""Numbers in the outputs of one input set; wide vocabularies get shorter sequences."""


@dataclass
class Runs:
    """Input sets that the original takes, and its outputs on them.

    Attributes:
        session: The original; None once closed.
        sets: The input sets.
        outputs: The original's outputs on each.
        notes: What it did not take, in words.
        premise: Says why shapes are outside of what was proven, or None.
        starved: Why a set was refused that takes more memory than there is for it; empty if no set was.
    """

    session: Session | None
    sets: list[InputSet] = field(default_factory=list)
    outputs: list[Arrays] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    premise: Callable[[Mapping[str, tuple[int, ...]]], str | None] | None = None
    starved: str = ""

    def try_set(self, one: InputSet) -> str | None:
        """Runs the original; keeps the set and returns None, or says why it is refused."""
        assert self.session is not None
        outside = self.premise({n: tuple(a.shape) for n, a in one.arrays.items()}) if self.premise else None
        if outside is not None:
            return outside
        try:
            outputs = self.session.run(one.arrays)
        except LimitError:
            raise
        except MemoryLimitError as error:
            self.starved = str(error)
            return self.starved
        except RunError as error:
            return str(error)
        self.sets.append(one)
        self.outputs.append(outputs)
        return None

    def add(self, one: InputSet) -> None:
        """Like :meth:`try_set`, with a refusal becoming a note."""
        refusal = self.try_set(one)
        if refusal is not None:
            self.notes.append(f"the original does not take {one.name!r}: {refusal}")

    def close(self) -> None:
        """Drops the original's session, so that one model at a time is in memory."""
        self.session = None
        gc.collect()

    def longest(self, batch: int) -> int | None:
        """Tokens per sequence that keep the outputs within bounds, judged by the last run; None if unknown."""
        if not self.sets:
            return None
        last = self.sets[-1]
        tokens = (last.batch or 0) * (last.new or 0)
        if not tokens:
            return None
        per_token = sum(value.size for value in self.outputs[-1].values()) / tokens
        return max(1, int(_MOST_OUTPUT_NUMBERS / max(1.0, per_token) / batch))


class Draws(Protocol):
    """Draws the arrays of a case; RunError says that no array has its sizes."""

    def draw(self, case: Case, relation: Relation, seed: Sequence[int]) -> InputSet:
        """Draws one input set; equal arguments give equal arrays."""


def run_cases(
    runs: Runs,
    cases: Sequence[Case],
    drawer: Draws,
    relations: Sequence[Relation],
    seed: int,
    progress: Callable[[str, int, int], None],
) -> None:
    """Draws every case and runs the original on it.

    Args:
        runs: Gets the sets, outputs and notes.
        cases: What to draw.
        drawer: Draws it.
        relations: What the number of all tokens may equal, likeliest first.
        seed: Of every number.
        progress: Told (phase, work done, work in all) before each case.
    """
    relations = list(relations)
    refused: dict[str, list[str]] = {}
    for number, planned in enumerate(cases):
        progress("running the original", number, len(cases))
        refusal = ""
        for attempt, case in enumerate(_attempts(planned, runs.longest(planned.sizes.batch))):
            taken, reason = _try_relations(runs, case, drawer, relations, (seed, number, attempt))
            if taken:
                if case != planned:
                    runs.notes.append(f"{planned.name!r}: {_text(case.sizes)} instead of {_text(planned.sizes)}")
                break
            refusal = refusal or reason
        else:
            refused.setdefault(refusal, []).append(planned.name)
    for reason, names in refused.items():
        runs.notes.append(f"left out, since the original refuses them: {', '.join(names)} ({reason})")


def run_rewritten(
    model: Model,
    sets: Sequence[InputSet],
    *,
    threads: int,
    seen: Callable[[InputSet, Arrays], Arrays] = lambda one, outputs: outputs,
) -> tuple[list[str | None], list[Arrays | None]]:
    """Runs the rewritten model on all input sets.

    Args:
        model: Its float32 clone.
        sets: The input sets.
        threads: Threads of onnxruntime.
        seen: What is compared of the outputs on an input set.

    Returns:
        For every set why it failed, if it did, and the outputs, if it did not.
    """
    failures: list[str | None] = []
    outputs: list[Arrays | None] = []
    session: Session | None = None
    for one in sets:
        try:
            session = session or Session(model, threads=threads)
            outputs.append(seen(one, session.run(one.arrays)))
            failures.append(None)
        except (LimitError, MemoryLimitError) as error:
            # This is no difference, since the original was as near to the limit.
            raise LimitError(f"the rewritten model cannot be run here on {one.name!r}: {error}") from error
        except RunError as error:
            outputs.append(None)
            failures.append(str(error))
    return failures, outputs


def _attempts(planned: Case, limit: int | None) -> Iterator[Case]:
    """A case as planned, then ever shorter (bias tables end somewhere), then the same for a batch of one."""
    sizes = planned.sizes
    batches = (sizes.batch,) if sizes.batch == 1 else (sizes.batch, 1)
    for batch in batches:
        case: Case | None = replace(planned, sizes=DrawnSizes(batch, sizes.new, sizes.past))
        while case is not None:
            if limit is None or case.sizes.new <= limit or case.halved() is None:
                yield case
            case = case.halved()


def _try_relations(
    runs: Runs, case: Case, drawer: Draws, relations: list[Relation], seed: Sequence[int]
) -> tuple[bool, str]:
    """Tries a case under each relation, the one that fitted last first; says why the first one was refused."""
    refusal = ""
    for relation in tuple(relations):
        try:
            reason = runs.try_set(drawer.draw(case, relation, seed))
        except LimitError:
            raise
        except RunError as error:  # no array has these sizes
            reason = str(error)
        if reason is None:
            relations.sort(key=lambda entry: entry is not relation)
            return True, ""
        refusal = refusal or reason
    return False, refusal


def _text(sizes: DrawnSizes) -> str:
    return f"{sizes.new} new tokens, {sizes.past} past, batch {sizes.batch}"
