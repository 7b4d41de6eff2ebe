"""How NCCL's id gets from rank 0 to the others: over connections on which both sides have shown that they know the key.

    rank 0   GREETING, a nonce                               then the others, once they have connected:
    other    a nonce, rank, number of ranks, a proof         HMAC-SHA256 of both nonces and these, by the key
    rank 0   NCCL's id, a proof                              once all are there; or why there will be none

Rank 0 listens on ``MASTER_ADDR`` alone, and only until all have come.  Whoever does not know the key learns nothing and
is not counted.  Nothing is encrypted: NCCL sends tensors in the open, too.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import struct
import time
from collections.abc import Callable

from .key import VARIABLE
from .links import FAILED, Links, framed, message, receive
from .ranks import ADDRESS, OWN_PORT, PORT, NotConnected, Seat

GREETING = b"alibi-rewriter rendezvous 1\n"
ID_SIZE = 128
"""Of NCCL's id, in bytes."""

_NONCE, _PROOF = 32, 32
_RANKS = struct.Struct(">II")
_HERE = b"I"

GREETED_WITHIN = 5.0
"""Seconds for whoever connects to say who it is."""

MakeId = Callable[[], bytes]


def meet(seat: Seat, key: bytes, make_id: MakeId, timeout: float) -> tuple[bytes, Links]:
    """Waits for all ranks.  Returns NCCL's id, and connections that stay open.

    Args:
        seat: Of this process.
        key: What all ranks know.
        make_id: Makes the id, on rank 0, when all are there.
        timeout: Seconds.

    Raises:
        NotConnected: Somebody did not come, or ranks contradict each other.
    """
    deadline = time.monotonic() + timeout
    if seat.size == 1:
        return make_id(), Links(0, {})
    return _host(seat, key, make_id, deadline, timeout) if seat.rank == 0 else _join(seat, key, deadline, timeout)


def _proof(key: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, b"\0".join(parts), hashlib.sha256).digest()


def _host(seat: Seat, key: bytes, make_id: MakeId, deadline: float, timeout: float) -> tuple[bytes, Links]:
    came: dict[int, tuple[socket.socket, bytes]] = {}
    try:
        with _listening(seat) as server:
            strangers = _gather(server, seat, key, came, deadline)
        missing = [str(rank) for rank in range(1, seat.size) if rank not in came]
        if missing:
            named = f"rank{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
            others = f"; {strangers} that came did not know the key ({VARIABLE})" if strangers else ""
            raise NotConnected(f"{named} did not come to {seat.where} within {timeout:g} s{others}")
        made = make_id()
        _hand_out(made, seat, key, came)
    except BaseException as error:  # whatever it is, nobody waits for this rank
        for connection, _ in came.values():
            _close(connection, str(error) or type(error).__name__)
        raise
    return made, Links(0, {rank: connection for rank, (connection, _) in came.items()})


def _hand_out(made: bytes, seat: Seat, key: bytes, came: dict[int, tuple[socket.socket, bytes]]) -> None:
    try:
        for connection, nonces in came.values():
            connection.settimeout(GREETED_WITHIN)
            connection.sendall(framed(_HERE) + made + _proof(key, b"id", nonces, made))
    except OSError as error:
        raise NotConnected(f"a rank went away while all met at {seat.where}: {error}") from error


def _listening(seat: Seat) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(seat.address, seat.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=seat.size)
    except OSError as error:
        raise NotConnected(
            f"rank 0 cannot listen on {seat.where} ({error.strerror or error}): {ADDRESS} has to be an address of the "
            f"host of rank 0, and the port free ({OWN_PORT} names another one)"
        ) from error


