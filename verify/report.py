"""What the verification found, as plain data with stable JSON keys (the caller versions the schema)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class OutputError:
    """One output on one input set.

    Attributes:
        output: Its name.
        max_abs: Largest absolute difference.
        max_rel: ``max_abs`` over the largest magnitude of the original's output, at least 1.
        limit: Largest ``max_abs`` that passes.
        compared: Numbers compared.
        left_out: Numbers left out: at padded tokens, or not finite in the original.
        nan_rows: Rows (last axis) with NaN in the original, out of scope.
        scope: Which part was compared, in words.
        place: Index of the element where the difference is largest beside its limit; empty where nothing differs.
    """

    output: str
    max_abs: float
    max_rel: float
    limit: float
    compared: int
    left_out: int
    nan_rows: int
    scope: str
    place: tuple[int, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the difference is within the limit."""
        return self.max_abs <= self.limit

    @property
    def factor(self) -> float:
        """The difference in units of the limit; above 1 it fails."""
        return self.max_abs / self.limit

    def to_json(self) -> Json:
        """Plain data; infinities become strings, since JSON has none."""
        return {**_fields(self), "passed": self.passed}


@dataclass(frozen=True)
class SetResult:
    """Original against rewritten on one input set.

    Attributes:
        name: What is special about the set.
        shapes: Of every input, by name.
        outputs: One entry per compared output.
        error: Why the rewritten model could not run, if it could not.
    """

    name: str
    shapes: dict[str, tuple[int, ...]]
    outputs: tuple[OutputError, ...]
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the rewritten model ran and every output is within its limit."""
        return self.error is None and all(entry.passed for entry in self.outputs)

    def to_json(self) -> Json:
        """Plain data."""
        return {
            "name": self.name,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "outputs": [entry.to_json() for entry in self.outputs],
            "error": self.error,
            "passed": self.passed,
        }


@dataclass(frozen=True)
class MutantResult:
    """What the same input sets said about one wrong rewrite.

    Attributes:
        kind: E.g. ``slope_smallest_1_percent``.
        site: Name of the mutated node, or "all".
        verdict: ``killed``, ``survived``, ``equivalent`` (shown to compute the same) or ``not_applicable``.
        by: The input set that killed it.
        factor: Its error in units of the limit: at the killing set, or the largest seen.
        reason: Why it survived, is equivalent or does not apply; empty if killed.
    """

    kind: str
    site: str
    verdict: str
    by: str | None
    factor: float
    reason: str

    def to_json(self) -> Json:
        """Plain data."""
        return _fields(self)


@dataclass(frozen=True)
class PowerResult:
    """Whether the input sets can tell a wrong rewrite from a right one."""

    mutants: tuple[MutantResult, ...]

    @property
    def killed(self) -> int:
        """Mutants told apart."""
        return sum(mutant.verdict == "killed" for mutant in self.mutants)

    @property
    def counted(self) -> int:
        """Mutants that compute something else than the rewritten model, as far as is shown."""
        return sum(mutant.verdict in ("killed", "survived") for mutant in self.mutants)

    @property
    def weak(self) -> bool:
        """Whether some mutant survived.  The comparison would not have noticed that mistake."""
        return self.killed < self.counted

    def summary(self) -> str:
        """E.g. ``mutants killed 12/13``."""
        return f"mutants killed {self.killed}/{self.counted}"

    def to_json(self) -> Json:
        """Plain data."""
        return {
            "killed": self.killed,
            "mutants": self.counted,
            "weak": self.weak,
            "summary": self.summary(),
            "details": [mutant.to_json() for mutant in self.mutants],
        }


@dataclass(frozen=True)
class KernelResult:
    """The rewritten model on our kernels, against the original.

    Attributes:
        where: ``cpu`` or ``cuda``.
        nodes: Fused nodes; every one of them ran on the kernels.
        sets: The comparison as a float32 clone, and what failed in the model's own type.
        power: Whether the same input sets tell wrong rewrites apart on the kernels.
        own_type: In the model's own 16-bit type: errors of each output against the float32 original; None without one.
        skipped_reason: Why nothing was compared, if nothing was.
    """

    where: str
    nodes: int
    sets: tuple[SetResult, ...]
    power: PowerResult | None
    own_type: dict[str, float] | None
    skipped_reason: str | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing that was compared differs."""
        return all(entry.passed for entry in self.sets)

    def summary(self) -> str:
        """One line for people."""
        what = f"{self.nodes} node{'s' if self.nodes != 1 else ''} on the kernels for the {self.where.upper()}"
        if self.skipped_reason is not None:
            return f"{what}: not compared: {self.skipped_reason}"
        broken = next((entry for entry in self.sets if entry.error is not None), None)
        worst = max((e for one in self.sets for e in one.outputs), key=lambda e: e.factor, default=None)
        if broken is not None:
            return f"failed: {what}: {broken.name!r}: {broken.error}"
        if worst is None:
            return f"{what}: nothing to compare"
        measured = f"worst {worst.max_abs:.1e} (limit {worst.limit:.1e}) at output {worst.output!r}"
        power = "" if self.power is None else f"; {self.power.summary()}"
        own = max((self.own_type or {}).items(), key=lambda item: item[1], default=None)
        if own is not None:
            power += f"; in 16 bits {own[1]:.1e} from the float32 original at output {own[0]!r}"
        verdict = "original = specification = kernel" if self.passed else "failed: the kernel differs"
        return f"{verdict}: {what}, {measured}{power}"

    def to_json(self) -> Json:
        """Plain data."""
        return {
            "where": self.where,
            "nodes": self.nodes,
            "passed": self.passed,
            "summary": self.summary(),
            "skipped_reason": self.skipped_reason,
            "sets": [entry.to_json() for entry in self.sets],
            "power": None if self.power is None else self.power.to_json(),
            "own_type": None if self.own_type is None else _plain(self.own_type),
        }


