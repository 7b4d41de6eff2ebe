"""What the judge needs of an attention site before and after.  The pass cuts it out, and the judge runs both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx

from ..algebra import Poly, Size
from ..fused.layout import OperandView
from ..graph.index import Array


@dataclass(frozen=True)
class QueryPlace:
    """An input that holds the query of a site.

    Attributes:
        tensor: Its name.
        view: The part of it that is the query; None for all of it.
    """

    tensor: str
    view: OperandView | None

    def without(self, array: Array) -> Array:
        """The input with a query of zero."""
        quiet: Array = array.copy()
        part = quiet if self.view is None else self.view.of(quiet)
        part[...] = 0
        return quiet


class SizeChoice(Protocol):
    """The sizes that a site's tensors hang on, and how to choose them for a batch and a length."""

    rows: Poly
    past: Poly

    def settle(self, batch: int, new: int, past: int) -> tuple[int, int, int]:
        """The sizes nearest to (batch, new tokens, past tokens) that the model leaves open."""

    def solve(self, batch: int, new: int, past: int) -> dict[Size, int] | None:
        """A number for every size, or None where no choice is within what the proofs assume."""


class SitePair(Protocol):
    """One site before and after."""

    @property
    def site(self) -> str:
        """The site's name."""

    @property
    def node(self) -> str:
        """Name of its fused node."""

    @property
    def original(self) -> onnx.ModelProto:
        """The nodes between border and output, as the original has them."""

    @property
    def rewritten(self) -> onnx.ModelProto:
        """The same as the output has them; its inputs are those of ``original``."""

    @property
    def rows_agree(self) -> bool:
        """Whether rows without visible keys have to be equal, number by number."""

    @property
    def folders(self) -> tuple[Path, Path]:
        """Where the external data of each are."""

    @property
    def tensors(self) -> Mapping[str, tuple[Poly, ...]]:
        """Extents of every input that is a tensor of the model."""

    @property
    def shapes(self) -> Mapping[str, tuple[Poly, ...]]:
        """Inputs that hold sizes, and what they hold."""

    @property
    def scalars(self) -> frozenset[str]:
        """Those of ``shapes`` that are of rank 0."""

    @property
    def results(self) -> tuple[str, ...]:
        """Outputs that are compared, the attention's own first."""

    @property
    def query(self) -> QueryPlace | None:
        """The input that holds the query, and where, or None if keys or values are there as well."""

    @property
    def scores(self) -> str:
        """The output of ``original`` that tells which keys a row sees, or "" if there is none."""

    @property
    def sizes(self) -> SizeChoice:
        """Chooses numbers for the sizes."""

    @property
    def heads(self) -> int:
        """The number of heads, 1 if it is not a number."""

    def extents(self, name: str, sizes: dict[Size, int]) -> tuple[int, ...] | None:
        """A tensor's shape, or a shape input's content, at the given sizes."""

    def by_head(self, name: str, moved: Array) -> Array:
        """How far elements of an output moved, each as far as the farthest one of its head."""

    def bias(self, scores: Array, sizes: dict[Size, int]) -> tuple[Array, Array]:
        """Scores without the product as [B, H, S_q, S_kv], zero where a key is hidden, and where one is visible."""

    def placed(
        self, scores: Array, sizes: dict[Size, int]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]] | None:
        """Scores [B, H, S_q, S_kv], and where a key is visible; None where the sizes do not decide their places."""

    def seen(self, scores: Array | None, output: Array, sizes: dict[Size, int]) -> Array:
        """True at the elements of the output whose row sees a key."""


class SitePairs(Protocol):
    """The attention sites of a model, before and after."""

    missing: dict[str, str]

    @property
    def constants(self) -> frozenset[str]:
        """Names of the constants that the sites of the original read."""

    def pairs(self, rewritten: onnx.ModelProto, folder: Path) -> Iterator[SitePair]:
        """Each site before and after; those that cannot be taken apart are added to ``missing``."""

    def changes(self, original: onnx.ModelProto, rewritten: onnx.ModelProto) -> list[str]:
        """What differs outside of the sites, in words."""
