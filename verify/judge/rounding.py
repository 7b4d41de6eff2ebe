"""The one allowance beyond the fixed limit: a bias that the original rounds before it is added.

The rewritten model computes slope * distance exactly.  A table of a 16-bit model holds each product rounded to its
type.  That difference is in the file, so widening both models to float32 does not remove it.  In float32 it matters
where slopes are large numbers given at run time.  How far it may move an output is measured and not guessed.  The
rewritten model is run once more with every bias entry moved by the largest rounding such a bias can have, up at even
keys and down at odd ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...fused.body import DISTANCE, KEY_COUNT, KEYS, SLOPES_PER_HEAD
from ..errors import RunError
from ..inputs.draw import InputSet
from ..power.mutants import Edit, FusedNode, edit_sites, find_sites
from ..run.clone import CloneSource
from ..run.runtime import Array, Arrays, Model, Session
from .compare import Allowance, OutputAxes, compare

UNIT_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}
"""Largest relative error of rounding to a type."""

_FACTOR = 2.0
"""An entry may be one unit in the last place off, which is two unit roundoffs."""


_PATTERNS = 2.0
"""At a site alone entries move by their own rounding, in two patterns.  Other patterns may weigh twice as much."""

NOISE = "rounding_noise"
"""The input that a site's model gets for what rounding may add to its bias."""


@dataclass(frozen=True)
class SiteRounding:
    """What is known where a model is one site.

    Attributes:
        spread: From how far each element of an output moved, by name, to what is allowed there.
        bias: The bias of an input set as the original adds it, [B, H, S_q, S_kv], zero where a key is hidden, and
            where one is visible: every entry has the rounding of its own size.  None if it cannot be had; then each
            gets that of the largest.
        wide: The outputs are those of float64; in float32 the fused node rounds too, which counts from the row.
    """

    spread: Callable[[str, Array], Allowance]
    bias: Callable[[InputSet], tuple[Array, Array]] | None
    wide: bool


def tables(source: CloneSource, heads: int, weights: Collection[str] = ()) -> tuple[str, ...]:
    """16-bit types of the constants that may hold a bias: with more elements than there are slopes.

    Args:
        source: The original.
        heads: The number of heads.
        weights: Constants that hold no bias.
    """
    found = {kind for name, (kind, count) in source.stored.items() if count > heads and name not in weights}
    return tuple(sorted(found))


def rounding_allowances(
    rewritten: Model,
    narrow: Sequence[str],
    sets: Sequence[InputSet],
    outputs: Sequence[Arrays],
    layouts: dict[str, OutputAxes],
    *,
    threads: int,
    site: SiteRounding | None = None,
) -> list[dict[str, Allowance]] | None:
    """How far rounding of a stored bias can move each output.

    Args:
        rewritten: The rewritten model as a float32 clone.
        narrow: The types that the bias may be rounded to.
        sets: Input sets.
        outputs: The rewritten model's outputs on them.
        layouts: Axes of the outputs.
        threads: Threads of onnxruntime.
        site: What is known where the model is one site.

    Returns:
        For every input set the absolute allowance by output, or None where it cannot be measured.
    """
    sites = find_sites(rewritten.proto)
    if not narrow or not sites:
        return None
    unit = max(UNIT_ROUNDOFF[name] for name in narrow)
    allowances: list[dict[str, Allowance]] = [{} for _ in sets]

    def allow(proto: onnx.ModelProto, noises: Sequence[Callable[[Array, Array], Array]] = ()) -> None:
        """Adds how far the outputs of a changed model are from those of the rewritten one, for each kind of noise."""
        session = Session(replace(rewritten, proto=proto), threads=threads)
        for one, exact, allowance in zip(sets, outputs, allowances, strict=True):
            bias = site.bias(one) if noises and site is not None and site.bias is not None else None
            for noise in noises or (None,):
                given = {} if noise is None or bias is None else {NOISE: unit * noise(*bias)}
                disturbed = session.run({**one.arrays, **given})
                for entry in compare(one, exact, disturbed, layouts):
                    name = entry.output
                    extra: Allowance = _FACTOR * entry.max_abs
                    if site is not None:
                        moved = np.abs(disturbed[name].astype(np.float64) - exact[name])
                        extra = _PATTERNS * _FACTOR * site.spread(name, moved)
                    allowance[name] = allowance.get(name, 0.0) + extra

    try:
        if site is not None and site.bias is not None:
            # Rounding of entries differs from key to key.  Rounding of a slope is the same for all of them.
            alternating = _alternating if site.wide else _alternating_in_float32
            allow(_with_input(rewritten.proto, sites), (alternating, lambda bias, visible: bias))
        else:
            allow(_with_noise(rewritten.proto, sites, unit))
        if site is not None:
            allow(_with_scale(rewritten.proto, sites))
    except RunError:
        return None
    return allowances


