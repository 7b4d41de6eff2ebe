"""Explanations as JSON and as lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..rewriter.records.site import Site
from .explanation import Explanation
from .misfit import Counterexample
from .places import Place
from .slopes import compare
from .steps import Step

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

BAR = 24
"""Width of the longest bar of a slope."""

MOST_SLOPES = 16
"""Heads listed one by one."""


def record(explanation: Explanation, counterexample: Counterexample | None = None) -> dict[str, object]:
    """One explanation as plain data."""
    stop = explanation.stop
    made: dict[str, object] = {
        "formula": list(explanation.formula),
        "steps": [_step(s) for s in explanation.steps],
        "slopes_are": compare(explanation.slopes) if explanation.slopes else None,
        "stop": None,
    }
    if stop is not None:
        made["stop"] = {
            "stage": stop.stage.name.lower(),
            "number": int(stop.stage),
            "stages": stop.stages,
            "doing": stop.doing,
            "place": plain(stop.place),
            "tensor": stop.tensor,
            "counterexample": None if counterexample is None else plain(counterexample),
        }
    return made


def plain(record: DataclassInstance) -> dict[str, Any]:
    """A record as JSON has it, with lists for tuples."""

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: convert(v) for k, v in value.items()}
        return [convert(v) for v in value] if isinstance(value, list | tuple) else value

    return {k: convert(v) for k, v in asdict(record).items()}


def _step(step: Step) -> dict[str, object]:
    return {"about": step.about, "claim": step.claim, "rests_on": [plain(p) for p in step.rests_on]}


def explanation_lines(
    site: Site, explanation: Explanation, counterexample: Counterexample | None = None, *, bars: bool = False
) -> list[str]:
    """What stands below a site's own line in the report.

    Args:
        site: The site.
        explanation: Its explanation.
        counterexample: For a refused site, an element that does not fit.
        bars: Draw slopes as bars, for a terminal.
    """
    lines = []
    if explanation.formula:
        lines.append("formula" if explanation.stop is None else "formula, as far as it was read")
        lines.extend(f"  {row}" for row in explanation.formula)
    if explanation.stop is None:
        lines.append("proof")
        lines.extend(f"  {_claim(s)}{_rests_on(s.rests_on)}" for s in explanation.steps)
        if site.binding is not None:
            lines.extend(f"  {note}" for note in site.binding.notes)
        if explanation.slopes:
            lines.append(f"slopes per head: {compare(explanation.slopes)}")
            lines.extend(f"  {row}" for row in _slopes(explanation.slopes, bars))
        return lines
    stop = explanation.stop
    lines.append(f"furthest stage: {int(stop.stage)} of {stop.stages}, {stop.stage.name.lower()}: {stop.doing}")
    way = "" if stop.node == stop.place.node else f", on the way to '{stop.node}'"
    found = f": {stop.detail}" if stop.detail else ""
    lines.append(f"stopped at {stop.place.text}, tensor '{stop.tensor}'{way}{found}")
    if counterexample is not None:
        place = ", ".join(f"{n}={x}" for n, x in zip("bhij", counterexample.index, strict=True))
        lines.append(
            f"for instance at [{place}]: {counterexample.value:.6g} is added, relative to the row's own key; "
            f"the closest slope times distance is {counterexample.expected:.6g} (slope {counterexample.slope:.6g})"
        )
    lines.append(f"what to do: {stop.remedy}")
    return lines


def _claim(step: Step) -> str:
    """The claim with what it is about, unless it begins with that word."""
    return step.claim if step.claim.startswith(step.about[:5]) else f"{step.about}: {step.claim}"


def _rests_on(places: Sequence[Place]) -> str:
    return "" if not places else "  <- " + ", ".join(p.text for p in places)


def _slopes(slopes: Sequence[float], bars: bool) -> list[str]:
    if not bars:
        rows = [f"{s:.6g}" for s in slopes[:MOST_SLOPES]]
        more = [f"... ({len(slopes)} in all)"] if len(slopes) > MOST_SLOPES else []
        return [", ".join((*rows, *more))]
    largest = max(abs(s) for s in slopes) or 1.0
    made = [
        f"head {h:<3} {s:<12.6g} {'█' * max(1, round(abs(s) / largest * BAR))}"
        for h, s in enumerate(slopes[:MOST_SLOPES])
    ]
    return made + ([f"... ({len(slopes)} in all)"] if len(slopes) > MOST_SLOPES else [])
