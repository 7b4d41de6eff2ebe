"""A note in a model's metadata of what was fused, so that it can be told later whether all of it is still there.

Other tools inline functions, drop them or remove nodes without a word.  ``rewrite check`` compares with this note.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from ..base.version import __version__
from ..fused.family import BY_OP_TYPE, is_fused
from .load import graphs

VERSION = "alibi_rewriter.version"
FUSED = "alibi_rewriter.fused"
INLINED = "alibi_rewriter.inlined"
"""Keys of the note; the latter two hold e.g. ``2 AlibiAttentionCausal, 1 AlibiAttentionLinear``."""

CACHE = "alibi_rewriter.cache"
"""Key of the note on caches in place: JSON with ``key_lengths`` and ``buffers``, pairs of input and output."""

_ENTRY = re.compile(r"(\d{1,9}) (\w+)")


def fused_nodes(model: ModelProto) -> list[NodeProto]:
    """The nodes of the family that run: in the graph, then in bodies."""
    return [node for graph in graphs(model) for node in graph.node if is_fused(node)]


def fused_calls(model: ModelProto) -> list[NodeProto]:
    """All nodes of the family, those in functions last."""
    return [*fused_nodes(model), *(node for function in model.functions for node in function.node if is_fused(node))]


def count(model: ModelProto) -> Counter[str]:
    """How many nodes of the family there are, by op_type."""
    return Counter(node.op_type for node in fused_calls(model))


def write(model: ModelProto, *, inlined: Mapping[str, int] | None = None) -> None:
    """Note what the model holds now.

    Args:
        model: Changed.
        inlined: Nodes whose bodies were put in their place, by op_type.
    """
    entries = {VERSION: __version__, FUSED: _text(count(model)), INLINED: _text(inlined or {})}
    kept = [entry for entry in model.metadata_props if entry.key not in entries]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in entries.items():
        if value:
            model.metadata_props.add(key=key, value=value)


@dataclass(frozen=True)
class HeldCache:
    """Caches in place, as the note has them.

    Attributes:
        lengths: The input that says how many keys each sequence has.
        buffers: Inputs with the outputs that may be the same memory.
    """

    lengths: str
    buffers: tuple[tuple[str, str], ...]


def write_cache(model: ModelProto, held: HeldCache) -> None:
    """Note which inputs are buffers.

    Args:
        model: Changed.
        held: What to note.
    """
    content = json.dumps({"key_lengths": held.lengths, "buffers": held.buffers}, separators=(",", ":"))
    model.metadata_props.add(key=CACHE, value=content)


def read_cache(metadata: Mapping[str, str]) -> HeldCache | None:
    """What the note says of caches; None without one.

    Args:
        metadata: Of a model, as onnxruntime hands it out as well.

    Raises:
        ValueError: It is no such note.
    """
    if CACHE not in metadata:
        return None
    try:
        content = json.loads(metadata[CACHE])
        pairs = tuple((str(past), str(present)) for past, present in content["buffers"])
        return HeldCache(str(content["key_lengths"]), pairs)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"metadata {CACHE!r} does not say which inputs are buffers: {error}") from None


def read(model: ModelProto, key: str) -> Counter[str] | None:
    """What the note says under ``FUSED`` or ``INLINED``, by op_type; None if there is no such entry."""
    value = next((entry.value for entry in model.metadata_props if entry.key == key), None)
    if value is None:
        return None
    return Counter({op_type: int(number) for number, op_type in _ENTRY.findall(value) if op_type in BY_OP_TYPE})


def _text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[op_type]} {op_type}" for op_type in sorted(counts))
