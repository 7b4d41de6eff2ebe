"""Connections between rank 0 and the others, open as long as they run: the end of a process is seen at its other end.

A message is a letter, the length of its text in two bytes, and the text.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping

FAILED, LOST, BYE, RELEASED = b"E", b"L", b"B", b"R"
"""A rank gives up and says why; rank 0 says who is lost; a rank has finished; rank 0 says that all have."""

_HEAD = struct.Struct(">cH")
_MOST = 1000

# A host that is gone closes nothing: these ask it, and take no answer for its end after some 25 seconds.
_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


def framed(letter: bytes, text: str = "") -> bytes:
    """A message."""
    content = text.encode()[:_MOST]
    return _HEAD.pack(letter, len(content)) + content


def receive(connection: socket.socket, count: int, deadline: float) -> bytes:
    """Exactly so many bytes.

    Raises:
        EOFError: The other side has closed.
        OSError: It does not answer in time, or is gone.
    """
    found = b""
    while len(found) < count:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        more = connection.recv(count - len(found))
        if not more:
            raise EOFError
        found += more
    return found


def message(connection: socket.socket, deadline: float) -> tuple[bytes, str]:
    """The next one: its letter and its text.  Raises what :func:`receive` raises."""
    letter, length = _HEAD.unpack(receive(connection, _HEAD.size, deadline))
    return letter, receive(connection, length, deadline).decode(errors="replace")


class Links:
    """Those of one rank: of rank 0 to every other, of another to rank 0.

    Args:
        rank: Of this process.
        peers: Open connections by rank.
    """

    def __init__(self, rank: int, peers: Mapping[int, socket.socket]) -> None:
        self.rank = rank
        self.released = threading.Event()
        self._lock = threading.RLock()  # a rank finishes in one thread, and another one listens
        self._peers = dict(peers)
        self._finished: set[int] = set()
        self._all = {rank, *peers} if rank == 0 else set()
        for connection in peers.values():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE:
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if not peers:
            self.released.set()
        # A child that lives longer would keep them open.
        os.register_at_fork(after_in_child=self.close)

    def poll(self, seconds: float) -> str | None:
        """Reads what has come within a time.  Returns who is lost and why, or None."""
        asked = select.poll()
        peers = {connection.fileno(): (rank, connection) for rank, connection in self._peers.items()}
        for number in peers:
            asked.register(number, select.POLLIN)
        for number, _ in asked.poll(1000 * seconds):
            rank, connection = peers[number]
            try:
                letter, text = message(connection, time.monotonic() + 5)
            except (EOFError, OSError):
                reason = None if self.released.is_set() else f"rank {rank} has ended"
            else:
                reason = self._heard(rank, letter, text)
            if reason is not None:
                self._tell(LOST, reason)
                return reason
            if self.released.is_set():
                return None
        return None

    def _heard(self, rank: int, letter: bytes, text: str) -> str | None:
        if letter == BYE:
            self._finish(rank)
        elif letter == RELEASED:
            self.released.set()
        elif letter == LOST:
            return text
        else:
            return f"rank {rank}: {text}"
        return None

    def finish(self) -> None:
        """Says that this rank has finished; ``released`` is set once all have."""
        if self.rank == 0:
            self._finish(0)
        else:
            self._tell(BYE)

    def _finish(self, rank: int) -> None:
        with self._lock:
            self._finished.add(rank)
            if self._finished == self._all:
                self._tell(RELEASED)
                self.released.set()

    def fail(self, why: str) -> None:
        """Tells the others why this rank gives up."""
        self._tell(FAILED, why)

    def _tell(self, letter: bytes, text: str = "") -> None:
        with self._lock:
            for connection in self._peers.values():
                try:
                    connection.settimeout(1)
                    connection.sendall(framed(letter, text))
                except OSError:  # it is gone, which the next look at it tells
                    continue

    def close(self) -> None:
        """Whoever still needs this rank sees that it has ended."""
        for connection in self._peers.values():
            connection.close()
        self._peers.clear()
