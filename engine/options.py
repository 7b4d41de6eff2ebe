"""What a user asks of an engine build; plain data, so that the command line starts quickly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

AUTO = "auto"
STRATEGIES = ("plugin", "native", AUTO)


@dataclass(frozen=True)
class EngineOptions:
    """What the user asks for.

    Attributes:
        backend: ``auto``, ``tensorrt`` or ``tensorrt-rtx``.
        strategy: ``plugin``: fused nodes run our kernels.  ``native``: TensorRT compiles their function bodies.
            ``auto``: both are built and the faster one is kept, where a device can run them.
        targets: Compute capabilities times ten; empty for the backend's default.
        shapes: For ``min``, ``opt`` and ``max`` the shapes by input name.
        embed_plugin: Whether the plugin library travels in the plan; None for the backend's default.
        skip: Attach kernels with certified skipping.
        accumulate: ``float32`` asks TensorRT's own attention (``native``) for sums of float32; ``default`` does not.
    """

    backend: str = AUTO
    strategy: str = "plugin"
    targets: tuple[int, ...] = ()
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    embed_plugin: bool | None = None
    skip: bool = False
    accumulate: str = "default"


@dataclass
class Reporter:
    """Whom a build tells what it is doing."""

    say: Callable[[str], None] = lambda _: None
    event: Callable[[dict[str, Any]], None] = lambda _: None
