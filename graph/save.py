"""Output that appears complete or not at all.  It is written under a hidden name, checked there, then renamed.

The hidden file lies beside the target, so that the data files that a model refers to are found from there, and
so that giving it its name is one atomic step.  A run that is killed leaves its hidden file behind; the next run on the
same target removes it (see ``hidden``).
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from onnx import ModelProto

from ..base.errors import UsageError
from ..base.hidden import Hidden, make_file, remove_leftovers
from ..base.targets import file_mode, put
from .load import data_files, external_tensors

CHUNK = 64 << 20
"""Bytes copied at once: enough to be fast, and few enough to show progress."""

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all) while data files are copied."""


class Staged:
    """A model written under a hidden name beside its target; a context manager.

    What is not committed is removed at the end.  Weights in data files are neither read nor written before
    ``commit``, and in the model's own folder not even then, since the file there is shared.

    Args:
        model: What to write.
        target: The name that it gets with ``commit``.
        base_dir: The folder that the model's external data are relative to; None if it has none.
        own_data: Copy the external data to files named after the target, even in the same folder.
        like: What it was made from; the output is readable for the same users.

    Attributes:
        path: The hidden file.
        sha256: Of its content.
        data_dir: Where the data files that it refers to can be read before ``commit``.

    Raises:
        UsageError: The folder cannot be written, or another data file is in the way.
    """

    def __init__(
        self,
        model: ModelProto,
        target: Path,
        base_dir: Path | None,
        *,
        own_data: bool = False,
        like: Path | None = None,
    ) -> None:
        self._target = target
        self._like = like
        self._base_dir = base_dir
        self._copies: dict[Path, Path] = {}  # data file of the output -> where its bytes are
        self._committed = False
        self.data_dir = target.parent if base_dir is None or own_data else base_dir
        if base_dir is not None:
            model = self._plan_data(model, base_dir, own_data)
        content = model.SerializeToString(deterministic=True)
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._hidden: list[Hidden] = []
        self._brought: list[Path] = []
        try:
            self._missing = {wanted: data for wanted, data in self._copies.items() if not _is_there(wanted, data)}
            remove_leftovers(target)
            self.path = self._make_hidden(target)
            with self.path.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            self._clean()
            raise self._cannot(error) from error
        except BaseException:
            self._clean()
            raise

    def __enter__(self) -> Staged:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean()

    def bring_data(self, progress: Progress | None = None) -> None:
        """Bring the data files that are missing beside the target; they stay only if ``commit`` follows.

        Raises:
            UsageError: Something cannot be written, or another data file is in the way.
        """
        try:
            self._bring_data(progress)
        except OSError as error:
            raise self._cannot(error) from error

    def commit(self, progress: Progress | None = None) -> None:
        """Bring the data files, then give the model its name.

        Raises:
            UsageError: Something cannot be written, or another data file is in the way.
        """
        self.bring_data(progress)
        try:
            put(self.path, self._target, "-o", self._like)
        except OSError as error:
            raise self._cannot(error) from error
        self._committed = True

    def _cannot(self, error: OSError) -> UsageError:
        return UsageError(
            f"'{self._target}' cannot be written: {error.strerror or error}. Choose another place with -o."
        )

    # --- hidden files ------------------------------------------------------------------------------------

    def _make_hidden(self, wanted: Path) -> Path:
        """A hidden file beside ``wanted``."""
        made = make_file(wanted)
        self._hidden.append(made)
        return made.path

    def _clean(self) -> None:
        for made in self._hidden:
            made.remove()
        self._hidden = []
        if not self._committed:
            for path in self._brought:
                path.unlink(missing_ok=True)
        self._brought = []

    # --- data files --------------------------------------------------------------------------------------

    def _plan_data(self, model: ModelProto, base_dir: Path, own_data: bool) -> ModelProto:
        """Which data files the output needs, and where their bytes are; the model that refers to them."""
        locations = data_files(model)
        if not own_data or not locations:
            self._copies = {self._target.parent / place: base_dir / place for place in locations}
            return model
        names = {place: f"{self._target.name}{f'.{k}' if k else ''}.data" for k, place in enumerate(locations)}
        copy = ModelProto()
        copy.CopyFrom(model)
        for tensor in external_tensors(copy):
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = names[entry.value]
        self._copies = {self._target.parent / name: base_dir / place for place, name in names.items()}
        return copy

    def _bring_data(self, progress: Progress | None) -> None:
        missing, self._missing = self._missing, {}
        if not missing:
            return
        whole = sum(data.stat().st_size for data in missing.values())
        free = shutil.disk_usage(self._target.parent).free
        if whole > free:
            raise UsageError(
                f"'{self._target}' needs {whole >> 20} MiB of data files beside it, and {free >> 20} MiB are free "
                "there. Choose another place with -o, or the model's own folder, where they are shared."
            )
        done = 0
        copies: list[Path] = []
        for wanted, data in missing.items():
            wanted.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(wanted)
            hidden = self._make_hidden(wanted)

            def tell(part: int, before: int = done) -> None:
                if progress is not None:
                    progress(before + part, whole)

            copy_bytes(data, hidden, tell)
            done += data.stat().st_size
            hidden.chmod(file_mode(wanted, data))
            copies.append(hidden)
        # All of them are there before the first gets its name, so that a killed run leaves no part of a set.
        for hidden, (wanted, data) in zip(copies, missing.items(), strict=True):
            self._give_name(hidden, wanted, data)

    def _give_name(self, hidden: Path, wanted: Path, data: Path) -> None:
        """Name a data file without replacing one that another run brought meanwhile."""
        try:
            os.link(hidden, wanted)
            hidden.unlink()  # one link again: onnx refuses data files that have several
        except FileExistsError:
            if not _is_there(wanted, data):  # a link to nowhere
                raise
            return
        except OSError:  # a file system without hard links
            os.replace(hidden, wanted)
        self._brought.append(wanted)


