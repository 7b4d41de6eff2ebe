"""Everything that can be asked about a finished run, computed once and on demand."""

from __future__ import annotations

import re
from collections.abc import Collection

from ..rewriter.records.site import Site
from ..rewriter.result import PassResult
from .alike import leaders, names_of
from .explanation import Explanation, explain
from .extract import Pair, pairs
from .misfit import Counterexample, counterexample
from .report import explanation_lines, record
from .steps import ASSUMPTION
from .study import Study, study

MOST_NAMES = 8
"""Sites named one by one behind the one that they are like."""


class Look:
    """A run, looked at again.

    Attributes:
        study: The analysis on a copy of its own.
        sites: The attention sites that are asked for.
        like: For each of them the first one that is explained in the same words up to names.
    """

    def __init__(self, result: PassResult, binary: Collection[str] = (), pattern: re.Pattern[str] | None = None):
        self.result = result
        self.study: Study = study(result, binary)
        self.sites: list[Site] = [
            s for s in self.study.analysis.sites if s.is_attention and (pattern is None or pattern.search(s.name))
        ]
        # Sites are explained before anything rewrites the copy.
        self._explained: dict[str, Explanation] = {s.name: explain(s) for s in self.sites}
        self._counterexamples: dict[str, Counterexample | None] = {}
        for site in self.sites:
            if site.binding is None and site.is_biased:
                self._counterexamples[site.name] = counterexample(self.study, site)
        self.like: dict[str, str] = leaders(
            {s.name: self._lines(s, bars=False) for s in self.sites},
            names_of(self.study.model.graph),
            f"  {ASSUMPTION}:",
        )
        self._pairs: list[Pair] | None = None

    def explain(self, report: dict[str, object]) -> None:
        """Put the explanations into a report, beside the verdicts."""
        records = report["sites"]
        assert isinstance(records, list)
        for entry in records:
            name = entry["id"]
            if name in self._explained:
                like = self.like[name]
                made = record(self._explained[name], self._counterexamples.get(name))
                entry["explanation"] = {**made, "same_as": None if like == name else like}

    def lines(self, *, bars: bool = False) -> dict[str, list[str]]:
        """The explanations for people, by site; sites that are the same up to names are named behind the first one."""
        made = {}
        for site in self.sites:
            if self.like[site.name] == site.name:
                others = [name for name, first in self.like.items() if first == site.name != name]
                made[site.name] = [*self._lines(site, bars=bars), *_others(others)]
        return made

    def _lines(self, site: Site, *, bars: bool) -> list[str]:
        return explanation_lines(site, self._explained[site.name], self._counterexamples.get(site.name), bars=bars)

    def pairs(self) -> list[Pair]:
        """The subgraphs before and after.  From here on the study's graph is the rewritten one."""
        if self._pairs is None:
            self._pairs = pairs(self.study, self.sites)
        return self._pairs


def _others(names: list[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:MOST_NAMES]) + (f", ... ({len(names)} in all)" if len(names) > MOST_NAMES else "")
    return [f"the same, up to names, at {len(names)} more: {shown} (--site shows one)"]
