"""Writing one file: completely under its name, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from .rewriter.errors import UsageError
from .rewriter.hidden import make_file, remove_leftovers


def write_file(target: Path, content: bytes, option: str) -> None:
    """Write a file beside nothing half-written.

    Args:
        target: Where to.  What an earlier run that was killed left beside it is removed.
        content: What.
        option: The option that chose the target, for the message.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        remove_leftovers(target)
        hidden = make_file(target)
        try:
            with hidden.path.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            hidden.path.chmod(0o644)
            os.replace(hidden.path, target)
        finally:
            hidden.remove()
    except OSError as error:
        raise UsageError(f"'{target}' cannot be written: {error.strerror}. Choose another {option}.") from error
