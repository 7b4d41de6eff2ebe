"""The report: one dictionary with stable keys, and the text that people read."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from ..base.errors import ExitCode
from ..base.version import __version__
from ..fused.family import EmptyRows
from ..graph.index import label
from .census import sentence
from .notices import policy_of, rows_record
from .records.binding import Binding
from .records.in_place import InPlace
from .records.proof import Proof
from .records.site import Site
from .result import Absorbed, PassResult

SCHEMA_VERSION = 1
"""Raised when a key of the report changes its meaning or goes away."""


def to_json(result: PassResult) -> dict[str, object]:
    """The report as a dictionary of JSON types.  Timings come last, so that the rest is reproducible."""
    analysis = result.analysis
    source = result.source
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "alibi-rewriter", "version": __version__},
        "versions": _versions(),
        "input": {
            "path": str(source.path) if source.path else None,
            "sha256": source.sha256 or None,
            "ir_version": source.model.ir_version,
            "opset": {o.domain or "ai.onnx": o.version for o in source.model.opset_import},
            "producer": source.model.producer_name,
        },
        "output": {"path": str(result.output) if result.output else None, "sha256": result.sha256 or None},
        "exit_code": int(result.exit_code),
        "census": census(result),
        "attention_found": None if analysis.proven else sentence(analysis),
        "sites": [_site(s, result) for s in analysis.sites if s.is_attention],
        "cache": _cache(result.cache),
        "edits": vars(result.counts).copy(),
        "verification": result.verification.to_json() if result.verification else None,
        "notes": list(result.notes),
        "timings": {k: round(v, 4) for k, v in result.seconds.items()},
    }


def census(result: PassResult) -> dict[str, int]:
    """How many sites there are, have a bias, are proven, are rewritten."""
    sites = result.analysis.sites
    return {
        "sites": sum(s.is_attention for s in sites),
        "biased": sum(s.is_biased for s in sites),
        "proven": len(result.analysis.proven),
        "rewritten": len(result.fused),
        "refused": len(result.analysis.refused),
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in (
        "numpy",
        "onnx",
        "onnx-graphsurgeon",
        "onnxruntime",
        "onnxruntime-gpu",
        "tensorrt",
        "tensorrt-rtx-cu13",
    ):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _site(site: Site, result: PassResult) -> dict[str, object]:
    fused = next((f for s, f in result.fused if s is site), None)
    record: dict[str, object] = {
        "id": site.name,
        "scope": site.scope.path,
        "anchor": {"node": label(site.anchor), "op_type": site.anchor.op_type},
        "verdict": "rewritten" if fused else ("proven" if site.binding else "refused"),
    }
    if site.binding is not None:
        record["proof"] = _proof(site.binding, site.checked, policy_of(site, result.fused))
    if fused is not None:
        record["still_materialised"] = result.left.get(site.name)
        record["absorbed"] = _absorbed(result.absorbed.get(site.name))
        record["node"] = {"op_type": fused.variant.op_type, "attributes": fused.attributes()}
    if site.refusal is not None and site.binding is None:
        refusal = site.refusal
        record["refusal"] = {
            "code": refusal.code.number,
            "title": refusal.code.title,
            "stage": refusal.stage.name.lower(),
            "node": refusal.node,
            "tensor": refusal.tensor,
            "detail": refusal.detail,
            "meaning": refusal.code.meaning,
            "remedy": refusal.code.remedy,
        }
    return record


def _cache(found: InPlace | None) -> dict[str, object] | None:
    if found is None:
        return None
    return {
        "key_lengths": found.lengths,
        "capacity": found.capacity,
        "removed_inputs": list(found.removed),
        "buffers": [{"past": one.past, "present": one.present} for one in found.buffers],
    }


def _absorbed(found: Absorbed | None) -> dict[str, object] | None:
    if found is None:
        return None
    return {
        "tensors": found.tensors,
        "copies": list(found.copies),
        "length": found.length,
        "bytes": found.bytes,
    }


def _proof(binding: Binding, checked: int, policy: EmptyRows) -> dict[str, object]:
    proof = binding.proof
    attention = proof.attention
    given = binding.given_slopes
    slopes = None if given is None else [float(slope) for slope in given]
    return {
        "form": proof.form.name,
        **({"parameters": _parameters(proof)} if proof.parameters else {}),
        "causal": proof.causal,
        "scale": float(attention.scale),
        "slopes": slopes,
        "slopes_at_run_time": binding.slopes.tensor if binding.slopes else None,
        "key_positions": binding.positions.tensor if binding.positions else None,
        "key_bias": binding.key_bias is not None,
        "rounding": _rounding(proof),
        "rows_without_keys": rows_record(binding, policy),
        "mask": {"boolean": binding.boolean is not None, "additive": binding.additive is not None},
        "window": {"left": proof.window.left, "right": proof.window.right} if proof.window.bounded else None,
        "bindings": {
            "query": binding.operand("query"),
            "key": binding.operand("key"),
            "value": binding.operand("value"),
            "scores": attention.scores,
            "output": binding.output.tensor,
        },
        "extents": {i.name: repr(i.bound) for i in attention.frame.order},
        "assumptions": list(proof.assumptions),
        "steps": list(proof.steps) + list(binding.notes),
        "self_check": checked,
        "bias_bytes": bias_bytes(binding),
    }


def _parameters(proof: Proof) -> dict[str, float]:
    return {name: float(value) for name, value in zip(proof.form.parameters, proof.parameters, strict=True)}


def _rounding(proof: Proof) -> str | None:
    """What became of a rounding of the bias to a narrow type, if the model has one."""
    if proof.rounded.terms:
        return "kept"
    return "left out" if proof.unrounded.terms else None


def bias_bytes(binding: Binding) -> str:
    """Bytes of the materialised bias at this site, as a formula in the extents."""
    frame = binding.proof.attention.frame
    heads = frame.head.bound if frame.head is not None else 1
    rows = 1 if binding.positions is not None else frame.row.bound
    return f"4 * ({heads!r}) * ({rows!r}) * ({frame.key.bound!r})"


# --- text ------------------------------------------------------------------------------------------------


def to_text(
    result: PassResult,
    *,
    explain: bool = False,
    verbose: bool = False,
    details: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The report for people.

    Args:
        result: The run.
        explain: Show every attention site, and the steps of every proof.
        verbose: Likewise, and everything about the verification.
        details: Lines to show below a site instead of the steps, by the site's name; sites that it lacks are
            left out.
    """
    counts = census(result)
    lines = [
        escape(f"{result.source.path or 'model'}: ")
        + f"{counts['sites']} attention site{_s(counts['sites'])}, {counts['biased']} with a position bias, "
        f"{counts['proven']} proven ALiBi, {counts['rewritten']} rewritten"
    ]
    for site in result.analysis.sites:
        if details is not None:
            if site.name in details:
                lines.append(_accepted(site, site.binding, explain=False)[0] if site.binding else _refused(site)[0])
                lines.extend(escape(f"    {row}") for row in details[site.name])
        elif site.binding is not None:
            lines.extend(_accepted(site, site.binding, explain=explain or verbose))
        elif site.is_biased or site.around is not None or ((explain or verbose) and site.is_attention):
            lines.extend(_refused(site))
    plain = [s for s in result.analysis.sites if s.is_attention and not s.is_biased and s.around is None]
    if plain and not (explain or verbose):
        lines.append(f"  {len(plain)} attention site{_s(len(plain))} without an ALiBi bias left as {_they(len(plain))}")
    if not result.analysis.proven:
        lines.append(escape(f"  {sentence(result.analysis)}"))
    lines.extend(escape(f"  note: {n}") for n in result.notes)
    if result.fused:
        edits = result.counts
        lines.append(
            f"edits: {edits.nodes_removed} nodes and {edits.initializers_removed} constants removed, "
            f"{edits.nodes_added} nodes and {edits.initializers_added} constants added"
        )
        lines.extend(escape(t) for t in _memory(result))
        lines.extend(_absorption(result))
        lines.extend(escape(t) for t in _in_place(result.cache))
    if result.verification is not None:
        lines.append("verification " + escape(result.verification.summary()))
        power = result.verification.power
        if power is not None and power.killed < power.counted:
            lines.append("  some mutants pass too, so these inputs are weak: see --explain, or give better --inputs")
        lines.extend(escape(f"  {n}") for n in _verification_details(result, verbose or explain))
    elif result.fused:
        lines.append("verification: not run")
    lines.append(_verdict(result, counts))
    return "\n".join(lines)


