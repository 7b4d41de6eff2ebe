"""Archives of inputs: judged by their headers, member by member, before anything is read."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from alibi_rewriter.verify.errors import GivenInputError
from alibi_rewriter.verify.inputs.archive import read_arrays


def member(array: np.ndarray, *, pickled: bool = False) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def archive(folder: Path, members: list[tuple[str, bytes]]) -> Path:
    path = folder / "inputs.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def refused(path: Path, most: int | None = None) -> str:
    with pytest.raises(GivenInputError) as caught:
        read_arrays(path, most)
    return str(caught.value)


def test_plain_arrays_are_read(tmp_path: Path) -> None:
    path = tmp_path / "inputs.npz"
    wanted = {
        "x": np.arange(6.0).reshape(2, 3),
        "n": np.array([1, 2]),
        "b": np.array(True),
        "h": np.ones(2, np.float16),
    }
    np.savez_compressed(path, **wanted)  # type: ignore[arg-type]
    found = read_arrays(path, 11)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
    assert "11 numbers take more memory than is available" in refused(path, 10)


@pytest.mark.parametrize("array", [np.array([{}], object), np.array(["text"]), np.array([1 + 2j])])
def test_what_is_no_number_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    path = archive(tmp_path, [("x.npy", member(array, pickled=True))])
    assert "member 'x.npy'" in refused(path)


def changed(array: np.ndarray, old: bytes, new: bytes) -> bytes:
    """A member whose header says something else, in as many bytes."""
    content = member(array)
    assert content.count(old) == 1 and len(new) <= len(old) + content.count(b" ")
    start, end = content.index(old), content.index(b"\n")
    header = content[:start] + new + content[start + len(old) : end].rstrip(b" ")
    return header.ljust(end, b" ") + content[end:]


def test_a_few_bytes_that_declare_gigabytes_are_refused_unread(tmp_path: Path) -> None:
    large = changed(np.zeros((3, 1)), b"(3, 1)", b"(99999999, 99999)")
    path = archive(tmp_path, [("small.npy", member(np.zeros(3))), ("large.npy", large)])
    assert "member 'large.npy'" in refused(path, 1000)


@pytest.mark.parametrize("new", [b"(3, 1", b"((3, 1)", b"'(3, 1)", b"(-3, 1)", b"(3.5, 1)", b"\x00(3, 1)"])
def test_a_header_that_cannot_be_read_is_refused(tmp_path: Path, new: bytes) -> None:
    path = archive(tmp_path, [("x.npy", changed(np.zeros((3, 1)), b"(3, 1)", new))])
    assert "member 'x.npy'" in refused(path)


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, [("x.npy", member(np.zeros(3))), ("x", member(np.ones(3)))])
    assert "two members have this name" in refused(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + b"\0" * 60])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "inputs.npz"
    path.write_bytes(content)
    assert "cannot be read as an .npz file" in refused(path)
    assert "inputs.npz" in refused(tmp_path / "missing" / "inputs.npz")


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path, [("x.npy", member(np.arange(1000.0)))])
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(bytes(data))
    assert "member 'x.npy'" in refused(path)
