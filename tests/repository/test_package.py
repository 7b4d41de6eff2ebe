"""What would be published: the wheel, the source archive, and what an index shows of them."""

from __future__ import annotations

import configparser
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path
from types import ModuleType

import pytest
from alibi_rewriter import plugin
from alibi_rewriter.base import cures
from alibi_rewriter.cli import main

ROOT = Path(__file__).parents[2]
ADDRESS = "https://example.org/somebody/alibi-rewriter"
NOT_PACKAGED = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")


def rules() -> ModuleType:
    """setup.py, not run."""
    found = importlib.util.spec_from_file_location("rules_of_setup", ROOT / "setup.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, the wheel made from the archive."""
    if plugin.missing():
        pytest.skip("the libraries were not built: no C++ compiler")
    if importlib.util.find_spec("build") is None:
        pytest.skip("needs build")
    copy = tmp_path_factory.mktemp("clone") / "alibi-rewriter"
    shutil.copytree(ROOT, copy, ignore=NOT_PACKAGED)
    folder = tmp_path_factory.mktemp("dist")
    environment = {
        **os.environ,
        "ALIBI_LIBRARIES": str(Path(plugin.__file__).parent),
        "ALIBI_REPOSITORY": ADDRESS,
    }
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_is_for_every_linux_since_2018(built: Path) -> None:
    (path,) = built.glob("*.whl")
    assert re.search(r"-py3-none-manylinux_2_28_\w+\.whl$", path.name)
    content = wheel(built)
    (tags,) = [n for n in content.namelist() if n.endswith(".dist-info/WHEEL")]
    assert re.search(r"^Tag: py3-none-manylinux_2_28_\w+$", content.read(tags).decode(), re.MULTILINE)
    for name in (plugin.LIBRARY, plugin.ONNXRUNTIME_LIBRARY):
        assert f"alibi_rewriter/plugin/{name}" in content.namelist()


def test_the_wheel_holds_every_module(built: Path) -> None:
    found = {name for name in wheel(built).namelist() if name.endswith(".py")}
    no_modules = {"benchmarks", "build", "dist", "docs", "examples", "native", "tests"}
    tops = [p for p in ROOT.iterdir() if p.is_dir() and p.name[0] != "." and p.name not in no_modules]
    ours = [*ROOT.glob("*.py"), *(path for top in tops for path in top.rglob("*.py"))]
    wanted = {f"alibi_rewriter/{path.relative_to(ROOT)}" for path in ours if path.name != "setup.py"}
    assert len(wanted) > 200 and wanted <= found, sorted(wanted - found)


def test_what_an_index_shows_leads_somewhere(built: Path) -> None:
    content = wheel(built)
    (name,) = [n for n in content.namelist() if n.endswith(".dist-info/METADATA")]
    shown = Parser().parsestr(content.read(name).decode())
    assert shown["Keywords"] and "ALiBi" in shown["Keywords"]
    assert {line.split(", ")[0] for line in shown.get_all("Project-URL", [])} >= {"Repository", "Documentation"}
    page = shown.get_payload()
    assert isinstance(page, str)
    targets = re.findall(r"\]\(([^)]+)\)", page)
    assert targets and all(t.startswith(ADDRESS) for t in targets), targets
    picture = re.search(r"!\[[^\]]*\]\(([^)]+)\)", page)
    assert picture is not None and "/raw/v" in picture[1]
    for target in targets:
        assert (ROOT / re.sub(r"^.*/v[\d.]+/", "", target)).exists()


def test_the_source_archive_is_complete(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("docs", "examples", "native"):
        there = {
            str(p.relative_to(ROOT))
            for p in (ROOT / folder).rglob("*")
            if p.is_file() and not {"__pycache__"} & set(p.parts) and not p.name.endswith((".alibi.onnx", ".engine"))
        }
        tracked = {p for p in there if p.endswith((".md", ".py", ".svg", ".h", ".cpp", ".inc", ".map", "tiny.onnx"))}
        assert tracked and tracked <= found, sorted(tracked - found)
    assert {"README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", "LICENSE"} <= found


@pytest.mark.parametrize(
    ("tag", "libraries", "expected"),
    [
        ("linux_x86_64", [b"\0GLIBC_2.2.5\0GLIBC_2.28\0"], "manylinux_2_28_x86_64"),
        ("linux_aarch64", [b"\0GLIBC_2.17\0", b"\0GLIBC_2.27\0"], "manylinux_2_28_aarch64"),
        ("linux_x86_64", [b"\0GLIBC_2.14\0", b"\0GLIBC_2.29\0"], "linux_x86_64"),
        ("linux_x86_64", [], "linux_x86_64"),
        ("macosx_11_0_arm64", [b""], "macosx_11_0_arm64"),
    ],
)
def test_the_tag_says_what_the_libraries_need(
    tag: str, libraries: list[bytes], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "confstr", lambda _: "glibc 2.36")
    assert rules().platform_tag(tag, libraries) == expected
    monkeypatch.setattr(os, "confstr", lambda _: "glibc 2.17")
    assert rules().platform_tag(tag, libraries) == tag


def test_without_an_address_links_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("ALIBI_REPOSITORY", raising=False)
    assert rules().described() == {"long_description": (ROOT / "README.md").read_text(encoding="utf-8")}
    assert rules().absolute_links("[a](https://x.org/y) [b](#c)", ADDRESS, "1") == "[a](https://x.org/y) [b](#c)"


def test_ci_and_the_release_build_in_the_same_way() -> None:
    for path in (".ci/run", ".github/workflows/release.yml"):
        assert ".ci/package" in (ROOT / path).read_text(encoding="utf-8"), path
    script = (ROOT / ".ci" / "package").read_text(encoding="utf-8")
    assert "twine check --strict" in script
    assert "auditwheel show" in script


# --- cures -----------------------------------------------------------------------------------------------


def test_requirements_of_cures_are_those_of_the_installation() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    wanted = {line.partition(";")[0].strip() for text in lines for line in text.splitlines()}
    assert set(cures.REQUIREMENTS.values()) <= wanted


def test_no_cure_needs_the_project_on_an_index() -> None:
    folders = [
        f for f in ROOT.iterdir() if f.is_dir() and f.name[0] != "." and f.name not in ("tests", "build", "dist")
    ]
    for path in [*ROOT.glob("*.py"), *(p for folder in folders for p in folder.rglob("*.py"))]:
        assert not re.search(r"pip install[^\n]*alibi-rewriter", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ({"url": "file:///home/me/a%20clone", "dir_info": {}}, "'/home/me/a clone'"),
        ({"url": "file:///home/me/clone", "dir_info": {"editable": True}}, "-e /home/me/clone"),
        (
            {"url": "https://x.org/a.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "git+https://x.org/a.git@abc",
        ),
        (None, "alibi-rewriter"),
    ],
)
def test_the_cure_for_missing_libraries_builds_where_they_came_from(
    note: dict[str, object] | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            return None if note is None else json.dumps(note)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Installed())
    assert cures.reinstall() == f"pip install --force-reinstall --no-deps {expected}"


def test_an_installation_without_a_compiler_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy2(ROOT / "examples" / "bloom-tiny.onnx", tmp_path / "m.onnx")
    words = [str(tmp_path / "m.onnx"), "--no-verify"]
    monkeypatch.setattr(plugin, "missing", lambda: [plugin.ONNXRUNTIME_LIBRARY])
    assert main(words) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "no kernels here" in line]
    assert len(lines) == 1 and "Install g++, then: pip install" in lines[0]
    monkeypatch.setattr(plugin, "missing", list)
    assert main(words) == 0
    assert "no kernels here" not in capsys.readouterr().out