def _memory(result: PassResult) -> list[str]:
    """What is no longer materialised, and what still is."""
    counts: dict[str, int] = {}
    for site, _ in result.fused:
        if site.binding is not None and site.name not in result.left:
            formula = bias_bytes(site.binding)
            counts[formula] = counts.get(formula, 0) + 1
    lines = [f"memory: {n} bias{'es' if n > 1 else ''} of {f} bytes gone" for f, n in counts.items()]
    kept = sorted(set(result.left.values()))
    if kept:
        lines.append(f"memory: still of S_q x S_kv elements: {', '.join(kept[:4])}{', ...' if len(kept) > 4 else ''}")
    return lines


def _absorption(result: PassResult) -> list[str]:
    """What the fused nodes do themselves besides the attention."""
    found = list(result.absorbed.values())
    copies = sum(len(one.copies) for one in found)
    if not copies:
        return []
    counted = [one.bytes for one in found if one.bytes is not None]
    size = ""
    if len(counted) == len(found):
        size = f", {sum(counted) / 2**20:.1f} MiB of traffic at {max(one.length for one in found)} tokens"
    nodes = f"{copies} node{_s(copies)} that copied query, key, value or output"
    return [f"layouts: {nodes} gone{size}"]


def _in_place(cache: InPlace | None) -> list[str]:
    """What became of the caches."""
    if cache is None:
        return []
    rows = "rows as you choose" if cache.capacity is None else f"{cache.capacity} rows"
    gone = "".join(f"; input {name!r} is gone, since nothing is padded on the left" for name in cache.removed)
    return [
        f"cache: {len(cache.buffers)} buffers of {rows} in place; input {cache.lengths!r} [B] says how many keys each "
        f"sequence has, the new ones included{gone}"
    ]


