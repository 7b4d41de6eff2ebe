"""What lies in the cache becomes machine code: it is used only if it is ours, whole, and for this very request."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alibi_rewriter.kernels.compile import cache
from alibi_rewriter.kernels.compile.cache import SEAL, Wanted, cached_bundle, open_bundle
from alibi_rewriter.kernels.compile.compiler import DESCRIPTION
from alibi_rewriter.kernels.launch.description import Description
from alibi_rewriter.kernels.requests import BufferLayout, KernelRequest
from test_description import description

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners and modes as on POSIX")

WANTED = Wanted(KernelRequest("AlibiAttentionCausal", "bfloat16", 64, 64), (80,))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A compiler that takes no time; every bundle that it made."""
    made: list[Path] = []

    def compile_bundle(request: KernelRequest, directory: Path, **_: Any) -> Description:
        directory.mkdir(parents=True)
        made.append(directory)
        plain = description()
        kernels = []
        for kernel in plain.kernels:
            code, text = f"code of {kernel.name}".encode(), f"text of {kernel.name}".encode()
            (directory / f"{kernel.name}.cubin").write_bytes(code)
            (directory / f"{kernel.name}.ptx").write_bytes(text)
            digests = hashlib.sha256(code).hexdigest(), hashlib.sha256(text).hexdigest()
            image = dataclasses.replace(
                kernel.image, cubin=f"{kernel.name}.cubin", cubin_sha256=digests[0], ptx=f"{kernel.name}.ptx",
                ptx_sha256=digests[1],
            )  # fmt: skip
            kernels.append(dataclasses.replace(kernel, image=image))
        whole = dataclasses.replace(plain, request=request, kernels=tuple(kernels))
        (directory / DESCRIPTION).write_text(whole.to_json())
        return whole

    monkeypatch.setattr(cache, "compile_bundle", compile_bundle)
    return made


def test_what_is_ours_is_used_again(tmp_path: Path, compiled: list[Path]) -> None:
    notes: list[str] = []
    previous = os.umask(0)  # whatever it is, others get no right to write
    try:
        directory, first = open_bundle(WANTED, tmp_path / "cache", note=notes.append)
    finally:
        os.umask(previous)
    again, second = open_bundle(WANTED, tmp_path / "cache", note=notes.append)
    assert (directory, first) == (again, second)
    assert len(compiled) == 1 and notes == []
    for path in (directory, *directory.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) & 0o022 == 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def own_digests(path: Path) -> None:
    """As an attacker would do it who can write there: the image is changed, and the description after it."""
    (path / "prefill.cubin").write_bytes(b"evil")
    document = json.loads((path / DESCRIPTION).read_text())
    for kernel in document["kernels"]:
        kernel["image"]["cubin_sha256"] = hashlib.sha256(b"evil").hexdigest()
        kernel["image"]["cubin"] = "prefill.cubin"
    (path / DESCRIPTION).write_text(json.dumps(document))


def another_request(path: Path) -> None:
    other = dataclasses.replace(WANTED, skip=True)
    made, _ = open_bundle(other, path.parents[1])
    shutil.rmtree(path)
    shutil.copytree(made, path)


def link(path: Path) -> None:
    (path / "prefill.cubin").rename(path / "elsewhere")
    (path / "prefill.cubin").symlink_to("elsewhere")


def pipe(path: Path) -> None:
    (path / DESCRIPTION).unlink()
    os.mkfifo(path / DESCRIPTION)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a truncated image": (lambda p: cut(p / "prefill.cubin"), "'prefill.cubin' is damaged"),
    "a missing image": (lambda p: (p / "prefill.ptx").unlink(), "No such file"),
    "a truncated description": (lambda p: cut(p / DESCRIPTION), "sealed for something else"),
    "no seal": (lambda p: (p / SEAL).unlink(), "No such file"),
    "a seal that is none": (lambda p: (p / SEAL).write_bytes(b"[["), ""),
    "digests that fit": (own_digests, "sealed for something else"),
    "another request": (another_request, "sealed for something else"),
    "an image that others may write": (lambda p: (p / "prefill.cubin").chmod(0o660), "may be written by others"),
    "a description that others may write": (lambda p: (p / DESCRIPTION).chmod(0o606), "may be written by others"),
    "a link": (link, "symbolic links"),
    "a pipe": (pipe, "is no file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_fit_is_compiled_anew(tmp_path: Path, compiled: list[Path], damage: str) -> None:
    directory, first = open_bundle(WANTED, tmp_path)
    change, reason = DAMAGES[damage]
    change(directory)
    before = len(compiled)
    notes: list[str] = []
    assert open_bundle(WANTED, tmp_path, note=notes.append) == (directory, first)
    assert len(compiled) == before + 1
    assert len(notes) == 1 and "compiled anew" in notes[0] and reason in notes[0]
    assert open_bundle(WANTED, tmp_path, note=notes.append)[1] == first and len(notes) == 1, "and then it is healed"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", [SEAL, DESCRIPTION, "prefill.cubin"])
def test_files_of_somebody_else_are_not_used(tmp_path: Path, compiled: list[Path], name: str) -> None:
    directory, _ = open_bundle(WANTED, tmp_path)
    os.chown(directory / name, 12345, 12345)
    notes: list[str] = []
    open_bundle(WANTED, tmp_path, note=notes.append)
    assert len(compiled) == 2 and "belongs to another user" in notes[0]
    assert (directory / name).stat().st_uid == os.geteuid()


def test_files_that_cannot_be_replaced_are_one_error(
    tmp_path: Path, compiled: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, _ = open_bundle(WANTED, tmp_path)
    (directory / DESCRIPTION).chmod(0o666)
    monkeypatch.setattr(cache.shutil, "rmtree", lambda *_, **__: None)  # a sticky folder
    with pytest.raises(PermissionError, match="not yours"):
        open_bundle(WANTED, tmp_path)


def test_every_part_of_a_request_has_a_bundle_of_its_own(tmp_path: Path, compiled: list[Path]) -> None:
    wanted = [
        WANTED,
        dataclasses.replace(WANTED, architectures=(80, 90)),
        dataclasses.replace(WANTED, layouts=(BufferLayout(False),)),
        dataclasses.replace(WANTED, skip=True),
        dataclasses.replace(WANTED, request=KernelRequest("AlibiAttentionLinear", "bfloat16", 64, 64)),
    ]
    assert len({open_bundle(one, tmp_path)[0] for one in wanted}) == len(wanted) == len(compiled)
    assert cached_bundle(WANTED.request, tmp_path, [80]) == WANTED.place(tmp_path)
    assert len(compiled) == len(wanted)
