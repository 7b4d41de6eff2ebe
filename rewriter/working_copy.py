"""The copy that is analysed and edited: easier to read, and the same as the original where nothing is rewritten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from onnx import ModelProto

from ..graph.load import ModelFile
from .analysis import analyse
from .prepare.normalise import normalise
from .prepare.unpack import unpack_attention
from .records.site import Analysis, Site
from .restore.masks import unfold_masks
from .restore.softmax import restore_softmax
from .verdicts import Refusal


def analyse_copy(
    original: ModelProto,
    source: ModelFile,
    binary: frozenset[str],
    progress: Callable[[str, int, int], None] | None = None,
    *,
    exact_bias: bool = False,
    evidence: bool = False,
) -> tuple[ModelProto, Analysis]:
    """Analyse a working copy; it differs from the model only where that leads to a rewrite.

    Where a site is refused although its bias looks like ALiBi, its softmax stays a node, since the refusal names it.
    """
    keep: frozenset[str] = frozenset()
    reasons: dict[str, Refusal] = {}
    while True:
        copy, unpacked, restored = working_copy(original, source.base_dir, keep)
        analysis = analyse(copy, source.base_dir, binary, progress, exact_bias=exact_bias, kept=keep, evidence=evidence)
        proven = {o for s in analysis.proven for o in s.anchor.output}
        biased = {o for s in analysis.refused for o in s.anchor.output}
        superfluous = unpacked - proven
        if proven:  # something will be written
            superfluous |= {quotient for made, quotient in restored.items() if made not in proven | biased}
        if not superfluous:
            return copy, replace(analysis, sites=[_with_reason(site, reasons) for site in analysis.sites])
        reasons |= {
            o: s.refusal for s in analysis.sites if s.refusal is not None for o in s.anchor.output if o in unpacked
        }
        keep |= superfluous


def _with_reason(site: Site, reasons: Mapping[str, Refusal]) -> Site:
    """The site; an operator that is left packed is refused for what was found when it was not."""
    reason = next((reasons[o] for o in site.anchor.output if o in reasons), None)
    if site.binding is not None or reason is None:
        return site
    known = site.scope.owner(reason.tensor) is not None
    return replace(site, refusal=replace(reason, tensor=reason.tensor if known else ""))


def working_copy(
    original: ModelProto, base_dir: Path, keep: frozenset[str]
) -> tuple[ModelProto, frozenset[str], dict[str, str]]:
    """A copy that is easier to read; operators with their packed parts and masks as nodes, Softmax nodes restored."""
    copy = normalise(original)
    unpacked = unpack_attention(copy, keep)
    unpacked |= unfold_masks(copy, base_dir, keep)
    return copy, unpacked, restore_softmax(copy, base_dir, keep)
