"""What parent and child say to each other.  One job goes down, and a line of JSON per event comes up."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

BACKENDS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Backend name to the Python module that drives it."""

PROFILE_SHAPES = dict[str, list[list[int]]]
"""Input name to its (min, opt, max)."""


@dataclass(frozen=True)
class BuildJob:
    """One engine build.

    Attributes:
        backend: A key of ``BACKENDS``.
        model: The ONNX file to parse.
        plan: Where the serialized engine goes; the parent sees to it that it appears complete or not at all.
        profile: Shapes of the dynamic inputs.
        targets: Compute capabilities times ten; empty for the device that is there.
        plugin: The plugin library, or None to build without plugins.
        embed_plugin: Store the plugin library in the plan.
        fused: How many plugin layers there have to be.
        timing: Run the engine this often and report the time, if there is a device that can.
    """

    backend: str
    model: str
    plan: str
    profile: PROFILE_SHAPES = field(default_factory=dict)
    targets: tuple[int, ...] = ()
    plugin: str | None = None
    embed_plugin: bool = False
    fused: int = 0
    timing: int = 0

    def to_json(self) -> str:
        """As one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BuildJob:
        """The inverse."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**{**fields, "targets": tuple(fields["targets"])})
