"""From a call to its launches: the choice of kernels, grids, splits and workspace."""

from __future__ import annotations

import dataclasses

import pytest
from alibi_rewriter.kernels.compile.compiler import SELECTION, WORKSPACE, grid_of, jobs
from alibi_rewriter.kernels.launch.description import Argument, Condition, Description, Extent, Factor, Kernel
from alibi_rewriter.kernels.launch.plan import Call, Plan, Tensor, make_plan
from alibi_rewriter.kernels.requests import BufferLayout, KernelRequest
from test_description import kernel

SPLIT_GRID = (
    Extent((Factor(("batch", "kv_heads")),)),
    Extent((Factor(("rows",), 16),)),
    Extent((Factor(("splits",)),)),
)


CHUNKS = (Argument("partial", "pointer", 16), Argument("partial_sums", "pointer", 16))
"""What kernels of a decode in chunks leave in the workspace, or join."""


def bundle(*extra: Kernel, op_type: str = "AlibiAttentionCausal", mask_dtype: str | None = None) -> Description:
    """All roles; ``extra`` come first."""
    strided = (Argument("query_row", "int32", 8),)
    kernels = (
        *extra,
        kernel("prefill", conditions=()),
        kernel("prefill", name="strided", conditions=(), layout=BufferLayout(False, True), arguments=strided),
        kernel("decode", grid=SPLIT_GRID, conditions=(), arguments=()),
        kernel("decode_split", grid=SPLIT_GRID, conditions=(), arguments=CHUNKS),
        kernel("combine", conditions=(), arguments=CHUNKS),
    )
    return Description(KernelRequest(op_type, "bfloat16", 64, 64, mask_dtype), "test", SELECTION, WORKSPACE, kernels)


def tensor(*shape: int, dtype: str = "bfloat16", strides: tuple[int, ...] | None = None) -> Tensor:
    """Contiguous unless told otherwise."""
    found, step = [], 1
    for size in reversed(shape):
        found.insert(0, step)
        step *= size
    return Tensor(1 << 20, dtype, shape, strides or tuple(found))


def call(batch: int, heads: int, kv_heads: int, s_q: int, s_kv: int) -> Call:
    """A call with contiguous buffers."""
    query, key = tensor(batch, heads, s_q, 64), tensor(batch, kv_heads, s_kv, 64)
    return Call(query, key, key, query, tensor(heads, dtype="float32"), 0.125, True)


def plan(description: Description, request: Call) -> Plan:
    """On a device of 132 multiprocessors."""
    return make_plan(description, request, 90, 132)


def names(found: Plan) -> list[str]:
    return [launch.kernel.name for launch in found.launches]


