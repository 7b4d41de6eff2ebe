"""Builds an engine from a rewritten model.  Kernels are attached, a child process builds, the result is checked."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto

from ..base import hidden
from ..base.cures import reinstall
from ..base.errors import EngineFailed, MissingDependency, PluginNotUsed, UsageError
from ..base.targets import check_place, put, same_file
from ..base.writing import write_file
from ..fused.family import DOMAIN
from ..graph.load import data_files
from ..graph.note import fused_nodes
from ..plugin import library_path
from .accumulation import FLOAT32, statement, widen_bodies
from .attach import NO_TRITON, Attached, attach_kernels
from .backends import Backend, choose
from .devices import devices
from .facts import EngineFacts
from .job import BuildJob
from .operands import check_operands
from .options import STRATEGIES, EngineOptions, Reporter
from .plan_file import read_plan
from .process import Event, run_child
from .profiles import Profile, make_profile
from .targets import Images, images_for

TIMED_CALLS = 50
"""How often each engine runs where --strategy auto can time them."""


def build_engine(model: Path, plan: Path, options: EngineOptions, reporter: Reporter | None = None) -> EngineFacts:
    """Build an engine from a rewritten model.

    Args:
        model: A file with fused nodes.
        plan: Where the engine goes; written completely or not at all.
        options: What to build.
        reporter: Told about progress.

    Returns:
        What was built.

    Raises:
        UsageError: A shape, a target or the output makes no sense.
        EngineFailed: TensorRT or the kernel compiler failed (exit code 5).
        PluginNotUsed: The plugin library is missing or was not used for every fused node (exit code 6).
        MissingDependency: A package is missing.
    """
    reporter = reporter or Reporter()
    _check_place(plan, model)
    content = onnx.load(model, load_external_data=False)
    fused = len(fused_nodes(content))
    if not fused:
        raise EngineFailed(f"'{model}' holds no fused node. Rewrite it first: rewrite {model} --engine")
    check_operands(content, model.parent)
    # Names, ranks and targets are checked before anything heavy is done.
    profile = make_profile(content, model.parent, options.shapes)
    for line in profile.lines():
        reporter.say(f"profile {line}")
    backend = choose(options.backend, plugin=options.strategy != "native")
    if backend.caution and options.strategy != "native":
        reporter.say(f"warning: {backend.caution}")
    targets = backend.targets(options.targets)
    builder = Builder(
        content,
        model=model,
        plan=plan,
        options=options,
        reporter=reporter,
        profile=profile,
        backend=backend,
        targets=targets,
        fused=fused,
    )
    if options.strategy == "native":
        return builder.native()
    if options.strategy == "plugin":
        return builder.plugin()
    return builder.fastest()


def check_request(options: EngineOptions, *, engine: bool, embed: bool) -> None:
    """Whether what the build needs is here, as far as that can be said without a model.

    Args:
        options: What to build.
        engine: An engine is asked for.
        embed: Kernels in the model are asked for.

    Raises:
        UsageError: TensorRT cannot build for a target.
        MissingDependency: TensorRT or Triton is not installed.
        EngineFailed: TensorRT is too old, or there is no GPU to build for.
        PluginNotUsed: The plugin library is missing.
    """
    plugin = options.strategy != "native"
    if (embed or (engine and plugin)) and importlib.util.find_spec("triton") is None:
        raise MissingDependency(NO_TRITON)
    if not engine:
        return
    if plugin:
        _library()
    targets = choose(options.backend, plugin=plugin).targets(options.targets)
    if plugin and not targets:
        _present()


def _library() -> Path:
    """The plugin library of this installation."""
    library = library_path()
    if library is None:
        raise PluginNotUsed(
            "this installation has no plugin library, because there was no C++ compiler when it was installed. "
            f"Install g++ and run: {reinstall()}"
        )
    return library


def _check_place(plan: Path, model: Path) -> None:
    if same_file(plan, model):
        raise UsageError(f"the engine '{plan}' is the model itself. Choose another --engine.")
    check_place(plan, "--engine")
    for place in (plan, model):
        check_name(place)


def check_name(place: Path) -> None:
    """Check that a path is text, since TensorRT takes names as text.

    Raises:
        UsageError: It is not.
    """
    try:
        str(place.absolute()).encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(
            f"'{place.absolute()}' holds a byte that is no UTF-8, which TensorRT does not take. Rename it."
        ) from None


@dataclass
class Builder:
    content: ModelProto
    model: Path
    plan: Path
    options: EngineOptions
    reporter: Reporter
    profile: Profile
    backend: Backend
    targets: tuple[int, ...]
    fused: int

    def plugin(self, timing: int = 0) -> EngineFacts:
        """With our kernels."""
        library = _library()
        images = images_for(self.targets or _present())
        content = ModelProto()
        content.CopyFrom(self.content)  # --strategy auto builds from the same model again, without the plugin
        attached = attach_kernels(
            content,
            self.model.parent,
            images,
            skip=self.options.skip,
            progress=lambda name: self.reporter.say(f"compiling kernels: {name}"),
            note=self.reporter.say,
        )
        if self.backend.needs_no_functions:
            remove_functions(content)
        embed = self.options.embed_plugin
        if embed is None:
            embed = self.backend.name == "tensorrt-rtx"
        facts = self._build(content, library, embed, timing)
        facts.embedded.append(_images_text(images, attached))
        if embed:
            facts.embedded.append(f"the plugin library ({library.stat().st_size} bytes)")
        facts.library, facts.library_embedded = library, embed
        if not embed:
            facts.library = self.plan.with_name(library.name)
            write_file(facts.library, library.read_bytes(), "--engine")
        return facts

    def native(self, timing: int = 0) -> EngineFacts:
        """With TensorRT's own attention.  The function bodies are compiled, and no kernel of ours runs."""
        content = self.content
        if self.options.accumulate == FLOAT32:
            content = ModelProto()
            content.CopyFrom(self.content)
            widen_bodies(content)
        return self._build(content, None, False, timing)

    def fastest(self) -> EngineFacts:
        """Whatever runs faster here; the plugin where nothing can be timed."""
        wanted = self.plan
        with _writing(wanted), hidden.folder(wanted) as folder:
            self.plan = folder.path / wanted.name
            facts = {"plugin": self.plugin(TIMED_CALLS)}
            if "plugin" in facts["plugin"].timings:
                self.plan = folder.path / "native.plan"
                facts["native"] = self.native(TIMED_CALLS)
            timings = {name: found.timings[name] for name, found in facts.items() if name in found.timings}
            best = min(timings, key=lambda name: timings[name]) if len(timings) == len(STRATEGIES) - 1 else "plugin"
            kept = facts[best]
            for name, time in timings.items():
                self.reporter.say(f"strategy {name}: {time:.3f} ms per call")
            if kept.library is not None and not kept.library_embedded:
                kept.library = kept.library.replace(wanted.with_name(kept.library.name))
            put(kept.plan, wanted, "--engine", self.model)
        kept.plan, kept.timings = wanted, timings
        if not timings:
            kept.not_executed.append(
                "--strategy auto keeps the plugin: no GPU here runs this engine, nothing was timed"
            )
        return kept

    def _build(self, content: ModelProto, library: Path | None, embed: bool, timing: int) -> EngineFacts:
        self.reporter.say(f"building with {self.backend.name} {self.backend.version}")
        with _writing(self.plan), hidden.folder(self.plan) as making:
            made = making.path / "engine.plan"
            # Beside the model where it has external data, because their locations are relative.
            place = self.model if data_files(content) else making.path / "model.onnx"
            hidden.remove_leftovers(place)
            source = hidden.make_file(place)
            try:
                source.path.write_bytes(content.SerializeToString(deterministic=True))
                job = self._job(source.path, made, library, embed, timing)
                # If this process is killed, the child goes on for a while, and its files are in use.
                locks = (making.handle, source.handle)
                event = self.reporter.event
                result = run_child(["build"], self.backend.name, job=job.to_json(), on_event=event, locks=locks)
            finally:
                source.remove()
            facts = self._checked(made, result, library is not None)
            put(made, self.plan, "--engine", self.model)
        return facts

    def _job(self, source: Path, made: Path, library: Path | None, embed: bool, timing: int) -> BuildJob:
        return BuildJob(
            self.backend.name,
            model=str(source.absolute()),
            plan=str(made.absolute()),
            profile={name: [list(s) for s in shapes] for name, shapes in self.profile.shapes.items()},
            targets=self.targets,
            plugin=None if library is None else str(library.absolute()),
            embed_plugin=embed,
            fused=self.fused,
            timing=timing,
        )

    def _checked(self, made: Path, result: Event, plugin: bool) -> EngineFacts:
        layers = [str(name) for name in result["plugin_layers"]]
        found = read_plan(made, layers)
        if plugin and (len(found.named) != self.fused or found.bundles < self.fused):
            raise PluginNotUsed(
                f"{self.backend.name} parsed {len(layers)} plugin layers, but the engine holds {len(found.named)} of "
                f"them and {found.bundles} sets of kernels for {self.fused} fused nodes."
            )
        facts = EngineFacts(
            self.backend.name,
            version=str(result["version"]),
            targets=self.targets,
            profile=self.profile,
            plan=self.plan,
            bytes=found.bytes,
            sha256=found.sha256,
            expected=self.fused if plugin else 0,
            found=len(layers),
            strategy="plugin" if plugin else "native",
            seconds=float(result["seconds"]),
            peak_bytes=int(result["peak_bytes"]),
        )
        if plugin:
            facts.caution = self.backend.caution
        facts.accumulation = statement(facts.strategy, self.options.accumulate, self.backend.name, self.backend.version)
        if "milliseconds" in result:
            facts.timings[facts.strategy] = float(result["milliseconds"])
        else:
            why = f" ({result['not_timed']})" if "not_timed" in result else ""
            facts.not_executed.append(f"the engine was built, not run{why}")
        return facts


