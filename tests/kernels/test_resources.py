"""The recorded needs of every chosen configuration: nothing spills where it hurts, everything fits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from alibi_rewriter.kernels.compile.configurations import configurations
from alibi_rewriter.kernels.compile.resources import SHARED_KIB, TABLE, loop_spills, wanted
from alibi_rewriter.kernels.requests import KernelRequest, padded_head
from slow import THOROUGH

ROWS: dict[str, dict[str, Any]] = json.loads(TABLE.read_text())
WANTED = {name: configuration for name, _, configuration, _ in wanted()}
HOPPER_LOOP_SPILLS = {64: 72, 128: 0, 256: 152}
"""Instructions that reload or keep something in local memory, over all loops of both consumers and both passes, by
padded head size; a loop has 350 to 1300 instructions.  At 64 they are in the pass that does tiles again.  At 256
accumulators take 160 of 240 registers."""
PORTABLE_SPILL_BYTES = 64
"""Outside inner loops: a few registers around the phases of a float32 tile."""
MEASURED_FLOAT32 = (5, 80)
"""Spills in inner loops, and bytes, of float32 on sm_90: the tile was timed, and was faster with them than others
without (benchmarks/kernels/README.md)."""


def test_the_table_is_that_of_the_configurations() -> None:
    assert sorted(ROWS) == sorted(WANTED), "run python -m alibi_rewriter.kernels.compile.resources"


@pytest.mark.parametrize("name", sorted(WANTED))
def test_fits_and_does_not_spill(name: str) -> None:
    row, configuration = ROWS[name], WANTED[name]
    assert row["shared_bytes"] <= SHARED_KIB[configuration.arch] * 1024
    assert row["registers"] * row["threads"] <= 65536
    # ptxas does not overlap the products of some portable kernels for sm_90; they take what the Hopper kernel does not.
    assert not row["serialized"] or (configuration.engine, configuration.arch) == ("portable", 90)
    if configuration.engine == "portable":
        timed = configuration.arch == 90 and configuration.role == "prefill" and " float32 " in name
        loop_spills, spill_bytes = MEASURED_FLOAT32 if timed else (0, PORTABLE_SPILL_BYTES)
        assert row["loop_spills"] <= loop_spills
        assert row["spill_bytes"] <= spill_bytes
    else:
        assert row["loop_spills"] <= HOPPER_LOOP_SPILLS[padded_head(int(name.split()[5][1:]))]


def test_loop_spills_are_seen() -> None:
    listing = """
        /*0000*/                   LDL R1, [R2] ;
.L_x_1:
        /*0010*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0020*/                   STL [R1], R4 ;
        /*0030*/               @P0 BRA `(.L_x_1) ;
        /*0040*/                   STL [R1], R4 ;
    """
    assert loop_spills(listing) == 1
    assert loop_spills(listing.replace("HMMA.16816.F32", "FADD")) == 0


def test_every_member_has_kernels_everywhere() -> None:
    from alibi_rewriter.fused.family import KERNEL_MEMBERS
    from alibi_rewriter.kernels.compile.compiler import ARCHITECTURES

    masks = {"none": None, "boolean": "bool", "additive": "float32"}
    every = list(range(16, 257, 8))
    for number, variant in enumerate(KERNEL_MEMBERS):
        for dtype in ("float16", "bfloat16", "float32"):
            # The fast suite has every size, and every member, but not each with each.
            for size in every if THOROUGH else every[number % 4 :: 4]:
                request = KernelRequest(variant.op_type, dtype, size, size, masks[variant.mask])
                for arch in ARCHITECTURES:
                    roles = {found.role for found in configurations(request, arch, skip=True)}
                    assert {"prefill", "decode", "decode_split", "combine"} <= roles
