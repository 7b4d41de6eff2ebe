"""What tells a function body how many rows and keys there are, where that is known of all nodes that use it."""

from __future__ import annotations

from collections.abc import Sequence

from ...fused.body import KnownSizes, Rows
from ..bind.masks import indices_in
from ..interpret import Interpreter
from ..records.binding import Binding


def sizes_of(interpreter: Interpreter, binding: Binding) -> KnownSizes:
    """What tells S_q and S_kv: tensors that layers share, where that is known."""
    frame = binding.proof.attention.frame
    held = indices_in(binding.additive) | indices_in(binding.boolean)
    square = interpreter.facts.normal(frame.offset).constant == 0
    return KnownSizes(Rows.KEYS if square else Rows.MASK if frame.row in held else Rows.QUERY, frame.key in held)


def common_sizes(found: Sequence[KnownSizes]) -> KnownSizes:
    """What holds for all nodes of one op_type."""
    rows = {sizes.rows for sizes in found}
    return KnownSizes(rows.pop() if len(rows) == 1 else Rows.QUERY, all(sizes.keys_in_mask for sizes in found))
