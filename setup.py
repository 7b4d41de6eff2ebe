"""Builds the two native libraries next to the package; everything else is in setup.cfg.

Both are plain C++ with no dependency but the C library: the plugin for TensorRT, and the custom ops for onnxruntime.
They are compiled here, when the package is installed, and not on first use.  Where there is no compiler the package
installs without them: rewriting and verifying work, `rewrite` and `rewrite doctor` say what is missing.

Three variables are read.  CXX names the compiler.  ALIBI_LIBRARIES names a folder whose libraries are taken as they are
(they still have to pass their self-tests).  ALIBI_REPOSITORY is the address of the repository, which the release
workflow knows: links of README.md become absolute with it, because package indexes show that page.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

CORE = ("append", "bundle", "call", "compatible", "dynamic", "inflate", "node", "plan", "view")
CUDA = ("driver", "kernels")
PARTS = {
    "libalibi_plugin": {"core": CORE, "cuda": CUDA, "tensorrt": ("fields", "logging", "plugin", "self_test")},
    "libalibi_onnxruntime": {
        "core": CORE,
        "cuda": ("append", *CUDA),
        "collectives": ("communicator", "nccl"),
        "cpu": ("append", "attention", "avx2", "avx512", "portable"),
        "onnxruntime": (
            "append_op",
            "ask",
            "collective_op",
            "cpu_op",
            "cuda_op",
            "op",
            "register",
            "self_test",
        ),
    },
}
"""What each library is made of, by folder of native/; the last folder is its front and has its list of exports."""

COMPILE = (
    "-std=c++17", "-O3", "-Wall", "-Wextra", "-Wno-psabi", "-Inative", "-fPIC", "-fvisibility=hidden",
    "-ffunction-sections", "-fdata-sections",
)  # fmt: skip
# libgcc_s stays dynamic: the static one asks for the newest C library, and every runtime brings the dynamic one along.
LINK = (
    "-shared", "-static-libstdc++", "-s", "-Wl,--gc-sections", "-Wl,--exclude-libs,ALL", "-Wl,-z,defs",
    "-Wl,--no-as-needed", "-ldl",
)  # fmt: skip


NO_PACKAGES = ("benchmarks", "build", "dist", "docs", "examples", "native", "tests")

OLDEST_GLIBC = (2, 28)
"""The oldest C library that a wheel is for: that of manylinux_2_28."""


def sources(library: str) -> list[str]:
    """The files of a library."""
    return [f"native/{folder}/{name}.cpp" for folder, names in PARTS[library].items() for name in names]


def digest(compiler: list[str]) -> str:
    """Changes with everything that an object depends on: all of native/, the options and the compiler."""
    said = subprocess.run([*compiler, "-v"], capture_output=True, check=True).stderr
    found = hashlib.sha256("\0".join((*compiler, *COMPILE)).encode() + said)
    for path in sorted(path for path in Path("native").rglob("*") if path.is_file()):
        found.update(path.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


class BuildLibrary(build_ext):
    """Compiles shared libraries that Python does not import."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        given = os.environ.get("ALIBI_LIBRARIES")
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
        if not given and (compiler is None or not sys.platform.startswith("linux")):
            self.warn(f"no C++ compiler for Linux here; installing without {target.name}")
            return
        try:
            if given:
                shutil.copy2(Path(given) / target.name, target)
            else:
                self.compile_and_link(str(compiler).split(), target)
            failed = ctypes.CDLL(str(target.resolve())).alibiSelfTest()
            if failed:
                raise OSError(f"self-test of {target.name} failed at check {failed}")
        except (OSError, subprocess.CalledProcessError) as error:
            target.unlink(missing_ok=True)
            self.warn(f"{error}; installing without {target.name}")

    def compile_and_link(self, compiler: list[str], target: Path) -> None:
        """Objects are shared by the libraries, and kept for the next build of the same sources."""
        folder = Path("build", "objects", digest(compiler)).resolve()
        for other in folder.parent.glob("*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)

        def compiled(source: str) -> Path:
            place = folder / (source.replace("/", "_") + ".o")
            if not place.exists():
                making = place.with_suffix(f".{os.getpid()}")  # an object that is there is whole
                subprocess.run([*compiler, *COMPILE, "-c", source, "-o", str(making)], check=True)
                making.replace(place)
            return place

        library = target.name.removesuffix(".so")
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            objects = list(pool.map(compiled, sources(library)))
        exports = f"-Wl,--version-script=native/{list(PARTS[library])[-1]}/exports.map"
        subprocess.run([*compiler, *map(str, objects), exports, *LINK, "-o", str(target)], check=True)

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]

    def copy_extensions_to_source(self) -> None:
        # The editable install: the repository root is the package, so the libraries go to plugin/.
        for ext in self.extensions:
            made = Path(self.build_lib) / self.get_ext_filename(ext.name)
            if made.exists():
                place = Path("plugin") / made.name
                making = place.with_suffix(".making")
                shutil.copy2(made, making)
                making.replace(place)  # a process that has loaded the old one keeps it


