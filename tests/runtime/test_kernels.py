"""The CPU kernels against the oracle: members, types, masks, sizes, every instruction set that is here."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from alibi_rewriter.fused.family import BY_OP_TYPE, KERNEL_MEMBERS, Alignment, EmptyRows, FusedAttention, Variant
from alibi_rewriter.runtime import NoLibrary, get_library_path, instruction_set
from alibi_rewriter.runtime import session as session_module
from alibi_rewriter.runtime.session import InferenceSession, claimed_nodes, onnxruntime
from nodes import DTYPES, Sizes, answer, error, feeds, model

FLOAT32 = 2.0**-17  # of the largest value; the goal is 2e-6, which a random case may miss by a little
ROUNDING = {"float32": FLOAT32, "float16": 2.0**-10, "bfloat16": 2.0**-7}
SETS = ("avx512", "avx2", "portable")

try:
    LIBRARY = get_library_path()
except NoLibrary:
    pytest.skip("the library was not built: no C++ compiler", allow_module_level=True)

SHAPES = (
    Sizes(1, 1, 4, 4, mask="k"),
    Sizes(1, 70, 64, 64, 2, mask="bk"),
    Sizes(3, 200, 24, 40, 2, 4, 2, mask="q"),
    Sizes(5, 5, 7, 3, 1, 3, 3, mask="bhqk"),
    Sizes(70, 70, 64, 64, 1, 2, 1, mask="qk"),
    Sizes(33, 150, 8, 20, 2, mask="bhqk"),
    Sizes(130, 130, 16, 16, mask="hq"),
    Sizes(20, 7, 5, 6, 1, 2, 1, mask="bk"),
    Sizes(65, 300, 33, 9, 1, 1, 1, mask=""),
)


def node(variant: Variant, number: int) -> FusedAttention:
    """Attributes that change from case to case."""
    window = ((7, -1), (20, 5), (0, 0), (-1, 3))[number % 4] if variant.window else (-1, -1)
    rows = list(Alignment)[number // 2 % 2] if variant.lengths else Alignment.LAST
    return FusedAttention(variant, 0.25, list(EmptyRows)[number % 2], *window, rows=rows)


def check(item: FusedAttention, sizes: Sizes, seed: int, dtype: str = "float32", skip: str | None = None) -> None:
    given = feeds(item.variant, sizes, np.random.default_rng(seed), dtype)
    session = InferenceSession(model(item, dtype), skip=skip)
    assert claimed_nodes(session).claimed == 1
    found = run(session, given, dtype)
    assert error(found, answer(item, given), given) < ROUNDING[dtype], (item, sizes, seed)


def test_sessions_that_end_meanwhile_do_not_change_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    # Python's collector may end others on this thread at any time: here, after the first of the two readings.
    made = model(node(KERNEL_MEMBERS[0], 0), "float32")
    others = [InferenceSession(made) for _ in range(3)]
    counted = session_module.claimed_here

    def counted_while_others_end() -> int:
        found = counted()
        others.clear()
        return found

    monkeypatch.setattr(session_module, "claimed_here", counted_while_others_end)
    session = InferenceSession(made)
    assert not others
    assert claimed_nodes(session).claimed == 1


def run(session: InferenceSession, given: dict[str, np.ndarray], dtype: str) -> np.ndarray:
    if dtype != "bfloat16":
        return np.asarray(session.run(None, given)[0])
    values = {}
    for name, array in given.items():
        wide = array.dtype == DTYPES["bfloat16"]
        make = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
        values[name] = make(array.view(np.uint16), 16) if wide else onnxruntime.OrtValue.ortvalue_from_numpy(array)
    return np.asarray(session.run_with_ort_values(None, values)[0].numpy())


@pytest.fixture
def sets() -> Iterator[ctypes.CDLL]:
    """To choose an instruction set with; the best one is back afterwards."""
    before = instruction_set(LIBRARY)
    yield ctypes.CDLL(LIBRARY)
    ctypes.CDLL(LIBRARY).alibiUseInstructionSet(before.encode())


@pytest.mark.parametrize("variant", KERNEL_MEMBERS, ids=lambda variant: variant.op_type)
def test_every_member_computes_what_is_specified(variant: Variant) -> None:
    number = KERNEL_MEMBERS.index(variant)
    for step in range(3):
        sizes = SHAPES[(number + 4 * step) % len(SHAPES)]
        check(node(variant, number + step), sizes, number, skip=("none", "certified", None)[step])


@pytest.mark.parametrize("name", SETS)
def test_every_instruction_set_computes_the_same(sets: ctypes.CDLL, name: str) -> None:
    if not sets.alibiUseInstructionSet(name.encode()):
        pytest.skip(f"this machine has no {name}")
    assert instruction_set(LIBRARY) == name
    for number, (variant, sizes) in enumerate(zip(itertools.cycle(KERNEL_MEMBERS[::7]), SHAPES, strict=False)):
        for dtype in ROUNDING:
            check(node(variant, number), sizes, number, dtype)


def test_the_family_has_no_member_that_is_not_registered() -> None:
    """And what is no member is not registered: such a file needs its function."""
    item = FusedAttention(BY_OP_TYPE["AlibiAttentionCausal"], 1.0)
    changed = model(item).replace(b"AlibiAttentionCausal", b"AlibiAttentionCausak")
    with pytest.raises(Exception, match="AlibiAttentionCausak"):
        InferenceSession(changed)


@pytest.mark.parametrize("rows", [1, 4, 5, 40])
@pytest.mark.parametrize(
    "op_type", ["AlibiAttentionCausal", "AlibiAttentionLinearBooleanMask", "AlibiAttentionSymmetricWindow"]
)
def test_what_is_hidden_may_be_nan(op_type: str, rows: int) -> None:
    variant = BY_OP_TYPE[op_type]
    item = FusedAttention(variant, 0.25, EmptyRows.ZERO, *((3, 3) if variant.window else (-1, -1)))
    given = feeds(variant, Sizes(rows, 80, 20, 20), np.random.default_rng(rows))
    hidden = 79 if rows > 1 and op_type != "AlibiAttentionLinearBooleanMask" else 10
    if "mask" in given:
        given["mask"][..., hidden] = False
    if op_type == "AlibiAttentionCausal" and rows == 1:
        return  # one row sees every key
    given["key"][:, :, hidden] = np.nan
    given["value"][:, :, hidden] = np.nan
    found = InferenceSession(model(item)).run(None, given)[0]
    seen = np.isnan(found).any(axis=(0, 1, 3))
    wanted = answer(item, given)
    assert list(seen) == list(np.isnan(wanted).any(axis=(0, 1, 3)))
    assert not seen[0] or variant.window
    keep = ~seen
    assert error(found[:, :, keep], wanted[:, :, keep], given) < FLOAT32


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize(
    "op_type",
    ["AlibiAttentionSymmetricAdditiveMask", "AlibiAttentionCausalKeyBias", "AlibiAttentionLinearPositionsBooleanMask",
     "AlibiAttentionCausalKeyBiasWindowAdditiveMask"],
)  # fmt: skip
def test_what_hides_a_key_does_not_matter_nor_what_it_holds(op_type: str, rows: int, bad: float) -> None:
    """Padding that ends within a block of keys, in every way that there is to hide a key from all rows."""
    variant = BY_OP_TYPE[op_type]
    item = FusedAttention(variant, 0.25, EmptyRows.MEAN, *((9, 0) if variant.window else (-1, -1)))
    given = feeds(variant, Sizes(rows, 150, 20, 24, batch=2), np.random.default_rng(rows))
    padding = slice(100, 131) if rows < 40 else slice(0, 100)
    given["slopes"][:] = 0.01
    if "mask" in given:
        given["mask"][:] = variant.mask == "boolean"
        given["mask"][..., padding] = False if variant.mask == "boolean" else (LOWEST_FLOAT, -np.inf)[rows % 2]
    if "key_bias" in given:
        given["key_bias"][:] = 0.5
        given["key_bias"][..., padding] = (-np.inf, LOWEST_FLOAT)[rows % 2]
    wanted = answer(item, given)
    held = {**given, "key": given["key"].copy(), "value": given["value"].copy()}
    held["key"][:, :, padding] = bad
    held["value"][:, :, padding] = bad
    found = InferenceSession(model(item)).run(None, held)[0]
    # A row that sees no key yields the mean of all values, the hidden ones among them.
    sees = np.isfinite(found).all(axis=(0, 1, 3))
    first = max(0, padding.stop - (150 - rows)) if variant.causal and rows == 40 else 0
    assert sees[first:].all() and not sees[:first].any()
    assert error(found[:, :, first:], wanted[:, :, first:], given) < FLOAT32


@pytest.mark.parametrize("rows", [1, 30])
def test_what_is_seen_and_nan_is_not_lost(rows: int) -> None:
    item = FusedAttention(BY_OP_TYPE["AlibiAttentionLinear"], 0.25)
    given = feeds(item.variant, Sizes(rows, 90), np.random.default_rng(1))
    given["key"][0, 1, 17] = np.nan
    found = InferenceSession(model(item)).run(None, given)[0]
    assert np.isnan(found[0, 1]).all() and np.isfinite(found[0, 0]).all()


@pytest.mark.parametrize(
    "op_type", ["AlibiAttentionCausal", "AlibiAttentionSymmetric", "AlibiAttentionSymmetricAdditiveMask"]
)
def test_skipping_what_weighs_nothing_changes_no_bit(op_type: str) -> None:
    item = FusedAttention(BY_OP_TYPE[op_type], 0.25)
    given = feeds(item.variant, Sizes(300, 1500, mask="bk"), np.random.default_rng(2))
    if "mask" in given:
        given["mask"] = np.where(np.arange(1500) < 1400, 0.0, LOWEST_FLOAT).astype(np.float32)[None, None, None]
    runs = {
        skip: InferenceSession(model(item), skip=skip).run(None, given)[0]
        for skip in ("none", "underflow", "certified")
    }
    assert (runs["none"] == runs["underflow"]).all()
    assert error(runs["certified"], runs["none"].astype(np.float64), given) < 2.0**-22


LOWEST_FLOAT = np.finfo(np.float32).min


def test_no_keys_and_no_rows() -> None:
    item = FusedAttention(BY_OP_TYPE["AlibiAttentionCausal"], 0.25)
    session = InferenceSession(model(item))
    for sizes in (Sizes(0, 5), Sizes(5, 0), Sizes(3, 3, batch=0), Sizes(3, 3, value_width=0)):
        given = feeds(item.variant, sizes, np.random.default_rng(0))
        found = session.run(None, given)[0]
        assert found.shape == (sizes.batch, 2, sizes.rows, sizes.value_width)
        assert not found.any()


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("mask", (1, 1, 1, 1, 9), "mask has 5 dimensions instead of 4"),
        ("mask", (1, 1, 1, 8), "which does not fit"),
        ("slopes", (3,), "slopes is [3] instead of [2]"),
        ("key", (1, 2, 9, 15), "key is [1, 2, 9, 15] instead of [1, 2, 9, 16]"),
        ("query", (1, 2, 4, 4, 16), "query has 5 dimensions instead of 4"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(name: str, shape: tuple[int, ...], said: str) -> None:
    import onnx

    item = FusedAttention(BY_OP_TYPE["AlibiAttentionCausalBooleanMask"], 0.25)
    given = feeds(item.variant, Sizes(4, 9, mask="k"), np.random.default_rng(0))
    given[name] = np.ones(shape, given[name].dtype)
    loose = onnx.load_model_from_string(model(item))
    for value in loose.graph.input:
        value.type.tensor_type.ClearField("shape")
    session = InferenceSession(loose.SerializeToString())
    with pytest.raises(Exception, match="AlibiAttentionCausalBooleanMask") as caught:
        session.run(None, given)
    assert said in str(caught.value)
