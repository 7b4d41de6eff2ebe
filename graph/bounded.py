"""onnxruntime with a limit on memory and time, since it runs what a file from a stranger holds.

A graph of five nodes can ask for more memory than any machine has, and a loop need not end.  The session gets a
memory arena of its own with a limit, so that such a graph fails with an error and the process lives on.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base import telemetry
from .index import Array

CPU = (telemetry.CPU,)


def session(
    runtime: Any,
    content: bytes,
    settings: Any,
    limit: int | None,
    folder: Path | None = None,
    providers: Sequence[Any] = CPU,
) -> Any:
    """A session, on the CPU unless told otherwise.

    Args:
        runtime: The module ``onnxruntime``.
        content: The model.
        settings: Of the session; changed.
        limit: Bytes that its tensors may take together; None for no limit.  onnxruntime before 1.23 knows no limit.
        folder: Where the files of external data are, if there are any.
        providers: Execution providers.

    Raises:
        Exception: onnxruntime does not take the model; its errors have no common base.
    """
    limited = limit is not None and _register(runtime, 0) and _register(runtime, limit)
    if limited:
        settings.add_session_config_entry("session.use_env_allocators", "1")
    try:
        with contextlib.ExitStack() as held:
            if folder is not None:
                name = held.enter_context(_as_text(folder.resolve()))
                settings.add_session_config_entry("session.model_external_initializers_file_folder_path", name)
            return runtime.InferenceSession(content, settings, providers=list(providers))
    finally:
        if limited:
            _register(runtime, 0)  # the session keeps its own arena; later sessions are not limited


@contextlib.contextmanager
def _as_text(folder: Path) -> Iterator[str]:
    """A name of a folder that onnxruntime takes.  File systems allow bytes that are not UTF-8; onnxruntime does not."""
    try:
        str(folder).encode("utf-8")
    except UnicodeEncodeError:
        handle = os.open(folder, os.O_RDONLY)
        try:
            yield f"/proc/self/fd/{handle}"
        finally:
            os.close(handle)
    else:
        yield str(folder)


def _register(runtime: Any, limit: int) -> bool:
    """Make an arena with a limit (0 for none) the one that new sessions share; False where there is one already."""
    try:
        place = runtime.OrtMemoryInfo(
            "Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT
        )
        # As much as is asked for, not the next power of two.
        runtime.create_and_register_allocator(
            place, runtime.OrtArenaCfg({"max_mem": limit, "arena_extend_strategy": 1})
        )
    except Exception:  # noqa: BLE001 - onnxruntime's errors have no common base
        return False
    return True


def run(
    runtime: Any, session: Any, outputs: Sequence[str] | None, feeds: Mapping[str, Array], seconds: float
) -> list[Any]:
    """Run a session, stopped at the next operator once time is up.

    Args:
        runtime: The module ``onnxruntime``.
        session: What to run.
        outputs: Names; None for all.
        feeds: Its inputs.
        seconds: How long it may take.

    Raises:
        TimeoutError: It took longer.
        Exception: It fails; onnxruntime's errors have no common base.
    """
    options = runtime.RunOptions()
    options.log_severity_level = 4
    late = threading.Event()

    def stop() -> None:
        late.set()
        options.terminate = True

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        found: list[Any] = session.run(outputs, feeds, options)
    except Exception as error:
        if late.is_set():
            raise TimeoutError(f"it does not end within {seconds:g} s") from error
        raise
    finally:
        timer.cancel()
    return found
