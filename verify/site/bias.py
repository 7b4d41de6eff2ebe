"""The bias of a site itself, beside its output.  With queries of zero the scores are the bias.

An output shows the keys that have weight, and rounding of a table is allowed to move it.  Entries tell more.  Each has
the rounding of its own size and no more, even for a key that the row hardly looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...fused import body as function_body
from ...fused.family import DOMAIN
from ...patterns.masks import HIDDEN_BELOW
from ..judge.rounding import UNIT_ROUNDOFF
from ..run.runtime import Array

BIAS = "the bias, with queries of zero"
"""What it is called among the outputs."""

SCORES = "scores_with_bias"
"""The output that a rewritten site gets for its scores."""

_ULP = 2.0
"""Unit roundoffs in a unit in the last place, which the proof allows an entry of a table."""

_NO_WEIGHT = 745.0
"""Below the largest entry of its row a key has no weight, in float64 either."""

_MOST_ENTRIES = 1 << 20
"""Of larger scores some rows are looked at."""


@dataclass(frozen=True)
class Bias:
    """The bias of one input set as the original adds it, relative to a key of the same row.

    Softmax does not see what is constant along a row.  Rows are measured from the key whose entry is smallest, since
    that one has the least rounding.

    Attributes:
        rows: The rows that are looked at.
        reference: The key that each is measured from, [B, H, rows, 1].
        visible: True where a row sees a key that can have weight.
        hidden: True where a row that sees another key does not see this one, whatever weight it would have.
        values: The bias, 0 where it is not visible.
        allowance: How far another one may be from it: a unit in the last place of the type that it is stored in, and
            the rounding of a slope, which is a float32.
    """

    rows: Array
    reference: Array
    visible: Array
    hidden: Array
    values: Array
    allowance: Array

    @classmethod
    def of(cls, scores: Array, visible: Array, stored: Sequence[str]) -> Bias:
        """The bias in scores [B, H, S_q, S_kv] of zero queries.

        Args:
            scores: The original's.
            visible: True where a row sees a key.
            stored: The types that the entries may be rounded to.
        """
        batch, heads, length, keys = scores.shape
        most = max(1, _MOST_ENTRIES // max(1, batch * heads * keys))
        rows = np.unique(np.linspace(0, length - 1, min(length, most)).astype(np.int64))
        scores, visible = scores[:, :, rows].astype(np.float64), visible[:, :, rows]
        hidden = ~visible & visible.any(axis=-1, keepdims=True)
        # Masks of the lowest float16 leave a key to be seen or not, as the bias beside them has it.
        visible = visible & (scores > HIDDEN_BELOW / 2)
        visible = visible & (scores > np.where(visible, scores, -np.inf).max(axis=-1, keepdims=True) - _NO_WEIGHT)
        scores = np.where(visible, scores, 0.0)
        reference = np.argmin(np.where(visible, np.abs(scores), np.inf), axis=-1)[..., None]
        measured = np.take_along_axis(scores, reference, -1)
        unit = _ULP * max(UNIT_ROUNDOFF[name] for name in stored) + UNIT_ROUNDOFF["float32"]
        allowance = unit * (np.abs(scores) + np.abs(measured))
        return cls(rows, reference, visible, hidden, np.where(visible, scores - measured, 0.0), allowance)

    def seen_in(self, scores: Array) -> Array:
        """The same of other scores, whose shape is the same or can be spread to it; a huge one at a key seen in vain.

        Raises:
            ValueError: It cannot.
        """
        whole = np.broadcast_to(scores, (*self.values.shape[:2], *scores.shape[2:]))[:, :, self.rows]
        whole = np.broadcast_to(whole, self.values.shape).astype(np.float64)
        bias = np.where(self.visible, whole - np.take_along_axis(whole, self.reference, -1), 0.0)
        return np.where(self.hidden & (whole > HIDDEN_BELOW / 2), float(-HIDDEN_BELOW), bias)

    @property
    def compared(self) -> Array:
        """True at the entries that tell something."""
        compared: Array = self.visible | self.hidden
        return compared


def with_scores(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A rewritten site, or a mutant of it, that yields its scores as well."""
    changed = deepcopy(proto)
    (node,) = (n for n in changed.graph.node if n.domain == DOMAIN)
    body = next(f for f in changed.functions if (f.domain, f.name) == (node.domain, node.op_type))
    body.output.append(function_body.SCORES)
    node.output.append(SCORES)
    changed.graph.output.append(helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, None))
    return changed
