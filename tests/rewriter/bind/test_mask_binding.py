"""Masks out of existing tensors: which tensor stands for which condition, and how conditions are put together.

Each test fails when one line of ``bind.masks`` or of the emitter means something else.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx.parser
import pytest
from alibi_rewriter.algebra import (
    INFINITY,
    Index,
    Poly,
    Read,
    Size,
    conjunction,
    equal,
    ind,
    less_equal,
    of,
    poly,
)
from alibi_rewriter.rewriter.bind import masks
from alibi_rewriter.rewriter.bind.masks import by_row
from alibi_rewriter.rewriter.interpret import Interpreter
from alibi_rewriter.rewriter.records.binding import Leaf, Op
from alibi_rewriter.rewriter.records.proof import Proof
from alibi_rewriter.rewriter.records.reading import View
from onnx import TensorProto
from scores import alone, difference, model
from textgraphs import fused, run

pytest.importorskip("onnxruntime")

B, S = of(Size("B")), of(Size("S"))
BATCH, ROW, KEY = Index("b", B), Index("i", S), Index("j", S)
BIAS = "bias = Mul(slopes, d)\n biased = Add(scaled, bias)\n "


def some_of(*shape: int, seed: int = 3) -> npt.NDArray[np.bool_]:
    """Conditions of which the last key (which every row then sees) is true."""
    drawn = np.random.default_rng(seed).random(shape) < 0.6
    drawn[..., -1] = True
    return drawn


# --- the tensor that holds a condition ------------------------------------------------------------------------


def test_a_boolean_that_says_which_keys_are_hidden() -> None:
    proto = model(BIAS + "s = Where(hidden, low, biased)", inputs=", bool[B,1,1,S] hidden")
    assert difference(proto, {"hidden": ~some_of(2, 1, 1, 9)}) < 1e-5


def test_two_conditions_hide_what_either_hides() -> None:
    proto = model(
        BIAS + "once = Where(first, biased, low)\n s = Where(second, once, low)",
        inputs=", bool[B,1,1,S] first, bool[1,4,1,S] second",
    )
    more = {"first": some_of(2, 1, 1, 9), "second": some_of(1, 4, 1, 9, seed=4)}
    assert difference(proto, more) < 1e-5


def test_a_mask_that_hides_more_than_the_scores_do_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was nearer to the scores, and of which a choice took only some rows."""
    monkeypatch.setattr(masks, "as_view", lambda interpreter, tensor, indices, parts: View(tensor, ((KEY,),)))
    late, even = less_equal(poly(2), of(KEY)), equal(of(Read("even", (of(KEY),), integer=True)), poly(1))
    wide, narrow = ((1 - ind(c)) * -INFINITY for c in (late, conjunction([late, even])))
    found = masks.from_scores(visits({"narrow": narrow, "wide": wide}), site(late), [late])
    assert [leaf.view.tensor for leaf in found if isinstance(leaf, Leaf)] == ["wide"]
    both = masks.from_scores(visits({"narrow": narrow, "wide": wide}), site(late, even), [late])
    assert [leaf.view.tensor for leaf in both if isinstance(leaf, Leaf)] == ["narrow"]


def test_a_part_that_hides_keys_is_passed_on_where_the_proof_keeps_its_term() -> None:
    """Beside a mask of which the values are not known, the causal one is a finite number like any other."""
    proto = model(
        BIAS
        + """causal = Where(later, low, none)
       ordered = Add(biased, causal)
       odd = Mod(m, two)
       kept = Cast<to=1>(odd)
       left_out = Sub(certain, kept)
       padding = Mul(left_out, low)
       s = Add(ordered, padding)""",
        inputs=", int64[B,1,1,S] m",
        constants=", float certain = {1}, int64 two = {2}",
    )
    mask = np.where(some_of(2, 1, 1, 9), 3, 0)
    mask[..., 0] = 1  # what the first row sees
    assert difference(proto, {"m": mask}) < 1e-5


def test_a_term_that_is_written_in_another_way_than_the_proof_has_it_is_not_lost() -> None:
    """-3 beyond four tokens on either side is, where keys are causal, -3 before the last five; beside a dense mask."""
    proto = model(
        """apart = Abs(rel)
       positive = Cast<to=1>(apart)
       near = Neg(positive)
       bias = Mul(slopes, near)
       biased = Add(scaled, bias)
       causal = Where(later, low, biased)
       masked = Add(causal, wide)
       far = Greater(apart, four)
       distant = Cast<to=1>(far)
       lowered = Mul(distant, less)
       s = Add(masked, lowered)""",
        inputs=", float[B,1,S,S] wide",
        constants=", int64 four = {4}, float less = {-3}",
    )
    wide = np.random.default_rng(4).standard_normal((2, 1, 9, 9)).astype(np.float32)
    assert alone(proto).model is None or difference(proto, {"wide": wide}) < 1e-5


