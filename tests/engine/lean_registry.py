"""The plugin library in NVIDIA's own registry, that of the lean runtime, whose wheels install without a GPU.

    python tests/engine/lean_registry.py [--all] [--folder build/lean] [--library FILE] [VERSION ...]

One line per version: PASS or FAIL, with how many checks.  Versions are those of ``engine/versions.py``; without any,
the oldest and the newest.  A version runs in a process of its own, so that a crash in TensorRT is a FAIL and no end.

Two traps.  A ``Runtime`` without a CUDA driver may be made (it makes its logger the registry's), but not destroyed:
that crashes.  And the Python binding of a plugin's ``clone`` answers for every plugin written in C++ that it has none.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACKAGES = ("tensorrt-lean-cu13-libs", "tensorrt-lean-cu13-bindings")
NAMESPACE, VERSION = "alibi", "1"
FIELDS = [("scale", "FLOAT32"), ("empty_rows", "CHAR"), ("layout", "CHAR"), ("kernels", "CHAR")]
PARTS = {"CORE": "PLUGIN_V3ONE_CORE", "BUILD": "PLUGIN_V3ONE_BUILD", "RUNTIME": "PLUGIN_V3ONE_RUNTIME"}


def members() -> list[str]:
    """Op_types that the plugin serves."""
    from alibi_rewriter.fused.family import KERNEL_MEMBERS

    return [member.op_type for member in KERNEL_MEMBERS]


# --- in the child ----------------------------------------------------------------------------------------


@dataclass
class Registry:
    """TensorRT's registry, and what was checked about it.

    Attributes:
        trt: The bindings.
        library: The plugin library.
        done, wrong: What was found as it has to be, and what not.
        logged: What TensorRT's logger was told.
        kept: What Python may not free before TensorRT has done with it.
    """

    trt: Any
    library: str
    done: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    kept: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        trt, logged = self.trt, self.logged

        class Log(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: object, message: str) -> None:
                logged.append(str(message))

        log = Log()
        self.runtime = trt.Runtime(log)
        self.kept.append(log)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.runtime))  # never destroyed, see above
        self.registry = trt.get_plugin_registry()
        # Where TensorRT has no logger for the registry (no driver), the library writes to standard error.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process lives
        os.dup2(self._errors.fileno(), 2)

    def expect(self, condition: object, what: str) -> None:
        """Note whether something is as it has to be."""
        (self.done if condition else self.wrong).append(what)

    def said(self) -> list[str]:
        """What the plugin library has said so far."""
        self._errors.seek(0)
        written = self._errors.read().decode(errors="replace").splitlines()
        return [line for line in (*written, *self.logged) if "alibi plugin" in line]

    def ours(self) -> dict[str, Any]:
        """Registered creators of the plugin library."""
        return {c.name: c for c in self.registry.all_creators if c.plugin_namespace == NAMESPACE}

    def field(self, name: str, value: bytes | float, kind: Any = None) -> Any:
        """An attribute as a parser hands it over."""
        import numpy as np

        number = isinstance(value, float)
        array = np.array([value], np.float32) if number else np.frombuffer(value, np.int8).copy()
        types = self.trt.PluginFieldType
        self.kept.append(array)
        return self.trt.PluginField(name, array, kind or (types.FLOAT32 if number else types.CHAR))

    def create(self, op_type: str, fields: list[Any], phase: Any, layer: str = "layer") -> Any:
        """A plugin, or None."""
        creator = self.registry.get_creator(op_type, VERSION, NAMESPACE)
        return creator.create_plugin(layer, self.trt.PluginFieldCollection(fields), phase)


def check_registration(at: Registry) -> Any:
    """Loaded once: all creators are there, as TensorRT sees them.  Returns the library's handle."""
    before = len(at.registry.all_creators)
    at.expect(not at.ours(), "nothing of ours before")
    handle = at.registry.load_library(at.library)
    at.expect(handle is not None, "load_library")
    found = at.ours()
    at.expect(sorted(found) == sorted(members()), f"names: {sorted(set(found) ^ set(members()))}")
    at.expect(len(at.registry.all_creators) == before + len(members()), "as many creators more")
    for name, creator in found.items():
        info = creator.interface_info
        at.expect((info.kind, info.major, info.minor) == ("PLUGIN CREATOR_V3ONE", 1, 0), f"{name}: kind of creator")
        at.expect(isinstance(creator, at.trt.IPluginCreatorV3One), f"{name}: class")
        at.expect(str(creator.api_language).endswith("CPP"), f"{name}: language")
        at.expect(creator.plugin_version == VERSION, f"{name}: version")
        names = [(f.name, str(f.type).split(".")[-1].split(":")[0].strip("<> ")) for f in creator.field_names]
        at.expect(names[: len(FIELDS)] == FIELDS, f"{name}: fields {names}")
        at.expect(at.registry.get_creator(name, VERSION, NAMESPACE).name == name, f"{name}: get_creator")
    one = members()[0]
    at.expect(at.registry.get_creator(one, "2", NAMESPACE) is None, "no version 2")
    at.expect(at.registry.get_creator(one, VERSION, "") is None, "not in the empty namespace")
    return handle