def _gather(
    server: socket.socket, seat: Seat, key: bytes, came: dict[int, tuple[socket.socket, bytes]], deadline: float
) -> int:
    """Fills ``came`` with connections and their nonces, until all are there or the time is up.

    Returns how many came that did not know the key.
    """
    strangers = 0
    while len(came) < seat.size - 1 and time.monotonic() < deadline:
        server.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            connection, _ = server.accept()
        except TimeoutError:
            break
        except OSError as error:
            raise NotConnected(f"rank 0 cannot take a connection at {seat.where}: {error}") from error
        try:
            rank, size, nonces = _greet(connection, key, min(deadline, time.monotonic() + GREETED_WITHIN))
        except (EOFError, OSError, _StrangerError) as error:
            strangers += isinstance(error, _StrangerError)
            connection.close()
            continue
        wrong = None
        if size != seat.size:
            wrong = f"rank {rank} was told that there are {size} ranks, and rank 0 that there are {seat.size}"
        elif not 0 < rank < size or rank in came:
            wrong = f"two processes were told that they are rank {rank}"
        if wrong:
            _close(connection, wrong)
            raise NotConnected(wrong)
        came[rank] = connection, nonces
    return strangers


class _StrangerError(Exception):
    """Somebody who does not know the key."""


def _greet(connection: socket.socket, key: bytes, deadline: float) -> tuple[int, int, bytes]:
    """Rank, number of ranks, and the nonces of both sides."""
    mine = secrets.token_bytes(_NONCE)
    connection.settimeout(max(0.01, deadline - time.monotonic()))
    connection.sendall(GREETING + mine)
    nonces = mine + receive(connection, _NONCE, deadline)
    said = receive(connection, _RANKS.size, deadline)
    if not hmac.compare_digest(receive(connection, _PROOF, deadline), _proof(key, b"rank", nonces, said)):
        raise _StrangerError
    rank, size = _RANKS.unpack(said)
    return rank, size, nonces


def _close(connection: socket.socket, why: str) -> None:
    try:
        connection.settimeout(1)
        connection.sendall(framed(FAILED, why))
    except OSError:  # it is gone already
        pass
    connection.close()


def _join(seat: Seat, key: bytes, deadline: float, timeout: float) -> tuple[bytes, Links]:
    connection, theirs = _reach(seat, deadline, timeout)
    nonces = theirs + secrets.token_bytes(_NONCE)
    said = _RANKS.pack(seat.rank, seat.size)
    # Rank 0 waits as long as this one does, and knows more about who is missing.
    late = deadline + GREETED_WITHIN
    try:
        connection.sendall(nonces[_NONCE:] + said + _proof(key, b"rank", nonces, said))
        letter, text = message(connection, late)
        if letter == FAILED:
            raise NotConnected(f"rank 0 at {seat.where} gave up: {text}")
        made, proof = receive(connection, ID_SIZE, late), receive(connection, _PROOF, late)
    except (EOFError, OSError) as error:
        connection.close()
        if isinstance(error, TimeoutError):
            raise NotConnected(f"rank 0 at {seat.where} did not answer rank {seat.rank} in {timeout:g} s") from error
        raise NotConnected(
            f"rank 0 at {seat.where} has closed the connection of rank {seat.rank}: it has ended, or has another "
            f"key. On hosts that do not share a home folder set {VARIABLE} to the same text"
        ) from error
    if letter != _HERE or not hmac.compare_digest(proof, _proof(key, b"id", nonces, made)):
        connection.close()
        raise NotConnected(f"what listens at {seat.where} does not know the key, so it is not rank 0")
    return made, Links(seat.rank, {0: connection})


def _reach(seat: Seat, deadline: float, timeout: float) -> tuple[socket.socket, bytes]:
    """A connection to rank 0, and its nonce.  It may start later than this one."""
    while time.monotonic() < deadline:
        try:
            connection = socket.create_connection((seat.address, seat.port), max(0.01, deadline - time.monotonic()))
        except OSError:
            time.sleep(0.05)
            continue
        try:
            until = min(deadline, time.monotonic() + GREETED_WITHIN)
            if receive(connection, len(GREETING), until) != GREETING:
                raise NotConnected(f"something else listens at {seat.where}; {OWN_PORT} names another port")
            return connection, receive(connection, _NONCE, until)
        except (EOFError, OSError):  # the rank 0 of a run before, or one that is ending
            connection.close()
            time.sleep(0.05)
        except NotConnected:
            connection.close()
            raise
    raise NotConnected(
        f"rank {seat.rank} found no rank 0 at {seat.where} within {timeout:g} s: it has not started, or {ADDRESS} "
        f"and {PORT} are not the same for all ranks"
    )
