"""A rewritten model into a folder: one model per rank with its weights, checked together, and the manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto

from ..base.errors import ExitCode, ModelRejected, NotRewritten, UsageError
from ..base.hidden import folder as hidden_folder
from ..base.targets import put, same_file
from ..graph.index import label
from ..graph.load import ModelFile
from ..rewriter.compared import compare, compare_steps
from ..rewriter.result import Options, PassResult
from ..verify import Verification
from . import stream
from .collectives import collective_of
from .join import join
from .manifest import Json, RankFile, manifest
from .mistakes import Mistakes
from .plan import CutPlan, make
from .rank import build
from .request import MANIFEST, Request, data_file, model_file


@dataclass(frozen=True)
class Outcome:
    """What became of it.

    Attributes:
        manifest: What was cut.
        verification: All ranks together against the original; None if that was not asked for.
        written: Whether the files got their names.
        code: How the run ends.
    """

    manifest: Json
    verification: Verification | None
    written: bool
    code: ExitCode


@dataclass(frozen=True)
class _Together:
    path: Path
    data_dir: Path


def cut(result: PassResult, request: Request, options: Options) -> Outcome:
    """Cut a model that was rewritten.

    Args:
        result: Of the pass; a model that was rewritten before is cut as it is.
        request: What is asked for.
        options: Of the run; they say whether and on which inputs the ranks are compared with the original.

    Raises:
        NotRewritten: There is no fused attention, or none of them can be cut.
        UsageError: The files cannot be written, or would replace the model.
    """
    request.check()
    source = result.source
    model = source.model if result.model is None and result.rewritten_before else result.model
    if model is None:
        raise NotRewritten("--tensor-parallel cuts fused attentions by their heads, and no attention was fused.")
    _check_uncut(model, source.path)
    _check_apart(source, request)
    plan = make(model, source.base_dir, request.ranks, vocabulary=request.vocabulary)
    if all(one.divided is None for one in plan.attentions):
        reasons = "; ".join(dict.fromkeys(one.reason for one in plan.attentions))
        raise NotRewritten(f"--tensor-parallel {request.ranks}: no attention can be cut by heads: {reasons}.")
    made = not request.folder.exists()
    try:
        request.folder.mkdir(exist_ok=True)
        outcome = _staged(plan, result, request, options)
    except OSError as error:
        place = Path(error.filename) if isinstance(error.filename, str) else request.folder
        if place.is_relative_to(source.base_dir) and not place.is_relative_to(request.folder):
            raise ModelRejected(f"'{place}' cannot be read: {error.strerror or error}. Is it still there?") from error
        raise UsageError(
            f"'{request.folder}' cannot be written: {error.strerror or error}. Choose another -o."
        ) from error
    finally:
        if made and not any(request.folder.iterdir()):
            request.folder.rmdir()
    return outcome


def _check_uncut(model: ModelProto, path: Path | None) -> None:
    """A rank's sums are over the ranks that it was made for.  Cut again, they would be taken for those of others.

    Raises:
        NotRewritten: The model is a rank.
    """
    for node in model.graph.node:
        if collective_of(node) is not None:
            raise NotRewritten(
                f"'{path or 'the model'}', node '{label(node)}': it joins several ranks, so this was cut before. "
                "Cut the whole model."
            )


def _check_apart(source: ModelFile, request: Request) -> None:
    """No rank's file may replace what the model is read from.

    Raises:
        UsageError: One would.
    """
    read = [] if source.path is None else [source.path]
    read += [source.base_dir / location for location in source.data]
    for place in request.files:
        if any(same_file(place, other) for other in read):
            raise UsageError(f"the output '{place}' is the input itself, or its data. Choose another folder with -o.")


def _staged(plan: CutPlan, result: PassResult, request: Request, options: Options) -> Outcome:
    """Write everything in a hidden folder, compare it there, and give it its names if it is right."""
    with hidden_folder(request.folder / "ranks") as hidden:
        files, first = _write(plan, hidden.path, request, options.progress)
        record = manifest(plan, files, first, request.runtime)
        text = json.dumps(record, indent=2) + "\n"
        (hidden.path / MANIFEST).write_text(text, encoding="utf-8")
        verification = _compare(plan, hidden.path, record, result, options) if options.verify else None
        status = "passed" if verification is None else verification.status
        code = {"failed": ExitCode.VERIFICATION_FAILED, "skipped": ExitCode.NOT_VERIFIED}.get(status, ExitCode.DONE)
        if code is ExitCode.DONE:
            # The manifest says what belongs together, so an old one goes first and the new one comes last.
            (request.folder / MANIFEST).unlink(missing_ok=True)
            for place in request.files:
                put(hidden.path / place.name, place, "-o", result.source.path)
    return Outcome(record, verification, code is ExitCode.DONE, code)


def _write(
    plan: CutPlan, folder: Path, request: Request, progress: Callable[[str, int, int], None] | None
) -> tuple[list[RankFile], ModelProto]:
    """The models and data files of all ranks; returns the model of the first one as well."""
    ranks = [build(plan, rank, request.runtime) for rank in range(plan.ranks)]
    needed = sum(stream.size_of(weight) for one in ranks for weight in one.weights)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UsageError(f"the ranks need {needed >> 20} MiB, and {free >> 20} MiB are free. Choose another -o.")
    targets: list[stream.Target] = []
    try:
        for rank, one in enumerate(ranks):
            name = data_file(rank)
            targets.append(stream.Target(one, name, (folder / name).open("wb")))
        stream.write(targets, plan.base_dir, lambda done, whole: progress and progress("cutting weights", done, whole))
        for target in targets:
            target.stream.flush()
            os.fsync(target.stream.fileno())
    finally:
        for target in targets:
            target.stream.close()
    files = []
    for rank, target in enumerate(targets):
        content = target.rank.model.SerializeToString(deterministic=True)
        with (folder / model_file(rank)).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        digest = hashlib.sha256(content).hexdigest()
        files.append(RankFile(model_file(rank), data_file(rank), digest, target.written, target.sliced))
    return files, ranks[0].model


def _compare(plan: CutPlan, folder: Path, record: Json, result: PassResult, options: Options) -> Verification:
    """All ranks together against the original, with mutants of the cut."""
    ranks = [onnx.load(str(folder / one["model"]), load_external_data=False) for one in record["files"]]
    joined = join(ranks, folder, record, plan.model)
    path = folder / "joined.onnx"
    try:
        path.write_bytes(joined.model.SerializeToString())
    except ValueError as error:  # protobuf's limit
        raise ModelRejected(f"the ranks cannot be joined to be compared: {error}. Cut with --no-verify.") from error
    divided = {one.node: one.divided for one in plan.attentions if one.divided is not None}
    if result.cache is not None:
        return compare_steps(result.source, _Together(path, folder), result, options)
    mistakes = Mistakes(plan.ranks, folder, joined.sums, divided)
    return compare(result.source, _Together(path, folder), result, options, None, mistakes)
