"""The versions of TensorRT and TensorRT-RTX: which were tested, how far, and which are known not to work.

This is the one table of them.  `rewrite doctor`, `--engine`, the tests of NVIDIA's registry and docs/engines.md read
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

Number = tuple[int, int]
"""Major and minor version."""

TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


class Depth(Enum):
    """How far a version was tested, from little to much."""

    HEADERS = "headers compared with the plugin's interface"
    REGISTRY = "the registry (of the lean runtime, on a CPU) loaded the plugin library and made every plugin"
    BUILT = "engines with the plugin built on a CPU, for GPUs that were not there"


@dataclass(frozen=True)
class Tested:
    """One version that was tested.

    Attributes:
        backend: A key of ``TITLES``.
        version: As its wheel says.
        depth: How far.
    """

    backend: str
    version: str
    depth: Depth


TESTED = (
    *(Tested("tensorrt", f"10.{minor}", Depth.HEADERS) for minor in range(15)),
    Tested("tensorrt", "10.15.1.29", Depth.REGISTRY),
    Tested("tensorrt", "10.16.0.72", Depth.REGISTRY),
    Tested("tensorrt", "10.16.1.11", Depth.REGISTRY),
    Tested("tensorrt", "11.0.0.114", Depth.REGISTRY),
    Tested("tensorrt", "11.1.0.106", Depth.REGISTRY),
    Tested("tensorrt", "11.2.1.2", Depth.REGISTRY),
    Tested("tensorrt", "11.3.0.99", Depth.REGISTRY),
    Tested("tensorrt", "11.4.0.106", Depth.REGISTRY),
    Tested("tensorrt-rtx", "1.7.1.116", Depth.BUILT),
)
"""Ascending per backend.  Nothing here was executed on a GPU (docs/executed.md).

Headers of 11.0 and 11.1 were compared as well; later ones are not published with the sources."""

UNFIT: tuple[tuple[str, Number, Number, str], ...] = (
    ("tensorrt", (0, 0), (10, 0), "it has no plugins of the kind V3"),
    ("tensorrt-rtx", (0, 0), (1, 5), "it takes no plugins"),
    ("tensorrt-rtx", (1, 5), (1, 6), "it takes no plugins, and its binary interface is another than that of 1.4"),
    ("tensorrt-rtx", (1, 6), (1, 7), "it takes no plugins"),
)
"""Backend, first version, first version that is better, and what is wrong: the plugin is not used with these."""

CHECKED = "its registry took the plugins, and plugin layers are counted after the parse and in the engine"
"""What is checked in every build, whatever the version."""


def number(version: str) -> Number:
    """Major and minor of a version as it is written; (0, 0) for text that is not a version."""
    parts = [part for part in version.split(".")[:2] if part.isdecimal()]
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 else (0, 0)


def unfit(backend: str, version: str) -> str | None:
    """Why the plugin is known not to work with a version; None if nothing is known against it."""
    own = number(version)
    return next((why for name, first, better, why in UNFIT if name == backend and first <= own < better), None)


def first_fit(backend: str) -> str:
    """The first version that takes the plugin."""
    major, minor = max(better for name, _, better, _ in UNFIT if name == backend)
    return f"{major}.{minor}"


def tested(backend: str, version: str) -> Tested | None:
    """The entry of a version: its own, or one with the same major and minor number; None if the table lacks both."""
    own = [entry for entry in TESTED if entry.backend == backend]
    exact = [entry for entry in own if entry.version == version]
    return next(iter(exact or [entry for entry in own if number(entry.version) == number(version)]), None)


def caution(backend: str, version: str) -> str:
    """What to say about a version that was not tested; empty for one that was."""
    if tested(backend, version) is not None:
        return ""
    own = [number(entry.version) for entry in TESTED if entry.backend == backend]
    newer = number(version) > max(own)
    last = ".".join(map(str, max(own) if newer else min(own)))
    kind = f"newer than {last}, the last" if newer else f"none of those that were tested, the first of which is {last}"
    kind = f"{kind} that was tested" if newer else kind
    return f"{TITLES[backend]} {version} is {kind}; checked here: {CHECKED}"


def table() -> str:
    """The table of docs/engines.md."""
    tested: dict[tuple[str, Depth], list[str]] = {}
    for entry in TESTED:
        tested.setdefault((entry.backend, entry.depth), []).append(entry.version)
    rows = [f"| {TITLES[name]} {', '.join(own)} | {depth.value} |" for (name, depth), own in tested.items()]
    rows += [
        f"| {TITLES[name]} {_span(first, better)} | not used with the plugin: {why} |"
        for name, first, better, why in UNFIT
    ]
    return "\n".join(["| version | |", "|---|---|", *rows, ""])


def _span(first: Number, better: Number) -> str:
    end = ".".join(map(str, better))
    return f"before {end}" if first == (0, 0) else f"{'.'.join(map(str, first))}, before {end}"
