"""How ranks find each other: who is missing, who is a stranger, and what the environment says."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from alibi_rewriter.runtime import NoLibrary
from alibi_rewriter.runtime.collectives import NotConnected, Seat, seat
from alibi_rewriter.runtime.collectives import key as keys
from alibi_rewriter.runtime.collectives.links import Links
from alibi_rewriter.runtime.collectives.rendezvous import GREETING, ID_SIZE, meet
from stand_ins import free_port

KEY, ID = b"k" * 32, bytes(range(ID_SIZE))
LONG = 30.0

Met = tuple[bytes, Links]


class Ranks:
    """Ranks that meet, each in a thread."""

    def __init__(self) -> None:
        self.port = free_port()
        self.pool = ThreadPoolExecutor(8)

    def go(
        self, rank: int, size: int = 3, *, key: bytes = KEY, timeout: float = LONG, port: int | None = None,
        make: Callable[[], bytes] = lambda: ID,
    ) -> Future[Met]:  # fmt: skip
        """One that starts now."""
        where = Seat(rank, size, rank, "127.0.0.1", port or self.port)
        return self.pool.submit(meet, where, key, make, timeout)


@pytest.fixture
def ranks() -> Ranks:
    return Ranks()


def error(of: Future[Met]) -> str:
    with pytest.raises(NotConnected) as found:
        of.result(60)
    return str(found.value)


def test_all_get_the_id_whoever_comes_first(ranks: Ranks) -> None:
    early = [ranks.go(2), ranks.go(1)]
    time.sleep(0.2)
    found = [each.result(60) for each in (ranks.go(0), *early)]
    assert [made for made, _ in found] == [ID] * 3
    host, second, first = (links for _, links in found)
    for links in (second, host, first):
        assert not links.released.is_set()
        links.finish()
    deadline = time.monotonic() + LONG
    while not all(links.released.is_set() for links in (host, first, second)):
        assert [links.poll(0.05) for links in (host, first, second)] == [None] * 3
        assert time.monotonic() < deadline
    host.close()
    assert first.poll(0.05) is None, "after all have finished an end is no loss"


def test_one_alone_waits_for_nobody(ranks: Ranks) -> None:
    made, links = ranks.go(0, 1).result(60)
    links.finish()
    assert made == ID and links.released.is_set()


def test_who_is_missing_is_named_on_every_rank(ranks: Ranks) -> None:
    host, second = ranks.go(0, 4, timeout=1), ranks.go(2, 4, timeout=1)
    said = f"ranks 1, 3 did not come to 127.0.0.1:{ranks.port} within 1 s"
    assert error(host) == said
    assert error(second) == f"rank 0 at 127.0.0.1:{ranks.port} gave up: {said}"
    alone = ranks.go(1, 2, timeout=0.5)
    assert error(alone).startswith(f"rank 1 found no rank 0 at 127.0.0.1:{ranks.port} within 0.5 s: it has not started")


def test_a_rank_that_cannot_make_the_id_tells_the_others(ranks: Ranks) -> None:
    def fails() -> bytes:
        raise NotConnected("NCCL cannot be opened")

    host, other = ranks.go(0, 2, make=fails), ranks.go(1, 2)
    assert error(host) == "NCCL cannot be opened"
    assert "gave up: NCCL cannot be opened" in error(other)


def test_whatever_ends_rank_0_the_others_are_told(ranks: Ranks) -> None:
    def fails() -> bytes:
        raise NoLibrary("the library was not built")

    host, other = ranks.go(0, 2, make=fails), ranks.go(1, 2)
    with pytest.raises(NoLibrary, match="was not built"):
        host.result(60)
    assert "gave up: the library was not built" in error(other)


def test_another_key_is_a_stranger(ranks: Ranks) -> None:
    host, stranger = ranks.go(0, 2, timeout=2), ranks.go(1, 2, key=b"x" * 32, timeout=2)
    assert "has another key" in error(stranger) and "ALIBI_RENDEZVOUS_KEY" in error(stranger)
    assert "rank 1 did not come" in error(host) and "1 that came did not know the key" in error(host)


def test_strangers_do_not_keep_ranks_from_meeting(ranks: Ranks) -> None:
    host = ranks.go(0, 2)
    replies = []
    for content in (b"", b"GET / HTTP/1.1\r\n\r\n" + bytes(200), bytes(104)):
        while True:
            try:
                connection = socket.create_connection(("127.0.0.1", ranks.port), 5)
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        with connection:
            reply = b""
            # The other side may be done with a stranger before it has said all.
            with contextlib.suppress(OSError):
                connection.sendall(content)
                connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                while more := connection.recv(4096):
                    reply += more
            replies.append(reply)
    other = ranks.go(1, 2)
    assert [each.result(60)[0] for each in (host, other)] == [ID, ID]
    for reply in replies:
        assert ID not in reply and len(reply) <= len(GREETING) + 32


@pytest.mark.parametrize("sends", ["something else", "the greeting, and an id without the key"])
def test_what_is_not_rank_0_is_not_believed(ranks: Ranks, sends: str) -> None:
    with socket.create_server(("127.0.0.1", ranks.port)) as server:
        other = ranks.go(1, 2)
        connection, _ = server.accept()
        with connection:
            if sends == "something else":
                connection.sendall(b"SSH-2.0-OpenSSH_9.6 and more than the greeting has")
            else:
                connection.sendall(GREETING + bytes(32))
                connection.sendall(b"I\0\0" + ID + bytes(32))
            said = error(other)
    wanted = "something else listens" if sends == "something else" else "does not know the key, so it is not rank 0"
    assert wanted in said


def test_ranks_that_contradict_each_other(ranks: Ranks) -> None:
    both = [ranks.go(1), ranks.go(1)]
    host = ranks.go(0)
    assert error(host) == "two processes were told that they are rank 1"
    for each in both:
        assert "gave up: two processes were told that they are rank 1" in error(each)
    ranks.port = free_port()
    host, other = ranks.go(0, 2), ranks.go(1, 4)
    assert error(host) == "rank 1 was told that there are 4 ranks, and rank 0 that there are 2"
    assert error(host) in error(other)


def test_a_port_that_is_taken_is_said(ranks: Ranks) -> None:
    with socket.create_server(("127.0.0.1", ranks.port)):
        said = error(ranks.go(0, 2))
    assert f"rank 0 cannot listen on 127.0.0.1:{ranks.port}" in said and "ALIBI_RENDEZVOUS_PORT" in said


def test_it_listens_on_the_address_of_rank_0_and_only_until_all_have_come(ranks: Ranks) -> None:
    seen: list[str] = []
    create = socket.create_server

    def watched(address: tuple[str, int], **more: object) -> socket.socket:
        seen.append(address[0])
        return create(address, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "create_server", watched)
        met = [each.result(60) for each in (ranks.go(0, 2), ranks.go(1, 2))]
    assert seen == ["127.0.0.1"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ranks.port), 5)
    for _, links in met:
        links.close()


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_the_end_of_a_rank_is_seen_by_all_others(ranks: Ranks, lost: int) -> None:
    links = [each.result(60)[1] for each in (ranks.go(0), ranks.go(1), ranks.go(2))]
    links[lost].close()
    for rank in sorted({0, 1, 2} - {lost}):  # rank 0 first: it tells the others
        assert links[rank].poll(LONG) == f"rank {lost} has ended"


def test_a_rank_that_gives_up_says_why(ranks: Ranks) -> None:
    links = [each.result(60)[1] for each in (ranks.go(0), ranks.go(1), ranks.go(2))]
    links[2].fail("ValueError: no more")
    assert links[0].poll(LONG) == links[1].poll(LONG) == "rank 2: ValueError: no more"


def test_a_child_does_not_keep_a_rank_alive(ranks: Ranks) -> None:
    links = [each.result(60)[1] for each in (ranks.go(0, 2), ranks.go(1, 2))]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)  # until its parent lets it go
        os._exit(0)
    links[1].close()
    assert links[0].poll(LONG) == "rank 1 has ended"
    os.write(writer, b"x")
    os.waitpid(child, 0)


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29400"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        (TORCHRUN, Seat(3, 8, 1, "10.0.0.7", 29401)),
        ({**TORCHRUN, "ALIBI_RENDEZVOUS_PORT": "7000"}, Seat(3, 8, 1, "10.0.0.7", 7000)),
        (
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
            Seat(1, 2, 1, "127.0.0.1", 29501),
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, Seat(1, 2, 1, "127.0.0.1", 29501)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "2"}, Seat(5, 8, 2, "127.0.0.1", 29501)),
        ({**TORCHRUN, "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Seat(3, 8, 1, "10.0.0.7", 29401)),
    ],
)  # fmt: skip
def test_the_environment_says_who_this_is(environment: dict[str, str], wanted: Seat) -> None:
    assert seat(environment) == wanted


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "RANK and WORLD_SIZE are not set. Start it with torchrun"),
        ({"RANK": "0"}, "RANK is set and WORLD_SIZE is not: torchrun sets both"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 is none of WORLD_SIZE=2 ranks"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK=-1 is none"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK='x' is no number"),
        ({**TORCHRUN, "MASTER_PORT": "http"}, "MASTER_PORT='http' is no number"),
        ({**TORCHRUN, "MASTER_PORT": "65535"}, "there is no port 65536 for rank 0; ALIBI_RENDEZVOUS_PORT names"),
        ({**TORCHRUN, "ALIBI_RENDEZVOUS_PORT": "0"}, "there is no port 0"),
        ({**TORCHRUN, "LOCAL_RANK": "-1"}, "LOCAL_RANK=-1 is no number of a rank on its host"),
    ],
)
def test_an_environment_that_makes_no_sense(environment: dict[str, str], said: str) -> None:
    with pytest.raises(NotConnected) as found:
        seat(environment)
    assert said in str(found.value)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_the_key_is_made_once_and_private(home: Path) -> None:
    start = threading.Barrier(8)

    def one(_: int) -> bytes:
        start.wait()
        return keys.key()

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(one, range(8)))
    assert len(found) == 1 and len(found.pop()) == 32
    assert stat.S_IMODE(keys.path().stat().st_mode) == 0o600
    assert [path.name for path in keys.path().parent.iterdir()] == ["rendezvous.key"], "nothing is left"


def test_a_key_that_others_can_read_is_not_used(home: Path) -> None:
    keys.key()
    keys.path().chmod(0o640)
    with pytest.raises(NotConnected, match="is not the key of this user alone: remove it"):
        keys.key()
    keys.path().unlink()
    keys.path().write_bytes(b"short")
    keys.path().chmod(0o600)
    with pytest.raises(NotConnected, match="is not the key"):
        keys.key()
    real = home / "elsewhere"
    keys.path().rename(real)
    keys.path().symlink_to(real)
    with pytest.raises(NotConnected, match="cannot be kept"):
        keys.key()


def test_a_key_that_is_given(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.VARIABLE, "a" * 16)
    assert keys.key() == b"a" * 16
    assert not keys.path().exists()
    monkeypatch.setenv(keys.VARIABLE, "short")
    with pytest.raises(NotConnected, match="fewer than 16 characters"):
        keys.key()
