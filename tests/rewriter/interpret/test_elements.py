"""One operator at a time: the element that the interpreter tells is the one that onnxruntime computes.

A rule may also say that it does not know, and a case says which of the two it expects.  The systematic test over all
operators and types is ``test_semantics.py``.  Here are the edges that a change of one line in a rule would get wrong.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx.parser
import pytest
from alibi_rewriter.algebra import (
    LARGEST_FLOAT32,
    Index,
    Poly,
    Read,
    Size,
    conjunction,
    ind,
    less_equal,
    nonzero,
    of,
    poly,
    substitute,
)
from alibi_rewriter.graph.index import index_graph, opset_versions
from alibi_rewriter.rewriter.interpret import Interpreter
from alibi_rewriter.rewriter.interpret.clamps import floored
from alibi_rewriter.rewriter.interpret.rules import element_rules
from alibi_rewriter.rewriter.interpret.shapes import infer
from alibi_rewriter.rewriter.interpret.tables.element import Table

ort = pytest.importorskip("onnxruntime")

SIZES = (1, 2, 5, 8)
"""Of n."""

DISTANCE = "col = Unsqueeze(count, axis1)\n d = Sub(count, col)\n"
"""Key less row, as a square."""


def element(body: str, constants: str = "", kind: str = "int64") -> tuple[onnx.ModelProto, Poly | None, list[Index]]:
    """The model whose ``y`` a body makes of ``n``, the element of y, and its indices.

    ``count`` is [0 .. n-1], ``zero`` and ``one`` are scalars.
    """
    text = f"""
    <ir_version: 8, opset_import: ["" : 18]>
    g (float[n] x) => ({kind}{"[k, l]" if body.startswith(DISTANCE) and "keepdims=0" not in body else "[k]"} y)
    <int64 zero = {{0}}, int64 one = {{1}}, int64[1] axis0 = {{0}}, int64[1] axis1 = {{1}} {constants}>
    {{
       shape = Shape(x)
       extent = Squeeze(shape, axis0)
       count = Range(zero, extent, one)
       {body}
    }}
    """
    model = onnx.parser.parse_model(text)
    interpreter = Interpreter(index_graph(model.graph, opset_versions(model), Path()), rules=element_rules())
    infer(interpreter, list(model.graph.node))
    found = interpreter.dims("y")
    if found is None:
        return model, None, []
    axes = [Index(f"a{k}", extent) for k, extent in enumerate(found)]
    value = interpreter.element("y", tuple(of(a) for a in axes))
    assert not interpreter.malformed, "the model is well-formed: no rule may stumble over it"
    return model, value, axes


def computed(model: onnx.ModelProto, n: int) -> npt.NDArray[Any]:
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.zeros(n, np.float32)})
    return np.asarray(found)


def is_known(value: Poly | None) -> bool:
    return value is not None and not any(isinstance(a, Read) for a in value.all_atoms())


def agree(body: str, constants: str = "", kind: str = "int64", sizes: tuple[int, ...] = SIZES) -> bool:
    """Compares every element at every size; returns whether there was anything to compare."""
    model, value, axes = element(body, constants, kind)
    if not is_known(value):
        return False
    assert value is not None
    for n in sizes:
        wanted = computed(model, n)
        extents = [substitute(a.bound, {Size("n"): poly(n)}).constant for a in axes]
        told = [w if e is None else e for e, w in zip(extents, wanted.shape, strict=True)]
        assert told == list(wanted.shape), f"n = {n}: {extents} and not {wanted.shape}"
        for place in product(*(_ends(extent) for extent in wanted.shape)):
            numbers = {a: poly(p) for a, p in zip(axes, place, strict=True)}
            found = substitute(substitute(value, numbers), {Size("n"): poly(n)}).constant
            assert found is not None, f"{value!r} is not decided at {place} of {wanted.shape}"
            assert found == wanted[place], f"n = {n}, element {place}: {found} and not {wanted[place]}"
    return True


def _ends(extent: int) -> list[int]:
    return list(range(extent)) if extent <= 40 else [0, 1, 255, 65503, 65504, 65505, extent - 2, extent - 1]


KNOWN = {
    "slice back to an entry": (
        "y = Slice(six, four, one1, axis0, back)",
        ", int64[6] six = {0, 1, 2, 3, 4, 5}, int64[1] four = {4}, int64[1] one1 = {1}, int64[1] back = {-1}",
    ),
    "an integer that no float holds": ("y = ConstantOfShape<value = int64[1] {9007199254740993}>(shape)", ""),
    "a choice that is always the first": ("c = Less(zero, one)\n n = Neg(count)\n y = Where(c, count, n)", ""),
    "a choice that is always the second": ("c = Less(one, zero)\n n = Neg(count)\n y = Where(c, count, n)", ""),
    "sum from the front": ("ones = Add(zero, one)\n all = Expand(ones, shape)\n y = CumSum(all, zero)", ""),
    "sum without itself": ("ones = Expand(one, shape)\n y = CumSum<exclusive=1>(ones, zero)", ""),
    "sum from the end": ("ones = Expand(one, shape)\n y = CumSum<reverse=1>(ones, zero)", ""),
    "sum from the end without itself": (
        "ones = Expand(one, shape)\n y = CumSum<reverse=1, exclusive=1>(ones, zero)",
        "",
    ),
    "a position divided by one": ("y = Div(count, one)", ""),
    "pad behind": ("y = Pad(count, pads, fill)", ", int64[2] pads = {0, 3}, int64 fill = {77}"),
    "pad before": ("y = Pad(count, pads, fill)", ", int64[2] pads = {2, 0}, int64 fill = {77}"),
    "pad both": ("y = Pad(count, pads, fill)", ", int64[2] pads = {1, 1}, int64 fill = {77}"),
    "pad one axis": (
        DISTANCE + "y = Pad(d, pads, fill, axis1)",
        ", int64[2] pads = {1, 2}, int64 fill = {77}",
    ),
    "scatter a box": (
        "places = Unsqueeze(two, axis1)\n wide = Pad(count, behind, fill)\n y = ScatterND(wide, places, new)",
        ", int64[2] two = {1, 2}, int64[2] new = {90, 91}, int64[2] behind = {0, 5}, int64 fill = {77}",
    ),
    "scatter the last of a box": (
        "at = Add(count, one)\n places = Unsqueeze(at, axis1)\n wide = Pad(count, behind, fill)\n"
        "y = ScatterND(wide, places, count)",
        ", int64[2] behind = {0, 3}, int64 fill = {77}",
    ),
    "scatter from the end": (
        "places = Unsqueeze(at, axis1)\n wide = Pad(count, behind, fill)\n y = ScatterND(wide, places, new)",
        ", int64[1] at = {-1}, int64[1] new = {90}, int64[2] behind = {0, 2}, int64 fill = {77}",
    ),
    "keys that are five or more before the row": (
        DISTANCE + "c = LessOrEqual(d, minus)\n f = Cast<to=7>(c)\n y = ReduceSum<keepdims=0>(f, axis1)",
        ", int64 minus = {-5}",
    ),
    "keys after the fifth": (
        DISTANCE + "c = Greater(d, three)\n f = Cast<to=7>(c)\n y = ReduceSum<keepdims=0>(f, axis1)",
        ", int64 three = {3}",
    ),
    "rows that are five or more before the key": (
        DISTANCE + "c = GreaterOrEqual(d, five)\n f = Cast<to=7>(c)\n y = ReduceSum<keepdims=0>(f, axis0)",
        ", int64 five = {5}",
    ),
    "rows after the third key": (
        DISTANCE + "c = Less(d, minus)\n f = Cast<to=7>(c)\n y = ReduceSum<keepdims=0>(f, axis0)",
        ", int64 minus = {-3}",
    ),
    "keys before an antidiagonal": (
        DISTANCE + "t = Add(count, col)\n c = LessOrEqual(t, four)\n f = Cast<to=7>(c)\n"
        "y = ReduceSum<keepdims=0>(f, axis1)",
        ", int64 four = {4}",
    ),
    "slice beyond the end": ("y = Slice(count, axis0, seven)", ", int64[1] seven = {7}"),
    "slice that begins before the front": (
        "y = Slice(count, minus, far)",
        ", int64[1] minus = {-7}, int64[1] far = {99}",
    ),
    "slice backwards": (
        "y = Slice(count, last, front, axis0, back)",
        ", int64[1] last = {-1}, int64[1] front = {-9223372036854775807}, int64[1] back = {-1}",
    ),
    "the last entry": ("y = Gather(count, minus)", ", int64[1] minus = {-1}"),
    "half of a position": ("y = Div(count, two)", ", int64 two = {2}"),
    "residue of a position": ("y = Mod(count, three)", ", int64 three = {3}"),
    "triangle below": (DISTANCE + "t = Abs(d)\n y = Trilu<upper=0>(t, minus)", ", int64 minus = {-1}"),
    "triangle above": (DISTANCE + "t = Abs(d)\n y = Trilu<upper=1>(t, one)", ""),
    "less or equal": (DISTANCE + "c = LessOrEqual(d, zero)\n y = Cast<to=7>(c)", ""),
    "less": (DISTANCE + "c = Less(d, zero)\n y = Cast<to=7>(c)", ""),
    "a choice inside a choice of the same condition": (
        "c = Less(count, two)\n n = Neg(count)\n a = Where(c, n, three)\n b = Where(c, five, a)\n d = Where(c, b, a)\n"
        " y = Add(b, d)",
        ", int64 two = {2}, int64 three = {3}, int64 five = {5}",
    ),
    "a range downwards": ("y = Range(extent, zero, down)", ", int64 down = {-3}"),
    "the short last part of a Split": (
        "a, b, c = Split<num_outputs=3>(seven)\n t = Cast<to=7>(c)\n y = Add(t, one)",
        ", int64[7] seven = {0, 1, 2, 3, 4, 5, 6}",
    ),
    "signs of a product of which a factor may be zero": (
        DISTANCE + "m = Sub(count, extent)\n t = Mul(m, col)\n y = Sign(t)",
        "",
    ),
    "largest distance": (DISTANCE + "y = ReduceMax<keepdims=0>(d, axis1)", ""),
}

EITHER = {
    "scatter elements from the end": (
        "wide = Pad(count, behind, fill)\n y = ScatterElements<axis=0>(wide, at, new)",
        ", int64[1] at = {-1}, int64[1] new = {90}, int64[2] behind = {0, 2}, int64 fill = {77}",
    ),
    "scatter where the index is negative for some sizes": (
        "less = Sub(extent, three)\n at = Unsqueeze(less, axis0)\n places = Unsqueeze(at, axis1)\n"
        "wide = Pad(count, behind, fill)\n y = ScatterND(wide, places, new)",
        ", int64 three = {3}, int64[1] new = {90}, int64[2] behind = {0, 2}, int64 fill = {77}",
    ),
    "scatter elements where the index is negative for some sizes": (
        "less = Sub(extent, three)\n at = Unsqueeze(less, axis0)\n"
        "wide = Pad(count, behind, fill)\n y = ScatterElements<axis=0>(wide, at, new)",
        ", int64 three = {3}, int64[1] new = {90}, int64[2] behind = {0, 2}, int64 fill = {77}",
    ),
    "remainder of a signed distance": (DISTANCE + "y = Mod<fmod=1>(d, three)", ", int64 three = {3}"),
    "mean of integers": (DISTANCE + "y = ReduceMean<keepdims=0>(d, axis1)", ""),
    "half of a signed distance": (DISTANCE + "y = Div(d, two)", ", int64 two = {2}"),
    "a distance by a negative number": ("y = Div(count, two)", ", int64 two = {-2}"),
    "residue of a signed distance": (DISTANCE + "y = Mod(d, three)", ", int64 three = {3}"),
    "scatter that adds": (
        "places = Unsqueeze(at, axis1)\n wide = Pad(count, behind, fill)\n"
        'y = ScatterND<reduction="add">(wide, places, new)',
        ", int64[2] at = {1, 2}, int64[2] new = {90, 91}, int64[2] behind = {0, 5}, int64 fill = {77}",
    ),
    "scatter elements that add": (
        'wide = Pad(count, behind, fill)\n y = ScatterElements<axis=0, reduction="add">(wide, at, new)',
        ", int64[1] at = {1}, int64[1] new = {90}, int64[2] behind = {0, 2}, int64 fill = {77}",
    ),
    "pad along an axis known at run time": (
        "t = ReduceMax<keepdims=0>(x)\n i = Cast<to=7>(t)\n a = Unsqueeze(i, axis0)\n y = Pad(count, pads, fill, a)",
        ", int64[2] pads = {1, 2}, int64 fill = {77}",
    ),
    "pad that reflects": ('y = Pad<mode="edge">(count, pads)', ", int64[2] pads = {1, 2}"),
    "pad that cuts": (
        "wide = Pad(count, behind, fill)\n y = Pad(wide, pads, fill)",
        ", int64[2] behind = {0, 4}, int64[2] pads = {-1, -2}, int64 fill = {77}",
    ),
    "an index that is the last one or the first": (
        "c = Less(count, one)\n at = Where(c, minus, zero)\n y = Gather(count, at)",
        ", int64 minus = {-1}",
    ),
    "every second key up to the row, counted": (
        DISTANCE + "t = Add(count, count)\n e = Sub(t, col)\n c = LessOrEqual(e, zero)\n f = Cast<to=7>(c)\n"
        " y = CumSum(f, one)",
        "",
    ),
    "a slice from a place that is known at run time": (
        "t = ReduceMax<keepdims=1>(x)\n i = Cast<to=7>(t)\n y = Slice(count, i, far, axis0)",
        ", int64[1] far = {99}",
    ),
    "square root of integers": ("y = Pow(count, half)", ", float half = {0.5}"),
}

FAR = {
    "a bound at 65504": ("y = Min(count, bound)", ", int64 bound = {65504}", "int64"),
    "a bound at 65504 on the other side": ("y = Min(bound, count)", ", int64 bound = {65504}", "int64"),
    "a floor at -65504": ("m = Neg(count)\n y = Max(m, bound)", ", int64 bound = {-65504}", "int64"),
    "clipped at 65504": (
        "f = Cast<to=1>(count)\n y = Clip(f, low, high)",
        ", float low = {-65504}, float high = {65504}",
        "float",
    ),
    "clipped below at -65504": (
        "f = Cast<to=1>(count)\n m = Neg(f)\n y = Clip(m, low, high)",
        ", float low = {-65504}, float high = {65504}",
        "float",
    ),
}


@pytest.mark.parametrize("case", KNOWN)
def test_elements_that_are_known(case: str) -> None:
    assert agree(*KNOWN[case])


@pytest.mark.parametrize("case", EITHER)
def test_elements_are_right_or_unknown(case: str) -> None:
    agree(*EITHER[case], sizes=(2, 5, 8))


@pytest.mark.parametrize("case", FAR)
def test_bounds_far_away(case: str) -> None:
    """A bound of the size of a mask does not mask a position, since sequences are longer than 65504."""
    body, constants, kind = FAR[case]
    agree(body, constants, kind, sizes=(3, 70000))


BOUNDS = ", float hidden = {%s}, float nought = {0}, float low = {-7}, float high = {7}, float no = {-inf}"
MASKED = "seen = Less(count, one)\n h = Where(seen, nought, hidden)\n p = Neg(h)\n "


@pytest.mark.parametrize(
    ("clip", "known"),
    [
        ("Clip(h, , high)", False),
        ("Clip(p, low, )", False),
        ("Clip(h)", False),
        ("Clip(p, , high)", True),
        ("Clip(h, low, )", True),
        ("Clip(h, low, high)", True),
        ("Clip(h, no, high)", True),
    ],
)
def test_infinity_and_a_bound_that_is_not_given(clip: str, known: bool) -> None:
    """The standard's text ends the type there, its function body and reference leave infinity as it is."""
    body = f"{MASKED}y = {clip}"
    _, value, _ = element(body, BOUNDS % "-inf", "float")
    assert is_known(value) is known
    assert agree(body, BOUNDS % "-100", "float"), "a finite number is not in question"


