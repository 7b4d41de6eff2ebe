"""Verification of a rewritten model against its original, in onnxruntime on the CPU."""

from __future__ import annotations

from .errors import GivenInputError, RunError, RuntimeMissingError, VerifyError
from .options import VerifyOptions
from .report import MutantResult, OutputError, PowerResult, PrecisionResult, SetResult, Verification
from .verification import skipped, verify

__all__ = [
    "GivenInputError",
    "MutantResult",
    "OutputError",
    "PowerResult",
    "PrecisionResult",
    "RunError",
    "RuntimeMissingError",
    "SetResult",
    "Verification",
    "VerifyError",
    "VerifyOptions",
    "skipped",
    "verify",
]
