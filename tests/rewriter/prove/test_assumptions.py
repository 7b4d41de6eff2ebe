"""What proofs take as given about sizes leaves room for every real run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter.algebra import Poly, Read, Size, absolute, maximum, minimum, of, poly, substitute
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.rewriter.interpret.sizes.facts import Facts
from alibi_rewriter.rewriter.interpret.sizes.room import SMALL, evaluate, excluded, leaves_room
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from alibi_rewriter.rewriter.verdicts import Code
from generator import Spelling, build, repair
from textgraphs import read, run

S, T, PAST = of(Size("S")), of(Size("T")), of(Size("past"))
DATA = Path(__file__).parents[2] / "data"


@pytest.mark.parametrize(
    "value", [64 - S, 3 - S, 64 - PAST - S, T - S, S - PAST, S + PAST - 1, S * T - S], ids=lambda v: repr(v)
)
def test_assumptions_that_leave_room(value: Poly) -> None:
    assert leaves_room(value)
    facts = Facts()
    assert facts.assume_nonnegative(value, "n")
    assert not facts.rejected


@pytest.mark.parametrize(
    "value",
    [
        *(1 - S, 1 - S - PAST, S - 2, S - 40, -S, poly(0) - S * T, S - 2 * T + 1 - S),
        *(T - S * T, 2 * T - 2 * S * T, T + 1 - 2 * S * T),
    ],
    ids=lambda v: repr(v),
)
def test_assumptions_that_leave_none(value: Poly) -> None:
    """They hold for one token only, or for many only, or for one sequence unless there is nothing in it."""
    assert not leaves_room(value)
    facts = Facts()
    assert not facts.assume_nonnegative(value, "n")
    assert facts.learned == []
    assert [fact.node for fact in facts.rejected] == ["n"]


@pytest.mark.parametrize(
    "value",
    [
        poly(7),
        3 * S * S * T - T / 2 + 1,
        absolute(S - 2 * T) - minimum(S, minimum(T, 4)),
        S * PAST - T,
        S * of(Read("count", (S,), True)) - T,
        (S - 2) * of(Read("count", (), True)),
    ],
    ids=lambda v: repr(v),
)
def test_a_value_at_given_sizes_is_what_putting_them_in_makes(value: Poly) -> None:
    """Also where a size is not given, and where what is unknown cancels."""
    for s in range(4):
        for t in range(4):
            numbers = {Size("S"): s, Size("T"): t}
            assert evaluate(value, numbers) == substitute(value, {a: poly(n) for a, n in numbers.items()}).constant
    assert evaluate((S - 2) * of(Read("count", (), True)), {Size("S"): 2}) == 0


def test_each_leaves_room_but_not_all_together() -> None:
    facts = Facts()
    assert facts.assume_nonnegative(S - T, "first")
    assert excluded(S, facts.learned, facts.normal) is None
    assert facts.assume_nonnegative(T - 2 * S + 1, "second")
    assert excluded(S, facts.learned, facts.normal) == (S, SMALL[1])
    assert excluded(of(Size("batch")), facts.learned, facts.normal) is None


@pytest.mark.parametrize(("most", "cut"), [(2, (PAST, 3)), (5, (PAST, 6)), (64, None)])
def test_an_equality_may_end_a_cache_only_far_away(most: int, cut: tuple[Poly, int] | None) -> None:
    """Rows counted from min(past, 2) meet S rows: beyond two past tokens they do not, or they are one and spread."""
    facts = Facts()
    facts.learn(S, maximum(S - PAST + minimum(PAST, poly(most)), poly(0)), "n", by_broadcast=True)
    facts.learn(T, PAST + S, "m", by_broadcast=True)
    assert excluded(S, facts.learned, facts.normal) == cut


def test_an_equality_may_be_the_end_of_a_buffer() -> None:
    """Beyond six rows the six of the buffer meet more rows, and nothing runs."""
    facts = Facts()
    facts.learn(S, minimum(S, poly(6)), "n", by_broadcast=True)
    assert excluded(S, facts.learned, facts.normal) is None


def test_an_extent_that_is_never_more_than_one_says_nothing_about_others() -> None:
    """MPT cuts a table [H, 1, L] to the last S of its rows: min(1, S) is 1, and S is not."""
    result = rewrite(read("forms/table_cut_by_rows"), options=Options(verify=False))
    (site,) = result.analysis.proven
    assert site.binding is not None
    assert site.binding.proof.assumptions == [
        "S = 8 + min(0, -8 + S) (node 's')",
        "B is the same number wherever inputs declare it: 'q' axis 0, 'k' axis 0, 'v' axis 0",
        "S is the same number wherever inputs declare it: 'q' axis 2, 'k' axis 2, 'v' axis 2",
    ]
    facts = site.interpreter.facts
    assert [fact.left - fact.right for fact in facts.learned] == [S - minimum(poly(8), S)]


@pytest.mark.parametrize("shift", [0, -40])
def test_an_index_that_counts_from_the_end(shift: int, tmp_path: Path) -> None:
    """Where a Gather reads a linear table from its end, the bias is another one.  It was once fused for S = 1."""
    model = read("refusals/wraps_around")
    if shift:
        table = np.outer([0.5, 0.25], np.arange(128)).astype(np.float32)
        old = next(t for t in model.graph.initializer if t.name == "table")
        old.CopyFrom(onnx.numpy_helper.from_array(table, "table"))
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shift), "shift"))
        (relative,) = (n for n in model.graph.node if n.output[0] == "rel")
        relative.CopyFrom(onnx.helper.make_node("Add", ["jrow", "start"], ["rel"]))
        place = list(model.graph.node).index(relative)
        model.graph.node.insert(place, onnx.helper.make_node("Add", ["keys", "shift"], ["start"]))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    result = rewrite(path)
    assert result.exit_code is ExitCode.NOT_REWRITTEN
    assert [s.refusal.code for s in result.analysis.sites if s.refusal is not None] == [Code.SIZES]
    feeds = {n: np.ones((1, 2, 5, 8), np.float32) for n in ("q", "k", "v")}
    assert all(np.isfinite(value).all() for value in run(model, feeds))  # the original takes it


@pytest.mark.parametrize("path", sorted(DATA.glob("*.onnx")), ids=lambda p: p.stem)
def test_exported_models_keep_all_small_sizes(path: Path) -> None:
    result = rewrite(path, options=Options(verify=False, dry_run=True))
    for site in result.analysis.proven:
        facts = site.interpreter.facts
        assert not facts.rejected
        assert site.reading is not None
        for index in site.reading.frame.order:
            assert excluded(index.bound, facts.learned, facts.normal) is None


@pytest.mark.parametrize("bias", ["table1", "table1-end", "table2", "table2-linear", "gather", "gather-linear"])
@pytest.mark.parametrize("cache", [False, True])
def test_generated_tables_cut_off_their_far_end_only(bias: str, cache: bool) -> None:
    result = rewrite(build(repair(Spelling(bias=bias, cache=cache))), options=Options(verify=False))
    assert result.analysis.proven
    for site in result.analysis.proven:
        assert not site.interpreter.facts.rejected


def test_an_equality_that_cannot_be_solved_is_noted_once() -> None:
    """A proof that goes on as if it held rests on it."""
    facts = Facts()
    for _ in range(2):
        assert not facts.learn(S * T, PAST * PAST, "n", by_broadcast=True)
    assert [(f.left, f.right, f.node, f.by_broadcast) for f in facts.learned] == [(S * T, PAST * PAST, "n", True)]


def test_a_factor_of_both_sides_is_left_out() -> None:
    facts = Facts()
    assert facts.learn(PAST * S, PAST * T, "n", by_broadcast=False)
    assert facts.equal(S, T)
    assert facts.normal(PAST) == PAST


@pytest.mark.parametrize("number", [2, 6])
def test_an_extent_of_one_number_is_pinned(number: int) -> None:
    facts = Facts()
    assert facts.learn(S, poly(number), "n", by_broadcast=True)
    assert facts.pinned() == [(Size("S"), "n")]


def test_two_numbers_that_do_not_agree() -> None:
    """The broadcast was no broadcast of six: it is the only choice that was made.  One entry is no such number."""
    facts = Facts()
    facts.learn(S, poly(6), "first", by_broadcast=True)
    assert not facts.learn(S, poly(7), "second", by_broadcast=False)
    assert facts.contradicted
    assert facts.impossible
    assert facts.choice == (Size("S"), "first")
    spread = Facts()
    spread.learn(S, poly(6), "first", by_broadcast=True)
    assert not spread.learn(S, poly(1), "second", by_broadcast=True)
    assert not spread.impossible
    assert spread.choice is None
    twice = Facts()
    twice.learn(S, poly(6), "first", by_broadcast=True)
    twice.learn(T, poly(5), "second", by_broadcast=True)
    assert not twice.learn(S, poly(7), "third", by_broadcast=False)
    assert not twice.impossible


def test_three_patches_for_each_image_leave_no_number_out() -> None:
    facts = Facts()
    facts.learn(T, 3 * S, "n", by_broadcast=True)
    assert excluded(3 * S, [], facts.normal) is None
    assert excluded(S, facts.learned, facts.normal) == (3 * S, 1), "T itself is declared, and may be one"