@pytest.mark.parametrize(
    ("pairs", "s_q", "percent"),
    [
        (12, 2048, 25), (96, 2048, 0), (12, 1024, 0), (12, 8192, 0), (12, 512, 0), (132, 190, 25), (132, 193, 0),
        (264, 192, 25), (1, 1, 0), (200_000, 100, 0),
    ],
)  # fmt: skip
def test_wide_tiles_are_for_where_they_spare_a_round(pairs: int, s_q: int, percent: int) -> None:
    wide = kernel("prefill", name="wide", conditions=(Condition("wide_saves", at_least=10),))
    request = call(pairs, 1, 1, s_q, s_q)
    found = plan(bundle(wide), request)
    if s_q > 16:
        assert (names(found)[0] == "wide") == (percent >= 10)
    # Time in 64 rows of a tile: two for each round of the narrow ones, three for each of the wide ones.
    narrow = 2 * -(-pairs * -(-s_q // 128) // 132)
    spared = narrow - 3 * -(-pairs * -(-s_q // 192) // 132)
    assert percent == max(0, 100 * spared // narrow)


def test_lengths_are_an_argument_of_every_launch() -> None:
    description = bundle(op_type="AlibiAttentionCausalLengths")
    plain = call(3, 4, 4, 1, 16384)
    for count, stride in ((3, 1), (1, 0)):
        lengths = tensor(count, dtype="int64")
        found = plan(description, dataclasses.replace(plain, key_lengths=lengths, rows_first=count == 1))
        # By the capacity: what the lengths are is not known here.
        assert names(found) == ["decode_split", "combine"]
        assert found.launches[0].grid == plan(bundle(), plain).launches[0].grid
        for launch in found.launches:
            assert launch.values["lengths_batch"] == stride and launch.values["rows_first"] == int(count == 1)
            assert launch.tensors["key_lengths"] is lengths


def test_lengths_that_do_not_fit_are_refused() -> None:
    lengths, plain = bundle(op_type="AlibiAttentionCausalLengths"), call(3, 4, 4, 5, 40)
    for wrong in (tensor(3, dtype="int32"), tensor(2, dtype="int64"), tensor(3, 1, dtype="int64")):
        with pytest.raises(ValueError, match="key_lengths is"):
            plan(lengths, dataclasses.replace(plain, key_lengths=wrong))
    for description, given in ((lengths, None), (bundle(), tensor(3, dtype="int64"))):
        with pytest.raises(ValueError, match="the inputs are not those of"):
            plan(description, dataclasses.replace(plain, key_lengths=given))
    with pytest.raises(ValueError, match="rows aligned with the first keys"):
        plan(bundle(), dataclasses.replace(plain, rows_first=True))


def test_many_rows_are_prefill() -> None:
    found = plan(bundle(), call(2, 4, 4, 300, 300))
    assert names(found) == ["prefill"]
    assert found.launches[0].grid == (3, 1, 1)
    assert found.workspace_bytes == 0


def test_few_rows_and_many_keys_are_split() -> None:
    found = plan(bundle(), call(1, 32, 4, 1, 131072))
    assert names(found) == ["decode_split", "combine"]
    splits = found.launches[0].grid[2]
    assert found.launches[0].grid == (4, 1, splits)
    assert 33 <= splits <= SELECTION.max_splits
    # partial results, their logs, each rounded up to 256 bytes
    sums = -(-32 * splits * 8 // 256) * 256
    assert found.workspace_bytes == 32 * splits * 64 * 4 + sums
    assert found.offsets == {"partial": 0, "partial_sums": 32 * splits * 64 * 4}


def test_chunks_may_be_for_two_programs_on_a_multiprocessor() -> None:
    """Where one for each would not be all of them; enough heads are decoded in one piece as before."""
    paired = kernel("decode_split", name="paired", grid=SPLIT_GRID, conditions=(), arguments=CHUNKS, programs=2)
    one, two = (plan(given, call(1, 32, 32, 1, 131072)).launches[0].grid[2] for given in (bundle(), bundle(paired)))
    assert (one, two) == (4, 8)
    assert names(plan(bundle(paired), call(4, 32, 32, 1, 131072))) == ["decode"]
    assert plan(bundle(paired), call(1, 1, 1, 1, 131072)).launches[0].grid[2] == SELECTION.max_splits


def test_enough_heads_need_no_split() -> None:
    assert names(plan(bundle(), call(64, 32, 32, 1, 8192))) == ["decode"]


def test_short_caches_are_not_split() -> None:
    assert names(plan(bundle(), call(1, 8, 8, 1, SELECTION.min_keys))) == ["decode"]


def test_first_kernel_whose_conditions_hold() -> None:
    long = kernel("prefill", name="long", conditions=(Condition("s_kv", at_least=4096),))
    assert names(plan(bundle(long), call(1, 4, 4, 4096, 4096))) == ["long"]
    assert names(plan(bundle(long), call(1, 4, 4, 4095, 4095))) == ["prefill"]


def test_certificates_take_launches_of_their_own() -> None:
    norms, ticket = Argument("key_norms", "pointer", 16), Argument("ticket", "pointer", 16)
    previous, reach = Argument("previous", "pointer", 16), Argument("reach", "pointer", 16)
    helpers = (
        kernel("key_norms", conditions=(), arguments=(norms, ticket)),
        kernel("reach", conditions=(), arguments=(norms, reach)),
    )
    draws = kernel("prefill", name="draws", conditions=(), arguments=(norms, ticket, previous))
    found = plan(bundle(draws, *helpers), call(2, 4, 2, 300, 1000))
    assert names(found) == ["key_norms", "draws"]
    # 2 * 2 * 16 norms, one ticket, 2 * 4 * 3 tiles.
    assert found.offsets == {"key_norms": 0, "ticket": 256, "previous": 512}
    reaches = kernel("prefill", name="reaches", conditions=(), arguments=(reach,))
    found = plan(bundle(reaches, *helpers), call(2, 4, 2, 300, 1000))
    assert names(found) == ["key_norms", "reach", "reaches"]
    assert set(found.offsets) == {"key_norms", "reach", "ticket"}


def test_a_mask_with_rows_is_looked_at_before() -> None:
    blocks, ticket = Argument("blocks", "pointer", 16), Argument("ticket", "pointer", 16)
    looks = kernel(
        "blocks", conditions=(), layout=BufferLayout(False, True), arguments=(blocks, ticket),
        grid=(Extent((Factor(("s_q",), 128), Factor(("s_kv",), 64), Factor(("mask_batches",)))),
              Extent((Factor(("mask_heads",)),)), Extent()),
    )  # fmt: skip
    walks = kernel(
        "prefill", name="walks", conditions=(), layout=BufferLayout(False, True), arguments=(blocks, ticket),
    )  # fmt: skip
    description = bundle(walks, looks, op_type="AlibiAttentionCausalBooleanMask", mask_dtype="bool")
    plain = call(2, 4, 4, 300, 5000)
    for shape, grid, entries in (((2, 1, 300, 5000), (474, 1, 1), 2), ((1, 4, 300, 1), (237, 4, 1), 4)):
        found = plan(description, dataclasses.replace(plain, mask=tensor(*shape, dtype="bool")))
        assert names(found) == ["blocks", "walks"]
        assert found.launches[0].grid == grid
        # Three tiles of 79 blocks of 64 keys, two bytes for each; then the ticket.
        assert found.offsets["blocks"] == 256
        assert found.workspace_bytes == 256 + -(-2 * entries * 3 * 80 // 256) * 256


def test_more_rows_are_extended_if_that_gives_chunks() -> None:
    grid = (SPLIT_GRID[0], Extent((Factor(("rows",), 64),)), SPLIT_GRID[2])
    few = (Condition("rows", at_most=64), Condition("s_kv", at_least=2048))
    extend = kernel("extend", conditions=few, grid=grid, arguments=CHUNKS)
    found = plan(bundle(extend), call(1, 32, 32, 33, 32768))
    assert names(found) == ["extend", "combine"]
    assert found.launches[0].grid == (32, 1, 4)
    assert names(plan(bundle(extend), call(1, 32, 8, 8, 32768))) == ["extend", "combine"]
    for other in (call(1, 32, 32, 65, 32768), call(1, 32, 32, 33, 2047), call(3, 32, 32, 33, 32768)):
        assert names(plan(bundle(extend), other)) == ["prefill"]
    assert names(plan(bundle(extend), call(1, 32, 32, 16, 32768))) == ["decode_split", "combine"]


def test_strides_choose_the_layout() -> None:
    plain = call(2, 4, 4, 300, 300)
    interleaved = tensor(2, 4, 300, 64, strides=(300 * 256, 64, 256, 1))
    assert names(plan(bundle(), dataclasses.replace(plain, query=interleaved))) == ["strided"]


def test_strides_that_no_image_takes() -> None:
    plain = call(2, 4, 4, 300, 300)
    odd = tensor(2, 4, 300, 64, strides=(300 * 260, 65, 260, 1))
    with pytest.raises(LookupError):
        plan(bundle(), dataclasses.replace(plain, query=odd))


def test_masks_choose_the_layout() -> None:
    description = bundle(op_type="AlibiAttentionCausalBooleanMask", mask_dtype="bool")
    plain = call(2, 4, 4, 300, 300)
    padding = dataclasses.replace(plain, mask=tensor(2, 1, 1, 300, dtype="bool"))
    full = dataclasses.replace(plain, mask=tensor(2, 1, 300, 300, dtype="bool"))
    assert names(plan(description, padding)) == ["prefill"]
    assert names(plan(description, full)) == ["strided"]
    assert plan(description, padding).launches[0].values["mask_row"] == 0
    assert plan(description, full).launches[0].values["mask_head"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"query": tensor(2, 4, 300, 32)},
        {"query": tensor(2, 4, 300, 64, dtype="float16")},
        {"key": tensor(2, 3, 300, 64), "value": tensor(2, 3, 300, 64)},
        {"output": tensor(2, 4, 299, 64)},
        {"slopes": tensor(5, dtype="float32")},
        {"mask": tensor(1, 1, 300, 300, dtype="bool")},
        {"key_positions": tensor(2, 300, dtype="float32")},
        {"query": tensor(2, 4, 300, 64, strides=(64 * 1200, 1, 4, 1200))},
    ],
)
def test_calls_that_do_not_fit(change: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"."):
        plan(bundle(), dataclasses.replace(call(2, 4, 4, 300, 300), **change))


def test_grids_beyond_cuda() -> None:
    with pytest.raises(ValueError, match="beyond CUDA's limits"):
        plan(bundle(), call(1 << 20, 2048, 2048, 1, 16))
    long = kernel("prefill", name="long", conditions=(), grid=(Extent(), Extent((Factor(("batch",)),)), Extent()))
    with pytest.raises(ValueError, match="beyond CUDA's limits"):
        plan(bundle(long), call(65536, 4, 4, 64, 64))


@pytest.mark.parametrize("batch", [65_535, 65_536, 3_000_000])
def test_a_batch_of_any_size(batch: int) -> None:
    found = plan(bundle(), call(batch, 8, 2, 4, 100))
    assert names(found) == ["decode"]
    assert found.launches[0].grid == (2 * batch, 1, 1)


@pytest.mark.parametrize(
    ("op_type", "mask_dtype"), [("AlibiAttentionCausal", None), ("AlibiAttentionSymmetricBooleanMask", "bool")]
)
@pytest.mark.parametrize("arch", [80, 90])
def test_what_grows_with_the_batch_is_on_the_first_axis(op_type: str, mask_dtype: str | None, arch: int) -> None:
    request = KernelRequest(op_type, "bfloat16", 64, 64, mask_dtype)
    layouts = [BufferLayout(), BufferLayout(False, mask_dtype is not None)]
    small = {"batch": 2, "heads": 6, "kv_heads": 3, "group": 2, "s_q": 300, "s_kv": 5000, "splits": 7, "rows": 600,
             "multiprocessors": 132, "mask_batches": 2, "mask_heads": 6}  # fmt: skip
    large = {**small, "batch": 70_000, "mask_batches": 70_000}
    roles = set()
    for configuration, layout in jobs(request, [arch], layouts, True):
        grid = grid_of(configuration)
        x, y, z = (extent.value(small) for extent in grid)
        grown = tuple(extent.value(large) for extent in grid)
        assert max(grown[1:]) <= 65_535 and grown[0] < 1 << 31, configuration
        assert configuration.engine == "hopper" or grown == (35_000 * x, y, z), (configuration, layout)
        roles.add(configuration.role)
    assert roles >= {"prefill", "decode", "decode_split", "combine"}
    assert roles >= ({"key_norms", "reach"} if mask_dtype is None else {"blocks"} if arch == 90 else set())


def test_other_devices() -> None:
    with pytest.raises(LookupError):
        make_plan(bundle(), call(1, 4, 4, 300, 300), 80, 108)
