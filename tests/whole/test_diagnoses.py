"""What is said of attentions that are no ALiBi, or that cannot be read: neither more nor less than what was found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from alibi_rewriter.patterns.positions import ADDED
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.report import to_text
from onnx import ModelProto, TensorProto
from tiny import BARE, HEADS, LOWEST, SLOPES, WIDTH, Graph

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def q_operator(*, softmax: bool) -> ModelProto:
    """onnxruntime's static int8 as QOperator: QLinearMatMul in place of both products, and of the softmax, too."""
    graph = Graph(19)
    graph.operands()
    step, middle = graph.const(0.05), graph.const(0, np.int8)
    quantised = [graph.add("QuantizeLinear", name, step, middle) for name in "qkv"]
    turned = graph.add("Transpose", quantised[1], perm=[0, 1, 3, 2])
    product = graph.add("QLinearMatMul", quantised[0], step, middle, turned, step, middle, step, middle)
    scaled = graph.add("Mul", graph.add("DequantizeLinear", product, step, middle), graph.const(WIDTH**-0.5))
    scores = graph.add("Add", scaled, graph.bias())
    if softmax:
        whole = graph.add("QuantizeLinear", scores, step, middle)
        chances = graph.add(
            "QLinearSoftmax", whole, step, middle, step, middle, domain="com.microsoft", axis=-1, opset=19
        )
    else:
        chances = graph.add("QuantizeLinear", graph.add("Softmax", scores, axis=-1), step, middle)
    output = graph.add("QLinearMatMul", chances, step, middle, quantised[2], step, middle, step, middle)
    return graph.model(graph.add("DequantizeLinear", output, step, middle))


def qdq() -> ModelProto:
    """The same as QDQ: every tensor of the core passes through int8."""
    graph = Graph(19)
    graph.operands()
    step, middle = graph.const(0.05), graph.const(0, np.int8)

    def narrow(name: str) -> str:
        return graph.add("DequantizeLinear", graph.add("QuantizeLinear", name, step, middle), step, middle)

    query, key, value = map(narrow, "qkv")
    product = narrow(graph.add("MatMul", query, graph.add("Transpose", key, perm=[0, 1, 3, 2])))
    scores = narrow(graph.add("Add", graph.add("Mul", product, graph.const(WIDTH**-0.5)), narrow(graph.bias())))
    chances = narrow(graph.add("Softmax", scores, axis=-1))
    return graph.model(narrow(graph.add("MatMul", chances, value)))


def by_hand(*, bias: bool) -> ModelProto:
    """ReduceMax, Exp, ReduceSum, Div in place of a Softmax."""
    graph = Graph()
    graph.operands()
    scores = graph.add("Add", graph.scores(), graph.bias()) if bias else graph.scores()
    largest = graph.add("ReduceMax", scores, graph.ints(-1), keepdims=1)
    power = graph.add("Exp", graph.add("Sub", scores, largest))
    chances = graph.add("Div", power, graph.add("ReduceSum", power, graph.ints(-1), keepdims=1))
    return graph.model(graph.add("MatMul", chances, "v"))


def decayed(*, per_head: bool) -> ModelProto:
    """log(gamma ** d) with a number per head, which is ALiBi; or gamma from the query, which is data."""
    graph = Graph()
    graph.operands()
    far = graph.add("Cast", graph.add("Neg", graph.distance()), to=FLOAT)
    after = graph.add("Greater", graph.distance(), graph.number(0))
    gamma: str
    if per_head:
        gamma = graph.const(np.exp(-SLOPES))
    else:
        gamma = graph.add("Sigmoid", graph.add("ReduceMean", "q", graph.ints(-1), keepdims=1))
    bias = graph.add("Log", graph.add("Pow", gamma, far))
    scores = graph.add("Where", after, graph.const(LOWEST), graph.add("Add", graph.scores(), bias))
    return graph.model(graph.attend(scores))