@dataclass(frozen=True)
class PrecisionResult:
    """Errors of the 16-bit models as they are, each against the float32 original.

    Attributes:
        types: The 16-bit types in use.
        original: Largest error of the original per output, relative to the output's magnitude (at least 1).
        rewritten: The same of the rewritten model.
        notes: What could not be run, and why.
    """

    types: tuple[str, ...]
    original: dict[str, float]
    rewritten: dict[str, float]
    notes: tuple[str, ...]

    def to_json(self) -> Json:
        """Plain data."""
        return _fields(self)


@dataclass(frozen=True)
class SiteResult:
    """One site: what was compared, and how.

    Attributes:
        site: Its name.
        same_as: The site whose work it shares, since both pairs of graphs are the same; None if it did its own.
        wide: Whether it ran in float64.
        sets: One entry per input set; empty where nothing could be compared.
        mutants: What the same sets said about wrong rewrites.
        notes: What else a reader should know.
        skipped: Why nothing was compared; None if something was.
        kernels: The same sets on our kernels, where these run.
    """

    site: str
    same_as: str | None
    wide: bool
    sets: tuple[SetResult, ...]
    mutants: tuple[MutantResult, ...]
    notes: tuple[str, ...]
    skipped: str | None = None
    kernels: tuple[KernelResult, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether something was compared and all of it agrees."""
        return bool(self.sets) and all(one.passed for one in self.sets)

    def to_json(self) -> Json:
        """Plain data; the sets are listed once, with those of all sites."""
        status = "skipped" if self.skipped is not None else "passed" if self.passed else "failed"
        return {
            "site": self.site,
            "status": status,
            "same_as": self.same_as,
            "computed_in": "float64" if self.wide else "float32",
            "skipped_reason": self.skipped,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Verification:
    """The whole result.

    Attributes:
        sets: One entry per input set that the original takes.
        power: None if it was not asked for or there was nothing to compare.
        precision: None for a model without 16-bit floats.
        tolerance: The limit and its reason, in words.
        out_of_scope: What is not compared, in words.
        notes: What else a reader should know: lengths that the original refuses, and the like.
        skipped_reason: Why nothing was compared; None if something was.
        cure: What would help then, in a sentence.
        sites: One entry per site where sites were compared one by one; ``by_sites`` says why, and is None where
            whole models were compared.
    """

    sets: tuple[SetResult, ...]
    power: PowerResult | None
    precision: PrecisionResult | None
    tolerance: str
    out_of_scope: tuple[str, ...]
    notes: tuple[str, ...]
    skipped_reason: str | None = None
    sites: tuple[SiteResult, ...] = ()
    by_sites: str | None = None
    cure: str = ""
    kernels: tuple[KernelResult, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether something was compared and all of it agrees."""
        return (
            self.skipped_reason is None
            and bool(self.sets)
            and all(entry.passed for entry in self.sets)
            and all(entry.passed for entry in self.kernels)
        )

    @property
    def status(self) -> str:
        """``passed``, ``failed`` or ``skipped``."""
        if self.skipped_reason is not None:
            return "skipped"
        return "passed" if self.passed else "failed"

    @property
    def worst(self) -> OutputError | None:
        """The output that comes closest to its limit, or exceeds it most."""
        entries = [entry for one in self.sets for entry in one.outputs]
        return max(entries, key=lambda entry: entry.factor) if entries else None

    def summary(self) -> str:
        """One line for people."""
        if self.skipped_reason is not None:
            return f"not verified: {self.skipped_reason}"
        broken = [entry for entry in self.sets if entry.error is not None]
        worst = self.worst
        if broken:
            measured = f"the rewritten model does not run on {broken[0].name!r}: {broken[0].error}"
        elif worst is None:
            measured = "nothing to compare"
        else:
            measured = f"worst {worst.max_abs:.1e} (limit {worst.limit:.1e}) at output {worst.output!r}"
            if not worst.passed:
                found = next(one.name for one in self.sets if worst in one.outputs)
                measured += f", index {list(worst.place)}, input set {found!r}"
        power = "" if self.power is None else f"; {self.power.summary()}"
        power += "".join(f"; {entry.summary()}" for entry in self.kernels if not entry.passed)
        how = "float32"
        if self.by_sites is not None:
            compared = [site for site in self.sites if site.skipped is None]
            own = sum(site.same_as is None for site in compared)
            which = f"{len(compared)} of {len(self.sites)} attention sites"
            how = f"site by site and not as a whole ({self.by_sites}), {which} ({own} different)"
        return f"{self.status}: original against rewritten, {how}, {len(self.sets)} input sets, {measured}{power}"

    def to_json(self) -> Json:
        """Plain data with stable keys."""
        return {
            "status": self.status,
            "method": "whole" if self.by_sites is None else "sites",
            "by_sites": self.by_sites,
            "sites": [entry.to_json() for entry in self.sites],
            "skipped_reason": self.skipped_reason,
            "summary": self.summary(),
            "tolerance": self.tolerance,
            "out_of_scope": list(self.out_of_scope),
            "notes": list(self.notes),
            "sets": [entry.to_json() for entry in self.sets],
            "power": None if self.power is None else self.power.to_json(),
            "kernels": [entry.to_json() for entry in self.kernels],
            "precision": None if self.precision is None else self.precision.to_json(),
        }


def _fields(record: OutputError | MutantResult | PrecisionResult) -> Json:
    return {key: _plain(value) for key, value in asdict(record).items()}


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    return data
