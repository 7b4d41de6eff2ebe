"""Compiles candidates, in processes side by side, and drops those that do not fit, spill or are serialised.

No device is needed.  What was compiled stays in a directory, with a report per candidate, and is not compiled again
unless a kernel or the compiler changes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import alibi_rewriter.kernels
from alibi_rewriter.kernels.compile import compiler, resources
from alibi_rewriter.kernels.compile.compiler import CompileError, Worker, compile_bundle, job_of
from alibi_rewriter.kernels.compile.configurations import Configuration, applies, configurations
from alibi_rewriter.kernels.launch.description import Condition
from alibi_rewriter.kernels.requests import BufferLayout, KernelRequest, Tile
from candidates import Candidate, Kind
from shapes import Shape

LOOP_SPILLS = {"hopper": 28, "portable": 0}
"""Most local-memory instructions in inner loops; as the test of the recorded resources has it."""
SPILL_BYTES = {"portable": 64}
FLOAT32_LOOP_SPILLS, FLOAT32_SPILL_BYTES = 80, 700
"""The same of portable prefill in float32, where it is timed: a product is three there, which hide some reloads."""
REGISTERS = 65536
IRRELEVANT = ("resources.py", "launcher.py", "plan.py", "cache.py", "configurations.py")
REPORT = "report.json"
TRYING = "trying"
"""Left behind by a run that a candidate ended: see ``timing``."""


@dataclass
class Recording(Worker):
    """A compiling process that remembers what its images need."""

    needs: list[dict[str, Any]] | None = None

    def __enter__(self) -> Recording:
        return self

    def compile(self, job: dict[str, Any]) -> dict[str, Any]:
        found = super().compile(job)
        if self.needs is not None:
            cubin = Path(job["directory"]) / found["image"]["cubin"]
            spilled = resources.loop_spills(resources.disassemble(cubin)) if found["spill_bytes"] else 0
            kept = ("registers", "threads", "shared_bytes", "spill_bytes", "serialized")
            self.needs.append({"role": job["role"], "loop_spills": spilled, **{name: found[name] for name in kept}})
        return found


def stamp() -> str:
    """Changes with the kernels and the compiler, not with the rules that are to be chosen."""
    digest = hashlib.sha256(importlib.metadata.version("triton").encode())
    for path in sorted(Path(alibi_rewriter.kernels.__file__).parent.rglob("*.py")):
        if path.name not in IRRELEVANT:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def configuration_of(kind: Kind, candidate: Candidate, arch: int) -> Configuration:
    """The candidate as the kernel that is compiled."""
    conditions = tuple(Condition(**condition) for condition in kind.rule.get("conditions", ()))
    rule = kind.rule
    return Configuration(
        rule["role"],
        rule["engine"],
        arch,
        Tile(*candidate.tile),
        dict(candidate.options),
        conditions,
        rule.get("programs", 1),
    )


def demands(kind: Kind, arch: int) -> Iterator[tuple[KernelRequest, BufferLayout]]:
    """What a rule serves besides the shapes that it is timed on: the candidate must not spill there either.

    The variants of the table of resources, in its head sizes and in the largest of the rule.  Portable kernels in any
    layout: with strides as arguments or known, masks read in vectors or not.
    """
    done = set()
    portable = kind.rule["engine"] == "portable"
    for request, layout in resources.requests():
        if request.mask_dtype == "bool" and portable:
            continue  # the additive mask is the larger case
        largest = kind.rule["head_dim"][1]
        for each in (request, dataclasses.replace(request, head_dim=largest, value_dim=largest)):
            for contiguous, dense in itertools.product((False, True) if portable else (False,), (False, True)):
                if dense and not (portable and layout.mask_dense):
                    continue
                found = (each, dataclasses.replace(layout, contiguous=contiguous, mask_dense=dense))
                taken = any(applies(dict(rule), each, arch) for rule in kind.behind)
                if found not in done and not taken and applies(dict(kind.rule), each, arch):
                    done.add(found)
                    yield found


CHOSEN: ContextVar[tuple[Configuration, ...]] = ContextVar("CHOSEN")
"""What the bundle that is compiled in this thread holds."""


def _chosen(*_: object, **__: object) -> list[Configuration]:
    """Takes the place of ``configurations`` in the compiler while candidates are compiled."""
    return list(CHOSEN.get())


def companions(role: str, request: KernelRequest, arch: int) -> list[Configuration]:
    """What has to be in a bundle besides a kernel of this role."""
    wanted = ("decode", "combine") if role == "decode_split" else ()
    return [found for found in configurations(request, arch) if found.role in wanted]


def reloads_are_hidden(kind: Kind) -> bool:
    """Whether a class is portable prefill in float32 that is timed."""
    return bool(kind.shapes) and kind.rule.get("element_bytes") == 4 and kind.rule["role"] == "prefill"


def excess(engine: str, arch: int, needs: dict[str, Any], *, hidden: bool = False) -> str | None:
    """Why an image is not acceptable, or None; ``hidden``: as ``reloads_are_hidden`` says."""
    loop_spills, spill_bytes = LOOP_SPILLS[engine], SPILL_BYTES.get(engine, needs["spill_bytes"])
    if hidden:
        loop_spills, spill_bytes = FLOAT32_LOOP_SPILLS, FLOAT32_SPILL_BYTES
    if needs["serialized"] and engine == "hopper":  # the portable ones are on sm_90, whatever the tile
        return "its products are serialised"
    if needs["shared_bytes"] > resources.SHARED_KIB[arch] * 1024:
        return f"{needs['shared_bytes']} bytes of shared memory"
    if needs["registers"] * needs["threads"] > REGISTERS:
        return f"{needs['registers']} registers for {needs['threads']} threads"
    if needs["loop_spills"] > loop_spills:
        return f"{needs['loop_spills']} spills in inner loops"
    if needs["spill_bytes"] > spill_bytes:
        return f"{needs['spill_bytes']} bytes spilled"
    return None


def bundle_of(directory: Path, shape: Shape) -> Path:
    """Where the bundle of a candidate for a shape is."""
    layout = "rows" if shape.layout.mask_rows else "keys"
    request = shape.request
    return directory / f"{request.op_type}-{request.dtype}-d{request.head_dim}-{request.mask_dtype}-{layout}"


def directory_of(root: Path, kind: Kind, candidate: Candidate) -> Path:
    """Where a candidate's images and report are."""
    return root / stamp() / kind.name.replace(" ", "-") / candidate.key


