"""Which of how many processes this one is: what the program that started it says in the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STARTERS = (
    ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("MPICH or Intel MPI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
)
"""Who starts processes, and its variables for rank, number of ranks and rank on this host.  The first that is there."""

ADDRESS, PORT = "MASTER_ADDR", "MASTER_PORT"
OWN_PORT = "ALIBI_RENDEZVOUS_PORT"
"""The port, if it is not to be the one after ``MASTER_PORT``."""

LOOPBACK, USUAL_PORT = "127.0.0.1", 29500
LAST_PORT = (1 << 16) - 1


class NotConnected(RuntimeError):
    """The ranks did not come together; the message says who is missing, where, and what to do."""


@dataclass(frozen=True)
class Seat:
    """A process among the others.

    Attributes:
        rank, size: Its number, and how many there are.
        local_rank: Its number on this host.
        address, port: Where rank 0 waits for the others.
    """

    rank: int
    size: int
    local_rank: int
    address: str = LOOPBACK
    port: int = USUAL_PORT + 1

    @property
    def where(self) -> str:
        """Of rank 0."""
        return f"{self.address}:{self.port}"


def seat(environment: Mapping[str, str]) -> Seat:
    """Reads the environment of torchrun, mpirun or srun.

    The port is the one after ``MASTER_PORT``, where torchrun's own store listens.

    Raises:
        NotConnected: Nobody started this process as one of several, or variables contradict each other.
    """
    for starter, *names in STARTERS:
        if names[0] not in environment:
            continue
        missing = [name for name in names[:2] if name not in environment]
        if missing:
            raise NotConnected(f"{names[0]} is set and {missing[0]} is not: {starter} sets both")
        rank, size = (_number(environment, name) for name in names[:2])
        # Where it is not told, all ranks are taken to be on one host.
        local = _number(environment, names[2]) if names[2] in environment else rank
        if not 0 <= rank < size:
            raise NotConnected(f"{names[0]}={rank} is none of {names[1]}={size} ranks")
        if local < 0:
            raise NotConnected(f"{names[2]}={local} is no number of a rank on its host")
        return Seat(rank, size, local, environment.get(ADDRESS) or LOOPBACK, _port(environment))
    raise NotConnected(
        "this process is not one of several: RANK and WORLD_SIZE are not set. "
        "Start it with torchrun --nproc-per-node N, or with mpirun -n N"
    )


def _port(environment: Mapping[str, str]) -> int:
    if OWN_PORT in environment:
        found = _number(environment, OWN_PORT)
    else:
        found = 1 + (_number(environment, PORT) if PORT in environment else USUAL_PORT)
    if not 0 < found <= LAST_PORT:
        raise NotConnected(f"there is no port {found} for rank 0; {OWN_PORT} names another one")
    return found


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise NotConnected(f"{name}='{environment[name]}' is no number") from None
