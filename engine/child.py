"""Runs inside the child process: imports TensorRT, parses, checks, builds.

    python -m alibi_rewriter.engine.child probe BACKEND
    python -m alibi_rewriter.engine.child build     (the job comes on standard input)

It is a process of its own, because two ways are known in which TensorRT-RTX ends the process, and because an abort has
to become an error message.  Events go to the file descriptor that ``ALIBI_EVENTS`` names, one JSON object per line, so
that whatever native code prints cannot be mistaken for them.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import shim
from .job import BACKENDS, BuildJob
from .timing import TimingError, measure

PLUGIN_NAMESPACE, PLUGIN_VERSION, FAMILY = "alibi", "1", "AlibiAttention"

HARMLESS = ("cudaError 35", "catchCudaError", "CUDA initialization failure", "Unable to determine GPU memory usage")
"""Parts of messages that every build on a machine without a GPU logs."""


class Failure(Exception):
    """Ends the job with an event; ``kind`` says which error of ours it becomes."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def emit(event: str, **fields: Any) -> None:
    """Send one event to the parent."""
    line = json.dumps({"event": event, **fields}) + "\n"
    os.write(int(os.environ.get("ALIBI_EVENTS", "1")), line.encode())


def load_backend(backend: str) -> Any:
    """The TensorRT module, ready to parse.

    Raises:
        Failure: It is not installed, or its parser would abort.
    """
    try:
        module = importlib.import_module(BACKENDS[backend])
    except (ImportError, OSError) as error:
        raise Failure("missing", str(error)) from error
    if backend == "tensorrt-rtx":
        try:
            shim.load()
        except OSError as error:
            raise Failure("parser", str(error)) from error
    return module


def probe(backend: str) -> dict[str, Any]:
    """Version and capabilities of a backend, without building anything."""
    trt = load_backend(backend)
    flags = getattr(trt, "ComputeCapability", None)
    return {
        "version": str(trt.__version__),
        "capabilities": sorted(n for n in dir(flags) if n.startswith("SM")) if flags is not None else [],
        "plugins": hasattr(trt, "IPluginCreatorV3One") or hasattr(trt.LayerType, "PLUGIN_V3"),
        "progress": hasattr(trt, "IProgressMonitor"),
    }


def make_logger(trt: Any) -> tuple[Any, list[str]]:
    """A logger that reports to the parent, and the errors that it has seen."""
    errors: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if any(part in message for part in HARMLESS):
                return
            if severity <= trt.ILogger.Severity.ERROR:
                errors.append(message)
                emit("log", level="error", message=message)
            elif severity <= trt.ILogger.Severity.WARNING:
                emit("log", level="warning", message=message)

    return Logger(), errors