def transformer_xl() -> ModelProto:
    """Scores with learned relative keys, brought into place by pad, regroup and cut."""
    graph = Graph()
    graph.operands()
    graph.input("r", ("B", HEADS, "S", WIDTH))
    relative = graph.add("MatMul", "q", graph.add("Transpose", "r", perm=[0, 1, 3, 2]))
    padded = graph.add("Pad", relative, graph.ints(0, 0, 0, 1, 0, 0, 0, 0))
    rows = graph.add("Unsqueeze", graph.extent("q", 2), graph.ints(0))
    more = graph.add("Add", rows, graph.ints(1))
    front = graph.add("Slice", graph.add("Shape", "q"), graph.ints(0), graph.ints(2), graph.ints(0))
    regrouped = graph.add("Reshape", padded, graph.add("Concat", front, more, rows, axis=0))
    shifted = graph.add("Slice", regrouped, graph.ints(1), graph.ints(1 << 40), graph.ints(2))
    return graph.model(graph.attend(graph.add("Add", graph.scores(), shifted)))


def clamped() -> ModelProto:
    """-slope * min(|d|, 8): a distance that stops growing."""
    graph = Graph()
    graph.operands()
    far = graph.add("Min", graph.add("Cast", graph.add("Abs", graph.distance()), to=FLOAT), graph.const(8.0))
    bias = graph.add("Mul", graph.add("Neg", far), graph.const(SLOPES))
    return graph.model(graph.attend(graph.add("Add", graph.scores(), bias)))


def swin() -> ModelProto:
    """A learned table of relative positions in a window of 4 x 4, looked up at stored places."""
    graph = Graph()
    graph.operands("16", "16")
    for value in graph.inputs:
        value.type.tensor_type.shape.dim[2].dim_value = 16
    numbers = np.random.default_rng(0)
    table = graph.const(numbers.standard_normal((49, HEADS)))
    y, x = np.divmod(np.arange(16), 4)
    places = (y[:, None] - y + 3) * 7 + (x[:, None] - x + 3)
    picked = graph.add("Gather", table, graph.const(places.reshape(-1), np.int64), axis=0)
    bias = graph.add("Transpose", graph.add("Reshape", picked, graph.ints(16, 16, HEADS)), perm=[2, 0, 1])
    return graph.model(graph.attend(graph.add("Add", graph.scores(), graph.add("Unsqueeze", bias, graph.ints(0)))))


def deberta() -> ModelProto:
    """Disentangled attention: the query times learned keys of clipped distances, gathered at the distance."""
    graph = Graph()
    graph.operands()
    learned = graph.const(np.random.default_rng(0).standard_normal((HEADS, WIDTH, 16)))
    relative = graph.add("MatMul", "q", learned)
    places = graph.add("Clip", graph.add("Add", graph.distance(), graph.number(8)), graph.number(0), graph.number(15))
    whole = graph.add("Shape", graph.scores())
    spread = graph.add("Expand", graph.add("Unsqueeze", places, graph.ints(0, 1)), whole)
    picked = graph.add("GatherElements", relative, spread, axis=3)
    return graph.model(graph.attend(graph.add("Add", graph.scores(), picked)))


CASES: dict[str, tuple[Callable[[], ModelProto], list[str], list[str]]] = {
    "QDQ": (qdq, ["ALB405", "DequantizeLinear"], ["no attention was found"]),
    "QOperator, products": (
        lambda: q_operator(softmax=False),
        ["ALB405", "stands between the query and the output"],
        ["no attention was found"],
    ),
    "softmax by hand, no bias": (lambda: by_hand(bias=False), ["1 attention written out"], ["no attention was found"]),
    "log of a power of data": (lambda: decayed(per_head=False), [ADDED], ["it must stay", "positions: none"]),
    "Transformer-XL": (transformer_xl, [ADDED], ["it must stay", "positions: none"]),
    "clamped": (clamped, ["ALB200", "min("], ["it must stay materialised"]),
    "Swin": (swin, ["a learned table of relative positions (1)"], ["positions: none"]),
    "DeBERTa": (deberta, ["not rewritten"], ["positions: none"]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_found_is_said(case: str) -> None:
    make, said, unsaid = CASES[case]
    result = rewrite(make(), options=BARE)
    text = to_text(result)
    assert not result.fused
    for words in said:
        assert words in text, text
    for words in unsaid:
        assert words not in text, text


@pytest.mark.parametrize("make", [lambda: by_hand(bias=True), lambda: decayed(per_head=True)], ids=["by hand", "decay"])
def test_other_spellings_of_alibi_are_no_refusals(make: Callable[[], ModelProto]) -> None:
    result = rewrite(make(), options=BARE)
    assert len(result.fused) == 1, to_text(result)
