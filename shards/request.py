"""What is asked for, and where it goes.  Looked at before anything heavy is imported."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import UsageError
from ..base.targets import check_place

ONNXRUNTIME = "onnxruntime"
TENSORRT = "tensorrt"
RUNTIMES = (ONNXRUNTIME, TENSORRT)
"""Whose collectives the ranks' files have."""

MANIFEST = "manifest.json"

MOST_RANKS = 64


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        ranks: How many ranks there are.
        folder: Where the files go.
        runtime: Whose collectives they get.
        vocabulary: Cut embeddings and the product with the vocabulary as well.
    """

    ranks: int
    folder: Path
    runtime: str = ONNXRUNTIME
    vocabulary: bool = False

    def check(self) -> None:
        """What can be seen before anything is done.

        Raises:
            UsageError: It cannot be done.
        """
        if not 2 <= self.ranks <= MOST_RANKS:
            raise UsageError(f"--tensor-parallel {self.ranks}: give a number of ranks from 2 to {MOST_RANKS}.")
        if self.runtime not in RUNTIMES:
            raise UsageError(f"--collectives '{self.runtime}' is none of {', '.join(RUNTIMES)}.")
        folder = self.folder
        if folder.is_symlink() or (os.path.lexists(folder) and not folder.is_dir()):
            raise UsageError(
                f"-o '{folder}' is no folder, and --tensor-parallel writes several files. Choose a folder."
            )
        if not folder.exists():
            if not folder.parent.is_dir():
                raise UsageError(f"the folder '{folder.parent}' does not exist. Make it, or choose another -o.")
            if not os.access(folder.parent, os.W_OK | os.X_OK):
                raise UsageError(f"the folder '{folder}' cannot be made. Choose another -o.")
            return
        for place in self.files:
            check_place(place, "-o")

    @property
    def files(self) -> list[Path]:
        """Everything that may be written."""
        ranks = range(self.ranks)
        names = [name for rank in ranks for name in (data_file(rank), model_file(rank))]
        return [self.folder / name for name in (*names, MANIFEST)]


def model_file(rank: int) -> str:
    """The name of a rank's model."""
    return f"rank{rank}.onnx"


def data_file(rank: int) -> str:
    """The name of a rank's data file."""
    return f"{model_file(rank)}.data"
