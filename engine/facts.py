"""What a build tells its user: the part of the report about the engine, as JSON and as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .profiles import Profile
from .targets import text as target_text


@dataclass
class EngineFacts:
    """Everything about one engine.

    Attributes:
        backend, version: What built it.
        targets: GPUs it was built for.
        profile: Shapes of its inputs.
        plan: The file.
        bytes, sha256: Of the plan.
        expected, found: Plugin layers: rewritten sites, and those that TensorRT made.
        strategy: ``plugin`` or ``native``.
        embedded: What travels in the plan besides TensorRT's own content.
        library: The plugin library that has to be loaded, if it does not travel in the plan.
        timings: Milliseconds per call by strategy, where a device could run them.
        not_executed: What was not run, and why.
        accumulation: What the attention was asked to be summed in.
        caution: What is not known about this version of TensorRT; empty if it was tested.
        seconds: Time of the build.
        peak_bytes: Largest memory of the build process.
    """

    backend: str
    version: str
    targets: tuple[int, ...]
    profile: Profile
    plan: Path
    bytes: int
    sha256: str
    expected: int
    found: int
    strategy: str
    embedded: list[str] = field(default_factory=list)
    library: Path | None = None
    library_embedded: bool = False
    timings: dict[str, float] = field(default_factory=dict)
    not_executed: list[str] = field(default_factory=list)
    caution: str = ""
    accumulation: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0

    def load_instructions(self) -> dict[str, str]:
        """How to load the engine, per environment."""
        module = "tensorrt_rtx" if self.backend == "tensorrt-rtx" else "tensorrt"
        plugin = self.strategy == "plugin"
        separate = plugin and not self.library_embedded
        python = [f"import {module} as trt", "logger = trt.Logger()", "runtime = trt.Runtime(logger)"]
        cpp = [f"// link with {'tensorrt_rtx' if module == 'tensorrt_rtx' else 'nvinfer'}"]
        cpp += ["auto* runtime = nvinfer1::createInferRuntime(logger);"]
        load = f"--loadEngine={self.plan.name}"
        if separate:
            python.append(f"runtime.get_plugin_registry().load_library('{self._library_name}')")
            cpp.append(f'runtime->getPluginRegistry().loadLibrary("{self._library_name}");')
            load += f" --dynamicPlugins={self._library_name}"
        elif plugin:
            python.append("runtime.engine_host_code_allowed = True  # the plan carries the plugin library")
            cpp.append("runtime->setEngineHostCodeAllowed(true);  // the plan carries the plugin library")
        python.append(f"engine = runtime.deserialize_cuda_engine(open('{self.plan.name}', 'rb').read())")
        cpp.append("auto* engine = runtime->deserializeCudaEngine(plan.data(), plan.size());")
        found = {
            "Python": "\n".join(python),
            "C++": "\n".join(cpp),
            "trtexec": f"{'tensorrt_rtx' if module == 'tensorrt_rtx' else 'trtexec'} {load}",
        }
        if module == "tensorrt":
            triton = f"copy the plan to <repository>/<model>/1/model.plan (backend tensorrt) of TensorRT {self.version}"
            if separate:
                triton += f"; start tritonserver with --backend-config=tensorrt,plugins={self._library_name}"
            found["Triton Inference Server"] = triton
        return found

    @property
    def _library_name(self) -> str:
        return self.library.name if self.library is not None else "libalibi_plugin.so"

    def to_json(self) -> dict[str, object]:
        """The report's ``engine`` object."""
        return {
            "backend": self.backend,
            "version": self.version,
            "targets": [target_text(t) for t in self.targets],
            "profiles": [self.profile.to_json()],
            "plan": {"path": str(self.plan), "bytes": self.bytes, "sha256": self.sha256},
            "plugin_layers": {"expected": self.expected, "found": self.found},
            "strategy": self.strategy,
            "timings": [{"name": name, "milliseconds": time} for name, time in self.timings.items()],
            "embedded": self.embedded,
            "load": self.load_instructions(),
            "not_executed": self.not_executed,
            "accumulation": self.accumulation or None,
            "caution": self.caution or None,
            "build_seconds": round(self.seconds, 3),
            "build_peak_bytes": self.peak_bytes,
        }

    def lines(self, *, explain: bool = False) -> list[str]:
        """For people."""
        targets = ", ".join(target_text(t) for t in self.targets) or "the GPU of this machine"
        found = [
            f"engine: {self.backend} {self.version}, strategy {self.strategy}, for {targets}",
            *(f"  {line}" for line in self.profile.lines()),
            f"  plugin layers: {self.found} of {self.expected}",
        ]
        for name, time in self.timings.items():
            found.append(f"  {name}: {time:.3f} ms per call")
        found += [f"  attention accumulates in: {self.accumulation}"] if self.accumulation else []
        found += [f"  in the plan: {item}" for item in self.embedded]
        found += [f"  not executed: {item}" for item in self.not_executed]
        found += [f"  warning: {self.caution}"] if self.caution else []
        if explain:
            for name, text in self.load_instructions().items():
                found += [f"  load it in {name}:", *(f"    {line}" for line in text.splitlines())]
        found.append(f"wrote {self.plan} ({self.bytes / 2**20:.1f} MiB in {self.seconds:.1f} s)")
        if self.strategy == "plugin" and self.library is not None and not self.library_embedded:
            found.append(f"wrote {self.library}, which has to be loaded before the engine")
        return found
