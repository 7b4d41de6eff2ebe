"""What each site alone says, in place of the whole model or beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..inputs.usage import ModelInput
from ..kernels import chosen
from ..options import VerifyOptions
from ..power.mutants import MutantKind
from ..report import KernelResult, MutantResult, PowerResult, SetResult, SiteResult, Verification
from ..run.clone import CloneSource
from .check import NARROW_LIMIT, WIDE_LIMIT, SiteChecks

TOLERANCE = (
    f"site by site: {WIDE_LIMIT:g} of the largest magnitude of the output in float64 ({NARROW_LIMIT:g} in float32, "
    "where onnxruntime has no float64 kernels), at least of 1, and what rounding the constants in the files explains: "
    "four times the change of the output, head by head, when every bias entry moves by a unit roundoff of its stored "
    "type, alternately up and down and then all in one direction, and when the scale moves by a unit in the last place;"
    " with queries of zero the bias as well, entry by entry: a unit in the last place of the type that it is stored in"
)

REST = "the rest of the graph"


def verify_by_sites(
    sources: tuple[CloneSource, CloneSource],
    folder: Path,
    inputs: Sequence[ModelInput],
    scratch: Path,
    options: VerifyOptions,
    reason: str,
) -> Verification:
    """Compares every site before and after, and the rest of the graph node by node.

    Args:
        sources: Original and rewritten model as they are.
        folder: Where the rewritten model's external data are.
        inputs: What the original's inputs are for.
        scratch: An existing folder.
        options: ``options.sites`` must be given.
        reason: Why the whole model is not compared.
    """
    sites = options.sites
    assert sites is not None
    checks = SiteChecks({entry.name: entry for entry in inputs}, scratch, options)
    results = []
    differ = False
    for number, pair in enumerate(sites.pairs(sources[1].model.proto, folder)):
        options.progress("comparing sites", number, 0)
        results.append(checks.check(pair))
        differ = differ or not pair.rows_agree
    for name, why in sites.missing.items():
        results.append(SiteResult(name, None, False, (), (), (), f"it cannot be taken out of the model: {why}"))
    own = [result for result in results if result.same_as is None]
    sets = tuple(replace(one, name=f"{result.site}: {one.name}") for result in own for one in result.sets)
    different = sites.changes(sources[0].model.proto, sources[1].model.proto)
    if different:
        sets = (*sets, SetResult(REST, {}, (), "; ".join(different[:5])))
    mutants = tuple(mutant for result in own for mutant in result.mutants)
    power = PowerResult(mutants) if options.power and all(one.passed for one in sets) else None
    rows = ["rows without a visible key: they are not proven to be equal number by number"] if differ else []
    scope = [
        *rows,
        "the model as a whole was not run: outside of the attention sites it was compared node by node, and is "
        "what it was"
        if not different
        else "the model as a whole was not run",
    ]
    why_not = [f"site {result.site}: {result.skipped}" for result in results if result.skipped is not None]
    scope += why_not
    if options.as_they_are:
        scope.append("the rounding of the bias to a narrow type: sites are computed in wider ones")
    notes = [f"{result.site}: {note}" for result in own for note in result.notes]
    if options.inputs is not None:
        notes.append("the given inputs were not used: they are inputs of the whole model")
    if options.kernels is not None:
        notes += chosen(options.kernels, options.known, sources[1].model.proto)[1]
    skipped = None if sets else "no site could be compared on its own: " + "; ".join(why_not)
    return Verification(
        sets,
        power=power,
        precision=None,
        tolerance=TOLERANCE,
        out_of_scope=tuple(scope),
        notes=tuple(notes),
        skipped_reason=skipped,
        sites=tuple(results),
        by_sites=reason,
        kernels=on_kernels(results),
    )


def on_kernels(results: Sequence[SiteResult]) -> tuple[KernelResult, ...]:
    """What the sites did on our kernels, those of one place together; without mutants, which the sites had above."""
    own = [result for result in results if result.same_as is None]
    found = []
    for where in dict.fromkeys(entry.where for result in own for entry in result.kernels):
        entries = [(result.site, entry) for result in own for entry in result.kernels if entry.where == where]
        sets = tuple(replace(one, name=f"{site}: {one.name}") for site, entry in entries for one in entry.sets)
        why = next((f"site {site}: {entry.skipped_reason}" for site, entry in entries if entry.skipped_reason), None)
        nodes = sum(result.skipped is None for result in results)
        found.append(KernelResult(where, nodes, sets, None, None, why if not sets else None))
    return tuple(found)


def sharpen(
    power: PowerResult,
    rewritten: CloneSource,
    folder: Path,
    inputs: Sequence[ModelInput],
    scratch: Path,
    options: VerifyOptions,
) -> tuple[PowerResult, tuple[SetResult, ...]]:
    """Runs surviving mutants again, on their sites alone.

    The whole model's outputs may hide a small mistake, behind a fixed number of few tokens or behind layers on top.
    A site alone is computed in float64, and with queries of zero the bias decides.  A right site must pass there too.

    Returns:
        The power of both comparisons together, and the sets on which a site alone is wrong.
    """
    sites = options.sites
    assert sites is not None
    survivors = [mutant for mutant in power.mutants if mutant.verdict == "survived"]
    kinds = [kind for kind in MutantKind if any(mutant.kind == kind.value for mutant in survivors)]
    checks = SiteChecks({entry.name: entry for entry in inputs}, scratch, replace(options, kernels=None), kinds)
    wanted = {mutant.site for mutant in survivors}
    found: dict[str, SiteResult] = {}
    for pair in sites.pairs(rewritten.model.proto, folder):
        if "all" in wanted or pair.node in wanted:
            options.progress("comparing sites", len(found), 0)
            found[pair.node] = checks.check(pair)
    failed = tuple(
        replace(one, name=f"{result.site} alone: {one.name}")
        for result in found.values()
        for one in result.sets
        if not one.passed
    )
    complete = not sites.missing
    mutants = tuple(_again(m, found, complete) if m.verdict == "survived" else m for m in power.mutants)
    return PowerResult(mutants), failed


def _again(mutant: MutantResult, found: dict[str, SiteResult], complete: bool) -> MutantResult:
    """A survivor's verdict once its sites have been looked at alone.  At several sites all of them count."""
    concerned = [(node, result) for node, result in found.items() if mutant.site in ("all", node)]
    own = [m for node, result in concerned for m in result.mutants if (m.kind, m.site) == (mutant.kind, node)]
    counted = [m for m in own if m.verdict != "not_applicable"]
    if not counted or len(own) != len(concerned) or (mutant.site == "all" and not complete):
        return mutant
    survived = next((m for m in counted if m.verdict == "survived"), None)
    if survived is not None:
        return replace(mutant, reason=f"{mutant.reason}; alone: {survived.reason}")
    killed = [m for m in counted if m.verdict == "killed"]
    if not killed:
        return replace(mutant, verdict="equivalent", reason=counted[0].reason)
    weakest = min(killed, key=lambda m: m.factor)
    return replace(mutant, verdict="killed", by=f"{weakest.by}, its site alone", factor=weakest.factor, reason="")
