"""Errors of the verification that a caller is expected to show to a person."""

from __future__ import annotations


class VerifyError(Exception):
    """Base of everything the verification raises on purpose."""


class RuntimeMissingError(VerifyError):
    """onnxruntime is not installed; the message carries the command that installs it."""


class GivenInputError(VerifyError):
    """The user's input file or value ranges do not fit the model; the message says which and why."""


class KernelsMissingError(VerifyError):
    """Our kernels cannot run where they are asked to; the message says why and what to do."""


class RunError(VerifyError):
    """onnxruntime cannot load a model or run it on some input; the message is its first line."""


class MemoryLimitError(RunError):
    """A run would take more memory than there is.  A shorter input may fit."""


class LimitError(RunError):
    """A model cannot be run here on any input.  It does not end, or what it needs is not there."""
