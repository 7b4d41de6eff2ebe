"""Products: the operands' elements behind an element of MatMul, Gemm, FusedMatMul and Einsum."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from alibi_rewriter.algebra import Index, Poly, of, poly, substitute
from alibi_rewriter.rewriter.recognise.products import contract, is_contraction
from interpreted import interpreter_of
from onnx import ModelProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


class FusedMatMul(OpRun):  # type: ignore[misc]
    """onnxruntime's operator, by its documentation."""

    op_domain = "com.microsoft"

    def _run(self, a: np.ndarray, b: np.ndarray, alpha: float = 1.0, transA: int = 0, transB: int = 0,
             transBatchA: int = 0, transBatchB: int = 0) -> tuple[np.ndarray]:  # fmt: skip
        a = np.moveaxis(a, 0, -2) if transBatchA else a
        b = np.moveaxis(b, 0, -2) if transBatchB else b
        return (alpha * ((a.swapaxes(-1, -2) if transA else a) @ (b.swapaxes(-1, -2) if transB else b)),)


def model(op: str, left: tuple[int, ...], right: tuple[int, ...], **attributes: object) -> ModelProto:
    domain = "com.microsoft" if op == "FusedMatMul" else ""
    node = helper.make_node(op, ["left", "right"], ["y"], domain=domain, **attributes)
    inputs = [helper.make_tensor_value_info(n, 1, s) for n, s in (("left", left), ("right", right))]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", 1, None)])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    )


CASES = {
    "matmul": ("MatMul", (2, 3, 4, 5), (2, 3, 5, 6), {}),
    "one head on the right": ("MatMul", (2, 3, 4, 5), (2, 1, 5, 6), {}),
    "fewer axes on the right": ("MatMul", (2, 3, 4, 5), (5, 6), {}),
    "gemm": ("Gemm", (4, 5), (5, 6), {"alpha": 0.25}),
    "gemm, both transposed": ("Gemm", (5, 4), (6, 5), {"transA": 1, "transB": 1}),
    "fused": ("FusedMatMul", (2, 3, 4, 5), (2, 3, 6, 5), {"transB": 1, "alpha": 0.5}),
    "fused, rows in front": ("FusedMatMul", (4, 2, 3, 5), (2, 3, 5, 6), {"transBatchA": 1}),
    "fused, rows of the right in front": ("FusedMatMul", (2, 3, 4, 5), (5, 2, 3, 6), {"transBatchB": 1}),
    "einsum": ("Einsum", (2, 4, 3, 5), (2, 6, 3, 5), {"equation": "bihd,bjhd->bhij"}),
    "einsum, implicit": ("Einsum", (4, 5), (5, 6), {"equation": "ik,kj"}),
    "einsum, ellipsis": ("Einsum", (2, 3, 4, 5), (2, 3, 6, 5), {"equation": "...id,...jd->...ij"}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_element_is_the_sum_of_the_operands_elements(case: str) -> None:
    op, left, right, attributes = CASES[case]
    made = model(op, left, right, **attributes)
    rng = np.random.default_rng(3)
    feeds = {
        "left": rng.standard_normal(left).astype(np.float32),
        "right": rng.standard_normal(right).astype(np.float32),
    }
    (wanted,) = ReferenceEvaluator(made, new_ops=[FusedMatMul]).run(None, feeds)
    asked = interpreter_of(made)
    axes = [Index(f"a{k}", poly(n)) for k, n in enumerate(wanted.shape)]
    node = made.graph.node[0]
    assert is_contraction(node)
    found = contract(asked, node, tuple(of(a) for a in axes))
    assert found is not None
    depth = found.inner.bound.constant
    assert depth == 5
    place = tuple(n - 1 for n in wanted.shape)
    at: dict[Index, Poly] = {a: poly(p) for a, p in zip(axes, place, strict=True)}

    def element(name: str, index: tuple[Poly, ...], k: int) -> float:
        numbers = [substitute(x, {**at, found.inner: poly(k)}).constant for x in index]
        return float(feeds[name][tuple(int(n) for n in numbers if n is not None)])

    total = sum(
        element(found.left, found.left_index, k) * element(found.right, found.right_index, k) for k in range(depth)
    )
    assert total * float(found.alpha) == pytest.approx(float(wanted[place]), rel=1e-5)


@pytest.mark.parametrize(
    ("op", "left", "right", "attributes"),
    [
        ("Einsum", (4, 5), (5, 6), {"equation": "ik,kj->j"}),  # two axes are summed
        ("Einsum", (4, 5), (4, 5), {"equation": "ij,ij->ij"}),  # no axis is
        ("Einsum", (4, 4), (4, 6), {"equation": "ii,ij->ij"}),  # a diagonal
        ("MatMul", (5,), (5, 6), {}),
    ],
)
def test_what_is_no_product_over_one_axis(
    op: str, left: tuple[int, ...], right: tuple[int, ...], attributes: dict[str, object]
) -> None:
    made = model(op, left, right, **attributes)
    asked = interpreter_of(made)
    indices = tuple(of(Index(f"a{k}", poly(4))) for k in range(2 if op == "Einsum" else 1))
    assert contract(asked, made.graph.node[0], indices) is None


def test_a_gemm_with_a_third_operand_is_no_product_alone() -> None:
    made = model("Gemm", (4, 5), (5, 6))
    made.graph.node[0].input.append("bias")
    made.graph.input.append(helper.make_tensor_value_info("bias", onnx.TensorProto.FLOAT, [6]))
    indices = (of(Index("i", poly(4))), of(Index("j", poly(6))))
    assert contract(interpreter_of(made), made.graph.node[0], indices) is None
