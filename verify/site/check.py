"""Verification site by site: each attention alone, before and after, on drawn operands and without weights.

It is for models that do not fit into memory, and for mistakes that the whole model's outputs hide.  Here the query can
be zero, so that the bias alone decides.  Everything runs in float64 where onnxruntime has the kernels, so that no
rounding of the runtime hides a mistake.  Between two correct sites only the rounding of the constants in the files is
left, and that is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import LimitError, RunError
from ..inputs.draw import InputSet
from ..inputs.lengths import affordable, long_length
from ..inputs.sizes import Relation
from ..inputs.usage import InputKind, ModelInput
from ..judge.compare import Allowance, OutputAxes, compare
from ..judge.rounding import SiteRounding, rounding_allowances, tables
from ..kernels import Compared, chosen, compare_kernels
from ..options import VerifyOptions
from ..pairs import SitePair
from ..power.mutants import MutantKind, find_sites
from ..power.power import Baseline, check_power, no_progress
from ..report import KernelResult, MutantResult, SetResult, SiteResult
from ..run.clone import float32_clone, source_of
from ..run.runtime import Array, Arrays, Model, Session
from ..runs import Runs, run_cases, run_rewritten
from .bias import BIAS, SCORES, Bias, with_scores
from .identity import identity
from .inputs import SiteDrawer, SiteSet, cases_of, inputs_of

WIDE_LIMIT = 1e-12
"""Of the largest magnitude of an output in float64, where one rounding is 1.1e-16."""

NARROW_LIMIT = 2e-6
"""The same in float32, where one rounding is 6e-8.  One attention has some ten in a row."""

_MOST_SCORES = 1 << 21
"""Entries of the scores of all heads and two sequences.  Some ten such tensors are in memory at once."""


class SiteChecks:
    """Checks sites one after the other.  Sites whose graphs are the same are checked once.

    Args:
        described: What the original's inputs are for, by name.
        scratch: An existing, empty folder.
        options: As for the whole model.
        kinds: The wrong rewrites that are to be told apart.
    """

    def __init__(
        self,
        described: Mapping[str, ModelInput],
        scratch: Path,
        options: VerifyOptions,
        kinds: Sequence[MutantKind] = tuple(MutantKind),
    ) -> None:
        self._described = described
        self._kinds = kinds
        self._scratch = scratch
        self._options = options
        self._done: dict[str, SiteResult] = {}
        ranges = options.val_ranges
        # A float that is drawn as any other is no different from one at the border of a site.
        self._roles = {
            name: f"{replace(entry, name='')} {ranges.get(name)}"
            for name, entry in described.items()
            if entry.kind is not InputKind.FLOAT or name in ranges
        }

    def check(self, pair: SitePair) -> SiteResult:
        """Compares a site before and after, and checks the power of that comparison."""
        key = identity(pair, self._roles)
        known = self._done.get(key)
        if known is None:
            folder = self._scratch / f"site-{len(self._done)}"
            folder.mkdir()
            check = _Check(pair, self._described, folder, self._options)
            try:
                known = check.run(self._kinds)
            except LimitError as error:
                known = check.skipped(str(error))
            self._done[key] = known
        if known.site == pair.site:
            return known
        mutants = tuple(replace(mutant, site=pair.node) for mutant in known.mutants)
        return replace(known, site=pair.site, same_as=known.site, mutants=mutants)


@dataclass
class _SiteRuns(Runs):
    """Runs of a site.  Outputs that only tell which rows are compared do not stay in memory."""

    judge: Callable[[InputSet, Arrays], InputSet] = lambda one, outputs: one

    def try_set(self, one: InputSet) -> str | None:
        """Like that of the whole model, with what is compared decided at once."""
        refusal = super().try_set(one)
        if refusal is None:
            self.sets[-1] = self.judge(one, self.outputs[-1])
        return refusal


class _Check:
    """One site."""

    def __init__(
        self, pair: SitePair, described: Mapping[str, ModelInput], scratch: Path, options: VerifyOptions
    ) -> None:
        self.pair = pair
        self.options = options
        self.inputs = inputs_of(pair, described)
        self.clones: list[Model] = []
        self.narrow = False
        for number, (proto, folder) in enumerate(zip((pair.original, pair.rewritten), pair.folders, strict=True)):
            source = source_of(deepcopy(proto), folder)
            place = scratch / str(number)
            place.mkdir()
            self.clones.append(replace(float32_clone(source, place), room=options.room))
            self.narrow = self.narrow or bool(source.narrow)
        self.float32 = self.clones[1]
        self.stored = ("float32", *tables(source_of(deepcopy(pair.original), pair.folders[0]), pair.heads))

    def run(self, kinds: Sequence[MutantKind]) -> SiteResult:
        """The result for this site."""
        options = self.options
        self.clones = _widened(self.clones, options.threads)
        original, rewritten = self.clones
        wide = original.wide
        drawer = SiteDrawer(self.pair, self.inputs, options, half_values=self.narrow)
        try:
            runs = self._run_original(original, drawer)
        except RunError as error:
            return self.skipped(f"onnxruntime does not load it: {error}")
        if not runs.sets:
            return self.skipped(f"the original runs on none of the inputs: {'; '.join(runs.notes)}", wide)
        sets = [one for one in runs.sets if isinstance(one, SiteSet)]
        exposed = replace(rewritten, proto=with_scores(rewritten.proto))
        failures, outputs = run_rewritten(exposed, sets, threads=options.threads, seen=_seen)
        originals = [
            {**own, BIAS: one.bias.values} if other is not None and BIAS in other and one.bias is not None else own
            for one, own, other in zip(sets, runs.outputs, outputs, strict=True)
        ]
        layouts = {name: OutputAxes(None, None) for name in (*runs.outputs[0], BIAS)}
        relative = WIDE_LIMIT if wide else NARROW_LIMIT
        pairs = list(zip(sets, originals, outputs, failures, strict=True))
        computed = [other for other in outputs if other is not None]
        complete = len(computed) == len(sets)
        allowances: list[dict[str, Allowance]] = [{} for _ in sets]
        results = _compared(pairs, layouts, allowances, relative)
        if complete:
            # It is always allowed for, so that the verdicts on mutants hold for the limit that decides.
            site = SiteRounding(self.pair.by_head, self._bias_of(original), wide)
            plain = [{name: value for name, value in other.items() if name != BIAS} for other in computed]
            found = rounding_allowances(
                rewritten, self.stored, sets, plain, layouts, threads=options.threads, site=site
            )
            allowances = _with_that_of_the_bias(found or allowances, sets)
            results = _compared(pairs, layouts, allowances, relative)
        if complete and not any(entry.compared for one in results for entry in one.outputs):
            return self.skipped("no output has a number that could be compared", wide)
        mutants: tuple[MutantResult, ...] = ()
        if options.power and complete and all(one.passed for one in results):
            at_one = all(one.new == 1 for one in sets) and not drawer.has_new
            baseline = Baseline(
                sets,
                originals=originals,
                rewritten=computed,
                layouts=layouts,
                allowances=allowances,
                query_length_fixed_at_one=at_one,
                relative=relative,
                alone=True,
                exposed=with_scores,
                seen=_seen,
            )
            mutants = check_power(rewritten, baseline, threads=options.threads, kinds=kinds).mutants
        kernels: tuple[KernelResult, ...] = ()
        if options.kernels is not None and complete and all(one.passed for one in results):
            # Inputs are cast to float32, and the limit is that of whole models: the bias itself was compared above.
            given = Compared(sets, runs.outputs, layouts, allowances, allowances, at_one=False)
            here = chosen(options.kernels, options.known, self.clones[1].proto)[0]
            kernels = tuple(compare_kernels(one, self.float32, given, threads=options.threads)[0] for one in here)
        return SiteResult(self.pair.site, None, wide, results, mutants, tuple(runs.notes), kernels=kernels)

    def _run_original(self, original: Model, drawer: SiteDrawer) -> _SiteRuns:
        """The original on all inputs that are drawn.

        Raises:
            RunError: onnxruntime does not load it.
        """
        options = self.options
        runs = _SiteRuns(Session(original, threads=options.threads), judge=self._judged)
        beyond = affordable(options.lengths, self.pair.heads, new_only=not drawer.has_past)[0]
        cases = cases_of(drawer, self.inputs, self._long(), quiet=self.pair.query is not None, beyond=beyond)
        run_cases(runs, cases, drawer, (Relation.PAST_AND_NEW,), options.seed, no_progress)
        runs.close()
        return runs

    def skipped(self, reason: str, wide: bool = False) -> SiteResult:
        """The result where nothing could be compared, and why."""
        return SiteResult(self.pair.site, None, wide, (), (), (), reason)

    def _long(self) -> int:
        """A length at which the smallest slope decides, within reason."""
        slopes = [slope for site in find_sites(self.clones[1].proto) for slope in site.slopes or ()]
        # In float64 a small slope shows at any length, so the memory of many heads need not grow.
        fitting = math.isqrt(_MOST_SCORES // (2 * self.pair.heads))
        return long_length(slopes, self.options.max_length, fitting=fitting)

    def _bias_of(self, original: Model) -> Callable[[InputSet], tuple[Array, Array]] | None:
        """The bias of an input set as the original adds it: its scores, with a query of zero."""
        pair = self.pair
        query = pair.query
        if not pair.scores or query is None:
            return None
        session = Session(original, threads=self.options.threads)

        def bias(one: InputSet) -> tuple[Array, Array]:
            assert isinstance(one, SiteSet)
            outputs = session.run({**one.arrays, query.tensor: query.without(one.arrays[query.tensor])})
            return pair.bias(outputs[pair.scores], dict(one.numbers))

        return bias

    def _judged(self, one: InputSet, outputs: Arrays) -> SiteSet:
        """The set with the elements that are compared; what only tells these is taken out of the outputs."""
        assert isinstance(one, SiteSet)
        pair = self.pair
        scores = outputs.get(pair.scores) if pair.scores else None
        if pair.scores not in pair.results:
            outputs.pop(pair.scores, None)
        valid: dict[str, Array] = {name: np.ones(value.shape, np.bool_) for name, value in outputs.items()}
        main = pair.results[0]
        if main in outputs:
            valid[main] = pair.seen(scores, outputs[main], dict(one.numbers))
        bias = self._bias(one, scores) if one.quiet else None
        if bias is not None:
            valid[BIAS] = bias.compared
        return replace(one, valid=valid, bias=bias)

    def _bias(self, one: SiteSet, scores: Array | None) -> Bias | None:
        placed = None if scores is None else self.pair.placed(scores, dict(one.numbers))
        return None if placed is None or not placed[0].size else Bias.of(*placed, self.stored)


def _seen(one: InputSet, outputs: Arrays) -> Arrays:
    """Outputs of a rewritten site with its bias in place of its scores, where the original's bias is known."""
    scores = outputs.pop(SCORES)
    if isinstance(one, SiteSet) and one.bias is not None:
        with suppress(ValueError):  # the original's scores have other axes than the fused node's
            outputs[BIAS] = one.bias.seen_in(scores)
    return outputs