def check_creation(at: Registry, kernels: dict[str, bytes]) -> None:
    """Every op_type is made in both phases and layouts, and its parts say what TensorRT asks them."""
    phases = (at.trt.TensorRTPhase.BUILD, at.trt.TensorRTPhase.RUNTIME)
    quiet = len(at.said())
    for name, content in kernels.items():
        for phase in phases:
            for layout in (b"BHSD\0", b"BSHD\0"):
                fields = [at.field("scale", 0.125), at.field("empty_rows", b"zero\0"), at.field("layout", layout)]
                if "Lengths" in name:
                    fields.append(at.field("rows", b"first\0"))
                plugin = at.create(name, [*fields, at.field("kernels", content + b"\0")], phase)
                if plugin is None:
                    at.wrong.append(f"{name} is not made: {at.said()[-1:]}")
                    continue
                check_parts(at, name, plugin, layout[:-1].decode())
    at.expect(len(at.said()) == quiet, f"nothing is logged: {at.said()[quiet:][:2]}")


def check_parts(at: Registry, name: str, plugin: Any, layout: str) -> None:
    """A plugin's three capabilities."""
    info = plugin.interface_info
    at.expect((info.kind, info.major, info.minor) == ("PLUGIN", 1, 0), f"{name}: kind of plugin")
    parts = {}
    for part, word in PARTS.items():
        parts[part] = plugin.get_capability_interface(getattr(at.trt.PluginCapabilityType, part))
        info = parts[part].interface_info
        at.expect((info.kind, info.major, info.minor) == (word, 1, 0), f"{name}: {word}")
    core, build = parts["CORE"], parts["BUILD"]
    own = (core.plugin_name, core.plugin_version, core.plugin_namespace)
    at.expect(own == (name, VERSION, NAMESPACE), f"{name}: names of the core {own}")
    at.expect(build.num_outputs == 1, f"{name}: one output")
    at.expect(build.format_combination_limit == 100, f"{name}: format_combination_limit")
    identity = build.timing_cache_id
    at.expect(identity.startswith(f"{name}/0.125") and layout in identity, f"{name}: timing_cache_id {identity}")
    at.expect(build.metadata_string == identity, f"{name}: metadata")


