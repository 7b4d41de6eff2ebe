"""What was cut, for programs and for people: the file beside the ranks' models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto, TensorProto

from ..base.version import __version__
from ..graph.index import label
from .collectives import collective_of
from .cuts import AxisCut, Ranges
from .plan import AttentionCut, CutPlan

SCHEMA_VERSION = 1
"""Raised when a key changes its meaning or goes away."""

Json = dict[str, Any]


@dataclass(frozen=True)
class RankFile:
    """What was written for a rank.

    Attributes:
        model: Name of its model.
        data: Name of its data file.
        sha256: Of the model.
        weight_bytes: Bytes of its weights.
        cut_bytes: Of these, bytes of weights that are cut.
    """

    model: str
    data: str
    sha256: str
    weight_bytes: int
    cut_bytes: int


def manifest(plan: CutPlan, files: Sequence[RankFile], first: ModelProto, runtime: str) -> Json:
    """The manifest.

    Args:
        plan: What is cut.
        files: By rank.
        first: The model of the first rank, which has all collectives.
        runtime: Whose collectives they are.
    """
    cut = plan.cuts.tensors
    found = _collectives(plan, first)
    kinds = Counter(one["kind"] for one in found)
    layers = sum(one.divided is not None for one in plan.attentions)
    per_layer = {kind: round(count / layers, 2) for kind, count in sorted(kinds.items())} if layers else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "alibi-rewriter", "version": __version__},
        "ranks": plan.ranks,
        "runtime": runtime,
        "files": [{"rank": rank, **vars(one)} for rank, one in enumerate(files)],
        "attentions": [_attention(one) for one in plan.attentions],
        "features": [{"node": one.node, "features": one.features} for one in plan.features],
        "vocabulary": list(plan.vocabulary),
        "whole": dict(plan.whole),
        "inputs": {v.name: _cut(cut[v.name]) for v in plan.model.graph.input if v.name in cut},
        "outputs": {v.name: _cut(cut[v.name]) for v in plan.model.graph.output if v.name in cut},
        "collectives": found,
        "collectives_per_layer": per_layer,
    }


def _attention(one: AttentionCut) -> Json:
    record: Json = {"node": one.node, "heads": one.heads, "key_heads": one.key_heads}
    if one.divided is None:
        return {**record, "whole": one.reason}
    ranks = [
        {"heads": _range(queries), "key_heads": _range(keys)}
        for queries, keys in zip(one.divided.queries, one.divided.keys, strict=True)
    ]
    return {**record, "key_heads_replicated": one.divided.replicated, "ranks": ranks}


def _range(ranges: Ranges) -> list[int]:
    return [ranges[0][0], ranges[-1][1]]


def _cut(cut: AxisCut) -> Json:
    ranks = [[list(piece) for piece in part] for part in cut.parts]
    return {"axis": cut.axis, "period": cut.period, "ranks": ranks}


def cut_of(record: Mapping[str, Any]) -> AxisCut:
    """A cut as the manifest tells it."""
    parts = tuple(tuple((int(a), int(b)) for a, b in part) for part in record["ranks"])
    return AxisCut(int(record["axis"]), int(record["period"]), parts)


def _collectives(plan: CutPlan, model: ModelProto) -> list[Json]:
    """Every collective: what it makes, how many numbers per token, and of which type."""
    found = []
    for node in model.graph.node:
        one = collective_of(node)
        if one is None:
            continue
        output = node.output[0]
        made = next((name for name in (output, _stem(output)) if plan.interpreter.dims(name)), "")
        dims = plan.interpreter.dims(made) or ()
        features = dims[-1].constant if dims else None
        found.append(
            {
                "kind": "all_reduce" if one.axis is None else "all_gather",
                "node": label(node),
                "features": None if features is None else int(features),
                "type": TensorProto.DataType.Name(plan.interpreter.dtype(made)).lower(),
            }
        )
    return found


def _stem(name: str) -> str:
    """The tensor of the whole model that a collective's output belongs to."""
    return name.rpartition("/")[0]


def to_text(record: Mapping[str, Any], folder: str) -> list[str]:
    """The manifest in a few lines."""
    attentions, files = record["attentions"], record["files"]
    cut = [one for one in attentions if "whole" not in one]
    heads = sorted({(one["heads"], one["key_heads"]) for one in cut})
    said = ", ".join(f"{h} heads" if h == k else f"{h} heads on {k} key heads" for h, k in heads)
    per_layer = ", ".join(f"{count:g} {kind}" for kind, count in record["collectives_per_layer"].items())
    lines = [
        f"cut for {record['ranks']} ranks: {len(cut)} of {len(attentions)} attentions by heads ({said or 'none'}), "
        f"{len(record['features'])} products by features",
        f"collectives per layer: {per_layer or 'none'} ({record['runtime']})",
    ]
    lines += [f"whole on every rank: {one['node']}: {one['whole']}" for one in attentions if "whole" in one]
    lines += [f"whole on every rank: {node}: {why}" for node, why in record["whole"].items()]
    for one in files:
        size, part = one["weight_bytes"], one["cut_bytes"]
        lines.append(f"{folder}/{one['model']}: {_bytes(size)} of weights, {_bytes(part)} of them cut")
    return lines


def _bytes(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 1 << 20 else f"{number / 2**10:.1f} KiB"