@pytest.mark.parametrize(("sign", "known"), [("-inf", True), ("inf", False)])
def test_two_masks_of_infinities(sign: str, known: bool) -> None:
    """Where one mask stands in place of a value, the sum of both may cancel only if their signs differ."""
    body = (
        "f = Cast<to=1>(count)\n g = Add(f, half)\n early = Less(count, one)\n h = Where(early, hidden, g)\n"
        " first = Equal(count, zero)\n other = Where(first, second, nought)\n y = Add(h, other)"
    )
    constants = f", float hidden = {{-inf}}, float second = {{{sign}}}, float nought = {{0}}, float half = {{0.5}}"
    _, value, _ = element(body, constants, "float")
    assert is_known(value) is known
    assert agree(body, constants.replace("inf", "1000"), "float")


@pytest.mark.parametrize("heads", [5, 12])
def test_a_floor_under_masks_and_a_bias_that_is_put_together_head_by_head(heads: int) -> None:
    """Conditions of heads exclude each other: they make a case each, and do not double the cases."""
    head, key, lowest = Index("h", poly(heads)), Index("k", of(Size("n"))), -LARGEST_FLOAT32
    distances = [
        ind(conjunction((less_equal(of(head), poly(k)), less_equal(poly(k), of(head))))) * of(key) * Fraction(1, k + 2)
        for k in range(heads)
    ]
    seen = [ind(nonzero(of(Read(name, (of(key),), True)))) for name in ("padding", "row")]
    score = sum(distances, of(Read("qk", (of(head), of(key))))) + lowest * (2 - seen[0] - seen[1])
    assert floored(score, poly(lowest), lowest) == score
    alone = sum(distances[1:], lowest * (2 - seen[0] - seen[1]))
    assert floored(alone, poly(lowest), lowest) != alone, "of the first head two masks are below the floor"


