"""The analysis of a model, once more and on a copy of its own, for looking at sites before and after."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from onnx import ModelProto

from ..base.errors import ModelRejected
from ..rewriter.apply import apply
from ..rewriter.records.site import Analysis
from ..rewriter.result import PassResult
from ..rewriter.working_copy import analyse_copy


@dataclass
class Study:
    """A working copy and its analysis.

    Attributes:
        result: The run that is looked at.
        model: The copy; changed by :meth:`rewrite`.
        analysis: Its analysis, with the verdicts of the run.
    """

    result: PassResult
    model: ModelProto
    analysis: Analysis
    rewritten: bool | None = None

    @property
    def base_dir(self) -> Path:
        """Where external data lie."""
        return self.result.source.base_dir

    def rewrite(self) -> bool:
        """Put the fused nodes into the copy, once; False where none can be written."""
        if self.rewritten is None:
            self.rewritten = bool(self.analysis.proven)
            if self.rewritten:
                try:
                    apply(self.model, self.analysis, PassResult(self.result.source, self.analysis))
                except ModelRejected:  # an opset without function bodies, as the run itself says
                    self.rewritten = False
        return self.rewritten


def study(result: PassResult, binary: Collection[str] = ()) -> Study:
    """Analyse the original of a run once more, since the run's own copy has been rewritten by now.

    Args:
        result: The run.
        binary: Inputs that were declared to hold 0 and 1 only.
    """
    model, analysis = analyse_copy(
        result.source.model, result.source, frozenset(binary), exact_bias=result.analysis.exact_bias, evidence=True
    )
    verdicts = {s.name: s for s in result.analysis.sites}
    sites = []
    for site in analysis.sites:
        own = verdicts.get(site.name)
        if own is not None and own.binding is None and site.binding is not None:
            site = replace(site, binding=None, refusal=own.refusal)  # the self-check has contradicted a proof
        sites.append(site)
    return Study(result, model, replace(analysis, sites=sites))
