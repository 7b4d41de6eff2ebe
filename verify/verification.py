"""The verification as a whole: draw, run the original, run the rewritten model, compare, check the power."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from ..base.hidden import scratch
from ..base.memory import available_memory
from .errors import LimitError, RunError
from .inputs.draw import Drawer, InputSet, longest, plan
from .inputs.given import check_ranges, load_inputs
from .inputs.lengths import affordable, long_length
from .inputs.orientation import is_sequence_first
from .inputs.polarity import settle_polarity
from .inputs.sizes import FittedSizes, Symbols
from .inputs.usage import ModelInput, describe_inputs
from .judge.as_they_are import compare_as_they_are
from .judge.compare import TOLERANCE, OutputAxes, find_layouts, out_of_scope
from .judge.precision import measure_precision
from .judge.rounding import tables
from .judged import judge
from .kernels import Compared, check_kernels, chosen
from .options import VerifyOptions
from .power.mistakes import check_mistakes
from .power.mutants import find_sites
from .power.power import Baseline, check_power
from .report import KernelResult, PowerResult, SetResult, Verification
from .run.clone import CloneSource, float32_clone, read
from .run.runtime import Model, Session, import_onnxruntime
from .run.widen import nodes
from .runs import Runs, run_cases
from .site.by_sites import sharpen, verify_by_sites

_MEMORY_FACTOR = 2.5
"""Memory of a loaded model over the size of its float32 weights, outputs and intermediates included."""

NOTHING_COMPARED = "no output has a number that could be compared"


def verify(
    original: Path,
    rewritten: Path,
    *,
    options: VerifyOptions | None = None,
    data_dir: Path | None = None,
    original_dir: Path | None = None,
) -> Verification:
    """Compares an original model with its rewritten form on drawn inputs, in onnxruntime on the CPU.

    Both are run as float32 clones.  Nothing is written but to a temporary directory.

    Args:
        original: ONNX file; external tensors are read from its folder.
        rewritten: ONNX file of the rewritten model; external tensors are read from its folder.
        options: What to draw; defaults if None.
        data_dir: Where the rewritten model's external data are; its own folder if None.
        original_dir: The same of the original.

    Returns:
        The result; ``status`` is "failed" for a difference and "skipped" where nothing could be compared.

    Raises:
        RuntimeMissingError: If onnxruntime is not installed.
        KernelsMissingError: If our kernels cannot run where ``options.kernels`` wants them.
        GivenInputError: If given inputs or value ranges do not fit the model.
        OSError: If a file cannot be read.
        ValueError: If an external tensor is broken.
    """
    options = options or VerifyOptions()
    import_onnxruntime()
    sources = read(original, original_dir), read(rewritten, data_dir)
    try:
        inputs = describe_inputs(sources[0].model.proto)
    except RunError as error:
        return skipped(str(error))
    check_ranges(options.val_ranges, inputs)
    if options.kernels is not None:
        chosen(
            options.kernels, options.known, sources[1].model.proto
        )  # Kernels that cannot run are reported before anything is loaded.
    if options.inputs is not None:
        load_inputs(options.inputs, inputs)  # Inputs that do not fit are reported before anything is loaded.
    large = too_large(sources, options)
    by_sites = large or ("as asked for" if options.by_sites else None)
    if by_sites is None and options.sites is not None and options.inputs is None:
        by_sites = _quantises_activations(sources[0].model.proto)
    if large is not None and options.sites is None:
        return skipped(
            f"{large}; the proofs and the numeric self-check hold, but to compare outputs run it where there is "
            "more memory"
        )
    folder = data_dir or rewritten.parent
    # Where open files cannot be removed, a mapped weight file may outlive its session for a moment.
    with scratch() as place:
        if by_sites is not None and options.sites is not None:
            return verify_by_sites(sources, folder, inputs, place, options, by_sites)
        return _verify(sources, folder, inputs, place, options)


def _verify(
    sources: tuple[CloneSource, CloneSource],
    folder: Path,
    inputs: Sequence[ModelInput],
    scratch: Path,
    options: VerifyOptions,
) -> Verification:
    clones = []
    for index, source in enumerate(sources):
        place = scratch / str(index)
        place.mkdir()
        # Given inputs may be as large as the user makes them.
        room = options.room if options.inputs is None else None
        clones.append(replace(float32_clone(source, place), room=room))
    try:
        return _compared(sources, clones, folder, inputs, scratch, options)
    except LimitError as error:
        return skipped(str(error))


def _compared(
    sources: tuple[CloneSource, CloneSource],
    clones: Sequence[Model],
    folder: Path,
    inputs: Sequence[ModelInput],
    scratch: Path,
    options: VerifyOptions,
) -> Verification:
    narrow = any(source.narrow for source in sources)
    try:
        runs, symbols = _run_original(clones, inputs, narrow, options)
    except LimitError:
        raise
    except RunError as error:
        return skipped(f"onnxruntime does not load the original: {error}")
    if not runs.sets and runs.starved and options.sites is not None and options.inputs is None:
        return verify_by_sites(sources, folder, inputs, scratch, options, "as a whole it takes too much memory")
    if not runs.sets:
        return _nothing_ran(runs, options)
    layouts = find_layouts(runs.sets, runs.outputs)
    options.progress("running the output", 0, 0)
    stored, threads = _stored_tables(sources, clones[1], options), options.threads
    found = judge(clones[1], runs.sets, runs.outputs, layouts, stored, power=options.power, threads=threads)
    runs.notes.extend(found.notes)
    if found.empty:
        return skipped(NOTHING_COMPARED, runs.notes)
    sets, power = found.sets, None
    errors = [entry for one in sets for entry in one.outputs]
    fixed_at_one = options.inputs is None and not symbols.has_new and all(one.new == 1 for one in runs.sets)
    if options.power and found.passed:
        baseline = Baseline(runs.sets, runs.outputs, found.computed, layouts, found.allowances, fixed_at_one)
        power = _power(clones[1], baseline, options)
        if power.weak and options.sites is not None and options.inputs is None:
            power, failed = sharpen(power, sources[1], folder, inputs, scratch, options)
            sets = (*sets, *failed)
    if options.as_they_are and found.complete:
        sets = (*sets, *_as_they_are(sources, runs, layouts, options))
    precision = measure_precision(sources, runs.sets, runs.outputs, layouts, threads=threads) if narrow else None
    kernels: list[KernelResult] = []
    if options.kernels is not None and found.complete and all(entry.passed for entry in sets):
        here, missing = chosen(options.kernels, options.known, sources[1].model.proto)
        runs.notes.extend(missing)
        given = Compared(runs.sets, runs.outputs, layouts, found.used, found.allowances, fixed_at_one)
        kernels = [check_kernels(one, clones[1], sources[1], given, options, precision) for one in here]
    notes, scope = tuple(runs.notes), out_of_scope(runs.sets, runs.outputs, errors)
    return Verification(sets, power, precision, TOLERANCE, scope, notes, kernels=tuple(kernels))


def _power(rewritten: Model, baseline: Baseline, options: VerifyOptions) -> PowerResult:
    """Whether the input sets tell mistakes apart: those of a rewrite, or those that the caller knows."""
    if options.mistakes is None:
        return check_power(rewritten, baseline, threads=options.threads, progress=options.progress)
    mistakes = options.mistakes(rewritten.proto)
    return check_mistakes(rewritten, baseline, mistakes, threads=options.threads, progress=options.progress)


def _as_they_are(
    sources: tuple[CloneSource, CloneSource], runs: Runs, layouts: dict[str, OutputAxes], options: VerifyOptions
) -> Sequence[SetResult]:
    """Both models unwidened, on the shortest and the longest input sets.  Findings go to the notes."""
    measured, notes = compare_as_they_are(
        sources, _ends(runs.sets), layouts, exact_bias=options.exact_bias, threads=options.threads
    )
    runs.notes.extend(notes)
    return measured


def _nothing_ran(runs: Runs, options: VerifyOptions) -> Verification:
    # The cure is what a user can mend: declared ranges, or what is drawn without them.
    cure = "Narrow --val-range to what the model takes" if options.val_ranges else "Declare values with --val-range"
    return skipped(
        f"the original runs on none of the inputs: {'; '.join(runs.notes)}", cure=f"{cure}, or give --inputs."
    )


def _stored_tables(
    sources: tuple[CloneSource, CloneSource], rewritten: Model, options: VerifyOptions
) -> tuple[str, ...]:
    """In which 16-bit types the original stores its bias."""
    heads = max((len(site.slopes or ()) for site in find_sites(rewritten.proto)), default=0)
    # What the rewritten model still has is a weight, unless a site reads it.
    read_by_sites = options.sites.constants if options.sites is not None else frozenset()
    return tables(sources[0], heads, frozenset(sources[1].stored) - read_by_sites)


def _run_original(
    clones: Sequence[Model], inputs: Sequence[ModelInput], narrow: bool, options: VerifyOptions
) -> tuple[Runs, Symbols]:
    """Draws or loads the input sets and runs the original on them; raises RunError if it cannot be loaded."""
    session = Session(clones[0], threads=options.threads)
    turned = is_sequence_first(session, inputs, options.seed)
    symbols = Symbols(inputs, sequence_first=turned)
    inputs = settle_polarity(session, inputs, symbols, options.seed)
    runs = Runs(session, premise=options.premise)
    for entry in inputs:
        if entry.inverted:
            runs.notes.append(f"input {entry.name!r} is read as a mask whose ones are padding, as the original does")
    if options.inputs is not None:
        runs.add(load_inputs(options.inputs, inputs, sequence_first=turned))
    else:
        shapes = FittedSizes(symbols, inputs, options.fit)
        drawer = Drawer(
            inputs,
            shapes,
            options.val_ranges,
            half_values=narrow,
            sequence_first=turned,
            empty_rows=options.rows_agree,
        )
        fused = find_sites(clones[1].proto)
        heads = max((len(site.slopes or ()) for site in fused), default=1)
        slopes = [slope for site in fused for slope in site.slopes or ()]
        beyond, left_out = affordable(options.lengths, heads, new_only=not symbols.has_past)
        cases = plan(inputs, symbols, long_length(slopes, options.max_length), beyond)
        run_cases(runs, cases, drawer, symbols.relations, options.seed, options.progress)
        if left_out:
            runs.notes.append(
                f"no sequence beyond {left_out[0]} tokens was compared, where the proof changes: its scores take too "
                "much memory"
            )
    if turned:
        runs.notes.append("inputs are read as [S, B, ...], as the original reads them")
    runs.close()
    if options.rows_agree:
        runs.sets = [replace(one, padded_too=True) for one in runs.sets]
    return runs, symbols


def _ends(sets: Sequence[InputSet]) -> list[InputSet]:
    """The first set and the longest ones, which lie on both sides of what a narrow type holds."""
    return [*sets[:1], *sorted(sets[1:], key=longest)[-2:]]


def _quantises_activations(original: onnx.ModelProto) -> str | None:
    """Why whole models cannot be compared number by number.

    A range may be taken over a whole tensor, padded tokens included.  No result comes from these, and through the range
    original and rewritten would differ everywhere.  And where activations are rounded to steps, one rounding of a
    float, such as another order of a sum makes, becomes a whole step.
    """
    stored = {tensor.name for tensor in original.graph.initializer}
    for node in nodes(original):
        if node.op_type in RANGE_TAKERS:
            return f"{node.op_type} takes ranges over whole tensors, padded tokens included"
        if node.op_type == "QuantizeLinear" and node.input[0] not in stored:
            return "QuantizeLinear rounds activations to steps, and makes a step of a rounding"
    return None


RANGE_TAKERS = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
"""Operators that quantise activations by a range that they find when they run."""


def too_large(sources: Sequence[CloneSource], options: VerifyOptions) -> str | None:
    """Why whole models are not compared here: they take more memory than there is.  None if they do not."""
    limit = options.memory_limit if options.memory_limit is not None else available_memory()
    needed = int(_MEMORY_FACTOR * max(source.float32_bytes for source in sources))
    if limit is None or needed <= limit:
        return None
    return f"a float32 clone of it needs about {needed >> 20} MiB of memory, and {limit >> 20} MiB are available"


def skipped(reason: str, notes: Sequence[str] = (), cure: str = "") -> Verification:
    """A verification in which nothing was compared, why, and what would help."""
    return Verification((), None, None, TOLERANCE, (), tuple(notes), reason, cure=cure)
