"""GPUs to build for: how the user names them, which images serve them, what each backend accepts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..base.errors import UsageError
from ..kernels.compile.compiler import ARCHITECTURES

PORTABLE = 80
"""PTX for this architecture runs on every later GPU."""

RTX_TARGETS = (80, 86, 89, 120)
"""What TensorRT-RTX builds for if no target is given: its own portable default."""

RTX_SUPPORTED = (75, 80, 86, 89, 120, 121)
"""Compute capabilities that TensorRT-RTX 1.7 knows."""

_SPELLING = re.compile(r"(?:sm_?|compute_?)?(\d{1,2})\.?(\d)a?", re.IGNORECASE)


@dataclass(frozen=True)
class Images:
    """Which compiled kernels travel with a node.

    Attributes:
        machine_code: Architectures with CUBINs.
        ptx: Architectures with PTX, for devices that no CUBIN serves.
    """

    machine_code: tuple[int, ...]
    ptx: tuple[int, ...]

    @property
    def architectures(self) -> tuple[int, ...]:
        """All architectures to compile for, ascending."""
        return tuple(sorted({*self.machine_code, *self.ptx}))


def parse_targets(texts: Sequence[str]) -> tuple[int, ...]:
    """``sm_90,8.9`` as (89, 90): compute capabilities times ten, ascending.

    Raises:
        UsageError: It is written otherwise, or no kernel runs there.
    """
    found = set()
    for text in (piece for group in texts for piece in group.split(",") if piece.strip()):
        match = _SPELLING.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"--target '{text}' is not a GPU architecture. Example: --target sm_80,sm_90")
        number = int(match.group(1) + match.group(2))
        if number < PORTABLE:
            raise UsageError(f"--target '{text}': the kernels need compute capability 8.0 or later")
        found.add(number)
    return tuple(sorted(found))


def images_for(targets: Sequence[int]) -> Images:
    """The images that serve these GPUs: machine code where the kernels are tuned, else of the nearest older one.

    PTX of the portable architecture always travels along, so that a newer GPU is served as well.
    """
    code = set()
    for target in targets:
        if target in ARCHITECTURES:
            code.add(target)
        elif target // 10 < 9:
            # Machine code runs on later minor versions of its generation.
            code.add(max(a for a in ARCHITECTURES if a // 10 == target // 10 and a <= target))
    return Images(tuple(sorted(code)), (PORTABLE,))


def text(target: int) -> str:
    """As CUDA writes it: ``sm_90``."""
    return f"sm_{target}"
