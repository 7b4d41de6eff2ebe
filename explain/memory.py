"""What the bias of a site takes in memory, before and after, over the length of the sequence."""

from __future__ import annotations

from dataclasses import dataclass

from ..algebra import Atom, Index, Poly, Size, Substitution, poly, substitute
from ..graph.index import numpy_type
from ..rewriter.records.binding import Binding
from ..rewriter.records.site import Site

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Sequence lengths of the curve; a batch of one, no cache."""

_SLOPE_BYTES = 4
_POSITION_BYTES = 4


@dataclass(frozen=True)
class BiasMemory:
    """The tensor that holds a bias.

    Attributes:
        tensor: Its name.
        shape: Its extents.
        item: Bytes of an element.
        before: Bytes per length, None where the extents do not follow from the length.
        after: Bytes per length of slopes and key positions, which the fused node reads instead.
        stored: Bytes of the constant tables over keys that the original file keeps for it.
    """

    tensor: str
    shape: tuple[str, ...]
    item: int
    before: tuple[int | None, ...]
    after: tuple[int | None, ...]
    stored: int


def bias_memory(site: Site, binding: Binding) -> BiasMemory | None:
    """The memory of one proven site's bias; None where no tensor holds the bias alone."""
    attention = binding.proof.attention
    evidence = binding.proof.evidence
    if evidence is None or evidence.materialised is None:
        return None
    tensor = evidence.materialised[0]
    dims = site.interpreter.dims(tensor)
    if dims is None:
        return None
    facts = site.interpreter.facts
    dims = tuple(facts.normal(d) for d in dims)
    kind = site.interpreter.dtype(tensor)
    dtype = numpy_type(kind)
    item = 4 if dtype is None else dtype.itemsize
    heads = attention.frame.head.bound.constant if attention.frame.head is not None else 1
    batch_and_keys = facts.normal(attention.frame.key.bound) if binding.positions is not None else poly(0)
    before: list[int | None] = []
    after: list[int | None] = []
    for length in LENGTHS:
        sizes = _sizes(site, binding, length)
        count = 1
        extents = [_value(d, sizes) for d in dims]
        for extent in extents:
            count *= extent or 0
        before.append(None if any(e is None for e in extents) else count * item)
        keys = _value(batch_and_keys, sizes)
        after.append(None if keys is None else int(heads or 0) * _SLOPE_BYTES + keys * _POSITION_BYTES)
    return BiasMemory(tensor, tuple(map(repr, dims)), item, tuple(before), tuple(after), _stored(site, binding))


def _sizes(site: Site, binding: Binding, length: int) -> Substitution:
    """Unknown sizes for a batch of one and a sequence of that length without a cache."""
    frame = binding.proof.attention.frame
    facts = site.interpreter.facts
    rows = _names(facts.normal(frame.row.bound))
    keys = _names(facts.normal(frame.key.bound))
    batch = _names(facts.normal(frame.batch.bound)) if frame.batch is not None else []
    long = rows or keys[:1]
    sizes: Substitution = {a: poly(0) for a in keys}
    sizes.update({a: poly(length) for a in long})
    sizes.update({a: poly(1) for a in batch if a not in sizes})
    return sizes


def _names(value: Poly) -> list[Atom]:
    return sorted(a for a in value.all_atoms() if isinstance(a, Size))


def _value(extent: Poly, sizes: Substitution) -> int | None:
    number = substitute(extent, sizes).constant
    return None if number is None or number < 0 else int(number)


def _stored(site: Site, binding: Binding) -> int:
    attention = binding.proof.attention
    key = attention.frame.key
    sizes: dict[str, int] = {}
    for (tensor, place), _ in site.interpreter.visited(attention.scores, attention.scores_index):
        moving = any(isinstance(a, Index) and a == key for x in place for a in x.all_atoms())
        array = site.interpreter.scope.constant(tensor) if moving else None
        if array is not None and array.dtype.kind == "f":
            sizes[tensor] = int(array.nbytes)
    return sum(sizes.values())
