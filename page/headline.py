"""What one wants to know first: what was written, what was not rewritten, what is verified, what it saves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from .markup import code, esc, size

Record = Mapping[str, Any]

WITHOUT_BIAS = "ALB100"
"""The code of an attention that has no bias; it is left as it is and is no refusal of a bias."""

NAMED_LENGTH = 8192
"""Tokens at which memory is said in one number."""

VERDICTS = {
    0: ("good", "every attention with a position bias is proven ALiBi"),
    3: ("warning", "not rewritten, or only in part"),
    4: ("bad", "verification failed: nothing was written"),
    5: ("bad", "the engine could not be built"),
    6: ("bad", "the plugin is missing or not used"),
    8: ("bad", "it could not be verified: nothing was written"),
}
"""By exit code."""


def headline(report: Record) -> str:
    """The verdict in one line, and under it the facts."""
    kind, words = _verdict(report)
    facts = {
        "written": _written(report),
        "rewritten": _rewritten(report),
        "not rewritten": _not_rewritten(report),
        "verified": _verified(report),
        "memory": _memory(report),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{said}</dd>" for name, said in facts.items() if said)
    line = f"<p><span class='verdict {kind}'>{words}</span> (exit code {esc(report.get('exit_code'))})</p>"
    return f"{line}<dl class='facts'>{rows}</dl>"


def _verdict(report: Record) -> tuple[str, str]:
    status = report.get("exit_code")
    kind, words = VERDICTS.get(status if isinstance(status, int) else -1, ("warning", "see below"))
    census = report.get("census") or {}
    if status == 0 and census.get("refused"):
        return "warning", "rewritten in part, as allowed"
    if status == 0 and not census.get("proven"):
        return "good", "rewritten already"
    if status == 0 and census.get("rewritten") and not report.get("verification"):
        return "warning", f"{words}; not verified, as asked for"
    return kind, words


def _written(report: Record) -> str:
    output = (report.get("output") or {}).get("path")
    plan = ((report.get("engine") or {}).get("plan") or {}).get("path")
    said = [code(path) for path in (output, plan) if path]
    return " and ".join(said) if said else "no model was written"


def _rewritten(report: Record) -> str:
    census = report.get("census") or {}
    biased, done, proven = (census.get(key) or 0 for key in ("biased", "rewritten", "proven"))
    if not biased:
        return "no attention has a position bias"
    only = "" if done or not proven else f" ({esc(proven)} proven)"
    return f"{esc(done)} of {esc(biased)} attentions with a position bias{only}"


def _not_rewritten(report: Record) -> str:
    codes: Counter[str] = Counter()
    for site in report.get("sites") or []:
        refusal = site.get("refusal")
        if refusal and refusal.get("code") != WITHOUT_BIAS:
            codes[f"{refusal.get('code')} {refusal.get('title')}"] += 1
    words = ", ".join(f"{code(name)} ({count})" for name, count in codes.most_common(4))
    said = [f"{words}: <a href='#sites'>why</a>"] if words else []
    census = report.get("census") or {}
    waiting = (census.get("proven") or 0) - (census.get("rewritten") or 0)
    if waiting > 0:
        said.append(f"{waiting} proven ones, because this run wrote no model")
    return "; ".join(said) or "nothing that has a position bias" * bool(census.get("biased"))


def _verified(report: Record) -> str:
    found = report.get("verification")
    if not found:
        return "no: nothing was compared with the original"
    status = str(found.get("status"))
    if status != "passed":
        return "no: it differs" if status == "failed" else f"no: {esc(found.get('skipped_reason') or status, 300)}"
    said = "yes: original and rewritten model agree on the same inputs"
    kernels = [one for one in found.get("kernels") or [] if one.get("passed") and not one.get("skipped_reason")]
    if kernels:
        said += ", and so do our kernels (" + ", ".join(esc(one.get("where")) for one in kernels) + ")"
    power = (found.get("power") or {}).get("details") or []
    noticed = sum(one.get("verdict") == "killed" for one in power)
    return said + (f"; {noticed} of {len(power)} rewrites that are wrong on purpose were noticed" if power else "")


def _memory(report: Record) -> str:
    memory = (report.get("pictures") or {}).get("memory") if isinstance(report.get("pictures"), Mapping) else None
    found = at_length(memory) if memory else None
    if found is None:
        return ""
    before, after = found
    return f"one bias at {NAMED_LENGTH:,} tokens took {size(before)}; slopes and positions take {size(after)}"


def at_length(memory: Record) -> tuple[int, int] | None:
    """Bytes before and after at the named length; None where they are not known."""
    where = [k for k, length in enumerate(memory.get("lengths") or []) if length == NAMED_LENGTH]
    if not where:
        return None
    before, after = memory["before"][where[0]], memory["after"][where[0]]
    return None if before is None or after is None else (int(before), int(after))
