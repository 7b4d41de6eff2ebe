"""What the user asks of a run, and everything that happened in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import ModelProto

from ..base.errors import ExitCode
from ..fused.family import FusedAttention
from ..graph import surgeon
from ..graph.edit import Counts
from ..graph.index import Array
from ..graph.load import ModelFile
from ..verify import Verification
from ..verify.run.kernels import Kernels
from .records.in_place import InPlace
from .records.site import Analysis, Site


@dataclass(frozen=True)
class Options:
    """What the user asks for.

    Attributes:
        allow_partial: Write a model in which some sites with an ALiBi-like bias are left as they are.
        dry_run: Analyse only.
        verify: Compare original and rewritten in onnxruntime.
        probe: Evaluate each bias numerically and compare it with the proof.
        seed: Of the drawn inputs.
        inputs: Given inputs, per graph input, instead of drawn ones.
        val_ranges: (lowest, highest) per graph input, both included.  An integer input declared to be
            in 0 .. 1 may be taken as a boolean by the proof.
        verify_on: Where the rewritten model runs on our kernels as well: ``auto`` (wherever they are there), ``cpu``
            or ``cuda``.
        kernels: Kernels besides those of the CPU: ``alibi_rewriter.runtime.gpu.CudaKernels()``.
        verify_sites: Verify each attention site alone, without weights, even if the whole model fits into memory.
        exact_bias: Where the model rounds its bias to a narrow type on the way to wide scores, leave the rounding out.
        inline: Write the function bodies in place of the fused nodes, for runtimes that refuse local functions.
        views: Let fused nodes read query, key and value where the graph has them, such as in a packed projection, and
            write their output where it goes.  Otherwise all are [B, H, S, D].
        in_place: Make the caches that the model takes in and hands out buffers of a fixed capacity, with an input that
            says how many keys each sequence has.
        capacity: Rows of these buffers; None leaves it to who runs the model.
        copy_data: Give the output data files of its own, even in the original's folder.
        progress: Told (phase, work done, work in all) now and then; the work in all may be 0 for unknown.
        check: Told the source once it was read, with None, and again with the analysis.  It may raise an
            ``AlibiError``, which ends the run before anything is rewritten or written.
    """

    allow_partial: bool = False
    dry_run: bool = False
    verify: bool = True
    probe: bool = True
    seed: int = 0
    inputs: Mapping[str, Array] | Path | None = None
    val_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    copy_data: bool = False
    verify_sites: bool = False
    verify_on: str = "auto"
    kernels: tuple[Kernels, ...] = ()
    exact_bias: bool = False
    inline: bool = False
    views: bool = True
    in_place: bool = False
    capacity: int | None = None
    progress: Callable[[str, int, int], None] | None = None
    check: Callable[[ModelFile, Analysis | None], None] | None = None


@dataclass(frozen=True)
class Absorbed:
    """What a fused node does itself, so that nothing is copied for it.

    Attributes:
        tensors: What it reads ``query``, ``key`` and ``value`` from, by name, where that is not [B, H, S, D].
        copies: Nodes that copied and are gone.
        length: New tokens for which bytes are told: ``LENGTH``, or what the model fixes.
        bytes: What they wrote and what was read of it again, for a batch of 1 where that is open; None where the sizes
            do not say it.
    """

    tensors: dict[str, str]
    copies: tuple[str, ...]
    length: int
    bytes: int | None


LENGTH = 2048
"""Tokens for which bytes are told."""


@dataclass(repr=False)
class PassResult:
    """Everything that happened.

    Attributes:
        source: The input.
        analysis: All sites with their proofs or refusals.
        model: The rewritten model, or None if nothing was rewritten.
        output: Where it was written, or None.
        fused: Per rewritten site its node's attributes, in site order.
        counts: Graph changes.
        verification: The comparison, if it ran.
        exit_code: What the command line returns.
        seconds: Time per phase.
        notes: What else the user should know.
        absorbed: Per rewritten site what its node does itself besides the attention.
        cache: What became of the caches; None where they grow as before.
        rewritten_before: Fused nodes that the input holds, where there is nothing else to rewrite.
        left: Per rewritten site that still has one, a tensor of S_q x S_kv elements (a mask, or a bias that
            something else uses) in the rewritten graph.
    """

    source: ModelFile
    analysis: Analysis
    model: ModelProto | None = None
    output: Path | None = None
    sha256: str = ""
    fused: list[tuple[Site, FusedAttention]] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    verification: Verification | None = None
    exit_code: ExitCode = ExitCode.NOT_REWRITTEN
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    absorbed: dict[str, Absorbed] = field(default_factory=dict)
    cache: InPlace | None = None
    rewritten_before: int = 0

    def __repr__(self) -> str:
        sites = sum(site.is_attention for site in self.analysis.sites)
        checked = "not run" if self.verification is None else self.verification.status
        where = "not written" if self.output is None else f"written to '{self.output}'"
        return (
            f"<{type(self).__name__} {self.exit_code.name}: {len(self.fused)} of {sites} attention sites fused, "
            f"verification {checked}, {where}>"
        )

    def graph(self) -> Any:
        """The rewritten model as a ``gs.Graph`` of onnx-graphsurgeon; the original where nothing was rewritten.

        Raises:
            MissingDependency: onnx-graphsurgeon is not installed.
        """
        return surgeon.to_graph(self.source.model if self.model is None else self.model)


def binary_inputs(ranges: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """Inputs that are declared to hold 0 and 1 only."""
    return tuple(name for name, (low, high) in ranges.items() if low >= 0 and high <= 1)
