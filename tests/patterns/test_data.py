"""Layouts, caches, positions: the data of ``patterns`` agree with each other and with what reads them."""

from __future__ import annotations

import pytest
from alibi_rewriter.algebra import Index, Size, of, poly
from alibi_rewriter.patterns import caches, layouts, operators, positions
from alibi_rewriter.patterns.layouts import Axis, axis
from alibi_rewriter.rewriter.interpret.operators import MOVING

OPERAND_RANKS = sorted(layouts.OPERANDS)


def test_an_index_has_the_letter_of_its_role() -> None:
    key = axis(Axis.KEY, of(Size("S")))
    assert (key.name, key.role) == ("j", Axis.KEY)
    # The role goes with the name, so it does not tell indices apart.
    assert key == Index("j", of(Size("S")))
    assert len({role.value for role in Axis}) == len(Axis)


@pytest.mark.parametrize("rank", sorted(layouts.BESIDE_KEYS))
def test_the_scores_have_an_axis_for_the_keys_and_one_for_each_other_name(rank: int) -> None:
    beside = layouts.BESIDE_KEYS[rank]
    assert len(set(beside)) == len(beside) == rank - 1
    assert Axis.KEY not in beside
    assert Axis.ROW in beside


def test_an_axis_is_cut_into_roles_that_scores_can_have() -> None:
    for whole, parts in layouts.CUT_INTO.items():
        assert whole not in parts[1:]
    for count, roles in layouts.READINGS.items():
        assert len(roles) == count
        assert [role for role in layouts.READINGS[3] if role in roles] == list(roles)


@pytest.mark.parametrize("rank", OPERAND_RANKS)
def test_every_operand_holds_every_role_once(rank: int) -> None:
    held = [role for roles in layouts.OPERANDS[rank] for role in roles]
    assert len(layouts.OPERANDS[rank]) == rank
    assert sorted(r.name for r in held) == ["BATCH", "FEATURE", "HEAD", "ROW"]
    assert Axis.ROW in layouts.OPERANDS[rank][layouts.SEQUENCE[rank]]


def test_what_takes_a_part_only_moves() -> None:
    assert MOVING > layouts.SELECTING
    assert MOVING > layouts.BEHIND
    assert not MOVING & layouts.CHANGING_WEIGHTS


def test_a_cache_is_appended_along_its_sequence() -> None:
    assert layouts.SEQUENCE[caches.RANK] == caches.SEQUENCE_AXIS
    for pattern in operators.PATTERNS:
        assert set(caches.PAST.values()) <= set(pattern.inputs)
        assert set(caches.PRESENT.values()) == set(pattern.outputs)


def test_a_sign_says_what_it_is_looked_for_in() -> None:
    for sign in positions.SIGNS:
        assert bool(sign.operator) != bool(sign.attribute)
        assert (sign.searched is positions.Searched.ANCHOR) == bool(sign.attribute)
        assert sign.lookup is None or sign.operator == "Gather"
        assert not sign.halves or sign.operator == "Concat"


def test_a_size_that_no_input_declares_is_known_by_its_field() -> None:
    assert of(Size("S")) - of(Size("S", declared=False)) == poly(0)
    assert not Size("?1", declared=False).declared