def build(root: Path, kind: Kind, candidate: Candidate, worker: Recording) -> dict[str, Any]:
    """Compiles one candidate for all that its class is asked for, until something is not acceptable.

    Returns:
        ``dropped``, why or None, and ``needs``, the most that any image needs.
    """
    directory = directory_of(root, kind, candidate)
    if (directory / TRYING).exists():
        return {"dropped": "an earlier run did not survive its launch", "needs": {}}
    with contextlib.suppress(OSError, json.JSONDecodeError):
        return dict(json.loads((directory / REPORT).read_text()))
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    worker.needs = []
    dropped = None
    try:
        for arch, what in _images(directory, kind, candidate, worker):
            for needs in worker.needs:
                reason = None
                if needs["role"] == kind.rule["role"]:
                    reason = excess(kind.rule["engine"], arch, needs, hidden=reloads_are_hidden(kind))
                dropped = dropped or (reason and f"{what} on sm_{arch}: {reason}")
            if dropped:
                break
    except CompileError as error:
        dropped = str(error).splitlines()[0][:300]
    own = [needs for needs in worker.needs if needs["role"] == kind.rule["role"]]
    most = {name: max(needs[name] for needs in own) for name in own[0] if name != "role"} if own else {}
    for path in directory.rglob("*"):
        # A candidate is timed on the very architecture that it was compiled for: no PTX.
        if path.is_file() and (dropped or path.suffix == ".ptx" or path.parent.name == "table"):
            path.unlink()
    report = {"dropped": dropped, "needs": most}
    (directory / REPORT).write_text(json.dumps(report))
    return report


def _images(directory: Path, kind: Kind, candidate: Candidate, worker: Recording) -> Iterator[tuple[int, str]]:
    """Compiles step by step; after each step, for which architecture and what."""
    table = directory / "table"
    table.mkdir()
    for arch in kind.rule["arch"]:
        configuration = configuration_of(kind, candidate, arch)
        for request, layout in demands(kind, arch):
            worker.compile(job_of(request, configuration, layout, table))
            strided = "" if layout.contiguous else ", strided"
            dense = ", dense mask" if layout.mask_dense else ""
            yield arch, f"{request.op_type} {request.dtype} d{request.head_dim}{strided}{dense}"
        for shape in kind.shapes:
            bundle = bundle_of(directory, shape)
            if bundle.exists():
                continue
            CHOSEN.set((configuration, *companions(kind.rule["role"], shape.request, arch)))
            compile_bundle(shape.request, bundle, architectures=[arch], layouts=(shape.layout,), worker=worker)
            yield arch, shape.title


def _build_some(root: Path, kind: Kind, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    with Recording() as worker:
        reports = []
        for candidate in candidates:
            reports.append(build(root, kind, candidate, worker))
            if kind.choice == "first" and not reports[-1]["dropped"]:
                break
        return reports


def build_all(root: Path, kinds: Iterable[Kind], jobs: int) -> Iterator[tuple[Kind, list[dict[str, Any]]]]:
    """Compiles the candidates of all classes; their reports, class by class, in the order of the candidates.

    Those chosen by the first that is acceptable are compiled up to that one.
    """
    kinds = list(kinds)
    # Threads: the work is done by a compiling process of each, which ends with this one.
    with mock.patch.object(compiler, "configurations", _chosen), ThreadPoolExecutor(jobs) as pool:
        try:
            pending = []
            for kind in kinds:
                parts = [kind.candidates] if kind.choice == "first" else [(each,) for each in kind.candidates]
                pending.append([pool.submit(_build_some, root, kind, part) for part in parts])
            for kind, parts_of in zip(kinds, pending, strict=True):
                yield kind, [report for part in parts_of for report in part.result()]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