@contextmanager
def _writing(plan: Path) -> Iterator[None]:
    """One error for whatever cannot be written."""
    try:
        yield
    except OSError as error:
        place = error.filename or plan
        raise UsageError(f"'{place}' cannot be written: {error.strerror}. Choose another --engine.") from error


def _present() -> tuple[int, ...]:
    """Compute capability of the GPU that is here, for backends that build for it."""
    found = tuple(sorted({device.capability for device in devices()}))
    if not found:
        raise EngineFailed("there is no GPU here to build for. Give --target, or use --backend tensorrt-rtx.")
    return found


def _images_text(images: Images, attached: Attached) -> str:
    code = ", ".join(f"sm_{a}" for a in images.machine_code) or "no architecture"
    ptx = ", ".join(f"sm_{a}" for a in images.ptx)
    size = attached.bytes / max(1, len(attached.nodes)) / 1024
    return f"kernels for {code} and PTX from {ptx} on, {size:.0f} KiB per node"


def embed_kernels(model: Path, options: EngineOptions, reporter: Reporter | None = None) -> Attached:
    """Attach kernels to a saved model, in place, so that trtexec alone can build it.

    Raises:
        EngineFailed: A kernel does not compile, or a type or head size has none.
        MissingDependency: Triton is not installed.
    """
    reporter = reporter or Reporter()
    content = onnx.load(model, load_external_data=False)
    check_operands(content, model.parent)
    images = images_for(options.targets or (80, 86, 89, 90, 100, 120))
    attached = attach_kernels(
        content,
        model.parent,
        images,
        skip=options.skip,
        progress=lambda name: reporter.say(f"compiling kernels: {name}"),
        note=reporter.say,
    )
    write_file(model, content.SerializeToString(deterministic=True), "-o", model)
    return attached


def remove_functions(model: ModelProto) -> None:
    """Drops the function bodies of the fused family, which a TensorRT before 10.7 would always prefer."""
    kept = [function for function in model.functions if function.domain != DOMAIN]
    del model.functions[:]
    model.functions.extend(kept)


__all__ = ["EngineOptions", "Reporter", "build_engine", "embed_kernels", "remove_functions"]
