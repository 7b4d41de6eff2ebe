"""Everything that can be asked about a finished run, computed once and on demand."""

from __future__ import annotations

import re
from collections.abc import Collection

from ..rewriter.records.site import Site
from ..rewriter.result import PassResult
from .explanation import Explanation, explain
from .extract import Pair, pairs
from .numbers import Counterexample, counterexample
from .report import explanation_lines, record
from .study import Study, study


class Look:
    """A run, looked at again.

    Attributes:
        study: The analysis on a copy of its own.
        sites: The attention sites that are asked for.
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
        self._pairs: list[Pair] | None = None

    def explain(self, report: dict[str, object]) -> None:
        """Put the explanations into a report, beside the verdicts."""
        records = report["sites"]
        assert isinstance(records, list)
        for entry in records:
            name = entry["id"]
            if name in self._explained:
                entry["explanation"] = record(self._explained[name], self._counterexamples.get(name))

    def lines(self, *, bars: bool = False) -> dict[str, list[str]]:
        """The explanations for people, by site."""
        return {
            s.name: explanation_lines(s, self._explained[s.name], self._counterexamples.get(s.name), bars=bars)
            for s in self.sites
        }

    def pairs(self) -> list[Pair]:
        """The subgraphs before and after.  From here on the study's graph is the rewritten one."""
        if self._pairs is None:
            self._pairs = pairs(self.study, self.sites)
        return self._pairs