def _widened(clones: Sequence[Model], threads: int) -> list[Model]:
    """Both in float64, if onnxruntime has all kernels for that and no table has to be mapped; else as they are."""
    wide = [replace(clone, wide=True) for clone in clones]
    if any(clone.folder is not None for clone in clones):
        return list(clones)
    try:
        for clone in wide:
            Session(clone, threads=threads)
    except RunError:
        return list(clones)
    return wide


def _with_that_of_the_bias(
    allowances: Sequence[dict[str, Allowance]], sets: Sequence[SiteSet]
) -> list[dict[str, Allowance]]:
    """The allowances per input set, with what rounding explains of the bias itself."""
    both = zip(allowances, sets, strict=True)
    return [own if one.bias is None else {**own, BIAS: one.bias.allowance} for own, one in both]


def _compared(
    pairs: Sequence[tuple[SiteSet, dict[str, Array], dict[str, Array] | None, str | None]],
    layouts: dict[str, OutputAxes],
    allowances: Sequence[Mapping[str, Allowance]],
    relative: float,
) -> tuple[SetResult, ...]:
    """The verdict per input set: (the set, the original's outputs, those of the rewritten site, why it has none)."""
    results = []
    for (one, wanted, other, error), extra in zip(pairs, allowances, strict=True):
        shapes = {name: tuple(array.shape) for name, array in one.arrays.items()}
        found = () if other is None else compare(one, wanted, other, layouts, extra, relative=relative)
        results.append(SetResult(one.name, shapes, found, error))
    return tuple(results)