def make_monitor(trt: Any) -> Any:
    """Reports the progress of a build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.last = 0.0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            emit("progress", phase=phase, done=0, steps=steps)

        def step_complete(self, phase: str, step: int) -> bool:
            now = time.monotonic()
            if now - self.last > 0.1:
                self.last = now
                emit("progress", phase=phase, done=step + 1, steps=self.steps.get(phase, 0))
            return True

        def phase_finish(self, phase: str) -> None:
            steps = self.steps.pop(phase, 0)
            emit("progress", phase=phase, done=steps, steps=steps)

    return Monitor()


def register(trt: Any, library: str) -> None:
    """Load the plugin library and see that its creators are registered.

    Raises:
        Failure: It cannot be loaded, or TensorRT did not take its creators.
    """
    registry = trt.get_plugin_registry()
    try:
        handle = registry.load_library(library)
    except (RuntimeError, OSError, ValueError) as error:
        raise Failure("plugin", f"TensorRT cannot load the plugin library '{library}': {error}") from error
    if handle is None:
        raise Failure("plugin", f"TensorRT cannot load the plugin library '{library}'")
    try:
        creator = registry.get_creator(FAMILY + "Causal", PLUGIN_VERSION, PLUGIN_NAMESPACE)
    except TypeError:  # an older signature
        creator = registry.get_plugin_creator(FAMILY + "Causal", PLUGIN_VERSION, PLUGIN_NAMESPACE)
    if creator is None:
        raise Failure("plugin", f"'{library}' was loaded, but TensorRT did not register its plugins")


def parse(trt: Any, network: Any, logger: Any, model: str, errors: list[str]) -> Any:
    """Parse the model from its file, so that its weights are never held twice.

    Raises:
        Failure: The parser refuses it.
    """
    parser = trt.OnnxParser(network, logger)
    flag = getattr(getattr(trt, "OnnxParserFlag", None), "ENABLE_PLUGIN_OVERRIDE", None)
    if flag is not None:
        parser.set_flag(flag)
    if not parser.parse_from_file(model):
        said = []
        for i in range(parser.num_errors):
            error = parser.get_error(i)
            node = error.node_name() if hasattr(error, "node_name") else ""
            said.append(f"{error.desc()}" + (f" (node '{node}')" if node else ""))
        raise Failure("parse", "; ".join(dict.fromkeys(said or errors)) or "no reason given")
    return parser


def plugin_layers(trt: Any, network: Any) -> list[str]:
    """Names of the plugin layers of a network."""
    kind = trt.LayerType.PLUGIN_V3
    return [network.get_layer(i).name for i in range(network.num_layers) if network.get_layer(i).type == kind]


def configure(trt: Any, builder: Any, job: BuildJob) -> Any:
    """Profiles, targets, and what travels in the plan.

    Raises:
        Failure: TensorRT does not accept a target or a shape.
    """
    config = builder.create_builder_config()
    if job.profile:
        profile = builder.create_optimization_profile()
        for name, (low, best, high) in job.profile.items():
            if profile.set_shape(name, tuple(low), tuple(best), tuple(high)) is False:
                raise Failure("profile", f"TensorRT refuses the shapes of '{name}': {low}, {best}, {high}")
        if config.add_optimization_profile(profile) < 0:
            raise Failure("profile", "TensorRT refuses the optimisation profile: " + str(job.profile))
    if job.backend == "tensorrt-rtx" and job.targets:
        # Never ComputeCapability.CURRENT: without a GPU that aborts the process as soon as there is a plugin.
        config.num_compute_capabilities = len(job.targets)
        for position, target in enumerate(job.targets):
            capability = getattr(trt.ComputeCapability, f"SM{target}", None)
            if capability is None:
                raise Failure("target", f"{job.backend} {trt.__version__} cannot build for sm_{target}")
            config.set_compute_capability(capability, position)
    if job.plugin is not None and job.embed_plugin:
        config.plugins_to_serialize = [job.plugin]
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = make_monitor(trt)
    return config


def build(job: BuildJob) -> dict[str, Any]:
    """Build the engine of a job and write the plan.

    Raises:
        Failure: Whatever went wrong.
    """
    started = time.perf_counter()
    trt = load_backend(job.backend)
    logger, errors = make_logger(trt)
    if job.plugin is not None:
        register(trt, job.plugin)
    builder = trt.Builder(logger)
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    parser = parse(trt, network, logger, job.model, errors)
    found = plugin_layers(trt, network)
    emit("parsed", layers=network.num_layers, plugin_layers=len(found), seconds=time.perf_counter() - started)
    if job.plugin is not None and len(found) != job.fused:
        raise Failure(
            "unused",
            f"the model has {job.fused} fused nodes, but TensorRT {trt.__version__} took the plugin for {len(found)}: "
            "it fell back to the function bodies of the others",
        )
    config = configure(trt, builder, job)
    config_monitor = getattr(config, "progress_monitor", None)  # TensorRT keeps no reference to it
    plan = builder.build_serialized_network(network, config)
    del config_monitor, parser
    if plan is None:
        raise Failure("build", "; ".join(dict.fromkeys(errors)) or "TensorRT returned no engine and said nothing")
    try:
        with Path(job.plan).open("wb") as stream:
            stream.write(memoryview(plan))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise Failure("write", f"'{job.plan}' cannot be written: {error.strerror}") from error
    result: dict[str, Any] = {
        "version": str(trt.__version__),
        "layers": network.num_layers,
        "plugin_layers": found,
        "seconds": time.perf_counter() - started,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if job.timing:
        try:
            result["milliseconds"] = measure(trt, logger, job)
        except (TimingError, RuntimeError) as error:
            result["not_timed"] = str(error)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves one command; the exit status is 0 unless an event of kind ``failed`` was sent."""
    command, *rest = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if command == "probe":
            emit("result", **probe(rest[0]))
        else:
            emit("result", **build(BuildJob.from_json(sys.stdin.readline())))
    except Failure as failure:
        emit("failed", kind=failure.kind, message=str(failure))
        return 1
    except MemoryError:
        emit("failed", kind="memory", message="there is not enough memory")
        return 1
    except Exception as error:  # noqa: BLE001 - whatever the bindings raise has to reach the user as a message
        emit("failed", kind="build", message=f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
