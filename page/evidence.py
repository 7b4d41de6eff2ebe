"""Sections with measured numbers: slopes, bias, verification, precision, memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .charts import errors_chart, memory_chart, precision_chart, slopes_chart
from .headline import NAMED_LENGTH, at_length
from .markup import code, details, esc, numeral, section, size, table
from .strips import strip

Record = Mapping[str, Any]


def _pictures(report: Record) -> Record:
    found = report.get("pictures")
    return found if isinstance(found, Mapping) else {}


def _figure(drawing: str, words: str) -> str:
    return f"<figure>{drawing}<figcaption>{words}</figcaption></figure>"


def slopes_section(report: Record) -> str:
    """Slopes of one site beside the standard geometric ones."""
    slopes = _pictures(report).get("slopes")
    if not slopes:
        return section("slopes", "Slopes", "<p>No attention has slopes that are constants of the model.</p>")
    chart = slopes_chart(slopes["own"], slopes["standard"])
    rows = [
        [str(h), f"{own:.6g}", f"{standard:.6g}"]
        for h, (own, standard) in enumerate(zip(slopes["own"], slopes["standard"], strict=True))
    ]
    words = (
        "<span class='key-rewritten'>●</span> this model, <span class='key-original'>○</span> the standard geometric "
        f"slopes for {len(rows)} heads: {esc(slopes['verdict'])}."
    )
    body = _figure(chart, words) + details("as a table", table(["head", "slope", "standard"], rows, "numbers"))
    return section("slopes", "Slopes per head", body, f"Of attention {code(_pictures(report).get('site'))}.")


def bias_section(report: Record) -> str:
    """One row of the bias as evaluated, and what slope times distance leaves of it."""
    bias = _pictures(report).get("bias")
    if not bias:
        return section("bias", "The bias", "<p>The bias of no attention could be evaluated apart from the model.</p>")
    one = strip(bias["values"], bias["heads"], bias["keys"], "bias", "the bias of one row")
    two = strip(bias["residual"], bias["heads"], bias["keys"], "residual", "what is left of one row")
    left = "exactly nothing" if bias["largest"] == 0 else f"at most {numeral(bias['largest'])} in any row"
    lead = (
        f"What the original model adds to the scores of query row {bias['row']}, evaluated with the model's own nodes "
        f"at the shape {esc(bias['shape'])} with no padding, relative to the row's own key {bias['own']}."
    )
    body = _figure(one, "bias per head and key; on the right its largest magnitude, drawn darkest; empty: hidden key")
    body += _figure(two, f"what is left when slope times distance is taken away: {left}")
    rows = [
        [esc(head), *("hidden" if v is None else f"{v:.4g}" for v in values)]
        for head, values in zip(bias["heads"], bias["values"], strict=True)
    ]
    body += details("as a table", table(["head \\ key", *map(str, bias["keys"])], rows, "numbers"))
    return section("bias", "The bias in numbers", body, lead)


def verification_section(report: Record) -> str:
    """Errors per output and input set, and the power of the comparison."""
    found = report.get("verification")
    if not found:
        why = "This run did not verify (dry run, --no-verify, or nothing was rewritten)."
        return section("verification", "Verification", f"<p>{why}</p>")
    kind = {"passed": "good", "failed": "bad"}.get(str(found.get("status")), "warning")
    body = f"<p><span class='verdict {kind}'>{esc(found.get('summary'), 500)}</span></p>"
    outputs: dict[str, list[tuple[str, float, float]]] = {}
    rows = []
    for one in found.get("sets") or []:
        for entry in one["outputs"]:
            error, limit = _number(entry["max_abs"]), _number(entry["limit"])
            if entry["compared"]:
                outputs.setdefault(str(entry["output"]), []).append((str(one["name"]), error, limit))
            rows.append(
                [esc(one["name"]), code(entry["output"]), numeral(error), numeral(limit), esc(entry["compared"])]
            )
    if outputs:
        words = (
            "each dot is one input set: the largest absolute error in units of the tolerance, log scale; "
            "a dot at the left edge is an exact agreement or below 1e-5 of the tolerance"
        )
        body += _figure(errors_chart(list(outputs.items())[:24]), words)
    if rows:
        heads = ["input set", "output", "largest error", "tolerance", "numbers compared"]
        body += details("as a table", table(heads, rows, "numbers"))
    body += f"<p class='note'>{esc(found.get('tolerance'), 900)}</p>"
    body += "".join(f"<p class='note'>not compared: {esc(t, 400)}</p>" for t in found.get("out_of_scope") or [])
    body += "".join(f"<p class='note'>{esc(t, 400)}</p>" for t in found.get("notes") or [])
    body += _power(found.get("power"))
    for one in found.get("kernels") or []:
        kind = "warning" if one["skipped_reason"] else "good" if one["passed"] else "bad"
        body += f"<p><span class='verdict {kind}'>{esc(one['summary'], 500)}</span></p>" + _power(one.get("power"))
    return section("verification", "Verification", body)


def _power(power: Record | None) -> str:
    if not power:
        return ""
    rows = [
        [esc(m["kind"]), esc(m["site"]), esc(m["verdict"]), esc(m["by"] or ""), numeral(_number(m["factor"]))]
        for m in (power.get("details") or [])[:200]
    ]
    heads = ["wrong rewrite", "site", "verdict", "told apart by", "error / tolerance"]
    lead = f"{esc(power.get('summary'))}: rewrites that are wrong on purpose"
    words = (
        "<p class='note'>A mutant is the rewritten model with one thing wrong on purpose: a slope off by 1 %, heads "
        "rolled, causality changed. It is killed if the same inputs tell it apart. One that passes says that "
        "these inputs could not have shown such a mistake.</p>"
    )
    return details(lead, words + table(heads, rows, "numbers"))


def precision_section(report: Record) -> str:
    """16-bit models: original and rewritten, each against the float32 original."""
    precision = (report.get("verification") or {}).get("precision")
    if not precision:
        why = "No 16-bit numbers were measured: the model is float32 throughout, or nothing was verified."
        return section("precision", "Precision in 16 bits", f"<p>{why}</p>")
    names = list(dict.fromkeys((*precision["original"], *precision["rewritten"])))
    pairs = [(n, _maybe(precision["original"].get(n)), _maybe(precision["rewritten"].get(n))) for n in names]
    words = (
        "<span class='key-original'>○</span> original, <span class='key-rewritten'>●</span> rewritten, each as it is "
        f"({esc(', '.join(precision['types']))}) against the float32 original: further left is more accurate"
    )
    body = _figure(precision_chart(pairs[:24]), words)
    rows = [[code(n), *("" if v is None else numeral(v) for v in (a, b))] for n, a, b in pairs]
    body += details("as a table", table(["output", "original", "rewritten"], rows, "numbers"))
    body += "".join(f"<p class='note'>{esc(t, 400)}</p>" for t in precision["notes"])
    return section("precision", "Precision in 16 bits", body)


def memory_section(report: Record) -> str:
    """Memory of the bias over the sequence length."""
    memory = _pictures(report).get("memory")
    if not memory or not any(memory["before"]):
        return section("memory", "Memory of the bias", "<p>No tensor of the shown attention holds a bias alone.</p>")
    chart = memory_chart(memory["lengths"], memory["before"], memory["after"])
    shape = " x ".join(map(str, memory["shape"]))
    lead = f"{code(memory['tensor'])} of {esc(shape)} elements of {memory['item']} bytes, at one attention, batch 1."
    found = at_length(memory)
    if found is not None:
        lead += f" At {NAMED_LENGTH:,} tokens: {size(found[0])} before, {size(found[1])} after."
    words = (
        "before: the tensor that the model materialises; after: slopes and key positions, which the fused node "
        "reads. A fused kernel makes no bias in memory; onnxruntime runs the function body as it is written, with "
        "temporaries of its own."
    )
    rows = [
        [str(n), size(b) if b is not None else "", size(a) if a is not None else ""]
        for n, b, a in zip(memory["lengths"], memory["before"], memory["after"], strict=True)
    ]
    body = _figure(chart, words) + details("as a table", table(["tokens", "before", "after"], rows, "numbers"))
    if memory["stored"]:
        body += f"<p>The original file also stores constant tables of {size(memory['stored'])} over keys for it.</p>"
    if memory["left"]:
        body += (
            f"<p>Still of S_q x S_kv elements after the rewrite: {code(memory['left'])} (a mask or a shared bias).</p>"
        )
    return section("memory", "Memory of the bias", body, lead)


def _number(value: object) -> float:
    """Infinities are strings in the report."""
    try:
        return float(str(value))
    except ValueError:
        return math.inf


def _maybe(value: object) -> float | None:
    number = None if value is None else _number(value)
    return number if number is not None and math.isfinite(number) else None
