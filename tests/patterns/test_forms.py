"""Forms of the bias: what a record says of itself, what follows from it, and which records are refused."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import onnx
import pytest
from alibi_rewriter.algebra import absolute, maximum, min0, minimum
from alibi_rewriter.fused.distance import write_distance
from alibi_rewriter.fused.family import BY_OP_TYPE, KERNEL_MEMBERS, FusedAttention, family_of
from alibi_rewriter.fused.text import Body
from alibi_rewriter.kernels.requests import KernelRequest
from alibi_rewriter.patterns.forms import FORMS, LINEAR, SYMMETRIC, Form, Members
from alibi_rewriter.rewriter.emit.nodes import variant_of
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from oracle import DISTANCES
from textgraphs import parsed, read, run, text_of

MADE: tuple[tuple[Form, Callable[..., float], tuple[float, ...]], ...] = (
    (Form("lopsided", lambda d: minimum(2 * d, -d), "{slope}"), lambda d: min(2 * d, -d), ()),
    (Form("clipped", lambda d, at: -minimum(absolute(d), at), "{slope} {at}", parameters=("at",)),
     lambda d, at: -min(abs(d), at), (2.5,)),
    (Form("between", lambda d, low, high: minimum(maximum(d, -low), high), "{slope} {low} {high}",
          parameters=("low", "high")),
     lambda d, low, high: min(max(d, -low), high), (2.0, 1.5)),
    (Form("dead_zone", lambda d: -absolute(d) - min0(1 - absolute(d)) + 7, "{slope}"),
     lambda d: -max(abs(d) - 1, 0) - min(abs(d), 1) + 7 + max(abs(d) - 1, 0), ()),
    (Form("steeper", lambda d: 3 * d - 4, "{slope} * 3 * j"), lambda d: 3 * d - 4, ()),
)  # fmt: skip
"""Forms, what they mean, and numbers for their parameters."""

pytest.importorskip("onnxruntime")

D = np.arange(-6, 7).astype(np.float64)


def of_lines(form: Form, opset: int, parameters: tuple[float, ...]) -> np.ndarray:
    """The distance as the function body writes it, computed by onnxruntime."""
    body = Body(opset, onnx.TensorProto.FLOAT)
    write_distance(body, form, "distance")
    signature = f"f <{', '.join(form.attributes)}> (j, row) => (distance)" if parameters else "f (j, row) => (distance)"
    text = "\n".join([f'<domain: "t", opset_import: ["" : {opset}]>', signature, "{", *body.lines, "}"])
    function = onnx.parser.parse_function(text)
    node = onnx.helper.make_node(
        "f", ["j", "row"], ["y"], domain="t", **dict(zip(form.attributes, parameters, strict=True))
    )
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None]) for n in ("j", "row", "y")]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", values[:2], values[2:]),
        functions=[function],
        opset_imports=[onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("t", 1)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    j = D.astype(np.float32) + 5
    return np.asarray(run(model, {"j": j, "row": np.full_like(j, 5)})[0])


@pytest.mark.parametrize("opset", [11, 12, 18])
@pytest.mark.parametrize(
    ("form", "meaning", "parameters"),
    [*((form, DISTANCES[form.name], ()) for form in FORMS), *MADE],
    ids=lambda value: value.name if isinstance(value, Form) else "",
)
def test_numbers_and_lines_are_the_same_function(
    form: Form, meaning: Callable[..., float], parameters: tuple[float, ...], opset: int
) -> None:
    wanted = [meaning(float(d), *parameters) for d in D]
    np.testing.assert_allclose(form.measure(D, [Fraction(p) for p in parameters]), wanted)
    np.testing.assert_allclose(of_lines(form, opset, parameters), wanted, rtol=1e-6, atol=1e-6)


def test_what_people_read() -> None:
    assert LINEAR.text("slope[h]", ()) == "slope[h] * j"
    assert SYMMETRIC.text("slope", ()) == "-slope * |i + (S_kv - S_q) - j|"
    assert MADE[1][0].text("s", (4,)) == "s 4"


def test_only_multiples_of_the_distance_do_not_see_the_row() -> None:
    assert [form.sees_row for form in FORMS] == [False, True]
    assert [form.sees_row for form, _, _ in MADE] == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"distance": lambda d: d * d}, ValueError, "multiplies distances"),
        ({"distance": lambda d, a: a * d, "parameters": ("a",), "formula": "{a}"}, ValueError, "multiplies distances"),
        ({"distance": lambda d: min0(min0(d + 1) * d)}, ValueError, "multiplies distances"),
        ({"distance": absolute, "members": (Members(positions=True),)}, ValueError, "positions"),
        ({"distance": lambda d: d, "formula": "{other}"}, KeyError, "other"),
    ],
)
def test_what_is_no_form(arguments: dict[str, object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Form(**{"name": "wrong", "formula": "", **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["linear", "causal"])
def test_two_forms_with_one_op_type_are_an_error(name: str) -> None:
    """A name of its own is not enough.  ``causal`` is what the causal linear bias is called."""
    with pytest.raises(ValueError, match="the same op_type: AlibiAttention"):
        family_of((*FORMS, Form(name, absolute, "")))


def test_members_of_a_form() -> None:
    names = [m.op_type for m in family_of([Form("far_left", absolute, "", (Members(), Members(causal=True)))])]
    assert names[:4] == [
        f"AlibiAttention{n}" for n in ("FarLeft", "FarLeftBooleanMask", "FarLeftAdditiveMask", "CausalFarLeft")
    ]
    assert len(names) == len(set(names)) == 36


def test_the_two_forms_of_today_have_kernels_and_the_names_they_had() -> None:
    assert len(BY_OP_TYPE) == len(KERNEL_MEMBERS) == 78
    assert {m.op_type for m in KERNEL_MEMBERS if not (m.key_bias or m.window or m.lengths or m.mask != "none")} == {
        f"AlibiAttention{n}" for n in ("Causal", "CausalPositions", "Linear", "LinearPositions", "Symmetric")
    }


def test_a_form_without_parameters_takes_none() -> None:
    with pytest.raises(ValueError, match="takes the parameters"):
        FusedAttention(BY_OP_TYPE["AlibiAttentionSymmetric"], 1.0, parameters=(4.0,))


def test_kernels_refuse_a_form_that_they_do_not_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form is refused by its name, and not taken for the linear one."""
    monkeypatch.setitem(SYMMETRIC.__dict__, "kernels", False)
    with pytest.raises(ValueError, match="no kernels for the form 'symmetric'"):
        KernelRequest("AlibiAttentionSymmetric", "float16", 64, 64)