def save(model: ModelProto, target: Path, base_dir: Path | None) -> str:
    """Write a model that needs no check before it gets its name.

    Args:
        model: What to write.
        target: Where to.
        base_dir: The folder that the model's external data are relative to.

    Returns:
        The sha256 of what was written.

    Raises:
        UsageError: The target cannot be written, or another data file is in the way.
    """
    with Staged(model, target, base_dir) as staged:
        staged.commit()
        return staged.sha256


def copy_bytes(source: Path, target: Path, tell: Callable[[int], None] | None = None) -> None:
    """Copy a file's content with bounded memory; where the file system can, its blocks are shared.

    Args:
        source: What to copy.
        target: An existing file, which is overwritten.
        tell: Told the bytes done so far.

    Raises:
        OSError: It cannot be read or written.
    """
    done = 0
    with source.open("rb") as reader, target.open("wb") as writer:
        direct = hasattr(os, "copy_file_range")
        while True:
            if direct:
                try:
                    count = os.copy_file_range(reader.fileno(), writer.fileno(), CHUNK, done, done)
                except OSError:
                    if done:
                        raise
                    direct = False  # two file systems, or one without this call
                    continue
            else:
                reader.seek(done)
                count = writer.write(reader.read(CHUNK))
            if not count:
                break
            done += count
            if tell is not None:
                tell(done)
        writer.flush()
        os.fsync(writer.fileno())


def _is_there(wanted: Path, data: Path) -> bool:
    """Whether a data file is beside the target already, as the same file or with the same bytes.

    Raises:
        UsageError: Another file has its name.
    """
    if not wanted.exists():
        return False
    if wanted.samefile(data) or (
        wanted.is_file() and wanted.stat().st_size == data.stat().st_size and filecmp.cmp(wanted, data, shallow=False)
    ):
        return True
    raise UsageError(f"'{wanted}' is in the way: the model's data '{data}' belong there. Move it or choose another -o.")
