"""What ``tune.py`` chooses from, as data: classes of kernels, their candidates, the attentions that they are timed on.

A class has the part of a rule of ``configurations.json`` that says what it is for.  Classes with shapes are timed on a
device, and the fastest candidate becomes a measured rule; the others take the first candidate that fits and does not
spill on any of their architectures, so their candidates are in order: larger tiles first.

A new option of the Hopper kernel is a name and its values in HOPPER_OPTIONS.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shapes import Shape

TileSize = tuple[int, int, int, int]
"""Query rows, keys, warps, stages."""


@dataclass(frozen=True)
class Candidate:
    """A tile and the options of its engine."""

    tile: TileSize
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Short and unique, for file names."""
        text = json.dumps([self.tile, self.options], sort_keys=True)
        rows, keys, warps, stages = self.tile
        return f"{rows}x{keys}w{warps}s{stages}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Kind:
    """A class of kernels.

    Attributes:
        name: For people and ``--only``.
        rule: What the rule is for, in the words of ``configurations.json``.
        candidates: In order of preference.
        shapes: What they are timed on; empty where there is no device.
        behind: Rules that come before this one and take what they are for.
    """

    name: str
    rule: Mapping[str, Any]
    candidates: tuple[Candidate, ...]
    shapes: tuple[Shape, ...] = ()
    behind: tuple[Mapping[str, Any], ...] = ()

    @property
    def choice(self) -> str:
        """How ``rules.choose`` chooses."""
        return "fastest" if self.shapes else "first"


HOPPER_TILES = {
    64: ((128, 128, 4, 4), (128, 64, 4, 8), (192, 64, 4, 8)),
    128: ((128, 64, 4, 4), (128, 128, 4, 2)),
    256: ((128, 64, 4, 2), (128, 32, 4, 4)),
}
"""By padded head size."""
HOPPER_THREE = {"CONSUMER_REGISTERS": 160, "PRODUCER_REGISTERS": 32}
"""What three warpgroups of consumers leave each, and the producer."""
HOPPER_OPTIONS: dict[str, tuple[Any, ...]] = {}
"""Further options and their values, preferred ones first; None leaves the option to the kernel and is not written."""

BY_PRODUCT: dict[str, tuple[Any, ...]] = {"TERMS": (True, None)}
"""What differs by key as a product of its own, or added by the threads."""


def varied(
    tiles: Sequence[TileSize], fixed: Mapping[str, Any], options: Mapping[str, Sequence[Any]]
) -> tuple[Candidate, ...]:
    """Every tile with every combination of options."""
    found = []
    for tile, *values in itertools.product(tiles, *options.values()):
        chosen = {name: value for name, value in zip(options, values, strict=True) if value is not None}
        found.append(Candidate(tile, {**fixed, **chosen}))
    return tuple(found)


def plain(*tiles: TileSize) -> tuple[Candidate, ...]:
    """Tiles without options."""
    return tuple(Candidate(tile) for tile in tiles)


def _both(*shapes: Shape) -> tuple[Shape, ...]:
    """Each in both 16-bit types, which share a rule."""
    return tuple(dataclasses.replace(shape, dtype=dtype) for shape in shapes for dtype in ("bfloat16", "float16"))


def _hopper_candidates(padded: int, *, more_keys_first: bool = True, terms: bool = False) -> tuple[Candidate, ...]:
    """The tiles of a padded head size, each with what it takes; with ``terms`` with and without TERMS."""
    found: list[Candidate] = []
    tiles = HOPPER_TILES[padded]
    options = {**HOPPER_OPTIONS, **(BY_PRODUCT if terms else {})}
    for tile in tiles if more_keys_first else tiles[::-1]:
        fixed: dict[str, Any] = {"QUERIES": 1} if padded == 256 else {}
        found += varied((tile,), {**fixed, **(HOPPER_THREE if tile[0] == 192 else {})}, options)
    return tuple(found)