def _alternating(bias: Array, visible: Array) -> Array:
    """The magnitude of every entry, up and down in turn among the keys that a row sees."""
    signs = 1.0 - 2.0 * (np.cumsum(visible, axis=-1) % 2)
    alternating: Array = np.abs(bias) * signs
    return alternating


def _alternating_in_float32(bias: Array, visible: Array) -> Array:
    """The same, with entries that the fused node counts from the row.  They are at most as large as a row is wide."""
    highest = np.where(visible, bias, -np.inf).max(axis=-1, keepdims=True)
    lowest = np.where(visible, bias, np.inf).min(axis=-1, keepdims=True)
    width = np.where(visible.any(axis=-1, keepdims=True), highest - lowest, 0.0)
    return _alternating(np.abs(bias) + width, visible)


def describe(narrow: Sequence[str]) -> str:
    """The note that a report carries where the allowance was needed."""
    unit = max(UNIT_ROUNDOFF[name] for name in narrow)
    return (
        "the difference exceeds the fixed limit, but not what a bias rounded to "
        f"{' or '.join(narrow)} explains: the limit includes {_FACTOR:g} times the change of the output when every "
        f"bias entry moves by a relative {unit:.1e} of its largest value, alternately up and down"
    )


def _with_scale(proto: onnx.ModelProto, sites: Sequence[FusedNode]) -> onnx.ModelProto:
    """The model with the scale, which is a float32, a unit in the last place larger."""

    def edit(site: Edit) -> None:
        for attribute in site.node.attribute:
            if attribute.name == "scale":
                attribute.f = float(np.nextafter(np.float32(attribute.f), np.float32(np.inf)))

    return edit_sites(proto, sites, edit)


def _with_input(proto: onnx.ModelProto, sites: Sequence[FusedNode]) -> onnx.ModelProto:
    """The model with one more input [B, H, S_q, S_kv], which is added to slope times distance."""

    def disturb(body: onnx.FunctionProto) -> None:
        product = [SLOPES_PER_HEAD, DISTANCE]
        where, node = next((k, n) for k, n in enumerate(body.node) if list(n.input) == product)
        bias, node.output[0] = node.output[0], "bias_exact"
        body.node.insert(where + 1, helper.make_node("Add", ["bias_exact", NOISE], [bias]))
        body.input.append(NOISE)

    def edit(site: Edit) -> None:
        site.own_body(disturb)
        site.node.input.append(NOISE)

    changed = edit_sites(proto, sites, edit)
    changed.graph.input.append(helper.make_tensor_value_info(NOISE, TensorProto.FLOAT, [None] * 4))
    return changed


def _with_noise(proto: onnx.ModelProto, sites: Sequence[FusedNode], unit: float) -> onnx.ModelProto:
    """The model with distance(i, j) + unit * S_kv * (-1)^j instead of distance(i, j)."""

    def disturb(body: onnx.FunctionProto) -> None:
        where, node = next((index, node) for index, node in enumerate(body.node) if node.output[0] == DISTANCE)
        node.output[0] = "distance_exact"
        steps = [
            _constant("noise_two", np.asarray(2, np.int64)),
            helper.make_node("Mod", [KEYS, "noise_two"], ["noise_odd"]),
            helper.make_node("Cast", ["noise_odd"], ["noise_odd_float"], to=TensorProto.FLOAT),
            _constant("noise_minus_two", np.asarray(-2, np.float32)),
            helper.make_node("Mul", ["noise_odd_float", "noise_minus_two"], ["noise_steps"]),
            _constant("noise_one", np.asarray(1, np.float32)),
            helper.make_node("Add", ["noise_steps", "noise_one"], ["noise_signs"]),
            helper.make_node("Cast", [KEY_COUNT], ["noise_length"], to=TensorProto.FLOAT),
            _constant("noise_unit", np.asarray(unit, np.float32)),
            helper.make_node("Mul", ["noise_length", "noise_unit"], ["noise_size"]),
            helper.make_node("Mul", ["noise_signs", "noise_size"], ["noise"]),
            # [S_kv] against [.., S_q, S_kv]
            helper.make_node("Add", ["distance_exact", "noise"], [DISTANCE]),
        ]
        for step in reversed(steps):
            body.node.insert(where + 1, step)

    def edit(site: Edit) -> None:
        # The body is that of the file.  With another one, its mistakes would be taken for rounding.
        site.own_body(disturb)

    return edit_sites(proto, sites, edit)


def _constant(name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
