"""Builds the TensorRT plugin library next to the package; everything else is in setup.cfg.

The library is plain C++ with no dependency but the C library, so it is compiled here, when the package is installed,
and not on first use.  Where there is no compiler the package installs without it: rewriting and verifying work,
`rewrite doctor` says what is missing.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

CORE = ("bundle", "call", "driver", "inflate", "node", "plan")
TENSORRT = ("fields", "logging", "plugin", "self_test")
SOURCES = [f"native/core/{name}.cpp" for name in CORE] + [f"native/tensorrt/{name}.cpp" for name in TENSORRT]
FLAGS = (
    "-std=c++17", "-O2", "-Wall", "-Wextra", "-Inative", "-fPIC", "-shared", "-fvisibility=hidden",
    "-static-libstdc++", "-static-libgcc", "-s", "-Wl,--version-script=native/tensorrt/exports.map",
    "-Wl,--exclude-libs,ALL", "-Wl,-z,defs",
)  # fmt: skip


class BuildLibrary(build_ext):
    """Compiles a shared library that Python does not import."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
        if compiler is None or not sys.platform.startswith("linux"):
            self.warn("no C++ compiler for Linux here; installing without the TensorRT plugin library")
            return
        try:
            subprocess.run([*compiler.split(), *FLAGS, *ext.sources, "-o", str(target), "-ldl"], check=True)
            failed = ctypes.CDLL(str(target.resolve())).alibiSelfTest()
            if failed:
                raise OSError(f"self-test of the plugin library failed at check {failed}")
        except (OSError, subprocess.CalledProcessError) as error:
            target.unlink(missing_ok=True)
            self.warn(f"{error}; installing without the TensorRT plugin library")

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]

    def copy_extensions_to_source(self) -> None:
        # The editable install: the repository root is the package, so the library goes to plugin/.
        for ext in self.extensions:
            made = Path(self.build_lib) / self.get_ext_filename(ext.name)
            if made.exists():
                shutil.copy2(made, Path("plugin") / made.name)


class AnyPython(bdist_wheel):
    """The wheel fits one platform and every Python 3: the library is no extension module."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class Platform(Distribution):
    """Has compiled content although no module is compiled."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    ext_modules=[Extension("alibi_rewriter.plugin.libalibi_plugin", SOURCES, optional=True)],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPython},
    distclass=Platform,
)
