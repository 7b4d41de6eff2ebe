"""Writes a file completely or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..rewriter.errors import UsageError


def write_file(target: Path, content: bytes) -> None:
    """Write aside, then rename.

    Raises:
        UsageError: The place cannot be written; nothing is left there.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise UsageError(f"'{target}' cannot be written: {error.strerror}. Choose another place.") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"'{target}' cannot be written: {error.strerror}. Choose another place.") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
