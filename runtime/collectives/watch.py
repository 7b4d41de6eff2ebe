"""Ends this process when another rank is lost.

A collective that waits for a rank that is gone waits for ever: between GPUs of one host NCCL has no time limit.  Nor
can it be taken back.  ``ncclCommAbort`` may itself wait, for other ranks and for CUDA graphs that hold collectives, and
a run that it frees returns sums of some of the ranks.  So the process says why in one sentence and ends, as PyTorch's
does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from .links import Links

LOST = 70
"""Exit status of a process that ends because another rank is lost."""

EVERY = 1.0
"""Seconds between two questions to NCCL.  A connection that breaks is seen at once."""


class Watch:
    """A thread that looks at the connections and at NCCL.

    Args:
        links: To the other ranks.
        problem: Asks NCCL.
        end: Ends the process.
    """

    def __init__(self, links: Links, problem: Callable[[], str | None], end: Callable[[str], None]) -> None:
        self._links, self._problem, self._end = links, problem, end
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alibi-ranks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Nobody is ended any more."""
        self._stopped.set()
        self._thread.join(2 * EVERY)

    def _look(self) -> str | None:
        """Why this process cannot go on, or None."""
        try:
            reason = self._links.poll(EVERY)
            if reason is None:
                reason = self._problem()
                if reason is not None:
                    self._links.fail(reason)
        except Exception as error:  # noqa: BLE001 - a thread that ends in silence leaves the process waiting
            return f"the other ranks cannot be watched: {type(error).__name__}: {error}"
        return reason

    def _run(self) -> None:
        while not self._stopped.is_set() and not self._links.released.is_set():
            reason = self._look()
            if reason is not None and not self._stopped.is_set() and not self._links.released.is_set():
                self._end(reason)
                return


def end_process(rank: int, reason: str) -> None:
    """Says why, and ends.  Python's own ending would wait for threads inside of a run that never returns."""
    said = f"alibi_rewriter: rank {rank} ends, because what it computes cannot be finished: {reason}\n"
    os.write(2, said.encode(errors="replace"))
    os._exit(LOST)
