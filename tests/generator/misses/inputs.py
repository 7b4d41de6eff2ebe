"""Graph inputs that near misses need: name, element type and shape."""

from __future__ import annotations

from onnx import TensorProto

from ..graph import Writer
from . import named

Input = tuple[str, int, list[object]]


def batch_slope(w: Writer, batch: object, new: object, total: object) -> Input:
    return "batch_slopes", w.kind, [batch, w.sp.heads]


def position_ids(w: Writer, batch: object, new: object, total: object) -> Input:
    return "position_ids", TensorProto.INT64, [batch, new]


def key_term(w: Writer, batch: object, new: object, total: object) -> Input:
    return "key_term", w.kind, [batch, total]


def float_mask_positions(w: Writer, batch: object, new: object, total: object) -> Input:
    return "weights", w.kind, [batch, new]


INPUTS = {**named(batch_slope, position_ids, key_term, float_mask_positions), "packed": position_ids}