def _s(number: int) -> str:
    return "" if number == 1 else "s"


def _they(number: int) -> str:
    return "it is" if number == 1 else "they are"


def escape(text: str) -> str:
    """Names come from the file.  Control characters could drive a terminal, and line feeds could forge lines."""
    if text.isprintable():  # a name may have a million characters
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _accepted(site: Site, binding: Binding, *, explain: bool) -> list[str]:
    proof = binding.proof
    heads = "" if proof.slopes is None else f", {len(proof.slopes)} heads"
    kind = "causal " if proof.causal else ""
    extras = [
        name
        for name, present in (
            ("key positions", binding.positions is not None),
            ("the bias as it is rounded, by key", bool(binding.proof.rounded.terms)),
            ("key bias", binding.key_bias is not None and not binding.proof.rounded.terms),
            (binding.proof.window.text, binding.proof.window.bounded),
            ("key lengths", binding.used is not None),
            ("boolean mask", binding.boolean is not None),
            ("additive mask", binding.additive is not None),
        )
        if present
    ]
    with_what = f" with {', '.join(extras[:-1])}{' and ' if extras[:-1] else ''}{extras[-1]}" if extras else ""
    row = f"  {site.name}: {kind}{proof.form.name}{heads}, scale {float(proof.attention.scale):.6g}{with_what}"
    lines = [escape(row)]
    if explain:
        lines.extend(escape(f"    {step}") for step in (*proof.steps, *binding.notes))
        lines.extend(escape(f"    assumes {a}") for a in proof.assumptions)
        lines.append(f"    the materialised bias took {bias_bytes(binding)} bytes")
    return lines


def _refused(site: Site) -> list[str]:
    refusal = site.refusal
    assert refusal is not None
    tensor = f", tensor '{refusal.tensor}'" if refusal.tensor else ""
    return [
        escape(f"  {site.name}: not rewritten [{refusal.code.number} {refusal.code.title}] {refusal.code.meaning}"),
        escape(f"    at node '{refusal.node}'{tensor}: {refusal.detail}"),
        escape(f"    {refusal.code.remedy}"),
    ]


def _verification_details(result: PassResult, everything: bool) -> list[str]:
    verification = result.verification
    assert verification is not None
    record = verification.to_json()
    lines: list[str] = []
    for key in ("tolerance", "out_of_scope", "notes"):
        value = record.get(key)
        if isinstance(value, str) and (everything or key == "out_of_scope"):
            lines.append(value)
        elif isinstance(value, list) and (everything or key != "tolerance"):
            lines.extend(str(v) for v in value)
    lines.extend(str(one["summary"]) for one in record["kernels"])
    precision = record.get("precision")
    if isinstance(precision, Mapping):
        lines.extend(_precision(precision))
    return lines


def _precision(precision: Mapping[str, Any]) -> list[str]:
    """Accuracy of a 16-bit model before and after, at the output where the original is worst."""
    original, rewritten = precision["original"], precision["rewritten"]
    worst = max(original, key=lambda name: original[name], default=None)
    lines = []
    if worst is not None and worst in rewritten:
        lines.append(
            f"{', '.join(precision['types'])} against the float32 original at output '{worst}': "
            f"original {original[worst]:.1e}, rewritten {rewritten[worst]:.1e}"
        )
    return [*lines, *precision["notes"]]


def _cure(result: PassResult) -> str:
    """What helps where nothing could be compared."""
    cure = result.verification.cure if result.verification is not None else ""
    return f"{cure} --no-verify writes it unverified.".strip()


def _verdict(result: PassResult, counts: Mapping[str, int]) -> str:
    code = result.exit_code
    if code is ExitCode.DONE and result.output is not None:
        left = f", in which {counts['refused']} biased site(s) are unchanged, as allowed" if counts["refused"] else ""
        return escape(f"wrote {result.output}{left}")
    if result.rewritten_before:
        number = result.rewritten_before
        return f"nothing was written: rewritten already ({number} fused node{_s(number)}), nothing else to rewrite"
    if code is ExitCode.NOT_VERIFIED:
        return f"NOT written: it could not be verified (exit 8). {_cure(result)}"
    if code is ExitCode.DONE:
        return "nothing was written (dry run)" if not result.fused else "done"
    if code is ExitCode.VERIFICATION_FAILED:
        return (
            "NOT written: the rewritten model does not compute what the original computes (exit 4). Report this model."
        )
    if counts["proven"]:
        return (
            f"NOT written: {counts['refused']} of {counts['biased']} biased sites cannot be rewritten. "
            "Pass --allow-partial to rewrite the others (exit 3)"
        )
    return "NOT written: nothing to rewrite (exit 3)"
