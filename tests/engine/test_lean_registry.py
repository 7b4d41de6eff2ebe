"""NVIDIA's own registry takes the plugin library, and would not take one of another binary interface."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import evidence
import lean_registry
import pytest
from alibi_rewriter.engine import versions
from alibi_rewriter.plugin import library_path
from evidence import Level
from programs import compiler, objects
from slow import SLOW

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "native"
LIBRARY = library_path()
KNOWN = lean_registry.versions()


pytestmark = [
    pytest.mark.skipif(LIBRARY is None, reason="needs the plugin library"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the wheels are for Linux"),
]


def wheels(version: str) -> Path:
    try:
        return lean_registry.install(version, ROOT / "build" / "lean")
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"the wheels of TensorRT {version} cannot be had here: {str(error)[-200:]}")


@pytest.mark.parametrize("version", [KNOWN[0], KNOWN[-1]])
def test_the_registry_takes_the_library(version: str) -> None:
    assert LIBRARY is not None
    found = lean_registry.run(wheels(version), LIBRARY)
    assert found.wrong == [] and found.version == version
    assert found.checks > 40 * len(lean_registry.members())
    evidence.record("registry", Level.REGISTRY, lean_registry.members(), where=f"lean runtime {version}, CPU")


@SLOW
@pytest.mark.parametrize("version", KNOWN[1:-1])
def test_every_registry_takes_the_library(version: str) -> None:
    test_the_registry_takes_the_library(version)


SWAPPED = {
    "names of the core in another order": (
        "    virtual char const* pluginVersion() const noexcept = 0;\n"
        "    virtual char const* pluginNamespace() const noexcept = 0;\n};\n\nclass Build",
        "    virtual char const* pluginNamespace() const noexcept = 0;\n"
        "    virtual char const* pluginVersion() const noexcept = 0;\n};\n\nclass Build",
    ),
    "another version of the creator": ('"PLUGIN CREATOR_V3ONE", 1, 0', '"PLUGIN CREATOR_V3ONE", 2, 0'),
    "a field of another size": (
        "    int32_t type;\n    int32_t length;\n};",
        "    int64_t type;\n    int32_t length;\n};",
    ),
    "capabilities behind clone": (
        "    virtual Capability* capability(int32_t type) noexcept = 0;\n    virtual Plugin* clone() noexcept = 0;\n",
        "    virtual Plugin* clone() noexcept = 0;\n    virtual Capability* capability(int32_t type) noexcept = 0;\n",
    ),
    "a slot too many": (
        "    virtual int32_t outputCount() const noexcept = 0;\n",
        "    virtual int32_t more() const noexcept { return 7; }\n"
        "    virtual int32_t outputCount() const noexcept = 0;\n",
    ),
}
IN_THE_FAST_SUITE = ("names of the core in another order", "a slot too many")


@pytest.fixture(scope="module")
def compiled_core() -> list[str]:
    """What does not depend on TensorRT's interface, compiled once."""
    options = ("-std=c++17", "-O0", "-fPIC", "-fvisibility=hidden", f"-I{NATIVE}")
    return [str(made) for made in objects(options, sorted((NATIVE / "core").glob("*.cpp")), compiler())]


@pytest.mark.parametrize("mistake", [pytest.param(m, marks=() if m in IN_THE_FAST_SUITE else SLOW) for m in SWAPPED])
def test_the_registry_tells_another_interface(mistake: str, compiled_core: list[str], tmp_path: Path) -> None:
    """The checks can fail: a library whose interface is a little different does not pass."""
    place = wheels(KNOWN[-1])
    shutil.copytree(NATIVE, tmp_path / "native")
    header = tmp_path / "native" / "tensorrt" / "abi.h"
    text = header.read_text()
    right, wrong = SWAPPED[mistake]
    assert right in text
    lines = [line for line in text.replace(right, wrong).splitlines() if "static_assert" not in line]
    header.write_text("\n".join(line for line in lines if not line.lstrip().startswith("&& offsetof")))
    sources = [str(p) for p in sorted((tmp_path / "native" / "tensorrt").glob("*.cpp")) if p.stem != "self_test"]
    command = [compiler(), "-std=c++17", "-O0", "-w", "-fPIC", "-shared", "-fvisibility=hidden", f"-I{tmp_path}/native"]
    library = tmp_path / "libbroken.so"
    subprocess.run([*command, *sources, *compiled_core, "-o", str(library), "-ldl"], check=True)
    assert lean_registry.run(place, library).wrong


def test_every_version_of_the_table_is_known_to_be_fit() -> None:
    for entry in versions.TESTED:
        assert versions.unfit(entry.backend, entry.version) is None
        assert versions.caution(entry.backend, entry.version) == ""
