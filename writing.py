"""Writing one file: completely under its name, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .rewriter.errors import UsageError


def write_file(target: Path, content: bytes, option: str) -> None:
    """Write a file beside nothing half-written.

    Args:
        target: Where to.
        content: What.
        option: The option that chose the target, for the message.

    Raises:
        UsageError: It cannot be written.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:60]}.", dir=target.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        temporary.chmod(0o644)
        os.replace(temporary, target)
    except OSError as error:
        _remove(temporary)
        raise UsageError(f"'{target}' cannot be written: {error.strerror}. Choose another {option}.") from error
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)
