"""The library as a file: what it needs, what it exports, where it may be loaded from, how it lives."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alibi_rewriter import plugin
from alibi_rewriter.plugin import custom_ops as library
from alibi_rewriter.runtime import NoLibrary, get_library_path
from programs import NATIVE, SANITIZED, compiled_once, compiler
from slow import BESIDE

HERE = Path(__file__).parent

try:
    LIBRARY = get_library_path()
except NoLibrary:
    pytest.skip("the library was not built: no C++ compiler", allow_module_level=True)


def listing(*command: str) -> str:
    """What a tool prints; skips the test where it is not installed."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def sanitized() -> Path:
    """The library with the sanitizers on and every symbol visible."""
    sources = [
        str(path)
        for name in ("core", "cuda", "collectives", "cpu", "onnxruntime")
        for path in sorted((NATIVE / name).glob("*.cpp"))
    ]
    return compiled_once("libalibi.so", [*SANITIZED, "-shared", *sources])


def test_it_needs_nothing_but_the_c_library() -> None:
    dynamic = listing("readelf", "-d", LIBRARY)
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
    allowed = ("libc.so", "libm.so", "libgcc_s.so", "libdl.so", "ld-linux", "libpthread.so")
    assert needed and all(name.startswith(allowed) for name in needed)
    symbols = listing("readelf", "--dyn-syms", "-W", LIBRARY)
    exported = {line.split()[-1] for line in symbols.splitlines() if " GLOBAL " in line and " UND " not in line}
    ops = {"RegisterCustomOps", "alibiClaimedNodes", "alibiInstructionSet", "alibiUseInstructionSet", "alibiSelfTest"}
    assert exported == ops | {"alibiNewId", "alibiConnect", "alibiConnectionProblem", "alibiDisconnect"}


@pytest.mark.parametrize("name", [library.LIBRARY, plugin.LIBRARY])
def test_it_needs_no_c_library_newer_than_2_28(name: str) -> None:
    symbols = listing("objdump", "-T", str(Path(plugin.__file__).parent / name))
    versions = {tuple(map(int, found)) for found in re.findall(r"GLIBC_(\d+)\.(\d+)", symbols)}
    assert max(versions) <= (2, 28)


def test_onnxruntimes_header_describes_the_same_interface() -> None:
    places = [Path(p) for p in os.environ.get("ALIBI_ONNXRUNTIME_INCLUDE", "").split(os.pathsep) if p]
    places += [Path("/usr/include/onnxruntime"), Path("/usr/local/include/onnxruntime"), Path("/usr/include")]
    folder = next((p for p in places if (p / "onnxruntime_c_api.h").exists()), None)
    if folder is None:
        pytest.skip("onnxruntime's header is not installed (ALIBI_ONNXRUNTIME_INCLUDE names its folder)")
    options = ["-std=c++17", "-fsyntax-only", f"-I{folder}", f"-I{NATIVE}"]
    subprocess.run([compiler(), *options, str(HERE / "headers.cpp")], check=True)


def test_its_self_test_passes_under_valgrind(tmp_path: Path) -> None:
    library.self_test(LIBRARY)
    checker = shutil.which("valgrind")
    if checker is None:
        pytest.skip("needs valgrind")
    source = tmp_path / "load.c"
    source.write_text(
        "#include <dlfcn.h>\nint main(int n, char** a) {\n"
        "  void* l = dlopen(a[1], RTLD_NOW);\n  int (*test)(void) = (int (*)(void))dlsym(l, \"alibiSelfTest\");\n"
        "  return test();\n}\n"
    )  # fmt: skip
    program = tmp_path / "load"
    subprocess.run([compiler(), "-x", "c", str(source), "-o", str(program), "-ldl"], check=True)
    command = [checker, "--error-exitcode=99", "-q", str(program), LIBRARY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@BESIDE
def test_kernels_stay_within_their_buffers(tmp_path: Path, sanitized: Path) -> None:
    program = tmp_path / "sums"
    options = [*SANITIZED, str(HERE / "sums.cpp"), str(sanitized), f"-Wl,-rpath,{sanitized.parent}", "-lpthread"]
    subprocess.run([compiler(), *options, "-o", str(program)], check=True)
    done = subprocess.run([str(program), "1", "60"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sessions_under_the_address_sanitizer(sanitized: Path) -> None:
    # The sanitizer finds what it wraps of C++ only if that is there from the start.
    names = ("libasan.so", "libstdc++.so")
    asked = [[compiler(), f"-print-file-name={name}"] for name in names]
    found = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for command in asked]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(str(Path(name).resolve()) for name in found),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, str(HERE / "life.py"), str(sanitized)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_it_is_not_loaded_from_where_everybody_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "plugin"
    folder.mkdir()
    shutil.copy2(LIBRARY, folder)
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(library.plugin, "__file__", str(folder / "__init__.py"))
    assert get_library_path() == str(folder / library.LIBRARY)
    folder.chmod(0o777)
    with pytest.raises(NoLibrary, match="everybody can write to"):
        get_library_path()
    folder.chmod(0o755)
    (folder / library.LIBRARY).chmod(0o666)
    with pytest.raises(NoLibrary, match="everybody can write to"):
        get_library_path()
    (folder / library.LIBRARY).unlink()
    with pytest.raises(NoLibrary, match="no C\\+\\+ compiler"):
        get_library_path()


def test_the_working_folder_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / library.LIBRARY).write_text("not a library")
    code = "import alibi_rewriter, sys; print(alibi_rewriter.get_library_path()); assert 'onnx' not in sys.modules"
    command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert Path(done.stdout.strip()) == Path(LIBRARY)
