"""Builds the two native libraries next to the package; everything else is in setup.cfg.

Both are plain C++ with no dependency but the C library: the plugin for TensorRT, and the custom ops for onnxruntime.
They are compiled here, when the package is installed, and not on first use.  Where there is no compiler the package
installs without them: rewriting and verifying work, `rewrite doctor` says what is missing.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

CORE = ("bundle", "call", "compatible", "inflate", "node", "plan")
CUDA = ("driver", "kernels")
PARTS = {
    "libalibi_plugin": {"core": CORE, "cuda": CUDA, "tensorrt": ("fields", "logging", "plugin", "self_test")},
    "libalibi_onnxruntime": {
        "core": CORE,
        "cuda": CUDA,
        "cpu": ("attention", "avx2", "avx512", "portable"),
        "onnxruntime": ("cpu_op", "cuda_op", "op", "register", "self_test"),
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


def sources(library: str) -> list[str]:
    """The files of a library."""
    return [f"native/{folder}/{name}.cpp" for folder, names in PARTS[library].items() for name in names]


class BuildLibrary(build_ext):
    """Compiles shared libraries that Python does not import."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
        if compiler is None or not sys.platform.startswith("linux"):
            self.warn(f"no C++ compiler for Linux here; installing without {target.name}")
            return
        try:
            self.compile_and_link(compiler.split(), target)
            failed = ctypes.CDLL(str(target.resolve())).alibiSelfTest()
            if failed:
                raise OSError(f"self-test of {target.name} failed at check {failed}")
        except (OSError, subprocess.CalledProcessError) as error:
            target.unlink(missing_ok=True)
            self.warn(f"{error}; installing without {target.name}")

    def compile_and_link(self, compiler: list[str], target: Path) -> None:
        """Objects are shared by the libraries of one build."""
        folder = Path(self.build_temp).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        made = getattr(self, "objects", {})

        def compiled(source: str) -> Path:
            place = folder / (source.replace("/", "_") + ".o")
            if source not in made:
                subprocess.run([*compiler, *COMPILE, "-c", source, "-o", str(place)], check=True)
            return place

        library = target.name.removesuffix(".so")
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            objects = list(pool.map(compiled, sources(library)))
        self.objects = {**made, **dict.fromkeys(sources(library))}
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
                shutil.copy2(made, Path("plugin") / made.name)


class AnyPython(bdist_wheel):
    """The wheel fits one platform and every Python 3: the libraries are no extension modules."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class Platform(Distribution):
    """Has compiled content although no module is compiled."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    ext_modules=[Extension(f"alibi_rewriter.plugin.{library}", sources(library), optional=True) for library in PARTS],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPython},
    distclass=Platform,
)