class AnyPython(bdist_wheel):
    """The wheel fits one platform and every Python 3: the libraries are no extension modules."""

    def get_tag(self) -> tuple[str, str, str]:
        built = Path(self.get_finalized_command("build").build_lib).glob("alibi_rewriter/plugin/*.so")
        return "py3", "none", platform_tag(super().get_tag()[2], [path.read_bytes() for path in built])


class Platform(Distribution):
    """Has compiled content although no module is compiled."""

    def has_ext_modules(self) -> bool:
        return True


def platform_tag(tag: str, libraries: list[bytes]) -> str:
    """``manylinux_2_28_*`` if all libraries load there; else the tag as it is.

    Args:
        tag: The platform of this machine, e.g. ``linux_x86_64``.
        libraries: Contents of the wheel's libraries; the names of the symbol versions that they need stand in them.
    """
    runs_here = os.name == "posix" and "CS_GNU_LIBC_VERSION" in os.confstr_names
    if not tag.startswith("linux_") or not libraries or not runs_here:
        return tag
    here = re.findall(r"\d+", os.confstr("CS_GNU_LIBC_VERSION") or "0")
    needed = [found for content in libraries for found in re.findall(rb"GLIBC_(\d+)\.(\d+)", content)]
    newest = max((tuple(map(int, version)) for version in needed), default=(0,))
    if newest > OLDEST_GLIBC or tuple(map(int, here)) < OLDEST_GLIBC:
        return tag
    return tag.replace("linux_", "manylinux_{}_{}_".format(*OLDEST_GLIBC), 1)


def absolute_links(page: str, repository: str, version: str) -> str:
    """A page of this repository as another place can show it: pictures and links lead to the tag of the version."""

    def linked(found: re.Match[str]) -> str:
        picture, text, target = found.groups()
        return f"{picture}[{text}]({repository}/{'raw' if picture else 'blob'}/v{version}/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)]+)\)", linked, page)


def packages() -> list[str]:
    """All folders of modules, so that a new one is not left out of what is installed."""
    tops = [top for top in Path().iterdir() if top.name[0] != "." and top.name not in NO_PACKAGES]
    inner = sorted(found.parent for top in tops for found in top.rglob("__init__.py"))
    return ["alibi_rewriter", *(".".join(("alibi_rewriter", *folder.parts)) for folder in inner)]


def described() -> dict[str, object]:
    """What package indexes show: the landing page, and where the project lives if that is known."""
    page = Path("README.md").read_text(encoding="utf-8")
    repository = os.environ.get("ALIBI_REPOSITORY", "").rstrip("/")
    if not repository:
        return {"long_description": page}
    code = Path("base/version.py").read_text(encoding="utf-8")
    version = re.findall(r'__version__ = "(.+)"', code)[0]
    urls = {
        "Repository": repository,
        "Documentation": f"{repository}/tree/v{version}/docs",
        "Changelog": f"{repository}/blob/v{version}/CHANGELOG.md",
        "Security": f"{repository}/blob/v{version}/SECURITY.md",
        "Issues": f"{repository}/issues",
    }
    return {"long_description": absolute_links(page, repository, version), "url": repository, "project_urls": urls}


if __name__ == "__main__":
    setup(
        ext_modules=[Extension(f"alibi_rewriter.plugin.{name}", sources(name), optional=True) for name in PARTS],
        packages=packages(),
        cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPython},
        distclass=Platform,
        **described(),
    )