@pytest.mark.parametrize(("name", "bound"), [("min", -math.inf), ("max", math.inf)])
def test_an_infinite_bound_given_as_an_attribute(name: str, bound: float) -> None:
    """As before opset 11: it bounds nothing, whichever its sign is."""
    node = onnx.helper.make_node("Clip", ["x"], ["y"], **{name: bound})
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [3]) for n in "xy")
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 10)])
    interpreter = Interpreter(index_graph(model.graph, opset_versions(model), Path()), rules=element_rules())
    infer(interpreter, list(model.graph.node))
    assert interpreter.element("y", (poly(1),)) == interpreter.element("x", (poly(1),))


@pytest.mark.parametrize("number", [(1 << 53) + 1, (1 << 53) + 3, -(1 << 53) - 1, (1 << 60) + 1])
def test_an_integer_that_no_float_holds_is_no_entry_of_a_table(number: int) -> None:
    """Entries are kept in float64."""
    body = "y = Gather(odd, count)\n unused = Add(zero, zero)"
    _, value, _ = element(body, f", int64[5] odd = {{0, 7, {number}, 2, 11}}")
    assert not is_known(value)


def test_a_table_of_infinities_has_no_bound() -> None:
    for entries in ([0.0, -math.inf], [math.inf, 3.0]):
        table = Table("t", (of(Index("h", poly(2))),), np.array(entries))
        assert table.extreme(lowest=True) is None
        assert table.extreme(lowest=False) is None
    assert Table("t", (of(Index("h", poly(2))),), np.array([2.0, -1.0])).extreme(lowest=True) == poly(-1)


def test_a_shape_that_is_known_at_run_time_has_a_rank() -> None:
    """As many extents as the shape has entries, each of them open."""
    body = "t = ReduceMax<keepdims=1>(x)\n i = Cast<to=7>(t)\n s = Concat<axis=0>(i, minus)\n y = Reshape(count, s)"
    _, _, axes = element(body, ", int64[1] minus = {-1}")
    assert len(axes) == 2
    _, _, axes = element("t = ReduceMax<keepdims=1>(x)\n i = Cast<to=7>(t)\n y = Reshape(count, i)")
    assert len(axes) == 1
    assert axes[0].bound.constant is None


def test_a_wrong_element_would_be_seen() -> None:
    model, value, axes = element("y = CumSum(count, zero)")
    assert computed(model, 4).tolist() == [0, 1, 3, 6]
    assert not is_known(value) or len(axes) == 1