def check_refusals(at: Registry, name: str, content: bytes) -> None:
    """Wrong attributes: no plugin, one error that names node and layer, no crash."""
    scale, kernels = at.field("scale", 1.0), at.field("kernels", content)
    flipped = content[:99] + bytes([content[99] ^ 1]) + content[100:]
    attacks = {
        "no attributes": [],
        "no kernels": [scale],
        "no scale": [kernels],
        "scale as text": [at.field("scale", b"0.125"), kernels],
        "scale of another type": [at.field("scale", 1.0, at.trt.PluginFieldType.INT32), kernels],
        "an unknown layout": [scale, at.field("layout", b"BHDS"), kernels],
        "a long layout": [scale, at.field("layout", b"BHSD" * 999), kernels],
        "unknown rows": [scale, at.field("empty_rows", b"nan"), kernels],
        "kernels that are cut": [scale, at.field("kernels", content[: len(content) // 2])],
        "kernels of six bytes": [scale, at.field("kernels", b"ALIBIK")],
        "kernels with a bit flipped": [scale, at.field("kernels", flipped)],
        "empty kernels": [scale, at.field("kernels", b"\0")],
    }
    for what, fields in attacks.items():
        before = len(at.said())
        at.expect(at.create(name, fields, at.trt.TensorRTPhase.BUILD, "attacked") is None, f"{what}: refused")
        said = at.said()[before:]
        at.expect(len(said) == 1 and name in said[0] and "attacked" in said[0], f"{what}: said {said}")


def check_life(at: Registry, handle: Any, name: str, content: bytes) -> None:
    """Loaded twice, deregistered, loaded again, and from a second file."""
    again = at.registry.load_library(at.library)
    at.expect(len(at.ours()) == len(members()), "loaded twice")
    at.registry.deregister_library(handle)
    if again is not None:
        at.registry.deregister_library(again)
    at.expect(not at.ours(), "deregistered")
    at.expect(at.registry.load_library(at.library) is not None, "loaded again")
    at.expect(len(at.ours()) == len(members()), "all are back")
    fields = [at.field("scale", 0.5), at.field("kernels", content)]
    at.expect(at.create(name, fields, at.trt.TensorRTPhase.RUNTIME) is not None, "made after loading again")
    one = at.registry.get_creator(name, VERSION, NAMESPACE)
    at.expect(at.registry.register_creator(one, NAMESPACE) is False, "a creator is registered once")
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(at.library, Path(folder) / "other.so")
        at.expect(at.registry.load_library(str(copy)) is None, "a second copy is refused")
    at.expect(len(at.ours()) == len(members()), "and changes nothing")


def bundles() -> dict[str, bytes]:
    """Made-up kernels for every op_type."""
    sys.path[:0] = [str(HERE), str(HERE.parent / "kernels"), str(HERE.parent)]
    from bundles import encoded

    made = {}
    for name in members():
        # An additive mask has to have the type of the made-up kernels' query, or float32.
        for mask in ("bool",) if "Boolean" in name else ("float32", "bfloat16") if "Additive" in name else (None,):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    made[name] = encoded(Path(folder), name, mask)
                except ValueError:
                    continue
                break
    return made


def child(library: str) -> dict[str, Any]:
    """All checks of the TensorRT that can be imported here."""
    import tensorrt_lean_bindings as trt

    at = Registry(trt, library)
    kernels = bundles()
    at.expect(sorted(kernels) == sorted(members()), "kernels for every op_type")
    handle = check_registration(at)
    if not at.wrong:  # else there is nothing to make
        name, content = next(iter(kernels.items()))
        check_creation(at, kernels)
        check_refusals(at, name, content)
        gc.collect()  # plugins go before the library does
        check_life(at, handle, name, content)
    return {"version": str(trt.__version__), "checks": len(at.done), "wrong": at.wrong}


# --- in the parent ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What became of one version.

    Attributes:
        version: Of TensorRT.
        checks: How many passed.
        wrong: What did not.
    """

    version: str
    checks: int
    wrong: list[str]

    def __str__(self) -> str:
        word = "FAIL" if self.wrong else "PASS"
        return f"{word} TensorRT {self.version}: {self.checks} checks" + "".join(f"; {w}" for w in self.wrong[:5])


def install(version: str, folder: Path) -> Path:
    """The wheels of a version, unpacked below ``folder``.

    Raises:
        OSError: They cannot be had.
    """
    target = folder / version
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check"]
        command += ["--target", made, *(f"{package}=={version}" for package in PACKAGES)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            raise OSError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip failed")
        shutil.copytree(made, target)
    return target


def run(wheels: Path, library: Path) -> Result:
    """Checks one version in a process of its own."""
    path = [str(wheels), *(p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)]
    command = [sys.executable, str(Path(__file__).resolve()), "--child", "--library", str(library.resolve())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    lines = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        return Result(wheels.name, 0, [f"the process ended with {done.returncode} before a result: {last}"])
    found = json.loads(lines[0])
    ended = [f"the process ended with {done.returncode}"] if done.returncode else []
    return Result(found["version"], found["checks"], [*found["wrong"], *ended])


def versions() -> list[str]:
    """Those of the table whose registry was tested, ascending."""
    from alibi_rewriter.engine.versions import TESTED, Depth

    return [entry.version for entry in TESTED if entry.depth is Depth.REGISTRY]


def main() -> int:
    """The command; the exit status is 0 if everything passed."""
    parser = argparse.ArgumentParser(description="The plugin library in the registry of NVIDIA's lean runtime.")
    parser.add_argument("versions", nargs="*", metavar="VERSION")
    parser.add_argument("--all", action="store_true", help="every version of the table")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "lean", help="where wheels are unpacked")
    parser.add_argument("--library", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    write: Callable[[str], int] = sys.stdout.write
    if options.child:
        write(f"RESULT {json.dumps(child(str(options.library)))}\n")
        return 0
    from alibi_rewriter.plugin import library_path

    library = options.library or library_path()
    if library is None:
        parser.error("the plugin library is not built")
    known = versions()
    results = []
    for version in options.versions or (known if options.all else [known[0], known[-1]]):
        results.append(run(install(version, options.folder), library))
        write(f"{results[-1]}\n")
        sys.stdout.flush()
    return int(any(result.wrong for result in results))


if __name__ == "__main__":
    sys.exit(main())
