"""Times of competitors as replays of CUDA graphs, all of them in every round."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from inputs import Run

LEAST_LAUNCHES = 6
"""In a graph; the buffers rotate within it."""


def captured(runs: Sequence[Run], stream: Any) -> tuple[Any, int]:
    """A graph of launches that rotate over ``runs``, and their number.  They have to use ``stream``."""
    for run in runs:
        run()
    stream.synchronize()
    count = -(-LEAST_LAUNCHES // len(runs)) * len(runs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for number in range(count):
            runs[number % len(runs)]()
    return graph, count


def replayed_ms(graphs: Mapping[str, tuple[Any, int]], rounds: int, stream: Any) -> dict[str, float]:
    """The median time of one launch of each; every other round runs backwards, the first one does not count."""
    found: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(rounds + 1):
        for name in graphs if turn % 2 == 0 else reversed(list(graphs)):
            graph, count = graphs[name]
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(stream)
            graph.replay()
            end.record(stream)
            stream.synchronize()
            if turn:
                found[name].append(start.elapsed_time(end) / count)
    return {name: statistics.median(times) for name, times in found.items()}
