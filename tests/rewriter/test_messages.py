"""What is said of attentions that are not rewritten.  Each is named, and a model never seems to lack them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.report import to_json, to_text
from alibi_rewriter.rewriter.result import Options
from onnx import ModelProto, TensorProto
from tiny import BARE, LOWEST, Graph

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def biased(graph: Graph) -> str:
    graph.operands()
    return graph.add("Add", graph.scores(), graph.bias())


def through_integers(graph: Graph, name: str) -> str:
    step, middle = graph.const(0.05), graph.const(0, np.uint8)
    return graph.add("DequantizeLinear", graph.add("QuantizeLinear", name, step, middle), step, middle)


def quantised_scores() -> ModelProto:
    graph = Graph(19)
    return graph.model(graph.attend(through_integers(graph, biased(graph))))


def quantised_probabilities() -> ModelProto:
    graph = Graph(19)
    chances = graph.add("Softmax", biased(graph), axis=-1)
    return graph.model(graph.add("MatMul", through_integers(graph, chances), "v"))


def quantised_product() -> ModelProto:
    graph = Graph(19)
    graph.operands()
    scores = graph.add("Add", through_integers(graph, graph.scores()), graph.bias())
    return graph.model(graph.attend(scores))


def integer_product() -> ModelProto:
    graph = Graph(19)
    graph.operands()
    turned = graph.add("Transpose", "k", perm=[0, 1, 3, 2])
    left = graph.add("DynamicQuantizeLinear", "q", results=3)
    right = graph.add("DynamicQuantizeLinear", turned, results=3)
    whole = graph.add("MatMulInteger", left, right, f"{left}_2", f"{right}_2")
    steps = graph.add("Mul", f"{left}_1", f"{right}_1")
    product = graph.add("Mul", graph.add("Cast", whole, to=FLOAT), steps)
    return graph.model(graph.attend(graph.add("Add", product, graph.bias())))


def quantised_around(*, static: bool) -> ModelProto:
    """Projections in integers, by ranges found at run time or stored, around an attention in floats."""
    graph = Graph(21)
    graph.input("x", ("B", "S", 32))
    numbers = np.random.default_rng(3)
    weights, step, middle = graph.const(0.02), graph.const(0.05), graph.const(0, np.int8)
    if static:
        given = graph.add("DequantizeLinear", graph.add("QuantizeLinear", "x", step, middle), step, middle)
    else:
        given = graph.add("DynamicQuantizeLinear", "x", results=3)
    for name in "qkv":
        matrix = graph.const(numbers.integers(-100, 100, (32, 32)), np.int8)
        if static:
            made = graph.add("MatMul", given, graph.add("DequantizeLinear", matrix, weights, middle))
        else:
            whole = graph.add("Cast", graph.add("MatMulInteger", given, matrix, f"{given}_2", middle), to=FLOAT)
            made = graph.add("Mul", whole, graph.add("Mul", f"{given}_1", weights))
        heads = graph.add("Reshape", made, graph.ints(0, 0, 4, 8))
        graph.add("Transpose", heads, perm=[0, 2, 1, 3])
        graph.nodes[-1].output[0] = name
    made = graph.attend(graph.add("Add", graph.scores(), graph.bias()))
    if static:
        made = graph.add("DequantizeLinear", graph.add("QuantizeLinear", made, step, middle), step, middle)
    return graph.model(made)


@pytest.mark.parametrize("static", [False, True])
def test_quantised_projections_are_no_obstacle(static: bool) -> None:
    model = quantised_around(static=static)
    result = rewrite(model, options=Options())
    assert result.exit_code is ExitCode.DONE, [str(s.refusal) for s in result.analysis.sites]
    assert result.verification is not None and result.verification.passed
    assert result.verification.by_sites is not None  # a rounding would become a step
    kept = [n.op_type for n in model.graph.node if "Quantize" in n.op_type or "Integer" in n.op_type]
    assert result.model is not None
    assert [n.op_type for n in result.model.graph.node if "Quantize" in n.op_type or "Integer" in n.op_type] == kept


def one_more_in_the_sum() -> ModelProto:
    """exp(x) / (1 + sum(exp(x))), which some call softmax1: as if there were a key that scores 0."""
    graph = Graph()
    exponential = graph.add("Exp", biased(graph))
    total = graph.add("Add", graph.add("ReduceSum", exponential, graph.ints(-1), keepdims=1), graph.const(1.0))
    return graph.model(graph.add("MatMul", graph.add("Div", exponential, total), "v"))


def changed_probabilities() -> ModelProto:
    graph = Graph()
    chances = graph.add("Sqrt", graph.add("Softmax", biased(graph), axis=-1))
    return graph.model(graph.add("MatMul", chances, "v"))


def sorted_scores() -> ModelProto:
    graph = Graph()
    scores = graph.add("Hardmax", biased(graph), axis=-1)
    return graph.model(graph.attend(scores))


CASES: dict[str, tuple[Callable[[], ModelProto], str, str]] = {
    "quantised-scores": (quantised_scores, "ALB405", "DequantizeLinear"),
    "quantised-probabilities": (quantised_probabilities, "ALB405", "QuantizeLinear"),
    "quantised-product": (quantised_product, "ALB405", "DequantizeLinear"),
    "integer-product": (integer_product, "ALB405", "MatMulInteger"),
    "softmax1": (one_more_in_the_sum, "ALB105", "Add"),
    "probabilities": (changed_probabilities, "ALB103", "Sqrt"),
    "scores": (sorted_scores, "ALB102", "Hardmax"),
}


@pytest.mark.parametrize("case", CASES)
def test_attentions_that_cannot_be_read_are_named(case: str) -> None:
    make, code, operator = CASES[case]
    model = make()
    result = rewrite(model, options=BARE)
    (site,) = (s for s in result.analysis.sites if s.is_attention)
    assert site.refusal is not None
    assert site.refusal.code.number == code
    assert operator in site.refusal.detail
    (node,) = (n for n in model.graph.node if n.name == site.refusal.node)
    assert node.op_type == operator
    text = to_text(result)
    assert site.refusal.code.number in text
    assert "no attention was found" not in text
    assert "no attention was found" not in str(to_json(result)["attention_found"])


def test_a_classifier_is_no_attention() -> None:
    graph = Graph()
    graph.input("x", ("B", 8))
    weights = graph.const(np.ones((8, 4)))
    model = graph.model(graph.add("Softmax", graph.add("MatMul", "x", weights), axis=-1))
    result = rewrite(model, options=BARE)
    assert not any(s.is_attention for s in result.analysis.sites)
    assert "no attention was found" in to_text(result)


def padded(dtype: int = INT64) -> ModelProto:
    """(1 - m) * finfo.min of an integer mask, beside a causal one."""
    graph = Graph()
    scores = biased(graph)
    graph.input("m", ("B", "S"), dtype)
    gone = graph.add(
        "Sub", graph.const(1.0), graph.add("Cast", graph.add("Unsqueeze", "m", graph.ints(1, 2)), to=FLOAT)
    )
    after = graph.add("Greater", graph.distance(), graph.number(0))
    causal = graph.add("Where", after, graph.const(LOWEST), graph.const(0.0))
    masks = graph.add("Add", graph.add("Mul", gone, graph.const(LOWEST)), causal)
    return graph.model(graph.attend(graph.add("Add", scores, masks)))


@pytest.mark.parametrize("declared", [False, True])
def test_what_masks_are_taken_to_hold_is_told(declared: bool) -> None:
    ranges = {"m": (0.0, 1.0)} if declared else {}
    result = rewrite(padded(), options=Options(verify=False, probe=False, val_ranges=ranges))
    (site,) = result.analysis.proven
    assert site.binding is not None
    told = [a for a in site.binding.proof.assumptions if "0 and 1" in a]
    assert len(told) == 1
    assert told[0].startswith("'m' holds 0 and 1 only")
    assert told[0] in to_text(result, explain=True)
