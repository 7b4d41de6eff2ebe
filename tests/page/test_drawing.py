"""Pieces of the page: markup that is safe, numbers for people, and charts that hold what they are given."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from alibi_rewriter.page.charts import slopes_chart
from alibi_rewriter.page.markup import LIMIT, code, details, esc, middle, numeral, size, table
from alibi_rewriter.page.strips import strip


def test_names_become_text() -> None:
    assert esc("<b a='1'>&") == "&lt;b a=&#x27;1&#x27;&gt;&amp;"
    assert esc("a\x1b[2Jb\u202e") == "a\\x1b[2Jb\\x202e"
    assert len(esc("a" * 10_000)) == LIMIT and esc("a" * 10_000).endswith("…")
    assert code("<") == "<code>&lt;</code>"


def test_long_names_lose_their_middle() -> None:
    assert middle("short", 10) == "short"
    assert middle("/model/layers.17/attention/Softmax", 12) == "/mo…/Softmax"
    assert len(middle("x" * 99, 12)) == 12


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (5 << 40, "5 TiB")]
)
def test_bytes_for_people(number: float, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (0.25, "0.25"), (1e-7, "1.0e-07"), (123456.0, "1.2e+05")])
def test_numbers_for_people(number: float, text: str) -> None:
    assert numeral(number) == text


def test_tables_and_details() -> None:
    made = ElementTree.fromstring(table(["a", "b"], [["1", "2"], ["3", "4"]]))
    assert [cell.text for cell in made.iter("td")] == ["1", "2", "3", "4"]
    assert ElementTree.fromstring(details("more", "<p>x</p>")).get("open") is None


def test_a_strip_has_a_cell_per_key_and_hides_what_is_hidden() -> None:
    made = ElementTree.fromstring(strip([[0.0, -2.0, None], [None, -1.0, -4.0]], [0, 3], [0, 1, 2], "own", "a bias"))
    cells = list(made.iter("rect"))
    titles = [cell.findtext("title") for cell in cells]
    assert titles[:3] == ["head 0, key 0: 0", "head 0, key 1: -2", "head 0, key 2: hidden"]
    assert [c.get("class") for c in cells] == ["own", "own", "hidden", "hidden", "own", "own"]
    assert [c.get("fill-opacity") for c in cells] == ["0.000", "1.000", None, None, "0.250", "1.000"]
    assert made.get("aria-label") == "a bias"


def test_slopes_are_drawn_beside_the_standard_ones() -> None:
    own, standard = [0.5, -0.25, 0.0], [0.5, 0.25, 0.125]
    made = ElementTree.fromstring(slopes_chart(own, standard))
    dots = [c for c in made.iter("circle") if c.get("class") == "rewritten"]
    rings = [c for c in made.iter("circle") if c.get("class") == "ring"]
    assert (len(dots), len(rings)) == (2, 3), "a slope of zero has no place on a scale of powers"
    assert [d.get("cy") for d in dots] == [r.get("cy") for r in rings[:2]]
    assert "standard 0.125" in str(rings[2].findtext("title"))