@pytest.mark.parametrize(("number", "kind"), [(1, "equal"), (-3, "equal"), (2, "at_most")])
def test_a_comparison_with_a_number_has_the_sign_of_the_number(
    number: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = of(Read("mask", (of(BATCH), of(KEY)), integer=True))
    view = View("mask", ((BATCH,), (KEY,)))
    monkeypatch.setattr(masks, "as_view", lambda interpreter, tensor, indices, parts: view)
    condition = equal(mask, poly(number)) if kind == "equal" else less_equal(mask, poly(number))
    assert condition.kind == {"equal": "eq", "at_most": "le"}[kind] and condition.value is not None
    sign = 1 if condition.value.coefficient_of(mask.single_atom) == 1 else -1
    found = masks.comparison(visits({"mask": mask}), site(), condition.kind, condition.value * sign)
    assert found == Op(kind, (Leaf(view),), number)


def visits(values: dict[str, Poly]) -> Interpreter:
    """What was looked at on the way to the scores, nearest first."""
    index = (of(BATCH), of(KEY))
    told = SimpleNamespace(
        visited=lambda name, indices: (((n, index), v) for n, v in values.items()),
        dtype=lambda name: TensorProto.INT64,
    )
    return cast(Interpreter, told)


def site(*hidden: Any) -> Proof:
    frame = SimpleNamespace(order=(BATCH, ROW, KEY), key=KEY, row=ROW, batch=BATCH, head=None)
    attention = SimpleNamespace(frame=frame, scores="scores", scores_index=(), visible=hidden, half=False, product="qk")
    return cast(Proof, SimpleNamespace(attention=attention, hidden=hidden))


# --- keys and rows --------------------------------------------------------------------------------------------


def test_conditions_on_rows_are_told_from_conditions_on_keys() -> None:
    of_row = equal(of(Read("mask", (of(BATCH), of(ROW)), integer=True)), poly(1))
    of_key = equal(of(Read("mask", (of(BATCH), of(KEY)), integer=True)), poly(1))
    of_both = conjunction([of_row, of_key])
    assert by_row(site(of_row, of_key)) == ((of_key,), (of_row,))
    assert by_row(site(of_both)) == ((of_both,), ())


# --- what the emitter makes of it -----------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["Div", "Mul"])
def test_scores_by_a_number_known_at_run_time(operator: str) -> None:
    proto = model(f"half = {operator}(qk, by)\n bias = Mul(slopes, d)\n s = Add(half, bias)", inputs=", float[1] by")
    assert difference(proto, {"by": np.array([3.0], np.float32)}) < 1e-5


def test_layouts_whose_order_is_not_its_own_inverse() -> None:
    """Queries, keys and values as [S, B, H, D]: to [B, H, S, D] and back are two different permutations."""
    proto = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    attention (float[S,B,4,8] q, float[S,B,4,8] k, float[S,B,4,8] v) => (float[S,B,4,8] y)
    <float[4,1,1] slopes = {0.5, 0.25, 0.125, 0.0625}, int64 zero = {0}, int64 one = {1}, int64[1] axis0 = {0},
     int64[1] axis1 = {1}>
    {
       extent = Shape<start=0, end=1>(k)
       keys = Squeeze(extent, axis0)
       ji = Range(zero, keys, one)
       rcol = Unsqueeze(ji, axis1)
       rel = Sub(ji, rcol)
       d = Cast<to=1>(rel)
       qk = Einsum<equation="sbhd,tbhd->bhst">(q, k)
       bias = Mul(slopes, d)
       s = Add(qk, bias)
       p = Softmax<axis=-1>(s)
       y = Einsum<equation="bhst,tbhe->sbhe">(p, v)
    }
    """)
    made = alone(proto).model
    assert made is not None and len(fused(made)) == 1
    random = np.random.default_rng(5)
    feeds: dict[str, npt.NDArray[np.generic]] = {
        n: random.standard_normal((5, 3, 4, 8)).astype(np.float32) for n in "qkv"
    }
    assert np.abs(run(proto, feeds)[0] - run(made, feeds)[0]).max() < 1e-5
