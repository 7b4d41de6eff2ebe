"""`rewrite doctor`: what is installed, what works with what, and the command that cures each gap."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from dataclasses import dataclass

from ..base import telemetry
from ..base.cures import install, reinstall
from ..base.errors import AlibiError
from ..base.systems import has_libraries, no_libraries
from ..base.version import __version__
from ..plugin import custom_ops, library_path, self_test
from . import versions
from .backends import probe
from .devices import devices, driver_version
from .job import BACKENDS
from .process import INSTALL
from .targets import RTX_SUPPORTED, text

PACKAGES = {
    "numpy": "the pass",
    "onnx": "the pass",
    "onnxruntime": "verification",
    "onnx-graphsurgeon": "rewrite(graph) in Python",
    "triton": "compiling kernels",
}
"""Distributions, and what each is for."""


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        subject: What was looked at.
        state: What was found.
        works: Whether it can be used.
        cure: What to do if it cannot.
    """

    subject: str
    state: str
    works: bool
    cure: str = ""


def examine() -> list[Finding]:
    """Looks at everything.  It never raises, since what fails is a finding."""
    found = [Finding("alibi-rewriter", f"{__version__}, Python {sys.version.split()[0]}, {platform.machine()}", True)]
    for distribution, purpose in PACKAGES.items():
        version = _version(distribution)
        if distribution == "onnxruntime" and version is None:
            version = _version("onnxruntime-gpu")
        state = version or f"not installed ({purpose})"
        found.append(Finding(distribution, state, version is not None, install(distribution)))
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        cure = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
        found.append(
            Finding("onnxruntime and onnxruntime-gpu", "both installed; they overwrite each other", False, cure)
        )
    found.append(_library())
    found.append(_onnxruntime_library())
    found += [_backend(name) for name in BACKENDS]
    found += _gpus()
    return found


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _library() -> Finding:
    library = library_path()
    if library is None and not has_libraries():
        return Finding("plugin library", f"not here: {no_libraries()}", False)
    if library is None:
        return Finding(
            "plugin library", "not built: there was no C++ compiler", False, f"install g++, then {reinstall()}"
        )
    try:
        self_test(library)
    except OSError as error:
        return Finding("plugin library", str(error), False, reinstall())
    return Finding("plugin library", f"{library.stat().st_size} bytes, self-test passed", True)


def _onnxruntime_library() -> Finding:
    try:
        path = custom_ops.get_library_path()
        custom_ops.self_test(path)
    except OSError as error:
        return Finding("onnxruntime kernels", str(error), False)
    where = f"CPU ({custom_ops.instruction_set(path)}){_cuda()}"
    return Finding("onnxruntime kernels", f"{where}, for alibi_rewriter.InferenceSession, self-test passed", True)


def _cuda() -> str:
    """Whether the kernels run on onnxruntime's CUDA provider as well, and what would be needed."""
    if not devices():
        return ""
    try:
        there = telemetry.CUDA in telemetry.onnxruntime().get_available_providers()
    except ImportError:
        there = False
    return " and CUDA" if there else ", not CUDA (pip install onnxruntime-gpu in place of onnxruntime)"


def _backend(name: str) -> Finding:
    try:
        backend = probe(name)
    except AlibiError as error:
        missing = _version(name if name == "tensorrt" else "tensorrt-rtx-cu13") is None
        return Finding(name, "not installed" if missing else str(error), False, INSTALL[name])
    if not backend.takes_plugins:
        why = versions.unfit(name, backend.version)
        return Finding(name, f"{backend.version}: not used with the plugin: {why}", False, INSTALL[name])
    entry = versions.tested(name, backend.version)
    note = f"; tested: {entry.depth.value}" if entry is not None else f"; not tested: {backend.caution}"
    if backend.needs_no_functions:
        note += "; function bodies are removed for it, because it would prefer them to the plugin"
    return Finding(name, f"{backend.version}, takes the plugin{note}", True)


def _gpus() -> list[Finding]:
    version = driver_version()
    gpus = devices()
    if version is None or not gpus:
        state = "no CUDA driver" if version is None else f"driver for CUDA {version[0]}.{version[1]}, but no GPU"
        cure = "engines for named targets can still be built: --backend tensorrt-rtx --target sm_89"
        return [Finding("GPU", state, False, cure)]
    found = []
    for gpu in gpus:
        runs = "runs TensorRT-RTX engines" if gpu.capability in RTX_SUPPORTED else "does not run TensorRT-RTX engines"
        kernels = gpu.capability >= 80
        state = f"{gpu.name}, {text(gpu.capability)}, driver for CUDA {version[0]}.{version[1]}; {runs}"
        found.append(
            Finding("GPU", state, kernels, "" if kernels else "the kernels need compute capability 8.0 or later")
        )
    return found


def to_text(findings: list[Finding]) -> str:
    """One line per finding, cures below."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{'ok ' if finding.works else '-- '} {finding.subject:<{width}}  {finding.state}")
        if not finding.works and finding.cure:
            lines.append(f"    {'':<{width}}  {finding.cure}")
    return "\n".join(lines)