# --- the proof, with forms that the family does not have --------------------------------------------------


def proven(
    monkeypatch: pytest.MonkeyPatch, model: onnx.ModelProto, *forms: Form
) -> tuple[str, tuple[float, ...]] | str:
    """(form, parameters), or the code of the refusal."""
    from alibi_rewriter.rewriter.prove import forms as module

    monkeypatch.setattr(module, "FORMS", (*FORMS, *forms))
    (site,) = rewrite(model, options=Options(dry_run=True)).analysis.sites
    if site.binding is None:
        assert site.refusal is not None
        return site.refusal.code.number
    assert site.checked > 0, "the self-check measures the same form"
    assert variant_of(site.binding).form == site.binding.proof.form.name
    return site.binding.proof.form.name, tuple(map(float, site.binding.proof.parameters))


def with_lines(model: str, old: str, *new: str) -> onnx.ModelProto:
    """A golden graph with one of its nodes replaced."""
    text = text_of(model)
    assert f"   {old}\n" in text
    text = text.replace(f"   {old}\n", "".join(f"   {line}\n" for line in new))
    return parsed(text)


CLIPPED = MADE[1][0]
BETWEEN = MADE[2][0]
NUMBER = "{name} = Constant<value = float {{{value}}}>()"


def test_a_parameter_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proven(monkeypatch, read("refusals/clipped")) == "ALB200"
    assert proven(monkeypatch, read("refusals/clipped"), CLIPPED) == ("clipped", (4.0,))


@pytest.mark.parametrize(("low", "high"), [(2.0, 3.0), (3.0, 3.0), (1.5, 100.0)])
def test_two_parameters_are_solved(monkeypatch: pytest.MonkeyPatch, low: float, high: float) -> None:
    """Clip(d, -low, high): each number where it stands."""
    model = with_lines(
        "refusals/clipped", "neg = Neg(near)",
        "real = Cast<to=1>(rel)", NUMBER.format(name="low", value=-low), NUMBER.format(name="high", value=high),
        "neg = Clip(real, low, high)",
    )  # fmt: skip
    assert proven(monkeypatch, model, BETWEEN) == ("between", (low, high))


def test_two_values_of_one_parameter_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clip(d, -2, 3) is of no form whose one number stands on both sides; Clip(d, -3, 3) is."""
    both = Form("both", lambda d, at: minimum(maximum(d, -at), at), "{slope} {at}", parameters=("at",))
    for low, found in ((-2.0, "ALB200"), (-3.0, ("both", (3.0,)))):
        model = with_lines(
            "refusals/clipped", "neg = Neg(near)",
            "real = Cast<to=1>(rel)", NUMBER.format(name="low", value=low), NUMBER.format(name="high", value=3.0),
            "neg = Clip(real, low, high)",
        )  # fmt: skip
        refused = proven(monkeypatch, model, both)
        assert (refused == found) if not isinstance(found, str) else str(refused).startswith("ALB20")


def test_a_number_that_no_float32_holds_is_no_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_lines(
        "refusals/clipped", "near = Min(absf, four)",
        "wide = Cast<to=11>(absf)", "limit = Constant<value = double {4.1}>()", "less = Min(wide, limit)",
        "near = Cast<to=1>(less)",
    )  # fmt: skip
    assert str(proven(monkeypatch, model, CLIPPED)).startswith("ALB20")


def test_a_form_without_a_causal_member_is_not_written_for_a_causal_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_lines(
        "forms/symmetric_causal", "neg = Neg(absf)", NUMBER.format(name="four", value=4.0),
        "near = Min(absf, four)", "neg = Neg(near)",
    )  # fmt: skip
    causal = Form("clipped", CLIPPED.distance, "{slope} {at}", (Members(causal=True),), ("at",))
    assert str(proven(monkeypatch, model, CLIPPED)).startswith("ALB20")
    assert proven(monkeypatch, model, causal) == ("clipped", (4.0,))
    assert str(proven(monkeypatch, read("refusals/clipped"), causal)).startswith("ALB20")
