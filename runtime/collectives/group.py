"""Connecting this process with the other ranks."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

from ...engine.devices import devices
from . import library
from .key import key
from .links import Links
from .ranks import NotConnected, Seat, seat
from .rendezvous import meet
from .watch import Watch, end_process

TIMEOUT = 120.0
"""Seconds in which all ranks have to come."""

FINISHED_WITHIN = 600.0
"""Seconds for which a rank that has finished waits for the others."""

_connected = threading.Lock()


@dataclass
class Group:
    """The ranks that this process runs a model with.

    Attributes:
        rank, size: The number of this one, and how many there are.
        device: The GPU that its sessions have to use (``device_id`` of the CUDA provider).
    """

    rank: int
    size: int
    device: int
    _links: Links = field(repr=False)
    _watch: Watch = field(repr=False)

    def disconnect(self, timeout: float = FINISHED_WITHIN) -> None:
        """Says that this rank has finished, and waits until all have.  Its sessions must not run any more.

        A process that ends without it takes the others with it.

        Args:
            timeout: Seconds to wait for the others.

        Raises:
            NotConnected: Another rank has not finished in time.
        """
        library.leave()
        self._links.finish()
        released = self._links.released.wait(timeout)
        self._watch.stop()
        self._links.close()
        if not released:
            raise NotConnected(f"rank {self.rank} has finished, and others have not within {timeout:g} s")

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.disconnect()
            return
        # The others end: they cannot go on without this rank.  Nor can it run anything: nobody would end its waiting.
        library.leave()
        self._watch.stop()
        self._links.fail(f"{kind.__name__}: {error}")
        self._links.close()


def connect(*, timeout: float = TIMEOUT, device: int | None = None) -> Group:
    """Connects this process with the other ranks; sessions of models that were cut can be made afterwards.

    Rank, number of ranks and the address of rank 0 come from torchrun, mpirun or srun (:func:`.seat`).  NCCL is the
    one that ``ALIBI_NCCL_LIBRARY`` names, that of the wheel nvidia-nccl, or the system's.  A process has one group,
    once.

    Args:
        timeout: Seconds in which all ranks have to come.
        device: The GPU; by default the one with the number of this rank on its host, or the only one that is shown.

    Raises:
        NotConnected: Somebody did not come, there is no NCCL, or no GPU for this rank.
        NoLibrary: The library of custom ops is not there.
    """
    if not _connected.acquire(blocking=False):
        raise NotConnected("this process has been connected already")
    try:
        deadline = time.monotonic() + timeout
        here = seat(os.environ)
        id_, links = meet(here, key() if here.size > 1 else b"", library.new_id, timeout)
        chosen = _device(here, links) if device is None else device
        join_ranks(here, id_, chosen, links, deadline, timeout)
    except BaseException:
        _connected.release()
        raise
    watch = Watch(links, library.problem, partial(end_process, here.rank))
    return Group(here.rank, here.size, chosen, links, watch)


def _device(here: Seat, links: Links) -> int:
    """The GPU of this rank; the others are told if there is none."""
    count = len(devices())
    if here.local_rank < count:
        return here.local_rank
    if count == 1:  # every process is shown a GPU of its own
        return 0
    why = f"there is no GPU for rank {here.rank}: it is number {here.local_rank} here, of {count} GPUs"
    links.fail(why)
    links.close()
    raise NotConnected(why)


def join_ranks(here: Seat, id_: bytes, device: int, links: Links, deadline: float, timeout: float) -> None:
    """Makes this process's communicator, together with the other ranks.

    NCCL waits for all ranks without a limit, so that it does so in a thread of its own, which is left if need be.  It
    may have connected the ranks, or do so later, although this fails, because one of them was lost meanwhile.  Nothing
    may run then: nobody would end its waiting.

    Args:
        here: This process among the others.
        id_: What rank 0 has drawn for all.
        device: Its GPU.
        links: To the other ranks; closed if this fails.
        deadline: When the time is up, as ``time.monotonic`` counts.
        timeout: The seconds that there were, for the message.

    Raises:
        NotConnected: NCCL has not connected the ranks in time, or one of them is lost.
    """
    told: list[str | None] = []
    failed = threading.Event()

    def attempt() -> None:
        try:
            told.append(library.join(id_, here.rank, here.size, device))
        except Exception as error:  # noqa: BLE001 - what a thread raises nobody sees
            told.append(str(error))
        if failed.is_set():
            library.leave()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    lost = None
    while thread.is_alive() and lost is None and time.monotonic() < deadline:
        thread.join(0.02)
        lost = links.poll(0.02)
    if told == [None] and lost is None:
        return
    failed.set()
    if told:
        library.leave()
    why = told[0] if told and told[0] else lost or f"NCCL has not connected the ranks within {timeout:g} s"
    links.fail(why)
    links.close()
    raise NotConnected(f"rank {here.rank} of {here.size} at {here.where}: {why}")
