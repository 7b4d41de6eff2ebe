"""Which tile each kernel gets: data, in ``configurations.json``.

The file is a list of rules, first match first.  A rule names what it is for (role, architectures, element
size, range of head sizes, whether there is a mask, the form) and how to cut; its optional ``conditions`` on sizes
stay with the image and are decided when it is launched, so a request may get several images for one role,
the last of them without conditions.  ``programs`` says how many programs of a decode a multiprocessor is to have.
Rules marked ``measured`` were chosen by timing on that device; the others from what the compiler reports
(``resources``): the largest tile that fits and does not spill.  Where nothing was measured, an ``alternative`` of half
the rows comes behind the first choice: TensorRT may time both, as tactics.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from ..launch.description import Condition
from ..requests import ELEMENT_BYTES, SMALLEST_TILE, BufferLayout, KernelRequest, Tile, is_symmetric

SKIP_FROM = 3072
"""Keys from which the two launches that certify cost less than they save on random data."""


MASK_BLOCK = 64
"""Keys of a block where masks have rows."""
MASK_CONDITIONS = (Condition("s_kv", at_most=1 << 21),)
"""The blocks on either side of the diagonal are counted in 16 bits."""


@dataclass(frozen=True)
class Configuration:
    """One kernel to compile.

    Attributes:
        role: What it is for.
        engine: ``portable`` (Triton) or ``hopper`` (Gluon, sm_90).
        arch: Compute capability times ten.
        tile: How the work is cut.
        options: Further compile-time constants of the engine.
        conditions: Sizes for which it may be chosen.
        programs: How many programs of a decode a multiprocessor is to have.
    """

    role: str
    engine: str
    arch: int
    tile: Tile
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    conditions: tuple[Condition, ...] = ()
    programs: int = 1


@functools.cache
def _rules() -> list[dict[str, Any]]:
    text = resources.files(__package__).joinpath("configurations.json").read_text()
    return list(json.loads(text)["rules"])


def applies(rule: dict[str, Any], request: KernelRequest, arch: int) -> bool:
    """Whether a rule of the table is for this request on this architecture."""
    variant = request.variant
    largest = max(request.head_dim, request.value_dim, SMALLEST_TILE)
    low, high = rule.get("head_dim", [0, 256])
    if arch not in rule["arch"] or not low <= largest <= high:
        return False
    # The Hopper kernel takes one thing that differs by key, and windows where nothing does.
    by_key = (variant.key_bias or variant.lengths) and (variant.window or request.mask_dtype is not None)
    if rule["engine"] == "hopper" and (by_key or (variant.window and variant.positions)):
        return False
    facts = {
        "element_bytes": ELEMENT_BYTES[request.dtype],
        "causal": variant.causal,
        "symmetric": is_symmetric(variant),
        "positions": variant.positions,
        # A window or a key bias takes registers as a mask does.
        "masked": request.mask_dtype is not None
        or variant.window
        or variant.key_bias
        or (variant.lengths and rule["engine"] == "hopper"),
        "key_bias": variant.key_bias,
        # Whether what differs by key or row is a number, not only whether a key is seen.
        "additive": request.mask_dtype not in (None, "bool") or variant.key_bias,
        "square": request.head_dim == request.value_dim,
    }
    return all(rule[name] == fact for name, fact in facts.items() if name in rule)


def why_not_skipped(request: KernelRequest, layout: BufferLayout | None = None) -> str | None:
    """Why nothing can be certified for a kind of node, or None; ``layout`` is what is known of its mask.

    Keys have to be far from a row on one side of it or on both, and what is said of them has to be said to all rows.
    """
    variant = request.variant
    if variant.window:
        return "it has a window"
    if not (variant.causal or is_symmetric(variant)):
        return "it is neither causal nor symmetric"
    if layout is not None and layout.mask_rows:
        return "its mask differs by row or head"
    return None


def certifies(configuration: Configuration) -> bool:
    """Whether a kernel belongs to certified skipping."""
    return bool(configuration.options.get("SKIP")) or configuration.role in ("key_norms", "reach")


def configurations(request: KernelRequest, arch: int, *, skip: bool = False) -> list[Configuration]:
    """The kernels of a request on one architecture, in the order in which they are to be tried.

    Raises:
        LookupError: If no rule covers a role.
    """
    roles = ["prefill", "decode", "decode_split", "combine"]
    certified = skip and why_not_skipped(request) is None
    found: list[Configuration] = []
    for role in roles:
        matching = [rule for rule in _rules() if rule["role"] == role and applies(rule, request, arch)]
        complete = False
        # Engines with a kernel for all sizes: further rules for them would never be reached.
        settled: set[str] = set()
        for rule in (rule for rule in matching if not rule.get("alternative")):
            if complete:
                break
            if rule["engine"] in settled:
                continue
            options = dict(rule.get("options", {}))
            conditions = tuple(Condition(**condition) for condition in rule.get("conditions", []))
            tile = Tile(*rule["tile"])
            # Behind the rows there, keys would be cut off.
            aligned = request.variant.lengths and rule["engine"] == "hopper"
            own = (Condition("first_surplus", at_most=0),) if aligned else ()
            short = any(c.size == "s_kv" and c.at_most and c.at_most < SKIP_FROM for c in conditions)
            if certified and role == "prefill" and not short:
                worth = (*conditions, Condition("s_kv", at_least=SKIP_FROM), Condition("surplus", at_least=0), *own)
                found.append(Configuration(role, rule["engine"], arch, tile, {**options, "SKIP": True}, worth))
            programs = rule.get("programs", 1)
            found.append(Configuration(role, rule["engine"], arch, tile, options, (*conditions, *own), programs))
            if not conditions:
                settled.add(rule["engine"])
            # The Hopper kernel has conditions of its own and needs something behind it.
            complete = not conditions and rule["engine"] == "portable"
        if not complete:
            raise LookupError(f"no configuration of {role} for {request} on sm_{arch}")
        # Behind the first choice, so that only who asks for another one gets it.
        alternatives = (rule for rule in matching if rule.get("alternative"))
        found += [Configuration(role, rule["engine"], arch, Tile(*rule["tile"])) for rule in alternatives]
    for rule in (rule for rule in _rules() if rule["role"] == "extend" and applies(rule, request, arch)):
        conditions = tuple(Condition(**condition) for condition in rule["conditions"])
        found.append(Configuration("extend", rule["engine"], arch, Tile(*rule["tile"]), {}, conditions))
    if certified:
        found.append(Configuration("key_norms", "portable", arch, Tile(64, 64, 4, 1)))
        found.append(Configuration("reach", "portable", arch, Tile(128, 64, 8, 1)))
    return found


def reads_mask_rows(request: KernelRequest) -> bool:
    """Whether the Hopper kernel takes masks with rows of this request, or windows: ``blocks`` looks at them before."""
    variant = request.variant
    return (request.mask_dtype is not None or variant.window) and not variant.positions and not variant.key_bias


def with_mask_rows(configuration: Configuration) -> tuple[Configuration, Configuration]:
    """The Hopper kernel for masks with rows, and the launch before it that looks at the mask, by the same blocks."""
    old = configuration.tile
    # Smaller blocks leave out more, and a mask of 64 x 128 numbers has no room in registers.
    tile = Tile(old.block_m, MASK_BLOCK, old.warps, old.stages * old.block_n // MASK_BLOCK)
    options = {**configuration.options, "MASK_ROWS": True}
    return (
        dataclasses.replace(configuration, tile=tile, options=options, conditions=MASK_CONDITIONS),
        Configuration("blocks", "portable", configuration.arch, Tile(tile.block_m, tile.block_n, 4, 1)),
    )
