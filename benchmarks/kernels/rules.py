"""From the results of ``tune.py`` to the rules of ``configurations.json``; pure, the same results give the same file.

Results are JSON: ``classes``, each with the part of a rule that says what it is for, how one of its candidates is
chosen (``fastest`` or ``first``), and the candidates in order of preference with what was found.  What a rule is for
identifies it: a new one replaces the old one in its place, or goes where it takes precedence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

FORMAT = 1
ALIKE = 0.005
"""Candidates whose times are this close to the best (relative, geometric mean over shapes) count as equal."""
OUTCOME = ("measured", "tile", "options")
"""Keys of a rule that follow from results; all others say what it is for."""
KEYS = (
    "role", "engine", "measured", "arch", "alternative", "element_bytes", "head_dim", "square", "positions", "key_bias",
    "masked", "additive", "causal", "symmetric", "conditions", "tile", "options",
)  # fmt: skip
"""In the order in which they are written; others that a rule may have follow."""

Rule = dict[str, Any]


class ResultsError(ValueError):
    """Results that are malformed."""


def scores(candidates: Sequence[Mapping[str, Any]]) -> list[float]:
    """For each candidate the mean over shapes of log(time / best time); infinite for those without all times."""
    timed = [candidate["ms"] if not candidate.get("dropped") else {} for candidate in candidates]
    shapes = sorted({shape for times in timed for shape in times})
    found = []
    for times in timed:
        if not shapes or any(shape not in times for shape in shapes):
            found.append(math.inf)
            continue
        logs = [math.log(times[shape] / min(other[shape] for other in timed if shape in other)) for shape in shapes]
        found.append(sum(logs) / len(logs))
    return found


def choose(entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The candidate that a class gets; None if all were dropped.

    ``first``: the first that was not dropped.  ``fastest``: the first of those that are as fast as the best.

    Raises:
        ResultsError: If the class says something else.
    """
    if entry["choice"] == "first":
        return next((candidate for candidate in entry["candidates"] if not candidate.get("dropped")), None)
    if entry["choice"] != "fastest":
        raise ResultsError(f"{entry.get('name')}: candidates are chosen as {entry['choice']!r}")
    found = scores(entry["candidates"])
    best = min(found, default=math.inf)
    if best == math.inf:
        return None
    number = next(i for i, score in enumerate(found) if score <= best + ALIKE)
    chosen: Mapping[str, Any] = entry["candidates"][number]
    return chosen


def identity(rule: Mapping[str, Any]) -> str:
    """What a rule is for, and whether it was measured."""
    purpose = {key: value for key, value in rule.items() if key not in OUTCOME}
    return json.dumps([purpose, "measured" in rule], sort_keys=True)


def ordered(rule: Mapping[str, Any]) -> Rule:
    """With its keys in the order of the file."""
    known = [key for key in KEYS if key in rule]
    return {key: rule[key] for key in (*known, *(key for key in rule if key not in KEYS))}


def rule_of(entry: Mapping[str, Any], candidate: Mapping[str, Any], device: str | None) -> Rule:
    """The rule that gives a class this candidate."""
    rule: Rule = {**entry["rule"], "tile": list(candidate["tile"])}
    if entry["choice"] == "fastest":
        rule["measured"] = device
    if candidate.get("options"):
        rule["options"] = candidate["options"]
    return ordered(rule)


def _place(rules: Sequence[Rule], rule: Rule) -> int:
    """Where a rule that is not there yet goes: measured ones before all it has to precede, others behind."""
    same = [i for i, other in enumerate(rules) if other["role"] == rule["role"]]
    if "measured" not in rule:
        return same[-1] + 1 if same else len(rules)
    # Special engines come before the portable one, which needs nothing behind it.
    behind = [i for i in same if rule["engine"] != "portable" or rules[i]["engine"] == "portable"]
    return behind[0] if behind else same[-1] + 1 if same else len(rules)


def regenerate(document: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The configurations with the rules that follow from results, and what changed or could not, a line each.

    Raises:
        ResultsError: If the results are malformed.
    """
    if results.get("format") != FORMAT or not isinstance(results.get("classes"), list):
        raise ResultsError(f"results of format {results.get('format')!r}; this reader knows {FORMAT}")
    rules: list[Rule] = [dict(rule) for rule in document["rules"]]
    notes = []
    added = 0
    for entry in results["classes"]:
        try:
            candidate = choose(entry)
            if candidate is None:
                notes.append(f"{entry['name']}: no candidate is left, the rule stays as it is")
                continue
            rule = rule_of(entry, candidate, results.get("device"))
        except (KeyError, TypeError) as error:
            raise ResultsError(f"a class of the results is malformed: {error!r}") from error
        if entry["choice"] == "fastest" and not results.get("device"):
            raise ResultsError(f"{entry['name']} has times, but the results name no device")
        old = next((i for i, other in enumerate(rules) if identity(other) == identity(rule)), None)
        if old is None:
            rules.insert(_place(rules, rule), rule)
            added += 1
            notes.append(f"{entry['name']}: new, {json.dumps(rule['tile'])} {json.dumps(rule.get('options', {}))}")
        elif rules[old] != rule:
            before = {key: rules[old].get(key) for key in OUTCOME}
            notes.append(
                f"{entry['name']}: {json.dumps(before)} becomes {json.dumps({k: rule.get(k) for k in OUTCOME})}"
            )
            rules[old] = rule
    return {**document, "rules": rules}, notes


def written(document: Mapping[str, Any]) -> str:
    """The text of the file: a rule a line."""
    head = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in document.items() if key != "rules")
    lines = ",\n".join(f"  {json.dumps(rule)}" for rule in document["rules"])
    return f'{{\n{head} "rules": [\n{lines}\n ]\n}}\n'
