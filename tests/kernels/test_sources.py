"""PTX as text, and the plain data that images are made from; no Triton."""

from __future__ import annotations

import subprocess
import sys

import pytest
from alibi_rewriter.fused.family import KERNEL_MEMBERS
from alibi_rewriter.kernels.compile.assembler import AssemblyError, reads_parameter, strip_comments, strip_parameters
from alibi_rewriter.kernels.compile.compiler import ARCHITECTURES, described, jobs
from alibi_rewriter.kernels.compile.configurations import certifies, configurations, why_not_skipped
from alibi_rewriter.kernels.requests import BufferLayout, KernelRequest, Tile, constants_of, head_chunks

PTX = """// made somewhere
.visible .entry kernel(
	.param .u64 kernel_param_0,
	.param .u32 kernel_param_1,
	.param .u64 kernel_param_2
)
{
	ld.param.u64 %rd1, [kernel_param_0];
	ld.param.u32 %r1, [kernel_param_1];
}
"""


def test_hidden_parameters_are_cut() -> None:
    stripped = strip_parameters(PTX, 2)
    assert "kernel_param_2" not in stripped
    assert ".param .u32 kernel_param_1\n)" in stripped


def test_a_parameter_that_is_read_is_not_cut() -> None:
    with pytest.raises(AssemblyError, match="parameter 1 is read"):
        strip_parameters(PTX, 1)


def test_more_described_than_declared() -> None:
    with pytest.raises(AssemblyError, match="3 parameters where 4"):
        strip_parameters(PTX, 4)


def test_reads_are_of_whole_names() -> None:
    body = PTX.replace("kernel_param_1]", "kernel_param_10]")
    assert not reads_parameter(body, 1)
    assert reads_parameter(body, 10)


def test_comments_carry_no_paths() -> None:
    assert "somewhere" not in strip_comments(PTX)


@pytest.mark.parametrize(
    ("size", "chunks"),
    [(16, (16, 0)), (24, (32, 0)), (40, (32, 16)), (64, (64, 0)), (72, (64, 16)), (80, (64, 16)), (96, (64, 32)),
     (112, (128, 0)), (128, (128, 0)), (160, (128, 32)), (256, (256, 0))],
)  # fmt: skip
def test_head_chunks(size: int, chunks: tuple[int, int]) -> None:
    assert head_chunks(size) == chunks


@pytest.mark.parametrize("size", range(16, 257, 8))
def test_chunks_cover_the_head(size: int) -> None:
    first, second = head_chunks(size)
    assert first + second >= size > first + second - max(first, 16)


@pytest.mark.parametrize(
    ("op_type", "dtype", "size", "mask"),
    [
        ("Attention", "float16", 64, None),
        ("AlibiAttentionCausal", "float64", 64, None),
        ("AlibiAttentionCausal", "float16", 4, None),
        ("AlibiAttentionCausal", "float16", 65, None),
        ("AlibiAttentionCausal", "float16", 264, None),
        ("AlibiAttentionCausal", "float16", 64, "bool"),
        ("AlibiAttentionCausalBooleanMask", "float16", 64, "float16"),
        ("AlibiAttentionCausalAdditiveMask", "float16", 64, "bool"),
    ],
)
def test_requests_that_are_refused(op_type: str, dtype: str, size: int, mask: str | None) -> None:
    with pytest.raises(ValueError, match=r"."):
        KernelRequest(op_type, dtype, size, size, mask)


def test_unknown_role() -> None:
    with pytest.raises(ValueError, match="unknown role"):
        constants_of(
            "postfill", KernelRequest("AlibiAttentionCausal", "float16", 64, 64), Tile(16, 16, 4, 1), BufferLayout()
        )


def test_skipping_adds_its_launches_only_where_it_is_defined() -> None:
    plain = KernelRequest("AlibiAttentionCausal", "bfloat16", 64, 64)
    masked = KernelRequest("AlibiAttentionCausalBooleanMask", "bfloat16", 64, 64, "bool")
    windowed = KernelRequest("AlibiAttentionCausalWindow", "bfloat16", 64, 64)
    for request in (plain, masked):
        assert {"key_norms", "reach"} <= {found.role for found in configurations(request, 90, skip=True)}
        assert "reach" not in {found.role for found in configurations(request, 90)}
    assert "reach" not in {found.role for found in configurations(windowed, 90, skip=True)}
    # Of a mask with rows nothing is certified, of one that differs by key only it is.
    both = (BufferLayout(mask_rows=True), BufferLayout())
    certified = {layout.mask_rows for x, layout in jobs(masked, [80, 90], both, True) if certifies(x)}
    assert certified == {False}


@pytest.mark.parametrize(
    ("member", "mask", "rows", "reason"),
    [
        ("Causal", None, False, None),
        ("CausalPositions", None, False, None),
        ("SymmetricAdditiveMask", "float16", False, None),
        ("SymmetricKeyBias", None, False, None),
        ("SymmetricAdditiveMask", "float16", True, "its mask differs by row or head"),
        ("LinearPositions", None, False, "it is neither causal nor symmetric"),
        ("CausalWindow", None, False, "it has a window"),
        ("CausalLengths", None, False, None),
    ],
)
def test_where_skipping_is_defined(member: str, mask: str | None, rows: bool, reason: str | None) -> None:
    request = KernelRequest(f"AlibiAttention{member}", "float16", 64, 64, mask)
    assert why_not_skipped(request, BufferLayout(mask_rows=rows)) == reason


