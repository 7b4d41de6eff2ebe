"""A model with its cache in place against the original, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..base.hidden import scratch
from .buffers import BatchStep, BufferSizes, CacheBuffer, State, States, step, steps
from .errors import LimitError, RunError
from .inputs.draw import Drawer, InputSet
from .inputs.lengths import long_length
from .inputs.sizes import FittedSizes, Symbols
from .inputs.usage import describe_inputs
from .judge.compare import TOLERANCE, OutputAxes, compare
from .judge.rounding import tables
from .judged import judge
from .kernels import Compared, check_kernels, chosen
from .options import VerifyOptions
from .power.appends import append_mistakes
from .power.mistakes import check_mistakes
from .power.mutants import find_sites
from .power.power import Baseline, check_power
from .report import KernelResult, PowerResult, SetResult, Verification
from .run.clone import CloneSource, float32_clone, read
from .run.runtime import Arrays, Model, Session, import_onnxruntime
from .verification import NOTHING_COMPARED, skipped, too_large

SHORTEST = 16
"""Steps that are called long are no shorter."""

CHAIN = 4
"""Steps that the model in place takes on its own buffers."""


def verify_steps(
    original: Path,
    held: Path,
    buffers: Sequence[CacheBuffer],
    lengths: str,
    removed: Sequence[str],
    *,
    options: VerifyOptions,
    data_dir: Path | None = None,
    original_dir: Path | None = None,
) -> Verification:
    """Compares batches of sequences of different lengths with each sequence alone in the original.

    Args:
        original: ONNX file whose cache grows.
        held: ONNX file of the same model with its cache in place.
        buffers: What is held in place.
        lengths: The input that says how many keys there are.
        removed: Inputs that said what is padding.
        options: What to draw.
        data_dir: Where the external data of ``held`` are; its own folder if None.
        original_dir: The same of the original.

    Raises:
        As ``verify``.
    """
    import_onnxruntime()
    sources = read(original, original_dir), read(held, data_dir)
    try:
        inputs = describe_inputs(sources[0].model.proto)
    except RunError as error:
        return skipped(str(error))
    large = too_large(sources, options)
    if large is not None:
        return skipped(f"{large}; the cache in place was not compared")
    with scratch() as folder:
        clones = []
        for index, source in enumerate(sources):
            place = folder / str(index)
            place.mkdir()
            clones.append(replace(float32_clone(source, place), room=None))
        symbols = Symbols(inputs)
        sizes = BufferSizes(symbols, buffers)
        drawer = Drawer(
            inputs,
            FittedSizes(sizes, inputs, options.fit),
            options.val_ranges,
            half_values=any(source.narrow for source in sources),
        )
        try:
            session = Session(clones[0], threads=options.threads)
            premise = options.premise or (lambda shapes: None)
            states = States(session, inputs, sizes, drawer, buffers, lengths, removed, premise)
            layouts = states.layouts(options.seed)
        except RunError as error:
            return skipped(f"onnxruntime does not run the original: {error}")
        try:
            return _compared(sources, clones, states, symbols, layouts, options)
        except LimitError as error:
            return skipped(str(error))


def _compared(
    sources: tuple[CloneSource, CloneSource],
    clones: Sequence[Model],
    states: States,
    symbols: Symbols,
    layouts: dict[str, OutputAxes],
    options: VerifyOptions,
) -> Verification:
    sites = find_sites(clones[1].proto)
    slopes = [slope for site in sites for slope in site.slopes or ()]
    ragged = all(site.variant.causal for site in sites)
    long = long_length(slopes, options.max_length)
    planner = partial(steps, new=None if symbols.has_new else 1, most=None if states.batches() else 1, ragged=ragged)
    sets, wanted, notes = _drawn(states, planner, layouts, long, options)
    if not ragged and symbols.has_new:
        notes.append("without causality new tokens see each other, so all sequences of a run get as many")
    if not sets:
        return skipped(f"the original runs on none of the inputs: {'; '.join(notes)}")
    seen = {name for expected in wanted for name in expected}
    unseen = [name for name in layouts if name not in seen]
    if unseen:
        notes.append(f"without axes of batch and tokens, not compared in place: {', '.join(map(repr, unseen))}")
    options.progress("running the output", 0, 0)
    chained = _chain(clones[1], states, layouts, options, prompt=(5, 3) if symbols.has_new and ragged else (1, 1))
    axes = {name: layouts.get(name, OutputAxes(0, 2)) for name in sorted(seen)}
    stored = tables(sources[0], max((len(s.slopes or ()) for s in sites), default=0), frozenset(sources[1].stored))
    found = judge(clones[1], sets, wanted, axes, stored, power=options.power, threads=options.threads)
    notes += found.notes
    if found.empty:
        return skipped(NOTHING_COMPARED, notes)
    power = None
    kernels: list[KernelResult] = []
    if found.passed and all(entry.passed for entry in chained):
        at_one = all(one.new == 1 for one in sets)
        if options.power:
            baseline = Baseline(sets, wanted, found.computed, axes, found.allowances, at_one)
            power = check_power(clones[1], baseline, threads=options.threads, progress=options.progress)
            own = check_mistakes(clones[1], baseline, append_mistakes(), threads=options.threads)
            power = PowerResult((*power.mutants, *own.mutants))
        if options.kernels is not None:
            here, missing = chosen(options.kernels, options.known, sources[1].model.proto)
            notes += missing
            given = Compared(sets, wanted, axes, found.used, found.allowances, at_one)
            kernels = [check_kernels(one, clones[1], sources[1], given, options, None) for one in here]
    results = (*found.sets, *chained)
    return Verification(results, power, None, TOLERANCE, (), tuple(notes), kernels=tuple(kernels))


def _drawn(
    states: States,
    planner: Callable[[int], Sequence[BatchStep]],
    layouts: dict[str, OutputAxes],
    long: int,
    options: VerifyOptions,
) -> tuple[list[InputSet], list[Arrays], list[str]]:
    """The sets, what they have to yield, and notes about those that the original does not take.

    A table of the bias may end somewhere, so long steps become shorter until the original takes them.
    """
    sets: list[InputSet] = []
    wanted: list[Arrays] = []
    refused: dict[str, str] = {}
    names = [one.name for one in planner(long)]
    for number, name in enumerate(names):
        options.progress("running the original", number, len(names))
        length = long
        while name not in {one.name for one in sets} and length >= SHORTEST:
            planned = planner(length)[number]
            try:
                one, expected, _ = states.draw(planned, layouts, (options.seed, number))
            except RunError as error:
                refused.setdefault(name, str(error))
                length //= 2
                continue
            sets.append(one)
            wanted.append(expected)
            refused.pop(name, None)
    return sets, wanted, [f"the original does not take {name!r}: {why}" for name, why in refused.items()]


def _chain(
    model: Model, states: States, layouts: dict[str, OutputAxes], options: VerifyOptions, *, prompt: tuple[int, int]
) -> list[SetResult]:
    """Several steps, each on the buffers that the model itself left; the first of them are prompts."""
    most = None if states.batches() else 1
    planned = step("a prompt, then its own buffers", (0, 0), prompt, spare=CHAIN, most=most)
    try:
        session = Session(model, threads=options.threads)
    except LimitError:
        raise
    except RunError as error:
        return [SetResult(planned.name, {}, (), str(error))]
    state: State | None = None
    found: list[SetResult] = []
    for number in range(CHAIN):
        try:
            one, expected, state = states.draw(planned, layouts, (options.seed, CHAIN, number), state)
        except RunError:
            break  # the original ends here, or never begins without a past
        axes = {name: layouts.get(name, OutputAxes(0, 2)) for name in expected}
        shapes = {name: tuple(array.shape) for name, array in one.arrays.items()}
        try:
            outputs = session.run(one.arrays)
        except RunError as error:
            return [*found, SetResult(planned.name, shapes, (), str(error))]
        found.append(SetResult(planned.name, shapes, compare(one, expected, outputs, axes)))
        state = replace(state, buffers=states.buffers_in(outputs))
        planned = planned.behind(f"step {number + 1} on its own buffers", (1,) * len(planned.new))
    return found
