"""Errors that end a run, and the exit codes of the process.  These are promised to users: numbers are never reused.

Leaving a single attention as it is, is not an error.  See ``rewriter/verdicts.py``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class ExitCode(IntEnum):
    """What the process says to the shell."""

    DONE = 0
    INTERNAL = 1
    USAGE = 2
    NOT_REWRITTEN = 3
    VERIFICATION_FAILED = 4
    ENGINE_FAILED = 5
    PLUGIN_NOT_USED = 6
    INPUT_REJECTED = 7
    NOT_VERIFIED = 8
    NOT_INTACT = 9


class AlibiError(Exception):
    """Base of all errors that end a run; carries the exit code that the command line returns."""

    exit_code = ExitCode.INTERNAL


class UsageError(AlibiError):
    """The request makes no sense: an unknown option value, an output that would overwrite its input."""

    exit_code = ExitCode.USAGE


class NotRewritten(AlibiError):
    """Something was asked for that needs a rewritten model, and no attention could be fused."""

    exit_code = ExitCode.NOT_REWRITTEN


class ModelRejected(AlibiError):
    """The file is not a model that can be read safely and completely."""

    exit_code = ExitCode.INPUT_REJECTED


class MissingDependency(AlibiError):
    """An optional package is needed and not installed; the message holds the command that installs it."""

    exit_code = ExitCode.USAGE


class EngineFailed(AlibiError):
    """An engine could not be built; the message holds what TensorRT said and what to do."""

    exit_code = ExitCode.ENGINE_FAILED


class PluginNotUsed(AlibiError):
    """TensorRT did not take the plugin for every fused node, or the plugin library is not there."""

    exit_code = ExitCode.PLUGIN_NOT_USED