def test_masks_get_a_fast_and_a_general_image() -> None:
    masked = KernelRequest("AlibiAttentionCausalBooleanMask", "bfloat16", 64, 64, "bool")
    dense = [
        layout.mask_dense
        for configuration, layout in jobs(masked, [80], [BufferLayout()], False)
        if configuration.role == "prefill"
    ]
    # The first choice and an alternative of each.
    assert dense == [True, True, False, False]


def test_importing_needs_neither_triton_nor_torch() -> None:
    modules = (
        "compile.cache",
        "compile.compiler",
        "compile.configurations",
        "launch.description",
        "launch.launcher",
        "launch.plan",
        "compile.resources",
        "requests",
        "compile.assembler",
    )
    lines = [f"import alibi_rewriter.kernels.{name}" for name in modules]
    code = "import sys; " + "; ".join(lines) + "; assert not {'triton', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(ARCHITECTURES) == {80, 86, 89, 90, 100, 120}


def hopper_layouts(request: KernelRequest, *layouts: BufferLayout) -> list[BufferLayout]:
    """Of the Hopper images of a bundle."""
    return [layout for found, layout in jobs(request, [90], layouts, False) if found.engine == "hopper"]


@pytest.mark.parametrize("mask_dtype", ["bool", "bfloat16", "float32"])
def test_masks_by_key_get_a_hopper_image(mask_dtype: str) -> None:
    kind = "Boolean" if mask_dtype == "bool" else "Additive"
    for form in ("Causal", "Symmetric", "Linear", "CausalPositions"):
        request = KernelRequest(f"AlibiAttention{form}{kind}Mask", "bfloat16", 64, 64, mask_dtype)
        assert hopper_layouts(request, BufferLayout()), form
        # Masks with rows only where nothing else differs by key.
        assert bool(hopper_layouts(request, BufferLayout(mask_rows=True))) == (form != "CausalPositions"), form


def test_masks_with_rows_are_looked_at_by_the_blocks_of_their_kernel() -> None:
    for size in (64, 128, 256):
        request = KernelRequest("AlibiAttentionSymmetricBooleanMask", "bfloat16", size, size, "bool")
        found = list(jobs(request, [90], [BufferLayout(mask_rows=True)], False))
        kernels = {layout: x for x, layout in found if x.engine == "hopper"}
        looking = {layout: x for x, layout in found if x.role == "blocks"}
        assert kernels.keys() == looking.keys()
        assert [layout.mask_dense for layout in kernels] == [True, False]
        for layout, kernel in kernels.items():
            tile = looking[layout].tile
            assert (tile.block_m, tile.block_n) == (kernel.tile.block_m, kernel.tile.block_n)


def test_one_row_reads_a_mask_by_head_as_one_by_key() -> None:
    masked = KernelRequest("AlibiAttentionCausalBooleanMask", "bfloat16", 128, 128, "bool")
    for rows, wanted in ((False, [{}]), (True, [{"MASK_ROWS": False}, {}])):
        found = [
            configuration
            for configuration, layout in jobs(masked, [90], [BufferLayout(mask_rows=rows)], False)
            if configuration.role == "decode" and layout.mask_dense
        ]
        assert [configuration.options for configuration in found] == wanted
    (condition,) = found[0].conditions
    assert (condition.size, condition.at_most) == ("rows", 1)


def test_lengths_run_on_the_hopper_kernel_where_nothing_else_hides() -> None:
    def engines(op_type: str, mask: str | None) -> list[str]:
        request = KernelRequest(op_type, "bfloat16", 128, 128, mask)
        found = jobs(request, [90], [BufferLayout(mask_rows=rows) for rows in (False, True)], True)
        chosen = [configuration for configuration, _ in found if configuration.role == "prefill"]
        for configuration in chosen:
            # Its tiles of rows have keys behind them only where rows are aligned with the last ones.
            said = [(condition.size, condition.at_most) for condition in configuration.conditions]
            assert (("first_surplus", 0) in said) == (configuration.engine == "hopper")
        return sorted({configuration.engine for configuration in chosen})

    for form in ("Causal", "Linear", "Symmetric"):
        assert engines(f"AlibiAttention{form}Lengths", None) == ["hopper", "portable"]
        assert engines(f"AlibiAttention{form}WindowLengths", None) == ["portable"]
        assert engines(f"AlibiAttention{form}LengthsBooleanMask", "bool") == ["portable"]


def test_kernels_of_a_bundle_have_names_of_their_own() -> None:
    layouts = [BufferLayout(contiguous, rows) for contiguous in (True, False) for rows in (False, True)]
    masks = {"none": None, "boolean": "bool", "additive": "float32"}
    for variant in KERNEL_MEMBERS:
        for size in (8, 32, 64, 128, 256):
            request = KernelRequest(variant.op_type, "bfloat16", size, size, masks[variant.mask])
            names = [described({}, found, layout)["name"] for found, layout in jobs(request, [90], layouts, True)]
            assert len(set(names)) == len(names), request