def _hopper() -> Iterator[Kind]:
    base = {"role": "prefill", "engine": "hopper", "arch": [90], "element_bytes": 2}
    for low, high, size in ((8, 64, 64), (72, 128, 128), (136, 256, 256)):
        for_size = {**base, "head_dim": [low, high], "square": True}
        candidates = _hopper_candidates(size)
        long = Shape(4, 16, 16, 4096, 4096, size, True)
        many = Shape(32, 12, 12, 512, 512, size, False)
        if size == 64:
            wide = Shape(1, 12, 12, 2048, 2048, size, False)
            spares = [{"size": "wide_saves", "at_least": 10}, {"size": "s_kv", "at_most": 3071}]
            for masked in (True, False):
                yield Kind(
                    f"hopper {low}-{high} spared rounds{' key mask' if masked else ''}",
                    {**for_size, "positions": False, "key_bias": False, "masked": masked, "causal": False,
                     "symmetric": True, "conditions": spares},
                    _hopper_candidates(size, terms=masked),
                    _both(dataclasses.replace(wide, extra="additive keys") if masked else wide),
                )  # fmt: skip
            biased = dataclasses.replace(many, batch=64, extra="key bias")
            by_product = varied(HOPPER_TILES[64][:2], {}, BY_PRODUCT)
            yield Kind(
                f"hopper {low}-{high} short key bias",
                {**for_size, "key_bias": True, "causal": False, "symmetric": True,
                 "conditions": [{"size": "s_kv", "at_most": 1024}]},
                by_product, _both(biased),
            )  # fmt: skip
            yield Kind(
                f"hopper {low}-{high} key bias", {**for_size, "key_bias": True}, by_product,
                _both(dataclasses.replace(long, batch=8, s_q=2048, s_kv=2048, extra="key bias")),
            )  # fmt: skip
            positions = dataclasses.replace(long, batch=8, s_q=2048, s_kv=2048, extra="positions")
            yield Kind(
                f"hopper {low}-{high} positions", {**for_size, "positions": True},
                by_product, _both(positions),
            )  # fmt: skip
            for causal in (False, True):
                form = {"causal": causal, "symmetric": not causal}
                yield Kind(
                    f"hopper {low}-{high} row{' causal' if causal else ''} key mask",
                    {**for_size, **form, "masked": True, "conditions": [{"size": "s_kv", "at_most": 512}]},
                    by_product,
                    _both(dataclasses.replace(many, batch=64, s_q=256, s_kv=256, causal=causal, extra="additive keys")),
                )  # fmt: skip
            for causal, masked in itertools.product((False, True), repeat=2):
                most = 1024 if causal or masked else 512
                shape = dataclasses.replace(many, batch=64, s_q=most // 2, s_kv=most // 2, causal=causal)
                purpose = {"masked": True} if masked else {"positions": False, "masked": False}
                form = {"causal": causal, "symmetric": not causal}
                yield Kind(
                    f"hopper {low}-{high} short{' causal' if causal else ''}{' key mask' if masked else ''}",
                    {**for_size, **form, **purpose, "conditions": [{"size": "s_kv", "at_most": most}]},
                    _hopper_candidates(size, more_keys_first=False),
                    _both(dataclasses.replace(shape, extra="key padding") if masked else shape),
                )  # fmt: skip
            # With 40 registers for the scout ptxas makes a loop for bfloat16 that takes a quarter longer.
            hidden = dataclasses.replace(long, batch=8, s_q=2048, s_kv=2048, causal=False, extra="right padding")
            yield Kind(
                "hopper 40-64 long hidden keys",
                {**for_size, "head_dim": [40, 64], "positions": False, "masked": True, "additive": False,
                 "causal": False, "symmetric": True, "conditions": [{"size": "s_kv", "at_least": 1025}]},
                tuple(
                    Candidate((128, 128, 4, 4), {"CONSUMER_REGISTERS": most, "PRODUCER_REGISTERS": rest})
                    for most, rest in ((240, 24), (232, 40), (224, 56))
                ),
                _both(hidden, dataclasses.replace(hidden, batch=1, heads=12, kv_heads=12, s_q=8192, s_kv=8192)),
            )  # fmt: skip
        yield Kind(
            f"hopper {low}-{high}", {**for_size, "masked": False}, candidates,
            _both(long, dataclasses.replace(long, causal=False), dataclasses.replace(many, s_q=1024, s_kv=1024)),
        )  # fmt: skip
        padded_keys = dataclasses.replace(long, extra="key padding")
        yield Kind(
            f"hopper {low}-{high} key mask", {**for_size, "masked": True}, candidates,
            _both(padded_keys, dataclasses.replace(padded_keys, causal=False)),
        )  # fmt: skip


WIDE_TILES = (
    (128, 64, 4, 3), (128, 64, 8, 3), (128, 64, 8, 2), (128, 128, 8, 2), (64, 64, 4, 3), (128, 32, 8, 2),
    (64, 32, 4, 2), (64, 32, 8, 2),
)  # fmt: skip
MASKED_TILES = (
    (128, 64, 8, 3), (128, 64, 8, 2), (64, 64, 4, 2), (64, 64, 8, 2), (64, 32, 4, 2), (64, 32, 8, 2), (32, 32, 4, 2),
)  # fmt: skip
TALL_TILES = ((64, 32, 4, 2), (64, 32, 8, 2), (64, 16, 8, 2), (128, 32, 8, 2), (32, 32, 4, 2), (32, 16, 8, 2))
FLOAT32_TILES = {
    (16, 64): (
        (32, 32, 4, 2), (64, 32, 4, 2), (64, 32, 8, 2), (64, 64, 4, 2), (64, 64, 8, 2), (128, 32, 8, 2),
        (128, 64, 8, 2), (64, 16, 4, 2), (32, 16, 4, 2), (16, 16, 4, 2),
        (64, 64, 4, 1), (64, 32, 4, 3), (128, 32, 8, 3),
    ),
    (65, 128): (
        (32, 16, 4, 2), (32, 32, 4, 2), (32, 32, 8, 2), (64, 32, 4, 2), (64, 32, 8, 2), (64, 64, 8, 1), (128, 32, 8, 2),
        (16, 16, 4, 2), (16, 16, 4, 1),
    ),
    (129, 256): ((16, 16, 4, 1), (16, 16, 4, 2), (32, 16, 8, 1), (32, 32, 8, 1), (64, 32, 8, 1)),
}  # fmt: skip
DECODE_TILES = (
    (16, 128, 4, 3), (16, 64, 4, 4), (16, 64, 4, 3), (16, 64, 4, 2), (16, 128, 8, 3), (16, 32, 4, 4), (16, 32, 4, 3),
    (16, 32, 4, 2), (16, 16, 4, 2),
)  # fmt: skip
PAIRED_TILES = ((16, 64, 4, 3), (16, 64, 8, 3), (16, 32, 4, 4), (16, 64, 4, 2))
"""Two programs of these fit a multiprocessor at D = 128."""
RANGES = ((16, 64, 64), (65, 96, 96), (97, 128, 128), (129, 160, 160), (161, 256, 256))
"""Of head sizes in the portable prefill of 16-bit types, and the one that is timed."""


def _portable(arch: int) -> Iterator[Kind]:
    """Prefill in plain Triton, where another engine does not come first or does not take the attention."""
    base = {"role": "prefill", "engine": "portable", "arch": [arch]}
    for low, high, size in RANGES:
        tiles: Sequence[TileSize] = TALL_TILES if low > 128 else WIDE_TILES
        # More rows than a cache has keys, and 32 in the smallest range: the Hopper kernel takes neither.
        long = Shape(2, 16, 16, 4096, 4096, 32 if low == 16 and arch == 90 else size, True)
        square = dataclasses.replace(long, s_q=4096, s_kv=4095 if arch == 90 else 4096, causal=False)
        for_size = {**base, "element_bytes": 2, "head_dim": [low, high]}
        yield Kind(
            f"portable {low}-{high}", {**for_size, "masked": False}, plain(*tiles), (long, square),
        )  # fmt: skip
        rows = dataclasses.replace(long, head_dim=size, extra="boolean rows")
        yield Kind(
            f"portable {low}-{high} mask", {**for_size, "masked": True},
            plain(*(TALL_TILES if low > 128 else MASKED_TILES)),
            (rows, dataclasses.replace(rows, extra="additive rows")),
        )  # fmt: skip
    for (low, high), tiles in FLOAT32_TILES.items():
        shape = Shape(2, 8, 8, 2048, 2048, high, True, "float32")
        yield Kind(
            f"portable float32 {low}-{high}", {**base, "element_bytes": 4, "head_dim": [low, high]}, plain(*tiles),
            (shape, dataclasses.replace(shape, causal=False)),
        )  # fmt: skip


def _decode(arch: int) -> Iterator[Kind]:
    """In one piece, where there are enough heads, and in chunks."""
    shapes = {
        "decode": (Shape(16, 32, 32, 1, 8192, 128, True), Shape(64, 32, 8, 1, 4096, 128, True)),
        "decode_split": (Shape(1, 32, 32, 1, 32768, 128, True), Shape(1, 32, 4, 1, 131072, 128, True)),
    }
    for role, timed in shapes.items():
        base = {"role": role, "engine": "portable", "arch": [arch]}
        for low, high, size in ((16, 128, 128), (129, 256, 256)):
            of_size = tuple(dataclasses.replace(shape, head_dim=size) for shape in timed)
            for_size = {**base, "element_bytes": 2, "head_dim": [low, high]}
            if size == 256:
                yield Kind(f"{role} {low}-{high}", for_size, plain(*DECODE_TILES), of_size)
                continue
            if role == "decode_split":
                yield from _in_pairs(for_size, of_size)
            # One row of one head per program: there a mask by head is one by key.
            single = {**for_size, "masked": True, "conditions": [{"size": "rows", "at_most": 1}]}
            by_head = (dataclasses.replace(of_size[0], kv_heads=of_size[0].heads, extra="boolean heads"),)
            one_row = varied(DECODE_TILES, {"MASK_ROWS": False}, {})
            yield Kind(f"{role} {low}-{high} one row", single, one_row, by_head)
            padded = tuple(dataclasses.replace(shape, extra="key padding") for shape in of_size)
            yield Kind(f"{role} {low}-{high}", for_size, plain(*DECODE_TILES), (*of_size, *padded))
        for low, high in ((16, 64), (65, 256)):
            alone = tuple(dataclasses.replace(s, head_dim=min(high, 128), dtype="float32") for s in timed[:1])
            yield Kind(
                f"{role} float32 {low}-{high}", {**base, "element_bytes": 4, "head_dim": [low, high]},
                plain(*DECODE_TILES), alone,
            )  # fmt: skip


def _in_pairs(for_size: dict[str, Any], of_size: tuple[Shape, ...]) -> Iterator[Kind]:
    """Chunks of a decode that wait for more than keys and values: two programs hide the waits of one another."""
    base = {**for_size, "head_dim": [65, 128], "programs": 2}
    padded = tuple(dataclasses.replace(shape, extra="key padding") for shape in of_size)
    single = {**base, "masked": True, "conditions": [{"size": "rows", "at_most": 1}]}
    one_row = varied(PAIRED_TILES, {"MASK_ROWS": False}, {})
    yield Kind("decode_split 65-128 one row, in pairs", single, one_row, padded[:1])
    yield Kind("decode_split 65-128 masked, in pairs", {**base, "masked": True}, plain(*PAIRED_TILES), padded)
    placed = tuple(dataclasses.replace(shape, extra="positions") for shape in of_size)
    yield Kind("decode_split 65-128 positions, in pairs", {**base, "positions": True}, plain(*PAIRED_TILES), placed)


def timed(arch: int) -> tuple[Kind, ...]:
    """The classes that are timed on a device of this architecture."""
    return (*(_hopper() if arch == 90 else ()), *_portable(arch), *_decode(arch))


GROUPS = ((80, 86, 89), (90,), (100,), (120,))
"""Architectures that share rules of prefill in 16 bits; elsewhere all share them."""
ALL = (80, 86, 89, 90, 100, 120)
STATIC_TILES = (
    (128, 64, 8, 2), (128, 32, 8, 2), (64, 32, 4, 2), (64, 32, 8, 2), (64, 16, 8, 2), (32, 16, 8, 2),
)  # fmt: skip
"""128 keys were never better where it was measured."""
STATIC_MASKED_TILES = STATIC_TILES[2:]
"""A mask takes registers and traffic: no more than 64 rows where that was not measured."""
MORE_STATIC_TILES = {(90, False): ((128, 64, 4, 3), (128, 64, 8, 3)), (90, True): ((128, 64, 8, 3), (128, 64, 8, 2))}
"""By architecture and mask: tried before the others."""
ALTERNATIVES = (
    ((16, 64), False, ((64, 64, 4, 2),)), ((65, 128), False, ((64, 32, 4, 2),)), ((16, 128), True, ((32, 32, 4, 2),)),
)  # fmt: skip
"""Half the rows, which an engine may time as another tactic: head sizes, mask, tiles."""


def _static_prefill() -> Iterator[Kind]:
    base = {"role": "prefill", "engine": "portable"}
    unmeasured = [arch for group in GROUPS for arch in group if arch != 90]
    for (low, high), masked, halved in ALTERNATIVES:
        rule = {**base, "arch": unmeasured, "alternative": True, "element_bytes": 2, "head_dim": [low, high]}
        name = f"static alternative {low}-{high}{' mask' if masked else ''}"
        yield Kind(name, {**rule, "masked": masked}, plain(*halved))
    for archs in GROUPS:
        for low, high, _ in RANGES:
            for masked in (True, False):
                tiles = STATIC_MASKED_TILES if masked else STATIC_TILES
                more = MORE_STATIC_TILES.get((archs[0], masked), ())
                rule = {**base, "arch": list(archs), "element_bytes": 2, "head_dim": [low, high], "masked": masked}
                yield Kind(f"static {archs[0]} {low}-{high}{' mask' if masked else ''}", rule, plain(*more, *tiles))
    single = {**base, "element_bytes": 4}
    special = {**single, "arch": [120], "head_dim": [65, 128], "masked": True}
    yield Kind("static float32 120 65-128 mask", special, plain((16, 16, 4, 2), (16, 16, 4, 1)))
    for (low, high), first in (((16, 64), (32, 32, 4, 2)), ((65, 128), (32, 16, 4, 2)), ((129, 256), (16, 16, 4, 1))):
        rule = {**single, "arch": list(ALL), "head_dim": [low, high]}
        smaller = plain(*dict.fromkeys((first, (16, 16, 4, 2), (16, 16, 4, 1), (16, 16, 8, 1))))
        yield Kind(f"static float32 {low}-{high}", rule, smaller, behind=(special,))


def _static_decode() -> Iterator[Kind]:
    for role in ("decode", "decode_split"):
        base = {"role": role, "engine": "portable", "arch": list(ALL)}
        smaller = ((16, 32, 4, 2), (16, 16, 4, 2))
        for low, high, masked in ((16, 128, False), (16, 128, True), (129, 256, None)):
            rule: dict[str, Any] = {**base, "element_bytes": 2, "head_dim": [low, high]}
            if masked is not None:
                rule["masked"] = masked
            tiles = ((16, 64, 4, 3), *smaller) if masked is False else smaller
            yield Kind(f"static {role} {low}-{high}{' mask' if masked else ''}", rule, plain(*tiles))
        for low, high in ((16, 64), (65, 256)):
            rule = {**base, "element_bytes": 4, "head_dim": [low, high]}
            yield Kind(f"static {role} float32 {low}-{high}", rule, plain(*(smaller if high == 64 else smaller[1:])))


def _extend() -> Iterator[Kind]:
    """A few rows against many keys: the decode kernel with tiles of more rows, for as many as the rows are."""
    for rows, tile in ((64, (64, 64, 4, 3)), (128, (128, 64, 8, 3))):
        rule = {
            "role": "extend", "engine": "portable", "arch": [90], "element_bytes": 2, "head_dim": [16, 128],
            "conditions": [{"size": "rows", "at_most": rows}, {"size": "s_kv", "at_least": 2048}],
        }  # fmt: skip
        yield Kind(f"extend rows-{rows}", rule, plain(tile))


def static() -> tuple[Kind, ...]:
    """The classes whose rules follow from what compiling reports."""
    return (*_static_prefill(), *_static_decode(), *_extend())
