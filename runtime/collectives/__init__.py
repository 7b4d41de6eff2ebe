"""Processes that run one model together, a GPU each: how they find each other, and how none waits for one that is lost.

>>> from alibi_rewriter.runtime import collectives
>>> with collectives.connect() as group:                                                # doctest: +SKIP
...     providers = [("CUDAExecutionProvider", {"device_id": str(group.device)})]
...     session = alibi_rewriter.InferenceSession(f"cut/rank{group.rank}.onnx", providers=providers)

torchrun or mpirun starts the processes, NCCL moves the data (``native/collectives``).  What is here hands NCCL's id
from rank 0 to the others (``rendezvous.py``) and ends a process whose peers are gone (``watch.py``).
"""

from __future__ import annotations

from .group import Group, connect
from .ranks import NotConnected, Seat, seat

__all__ = ["Group", "NotConnected", "Seat", "connect", "seat"]
