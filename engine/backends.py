"""The TensorRT backends: the installed ones, what they can do, and the one to take."""

from __future__ import annotations

from dataclasses import dataclass

from ..base.errors import AlibiError, EngineFailed, MissingDependency, UsageError
from . import versions
from .job import BACKENDS
from .options import AUTO
from .process import INSTALL, run_child
from .targets import RTX_SUPPORTED, RTX_TARGETS, text

FUNCTION_LOSES_SINCE = (10, 7)
"""From this version of TensorRT on a registered plugin is preferred to a model-local function."""


@dataclass(frozen=True)
class Backend:
    """An installed TensorRT.

    Attributes:
        name: A key of ``BACKENDS``.
        version: As it says itself.
    """

    name: str
    version: str

    @property
    def number(self) -> tuple[int, int]:
        """Major and minor version."""
        return versions.number(self.version)

    @property
    def takes_plugins(self) -> bool:
        """Whether nothing is known against it with our plugin."""
        return versions.unfit(self.name, self.version) is None

    @property
    def caution(self) -> str:
        """What to say about it if it was not tested; empty if it was."""
        return versions.caution(self.name, self.version)

    @property
    def needs_no_functions(self) -> bool:
        """Whether function bodies have to be removed for the plugin to be used."""
        return self.name == "tensorrt" and self.number < FUNCTION_LOSES_SINCE

    def targets(self, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """The GPUs to build for.

        Raises:
            UsageError: It cannot build for one of them.
        """
        if self.name != "tensorrt-rtx":
            return wanted
        for target in wanted:
            if target not in RTX_SUPPORTED:
                raise UsageError(
                    f"TensorRT-RTX {self.version} does not build for {text(target)}; it knows "
                    f"{', '.join(map(text, RTX_SUPPORTED))}. Use --backend tensorrt on a machine with such a GPU."
                )
        return wanted or RTX_TARGETS


def probe(name: str) -> Backend:
    """The installed backend of that name.

    Raises:
        MissingDependency: It is not installed.
        EngineFailed: It cannot be loaded.
    """
    return Backend(name, str(run_child(["probe", name], name)["version"]))


def choose(name: str, *, plugin: bool) -> Backend:
    """The backend to build with.

    Args:
        name: ``auto`` or a key of ``BACKENDS``.
        plugin: It has to take plugins.

    Raises:
        MissingDependency: It (or for ``auto`` every one) is not installed.
        EngineFailed: It is too old for plugins.
    """
    reasons: list[AlibiError] = []
    for candidate in BACKENDS if name == AUTO else (name,):
        try:
            found = probe(candidate)
        except (MissingDependency, EngineFailed) as error:
            reasons.append(error)
            continue
        if plugin and not found.takes_plugins:
            why, first = versions.unfit(candidate, found.version), versions.first_fit(candidate)
            reasons.append(
                EngineFailed(
                    f"{candidate} {found.version} does not work with the plugin: {why}; {first} is the first "
                    f"that does. Run: {INSTALL[candidate]}, or build with --strategy native."
                )
            )
            continue
        return found
    if len(reasons) == 1 or any(isinstance(reason, EngineFailed) for reason in reasons):
        raise next((r for r in reasons if isinstance(r, EngineFailed)), reasons[0])
    raise MissingDependency(
        f"no TensorRT is installed. Run: {INSTALL['tensorrt-rtx']}, or on a machine with an NVIDIA GPU: "
        f"{INSTALL['tensorrt']}"
    )
