"""A rank that is lost ends the others within a bounded time, with one sentence; nothing hangs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from alibi_rewriter.runtime import NoLibrary, get_library_path
from alibi_rewriter.runtime.collectives import library
from alibi_rewriter.runtime.collectives.group import join_ranks
from alibi_rewriter.runtime.collectives.links import Links
from alibi_rewriter.runtime.collectives.ranks import NotConnected, Seat
from alibi_rewriter.runtime.collectives.watch import LOST, Watch
from stand_ins import StandIns, Step, ended

try:
    get_library_path()
except NoLibrary:
    pytest.skip("the library was not built: no C++ compiler", allow_module_level=True)

CONNECT: Step = ("connect", {"timeout": 30})
FINISH: Step = ("disconnect", {"timeout": 30})


def total(rank: int, size: int = 3) -> Step:
    return "run", {"op": "AlibiAllReduce", "values": [1.0], "group": size, "device": rank}


@pytest.fixture
def stand_ins(tmp_path: Path) -> StandIns:
    return StandIns(tmp_path)


@pytest.mark.parametrize("lost", [0, 2])
def test_a_killed_rank_ends_the_others_inside_of_a_collective(stand_ins: StandIns, lost: int) -> None:
    # Whoever has the second sum knows that all others have told the first.
    steps = [
        [CONNECT, total(rank), total(rank), ("kill", {}) if rank == lost else total(rank), FINISH] for rank in range(3)
    ]
    for rank, each in enumerate(stand_ins.run(*steps)):
        assert each.told[1]["result"] == [3.0]
        if rank == lost:
            assert each.status == -signal.SIGKILL
            assert len(each.told) == 3
            continue
        # The others wait in a sum that the lost one never joins.
        assert each.status == LOST, each.errors
        said = f"alibi_rewriter: rank {rank} ends, because what it computes cannot be finished: rank {lost} has ended\n"
        assert each.errors == said
        assert len(each.told) in (2, 3)


def test_an_exception_on_a_rank_reaches_the_others(stand_ins: StandIns) -> None:
    # Whoever has the sum knows that all others have connected.
    steps = [[CONNECT, total(rank), ("break_off", {}) if rank == 1 else total(rank)] for rank in range(3)]
    ranks = stand_ins.run(*steps)
    assert ranks[1].error(2) == "ArithmeticError: no more" and ranks[1].status == 0
    for rank in (0, 2):
        assert ranks[rank].status == LOST
        assert "rank 1: ArithmeticError: no more" in ranks[rank].errors


def test_a_process_that_ends_without_a_word_is_lost(stand_ins: StandIns) -> None:
    # Whoever has the sum knows that the other one has connected.
    ranks = stand_ins.run([CONNECT, total(0, 2), total(0, 2)], [CONNECT, total(1, 2)])
    assert ranks[1].status == 0 and ranks[1].told[1]["result"] == [2.0]
    assert ranks[0].status == LOST and "rank 1 has ended" in ranks[0].errors


def test_an_error_that_nccl_reports_ends_all(stand_ins: StandIns) -> None:
    # After the exchange at the start and one sum.
    steps = [[CONNECT, total(rank, 2), ("sleep", {"seconds": 30}), FINISH] for rank in range(2)]
    for each in stand_ins.run(*steps, STUB_NCCL_LOST="1"):
        assert each.told[1]["result"] == [2.0]
        assert each.status == LOST, each.errors
        assert "remote process exited or there was a network error" in each.errors


def test_a_run_after_such_an_error_fails(stand_ins: StandIns) -> None:
    found = stand_ins.alone(CONNECT, total(0, 1), STUB_NCCL_LOST="0")
    assert "the ranks have lost each other: remote process exited" in found.error(1)


@pytest.mark.parametrize("late", [False, True])
def test_nothing_runs_after_another_rank_was_lost_while_connecting(monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """Though NCCL connected this one, before it was noticed or afterwards."""
    asked, told, left = threading.Event(), threading.Event(), threading.Event()

    def join(*_: object) -> None:
        assert (told if late else asked).wait(60)

    class Lost(Links):
        def poll(self, seconds: float) -> str | None:
            asked.set()
            return "rank 1 has ended"

        def fail(self, why: str) -> None:
            told.set()

    monkeypatch.setattr(library, "join", join)
    monkeypatch.setattr(library, "leave", left.set)
    one, other = _pair()
    with pytest.raises(NotConnected, match="rank 1 has ended"):
        join_ranks(Seat(0, 2, 0), b"", 0, Lost(0, {1: one}), time.monotonic() + 60, 60)
    assert left.wait(60)
    other.close()


def test_a_rank_that_fails_to_connect_is_named_by_all(stand_ins: StandIns) -> None:
    first = stand_ins.start(0, 2, [CONNECT])
    second = stand_ins.start(1, 2, [CONNECT], STUB_NCCL_FAIL="ncclCommInitRank")
    began = time.monotonic()
    found = [ended(each) for each in (first, second)]
    assert "rank 1: ncclCommInitRank failed: unhandled system error" in found[0].error(0)
    assert "ncclCommInitRank failed" in found[1].error(0)
    assert time.monotonic() - began < 30, "nobody waits for the time to be up"


def test_a_rank_without_a_gpu_is_named_by_all(stand_ins: StandIns) -> None:
    first = stand_ins.start(0, 2, [CONNECT])
    second = stand_ins.start(1, 2, [CONNECT], STUB_DEVICES="0")
    found = [ended(each) for each in (first, second)]
    assert "rank 1: there is no GPU for rank 1: it is number 1 here, of 0 GPUs" in found[0].error(0)
    assert "there is no GPU for rank 1" in found[1].error(0)


def test_after_an_exception_nothing_runs_that_nobody_would_end(stand_ins: StandIns) -> None:
    (alone,) = stand_ins.run([CONNECT, total(0, 1), ("break_off", {}), total(0, 1)])
    assert "this process has disconnected from the other ranks" in alone.error(3)


def test_a_watch_that_fails_ends_the_process() -> None:
    """Otherwise nobody would notice that a rank is lost."""

    class Broken(Links):
        def poll(self, seconds: float) -> str | None:
            raise RuntimeError("no descriptors")

    ends: list[str] = []
    one, other = _pair()
    seen = threading.Event()
    watch = Watch(Broken(1, {0: one}), lambda: None, lambda why: (ends.append(why), seen.set())[0])
    assert seen.wait(60)
    watch.stop()
    other.close()
    assert ends == ["the other ranks cannot be watched: RuntimeError: no descriptors"]


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        return one, server.accept()[0]


def test_ranks_that_finish_at_different_times_are_not_lost(stand_ins: StandIns) -> None:
    steps = [[CONNECT, total(rank), ("sleep", {"seconds": 1.5 * rank}), FINISH] for rank in range(3)]
    for each in stand_ins.run(*steps):
        assert each.status == 0 and each.results[-1] is None, each.errors


def test_a_rank_that_has_finished_waits_for_a_bounded_time(stand_ins: StandIns) -> None:
    early: list[Step] = [CONNECT, ("disconnect", {"timeout": 1})]
    late: list[Step] = [CONNECT, ("sleep", {"seconds": 60})]
    ranks = stand_ins.run(early, late)
    assert "rank 0 has finished, and others have not within 1 s" in ranks[0].error(1)
    assert ranks[1].status == LOST and "rank 0 has ended" in ranks[1].errors


def test_a_stopped_rank_is_no_lost_one(stand_ins: StandIns) -> None:
    ranks = [
        stand_ins.start(rank, 2, [CONNECT, ("sleep", {"seconds": 1}), total(rank, 2), FINISH]) for rank in range(2)
    ]
    assert ranks[1].stdout is not None
    ranks[1].stdout.readline()  # it is connected
    os.kill(ranks[1].pid, signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        ranks[0].wait(3)
    os.kill(ranks[1].pid, signal.SIGCONT)
    for each in map(ended, ranks):
        assert each.status == 0 and each.told[-1] == {"result": None}, each.errors
