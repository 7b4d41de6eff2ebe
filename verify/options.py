"""What a caller may decide about the verification, and what the analysis gives to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto

from .pairs import SitePairs
from .power.mistakes import Mistake
from .run.kernels import CpuKernels, Kernels


@dataclass(frozen=True)
class VerifyOptions:
    """What a caller may decide.

    Attributes:
        seed: Of every drawn number.
        inputs: An .npz file with one array per model input; replaces the drawn input sets.
        val_ranges: Inclusive bounds by input name; replaces what would be drawn for that input.
        max_length: The longest sequence that is drawn.
        power: Whether mutants of the rewritten model are run.
        threads: Threads of onnxruntime within an operator.
        memory_limit: Bytes the verification may take; None takes what the system says is available.
        premise: Given the shapes of all inputs, why they are outside of what was proven (a buffer is too
            short for them, say), or None.  Such shapes are not compared.
        progress: Told (phase, work done, work in all) now and then.
        sites: The attention sites, for comparing them one by one; None if there is no analysis at hand.
        by_sites: Compare site by site even if the whole model fits into memory.
        lengths: Numbers of keys at which the proofs change what they say (the end of a window, the last integer that
            a narrow type holds): sequences on both sides are drawn, ``max_length`` or not.
        as_they_are: The bias passes through a type that a float32 clone does not round to, so that the models are
            compared as they are as well.
        rows_agree: Rows that see no key are proven to be what they were, so that padded tokens are compared as well.
        exact_bias: They are known to differ there, and by how much is said.
        fit: Makes drawn shapes of inputs, by name, agree with what the proofs know about their lengths.
        kernels: Where the rewritten model runs on our kernels as well: ``auto`` (wherever they are there), ``cpu`` or
            ``cuda``; None for nowhere.
        known: All kernels that exist.
        mistakes: Makes the mutants of the power check out of the model that is compared, in place of those of its fused
            nodes; None for the latter.
        room: Bytes that the scores of the model's attention take at the lengths that are drawn.
    """

    seed: int = 0
    inputs: Path | None = None
    val_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    max_length: int = 256
    power: bool = True
    threads: int = 2
    memory_limit: int | None = None
    premise: Callable[[Mapping[str, tuple[int, ...]]], str | None] | None = None
    progress: Callable[[str, int, int], None] = lambda phase, done, whole: None
    sites: SitePairs | None = None
    by_sites: bool = False
    lengths: tuple[int, ...] = ()
    as_they_are: bool = False
    exact_bias: bool = False
    rows_agree: bool = False
    kernels: str | None = None
    known: tuple[Kernels, ...] = (CpuKernels(),)
    mistakes: Callable[[ModelProto], Sequence[Mistake]] | None = None
    room: int = 0
    fit: Callable[[Mapping[str, tuple[int, ...]]], Mapping[str, tuple[int, ...]]] = lambda shapes: shapes
