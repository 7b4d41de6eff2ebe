"""The verification passes right rewrites, fails wrong ones, and says when its inputs could not tell."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import textgraphs
from alibi_rewriter import Options, rewrite
from alibi_rewriter.base import telemetry
from alibi_rewriter.fused.body import function_proto
from alibi_rewriter.fused.family import BY_OP_TYPE, DOMAIN, DOMAIN_VERSION, EmptyRows, FusedAttention, Variant
from alibi_rewriter.verify import GivenInputError, RuntimeMissingError, Verification, VerifyOptions, verify
from alibi_rewriter.verify.inputs.draw import Drawer, plan
from alibi_rewriter.verify.inputs.sizes import DrawnSizes, Relation, Role, Symbols
from alibi_rewriter.verify.inputs.usage import InputKind, describe_inputs
from alibi_rewriter.verify.power.mutants import (
    OF_FORM,
    OF_KEY_BIAS,
    OF_LENGTHS,
    OF_WINDOW,
    MutantKind,
    concerns,
    find_sites,
    mutate,
)
from alibi_rewriter.verify.run import clone as verify_clone
from alibi_rewriter.verify.run.clone import float32_clone, read
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("onnxruntime")

OPSET = 17
HEADS, DEPTH, VOCABULARY = 4, 8, 29
WIDTH = HEADS * DEPTH
SLOPES = (0.5, 0.125, 0.03125, 0.015625)
SCALE = 0.3535533905932738


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A one-layer language model, to be written decomposed or fused.

    Attributes:
        form: Of the bias.
        causal: Whether later keys are hidden.
        mask: Whether it takes an attention_mask [B, S].
        positions: Whether key positions are counted from that mask.
        cache: Whether it takes past keys and values.
        dims: Text of batch, new and past dimension.
        dtype: Of weights and activations.
        slopes: One per head.
        scale: Of the dot products.
        lowest: The score of a hidden key in the decomposed model; the type's lowest number if None.
    """

    form: str = "linear"
    causal: bool = True
    mask: bool = False
    positions: bool = False
    cache: bool = False
    dims: tuple[str, str, str] = ("B", "T", "P")
    dtype: type[np.floating] = np.float32
    slopes: tuple[float, ...] = SLOPES
    scale: float = SCALE
    lowest: float | None = None

    @property
    def variant(self) -> Variant:
        return Variant(self.form, self.causal, self.positions, "boolean" if self.mask else "none")

    def original(self) -> onnx.ModelProto:
        """The decomposed model, its bias written in the way of the exporters: linear in the key alone."""
        lines = [
            "scaled = Mul(dots, scale)",
            "slopes_4d = Reshape(slopes, per_head)",
        ]
        if self.positions:
            lines += [
                "counted = CumSum(mask_float, one)",
                "from_zero = Sub(counted, one_float)",
                "positions = Mul(from_zero, mask_float)",
                "positions_4d = Unsqueeze(positions, axes_12)",
                "typed_positions = CastLike(positions_4d, scale)",
                "bias = Mul(slopes_4d, typed_positions)",
            ]
        elif self.form == "symmetric":
            lines += [
                "difference = Sub(row, key_index)",
                "distance = Abs(difference)",
                "negated = Neg(distance)",
                "typed_distance = CastLike(negated, scale)",
                "bias = Mul(slopes_4d, typed_distance)",
            ]
        else:
            lines += ["typed_index = CastLike(key_index, scale)", "bias = Mul(slopes_4d, typed_index)"]
        lines += ["scores = Add(scaled, bias)"]
        scores = "scores"
        if self.causal:
            lines += ["later = Greater(key_index, row)", "scores_causal = Where(later, lowest, scores)"]
            scores = "scores_causal"
        if self.mask:
            lines += [
                "mask_4d = Unsqueeze(attention_mask, axes_12)",
                "padded = Equal(mask_4d, zero)",
                f"scores_masked = Where(padded, lowest, {scores})",
            ]
            scores = "scores_masked"
        lines += [f"weights = Softmax<axis=-1>({scores})", "attended = MatMul(weights, v)"]
        return self._model(lines, [], None)

    def rewritten(
        self,
        *,
        variant: Variant | None = None,
        slopes: Sequence[float] | None = None,
        scale: float | None = None,
        change: Callable[[onnx.FunctionProto], None] = lambda body: None,
    ) -> onnx.ModelProto:
        """The fused model, with mistakes if asked for."""
        variant = variant or self.variant
        lines = []
        inputs = ["q", "k", "v", "slopes_float"]
        if variant.mask == "boolean":
            lines += ["mask_4d = Unsqueeze(attention_mask, axes_12)", "visible = Cast<to=9>(mask_4d)"]
            inputs.append("visible")
        if variant.positions:
            lines += [
                "counted = CumSum(mask_float, one)",
                "from_zero = Sub(counted, one_float)",
                "positions = Mul(from_zero, mask_float)",
            ]
            inputs.append("positions")
        fused = FusedAttention(variant, self.scale if scale is None else scale, EmptyRows.MEAN)
        node = helper.make_node(
            variant.op_type, inputs, ["attended"], name="fused", domain=DOMAIN, **fused.attributes()
        )
        query_type = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        body = function_proto(variant, OPSET, grouped=False, zero_rows=False, query_type=query_type)
        change(body)
        return self._model(lines, [node], body, slopes)

    def _model(
        self,
        attention: Sequence[str],
        fused: Sequence[onnx.NodeProto],
        body: onnx.FunctionProto | None,
        slopes: Sequence[float] | None = None,
    ) -> onnx.ModelProto:
        batch, new, past = self.dims
        kind = "float16" if self.dtype is np.float16 else "float"
        inputs = [f"int64[{batch}, {new}] input_ids"]
        outputs = [f"{kind}[{batch}, {new}, {VOCABULARY}] logits"]
        heads = [
            "x = Gather(table, input_ids)",
            *(
                line
                for name in "qkv"
                for line in (
                    f"{name}_flat = MatMul(x, w_{name})",
                    f"{name}_heads = Reshape({name}_flat, split)",
                    f"{name}_new = Transpose<perm=[0, 2, 1, 3]>({name}_heads)",
                )
            ),
            "q = Identity(q_new)",
        ]
        for name in "kv":
            if self.cache:
                inputs.append(f"{kind}[{batch}, {HEADS}, {past}, {DEPTH}] past_{name}")
                outputs.append(f"{kind}[{batch}, {HEADS}, total, {DEPTH}] present_{name}")
                heads += [
                    f"{name} = Concat<axis=2>(past_{name}, {name}_new)",
                    f"present_{name} = Identity({name})",
                ]
            else:
                heads.append(f"{name} = Identity({name}_new)")
        if self.mask:
            inputs.append("int64[mask_batch, mask_length] attention_mask")
            heads.append("mask_float = Cast<to=1>(attention_mask)")
        if not fused:
            heads += ["kt = Transpose<perm=[0, 1, 3, 2]>(k)", "dots = MatMul(q, kt)"]
        heads += [
            "q_shape = Shape(q)",
            "k_shape = Shape(k)",
            "S_q = Gather(q_shape, two)",
            "S_kv = Gather(k_shape, two)",
            "first = Sub(S_kv, S_q)",
            "keys = Range(zero, S_kv, one)",
            "rows = Range(first, S_kv, one)",
            "key_index = Unsqueeze(keys, axes_012)",
            "row = Unsqueeze(rows, axes_013)",
        ]
        tail = [
            "swapped = Transpose<perm=[0, 2, 1, 3]>(attended)",
            "merged = Reshape(swapped, join)",
            "hidden = MatMul(merged, w_o)",
            "residual = Add(x, hidden)",
            "logits = MatMul(residual, head)",
        ]
        listed = "\n".join((*heads, *attention, *tail))
        text = (
            f'<ir_version: 10, opset_import: ["" : {OPSET}, "{DOMAIN}" : {DOMAIN_VERSION}]>\n'
            f"tiny ({', '.join(inputs)}) => ({', '.join(outputs)}) {{\n{listed}\n}}"
        )
        model = onnx.parser.parse_model(text)
        model.graph.initializer.extend(self._weights(slopes))
        if body is not None:
            where = next(index for index, node in enumerate(model.graph.node) if node.output[0] == "swapped")
            for node in reversed(fused):
                model.graph.node.insert(where, node)
            model.functions.append(body)
        return model

    def _weights(self, slopes: Sequence[float] | None) -> list[TensorProto]:
        rng = np.random.default_rng(5)
        arrays = {
            "table": rng.standard_normal((VOCABULARY, WIDTH)).astype(self.dtype),
            **{
                f"w_{name}": (rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(self.dtype)
                for name in ("q", "k", "v", "o")
            },
            "head": (rng.standard_normal((WIDTH, VOCABULARY)) / WIDTH**0.5).astype(self.dtype),
            "scale": np.asarray(self.scale, self.dtype),
            "lowest": np.asarray(np.finfo(self.dtype).min if self.lowest is None else self.lowest, self.dtype),
            "slopes": np.asarray(self.slopes, self.dtype),
            "slopes_float": np.asarray(self.slopes if slopes is None else slopes, np.float32),
            "per_head": np.asarray([1, -1, 1, 1]),
            "split": np.asarray([0, 0, HEADS, DEPTH]),
            "join": np.asarray([0, 0, WIDTH]),
            "zero": np.asarray(0),
            "one": np.asarray(1),
            "one_float": np.asarray(1, np.float32),
            "two": np.asarray(2),
            "axes_12": np.asarray([1, 2]),
            "axes_012": np.asarray([0, 1, 2]),
            "axes_013": np.asarray([0, 1, 3]),
        }
        return [numpy_helper.from_array(array, name) for name, array in arrays.items()]


def run_verify(folder: Path, original: onnx.ModelProto, rewritten: onnx.ModelProto, **options: object) -> Verification:
    onnx.save(original, str(folder / "original.onnx"))
    onnx.save(rewritten, str(folder / "rewritten.onnx"))
    return verify(
        folder / "original.onnx",
        folder / "rewritten.onnx",
        options=VerifyOptions(**{"threads": 1, **options}),  # type: ignore[arg-type]
    )


FAMILY = {
    "causal": Tiny(),
    "linear": Tiny(causal=False),
    "symmetric": Tiny(form="symmetric", causal=False),
    "symmetric mask": Tiny(form="symmetric", causal=False, mask=True),
    "causal mask": Tiny(mask=True),
    "causal positions mask": Tiny(mask=True, positions=True),
    "causal cache": Tiny(cache=True),
    "symmetric cache": Tiny(form="symmetric", causal=False, cache=True),
    "causal positions mask cache": Tiny(mask=True, positions=True, cache=True),
}


@pytest.mark.parametrize("name", list(FAMILY))
def test_right_rewrite_passes_and_every_mutant_is_killed(name: str, tmp_path: Path) -> None:
    tiny = FAMILY[name]
    result = run_verify(tmp_path, tiny.original(), tiny.rewritten())
    assert result.status == "passed", result.summary()
    assert result.worst is not None and result.worst.factor < 0.5
    assert result.power is not None
    alive = [mutant for mutant in result.power.mutants if mutant.verdict == "survived"]
    assert not alive, alive
    assert result.power.killed >= 6
    assert result.precision is None


def align_top_left(body: onnx.FunctionProto) -> None:
    """row(i) = i: right while there is no cache."""
    for node in body.node:
        if node.output[0] == "first_row":
            node.op_type = "Sub"
            node.input[:] = ["S_q", "S_q"]
        if node.output[0] == "rows":
            node.input[1] = "S_q"


def keep_future(variant: Variant) -> Variant:
    return dataclasses.replace(variant, causal=not variant.causal)


WRONG: dict[str, Callable[[Tiny], onnx.ModelProto]] = {
    "largest slope 1 % off": lambda tiny: tiny.rewritten(slopes=(0.505, *SLOPES[1:])),
    "smallest slope 1 % off": lambda tiny: tiny.rewritten(slopes=(*SLOPES[:3], 1.01 * SLOPES[3])),
    "no bias": lambda tiny: tiny.rewritten(slopes=(0.0,) * HEADS),
    "heads rolled": lambda tiny: tiny.rewritten(slopes=(*SLOPES[1:], SLOPES[0])),
    "other causality": lambda tiny: tiny.rewritten(variant=keep_future(tiny.variant)),
    "scale over the bias too": lambda tiny: tiny.rewritten(slopes=[SCALE * slope for slope in SLOPES]),
    "other scale": lambda tiny: tiny.rewritten(scale=SCALE * 1.001),
    "aligned top left": lambda tiny: tiny.rewritten(change=align_top_left),
}


@pytest.mark.parametrize("mistake", list(WRONG))
def test_wrong_rewrite_fails(mistake: str, tmp_path: Path) -> None:
    tiny = Tiny(cache=True)
    result = run_verify(tmp_path, tiny.original(), WRONG[mistake](tiny))
    assert result.status == "failed"
    assert result.worst is not None and result.worst.factor > 1.5
    assert result.power is None  # a failed comparison has shown its power


def test_only_a_cache_shows_a_wrong_alignment(tmp_path: Path) -> None:
    without = Tiny()
    assert run_verify(tmp_path, without.original(), without.rewritten(change=align_top_left)).passed
    symmetric = Tiny(form="symmetric", causal=False, cache=True)
    result = run_verify(tmp_path, symmetric.original(), symmetric.rewritten(change=align_top_left))
    assert {one.name for one in result.sets if not one.passed} >= {"cache, one new token", "long cache"}
    assert next(one for one in result.sets if one.name == "short").passed


def test_a_wrong_function_body_is_not_taken_for_rounding(tmp_path: Path) -> None:
    """The allowance for 16-bit tables disturbs the body in the file, not a right one."""
    tiny = Tiny(cache=True, dtype=np.float16)
    result = run_verify(tmp_path, tiny.original(), tiny.rewritten(change=align_top_left))
    assert result.status == "failed"


def test_positions_of_holes_matter(tmp_path: Path) -> None:
    """Key positions counted from the mask equal the key index up to a row constant, unless the mask has holes."""
    counted = Tiny(mask=True, positions=True)
    by_index = dataclasses.replace(counted.variant, positions=False)
    result = run_verify(tmp_path, counted.original(), counted.rewritten(variant=by_index))
    failed = [one.name for one in result.sets if not one.passed]
    assert failed == ["interior padding", "long, interior padding"]


def test_one_token_is_reported_as_weak(tmp_path: Path) -> None:
    tiny = Tiny(dims=("B", "1", "P"))
    result = run_verify(tmp_path, tiny.original(), tiny.rewritten(slopes=(0.1, 0.2, 0.3, 0.4)))
    assert result.passed  # one token attends to itself, whatever its bias
    assert result.power is not None and result.power.weak and result.power.killed == 0
    verdicts = {mutant.kind: mutant for mutant in result.power.mutants}
    assert verdicts["bias_dropped"].verdict == "survived"
    assert "too weak" in verdicts["bias_dropped"].reason
    assert verdicts["causality_changed"].verdict == "equivalent"
    assert result.power.summary() == "mutants killed 0/7"


def test_max_length_limits_power(tmp_path: Path) -> None:
    """A slope too small for the drawn length is not claimed to be verified."""
    tiny = Tiny(slopes=(0.5, 0.25, 0.125, 1e-5))
    result = run_verify(tmp_path, tiny.original(), tiny.rewritten(), max_length=16)
    assert result.power is not None
    alive = [mutant.kind for mutant in result.power.mutants if mutant.verdict == "survived"]
    assert alive == ["slope_smallest_1_percent"]


@pytest.mark.parametrize("dims", [("2", "7", "5"), ("s43", "s72", "s81")])
def test_static_and_opaque_dimensions(dims: tuple[str, str, str], tmp_path: Path) -> None:
    for tiny in (Tiny(dims=dims, mask=True), Tiny(dims=dims, cache=True)):
        result = run_verify(tmp_path, tiny.original(), tiny.rewritten())
        assert result.passed and len(result.sets) >= 3
        assert result.power is not None and not result.power.weak


def test_sums_in_dimension_names_are_taken_at_their_word(tmp_path: Path) -> None:
    tiny = Tiny(mask=True, positions=True, cache=True)
    models = tiny.original(), tiny.rewritten()
    for model in models:
        mask = next(value for value in model.graph.input if value.name == "attention_mask")
        mask.type.tensor_type.shape.dim[1].dim_param = "P + T"
    result = run_verify(tmp_path, *models)
    assert result.passed
    shapes = next(one.shapes for one in result.sets if one.name == "cache, left padding")
    assert shapes["attention_mask"] == (2, 11) and shapes["past_k"] == (2, HEADS, 7, DEPTH)


def test_mask_whose_ones_are_padding(tmp_path: Path) -> None:
    tiny = Tiny(mask=True, positions=True)
    models = []
    for model in (tiny.original(), tiny.rewritten()):
        # attention_mask = 1 - ignored
        for node in model.graph.node:
            node.input[:] = ["mask_tokens" if name == "attention_mask" else name for name in node.input]
        value = next(value for value in model.graph.input if value.name == "attention_mask")
        value.name = "ignored"
        model.graph.node.insert(0, helper.make_node("Sub", ["one", "ignored"], ["mask_tokens"]))
        models.append(model)
    result = run_verify(tmp_path, *models)
    assert result.passed, result.summary()
    assert any("ones are padding" in note for note in result.notes)
    assert result.power is not None and not result.power.weak


def test_model_that_takes_one_sequence_only(tmp_path: Path) -> None:
    tiny = Tiny()
    models = []
    for model in (tiny.original(), tiny.rewritten()):
        split = next(tensor for tensor in model.graph.initializer if tensor.name == "split")
        split.CopyFrom(numpy_helper.from_array(np.asarray([1, -1, HEADS, DEPTH]), "split"))
        join = next(tensor for tensor in model.graph.initializer if tensor.name == "join")
        join.CopyFrom(numpy_helper.from_array(np.asarray([1, -1, WIDTH]), "join"))
        residual = next(node for node in model.graph.node if node.output[0] == "residual")
        model.graph.initializer.append(numpy_helper.from_array(np.asarray([1, -1, WIDTH]), "one_sequence"))
        where = list(model.graph.node).index(residual)
        residual.input[0] = "x_single"
        model.graph.node.insert(where, helper.make_node("Squeeze", ["x", "axes_0"], ["x_rows"]))
        model.graph.node.insert(where + 1, helper.make_node("Reshape", ["x_rows", "one_sequence"], ["x_single"]))
        model.graph.initializer.append(numpy_helper.from_array(np.asarray([0]), "axes_0"))
        models.append(model)
    result = run_verify(tmp_path, *models)
    assert result.passed
    assert {one.shapes["input_ids"][0] for one in result.sets} == {1}
    assert any("batch 1 instead of" in note for note in result.notes)
    assert result.power is not None and not result.power.weak


def test_rows_of_nan_are_counted_and_left_out(tmp_path: Path) -> None:
    tiny = Tiny(mask=True, lowest=-np.inf)
    result = run_verify(tmp_path, tiny.original(), tiny.rewritten())
    assert result.passed
    left = next(one for one in result.sets if one.name == "left padding").outputs[0]
    assert left.nan_rows > 0 and left.scope == "kept tokens" and left.compared > 0
    assert any("NaN in the original" in text for text in result.out_of_scope)


def test_nan_of_the_rewritten_model_fails(tmp_path: Path) -> None:
    tiny = Tiny()
    result = run_verify(tmp_path, tiny.original(), tiny.rewritten(slopes=(float("nan"), *SLOPES[1:])))
    assert result.status == "failed"
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["sets"][0]["outputs"][0]["max_abs"] == "inf"


def test_rewritten_model_that_does_not_run_fails(tmp_path: Path) -> None:
    tiny = Tiny()
    broken = tiny.rewritten()
    del broken.functions[:]
    result = run_verify(tmp_path, tiny.original(), broken)
    assert result.status == "failed"
    assert result.sets[0].error is not None and "AlibiAttentionCausal" in result.sets[0].error


def test_report_is_reproducible_and_json(tmp_path: Path) -> None:
    tiny = Tiny(mask=True)
    first, second = (run_verify(tmp_path, tiny.original(), tiny.rewritten(), seed=3).to_json() for _ in range(2))
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)
    assert list(first) == [
        "status", "method", "by_sites", "sites", "skipped_reason", "summary", "tolerance", "out_of_scope", "notes",
        "sets", "power", "kernels", "precision",
    ]  # fmt: skip
    other = run_verify(tmp_path, tiny.original(), tiny.rewritten(), seed=4).to_json()
    assert other["sets"] != first["sets"]


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_16_bit_models(kind: str, tmp_path: Path) -> None:
    """Compared as float32 clones; as they are, each is measured against the float32 original."""
    tiny = Tiny(dtype=np.float16, mask=True, scale=0.34375)
    models = [tiny.original(), tiny.rewritten()]
    if kind == "bfloat16":
        for model in models:
            text = onnx.ModelProto()
            text.CopyFrom(model)
            for tensor in text.graph.initializer:
                if tensor.data_type == TensorProto.FLOAT16:
                    wide = numpy_helper.to_array(tensor).astype(np.float32)
                    narrow = helper.make_tensor(tensor.name, TensorProto.BFLOAT16, wide.shape, wide.reshape(-1))
                    tensor.CopyFrom(narrow)
            for value in (*text.graph.input, *text.graph.output):
                if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
                    value.type.tensor_type.elem_type = TensorProto.BFLOAT16
            model.CopyFrom(text)
    result = run_verify(tmp_path, *models)
    assert result.passed, result.summary()
    assert result.worst is not None and result.worst.max_abs < 1e-4
    assert result.power is not None and not result.power.weak
    assert result.precision is not None and result.precision.types == (kind,)
    if kind == "float16":
        assert 1e-5 < result.precision.original["logits"] < 2e-2
        assert 1e-5 < result.precision.rewritten["logits"] < 2e-2
    else:
        assert not result.precision.original and not result.precision.rewritten
        assert sum("does not run as it is" in note for note in result.precision.notes) == 2


@pytest.mark.parametrize("anchored_at_end", [False, True])
def test_bias_table_stored_in_16_bits(anchored_at_end: bool, tmp_path: Path) -> None:
    """A table whose entries are rounded to float16 is allowed that rounding, says so, and nothing more."""
    slopes = (0.7071, 0.3, 0.1, 0.0312)
    tiny = Tiny(dtype=np.float16, scale=0.34375, slopes=slopes)
    original = tiny.original()
    longest = 64
    keys = np.arange(longest) - (longest - 1 if anchored_at_end else 0)
    table = (np.asarray(slopes)[None, :, None, None] * keys).astype(np.float16)
    bias = next(node for node in original.graph.node if node.output[0] == "bias")
    bias.op_type = "Slice"
    ends = ("minus_length", "far") if anchored_at_end else ("start", "length")
    bias.input[:] = ["bias_table", *ends, "key_axis"]
    where = list(original.graph.node).index(bias)
    original.graph.node.insert(where, helper.make_node("Reshape", ["S_kv", "flat"], ["length"]))
    original.graph.node.insert(where + 1, helper.make_node("Neg", ["length"], ["minus_length"]))
    for name, array in (
        ("bias_table", table),
        ("flat", np.asarray([-1])),
        ("start", np.asarray([0])),
        ("far", np.asarray([2**31])),
        ("key_axis", np.asarray([3])),
    ):
        original.graph.initializer.append(numpy_helper.from_array(array, name))
    result = run_verify(tmp_path, original, tiny.rewritten())
    assert result.passed, result.summary()
    assert any("rounded to float16" in note for note in result.notes)
    assert result.worst is not None and result.worst.max_rel > 2e-5 and result.worst.factor < 0.9
    assert result.power is not None
    killed = {mutant.kind for mutant in result.power.mutants if mutant.verdict == "killed"}
    others = OF_KEY_BIAS | OF_WINDOW | OF_FORM | OF_LENGTHS
    assert killed >= {k.value for k in {*MutantKind} - others if "1_percent" not in k.value}
    wrong = run_verify(tmp_path, original, tiny.rewritten(slopes=[1.05 * slope for slope in slopes]))
    assert wrong.status == "failed"


def test_a_cast_to_16_bits_allows_nothing(tmp_path: Path) -> None:
    """Only what a file stores can be rounded in it; a cast is widened away."""
    tiny = Tiny()
    models = []
    for model in (tiny.original(), tiny.rewritten(slopes=(1.002 * SLOPES[0], *SLOPES[1:]))):
        logits = next(node for node in model.graph.node if node.output[0] == "logits")
        logits.output[0] = "wide_logits"
        model.graph.node.append(helper.make_node("Cast", ["wide_logits"], ["half"], to=TensorProto.FLOAT16))
        model.graph.node.append(helper.make_node("Cast", ["half"], ["logits"], to=TensorProto.FLOAT))
        models.append(model)
    assert run_verify(tmp_path, models[0], models[0]).passed
    result = run_verify(tmp_path, *models)
    assert result.status == "failed"
    assert result.precision is not None and result.precision.types == ("float16",)


def test_clone_keeps_names_and_values(tmp_path: Path) -> None:
    model = Tiny(dtype=np.float16, cache=True).rewritten()
    onnx.save(model, str(tmp_path / "model.onnx"))
    source = read(tmp_path / "model.onnx")
    clone = float32_clone(source, tmp_path).proto
    assert source.narrow == ("float16",)
    assert [value.name for value in clone.graph.output] == [value.name for value in model.graph.output]
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for tensor in clone.graph.initializer:
        array = numpy_helper.to_array(tensor)
        assert array.dtype == (np.float32 if before[tensor.name].dtype == np.float16 else before[tensor.name].dtype)
        np.testing.assert_array_equal(array, before[tensor.name])
    assert TensorProto.FLOAT16 not in {
        value.type.tensor_type.elem_type for value in (*clone.graph.input, *clone.graph.output)
    }
    onnx.checker.check_model(clone)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_external_data_is_read_in_place(dtype: type[np.floating], tmp_path: Path) -> None:
    tiny = Tiny(dtype=dtype, scale=0.34375)
    for name, model in (("a", tiny.original()), ("b", tiny.rewritten())):
        onnx.save(
            model, str(tmp_path / f"{name}.onnx"), save_as_external_data=True, location=f"{name}.bin", size_threshold=64
        )
    before = {path.name: path.read_bytes() for path in sorted(tmp_path.iterdir())}
    result = verify(tmp_path / "a.onnx", tmp_path / "b.onnx", options=VerifyOptions(threads=1))
    assert result.passed, result.summary()
    assert result.power is not None and not result.power.weak
    assert (result.precision is not None) == (dtype is np.float16)
    assert {path.name: path.read_bytes() for path in sorted(tmp_path.iterdir())} == before


def test_large_inline_weights_move_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights lie in a file, so that a mutant copies the graph without them."""
    monkeypatch.setattr(verify_clone, "_MOVE_FROM", 1)
    monkeypatch.setattr(verify_clone, "_LARGE", 1024)
    for dtype in (np.float32, np.float16):
        tiny = Tiny(dtype=dtype, scale=0.34375)
        result = run_verify(tmp_path, tiny.original(), tiny.rewritten())
        assert result.passed and result.power is not None and not result.power.weak
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    clone = float32_clone(read(tmp_path / "original.onnx"), scratch)
    assert clone.folder == scratch
    moved = [tensor for tensor in clone.proto.graph.initializer if tensor.external_data]
    assert {"table", "w_q", "head"} <= {tensor.name for tensor in moved}
    onnx.load_external_data_for_model(clone.proto, str(scratch))
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in tiny.original().graph.initializer}
    for tensor in clone.proto.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), before[tensor.name])


def test_model_too_large_is_skipped_with_the_reason(tmp_path: Path) -> None:
    tiny = Tiny()
    result = run_verify(tmp_path, tiny.original(), tiny.rewritten(), memory_limit=1000)
    assert result.status == "skipped" and not result.passed
    assert "memory" in (result.skipped_reason or "")


def test_missing_onnxruntime_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(telemetry.importlib, "import_module", fail)
    tiny = Tiny()
    with pytest.raises(RuntimeMissingError, match="pip install"):
        run_verify(tmp_path, tiny.original(), tiny.rewritten())


GIVEN_FAULTS = {
    "unknown name": ({"input_ids": np.zeros((1, 4), np.int64), "extra": np.zeros(1)}, "'extra' is not an input"),
    "missing": ({"input_ids": np.zeros((1, 4), np.int64)}, "'past_k' is missing"),
    "dtype": ({"input_ids": np.zeros((1, 4), np.float32)}, "is of type float32, not int64"),
    "rank": ({"input_ids": np.zeros(4, np.int64)}, "has shape \\[4\\], not \\[B, T\\]"),
    "fixed size": ({"past_k": np.zeros((1, 3, 4, 8), np.float32)}, "has shape \\[1, 3, 4, 8\\], not"),
    "symbol": (
        {"input_ids": np.zeros((1, 4), np.int64), "past_k": np.zeros((2, HEADS, 4, DEPTH), np.float32)},
        "has B = 2, but 'input_ids' has B = 1",
    ),
    "pickle": ({"input_ids": np.array([{}], dtype=object)}, "plain arrays"),
}


@pytest.mark.parametrize("fault", list(GIVEN_FAULTS))
def test_given_inputs_that_do_not_fit(fault: str, tmp_path: Path) -> None:
    arrays, message = GIVEN_FAULTS[fault]
    np.savez(tmp_path / "data.npz", **arrays)
    tiny = Tiny(cache=True)
    with pytest.raises(GivenInputError, match=message):
        run_verify(tmp_path, tiny.original(), tiny.rewritten(), inputs=tmp_path / "data.npz")


def test_given_file_that_is_no_npz(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"not a zip file")
    np.save(tmp_path / "data.npy", np.zeros(3))
    tiny = Tiny()
    for name in ("data.npz", "data.npy", "absent.npz"):
        with pytest.raises(GivenInputError, match="npz"):
            run_verify(tmp_path, tiny.original(), tiny.rewritten(), inputs=tmp_path / name)


def test_given_inputs_replace_the_drawn_ones(tmp_path: Path) -> None:
    tiny = Tiny()
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (2, 40))
    np.savez(tmp_path / "data.npz", input_ids=ids.astype(np.int32))
    result = run_verify(tmp_path, tiny.original(), tiny.rewritten(), inputs=tmp_path / "data.npz")
    assert [one.name for one in result.sets] == ["given inputs"]
    assert result.sets[0].shapes == {"input_ids": (2, 40)}
    assert result.passed and result.power is not None and not result.power.weak
    np.savez(tmp_path / "data.npz", input_ids=ids + VOCABULARY)
    refused = run_verify(tmp_path, tiny.original(), tiny.rewritten(), inputs=tmp_path / "data.npz")
    assert refused.status == "skipped" and "given inputs" in (refused.skipped_reason or "")


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"absent": (0, 1)}, "not an input"),
        ({"input_ids": (5, 2)}, "empty"),
        ({"input_ids": (0.5, 2)}, "whole numbers"),
        ({"input_ids": (0, float("inf"))}, "not finite"),
    ],
)
def test_val_ranges_that_do_not_fit(ranges: dict[str, tuple[float, float]], message: str, tmp_path: Path) -> None:
    tiny = Tiny()
    with pytest.raises(GivenInputError, match=message):
        run_verify(tmp_path, tiny.original(), tiny.rewritten(), val_ranges=ranges)


def test_val_range_replaces_the_draw(tmp_path: Path) -> None:
    tiny = Tiny()
    weak = run_verify(tmp_path, tiny.original(), tiny.rewritten(), val_ranges={"input_ids": (3, 3)})
    # One token repeated: all values are equal, so no attention weight matters.
    assert weak.passed and weak.power is not None and weak.power.killed == 0
    outside = run_verify(tmp_path, tiny.original(), tiny.rewritten(), val_ranges={"input_ids": (100, 200)})
    assert outside.status == "skipped"


def bare_model(text: str, variants: Sequence[Variant], functions: str = "") -> onnx.ModelProto:
    """A model in ONNX text whose nodes of domain alibi get their attributes and bodies."""
    header = f'<ir_version: 10, opset_import: ["" : {OPSET}, "{DOMAIN}" : {DOMAIN_VERSION}, "local" : 1]>'
    model = onnx.parser.parse_model(f"{header}\n{text}\n{functions}")
    waiting = [model.graph.node, *(function.node for function in model.functions)]
    while waiting:
        for node in waiting.pop():
            waiting += [attribute.g.node for attribute in node.attribute if attribute.HasField("g")]
            for variant in variants:
                if node.domain == DOMAIN and node.op_type == variant.op_type:
                    attributes = FusedAttention(variant, SCALE).attributes()
                    node.attribute.extend(helper.make_attribute(*item) for item in attributes.items())
    for variant in variants:
        model.functions.append(
            function_proto(variant, OPSET, grouped=True, zero_rows=False, query_type=TensorProto.FLOAT)
        )
    return model


QKV = "float[B, 4, Sq, 8] query, float[B, 2, Skv, 8] key, float[B, 2, Skv, 8] value"
CAUSAL = Variant("linear", True, False, "none")


def test_deep_models_are_mutated_everywhere_at_once(tmp_path: Path) -> None:
    chain = "\n".join(f"x{i + 1} = alibi.AlibiAttentionCausal(x{i}, key, value, slopes)" for i in range(5))
    constant = "<float[4] slopes = {0.5, 0.25, 0.125, 0.0625}>"
    model = bare_model(f"g ({QKV}) => (float[B, 4, Sq, 8] x5) {constant} {{ x0 = Identity(query) {chain} }}", [CAUSAL])
    result = run_verify(tmp_path, model, model)
    assert result.passed and result.power is not None
    assert {mutant.site for mutant in result.power.mutants} == {"all"}
    assert result.power.summary() == "mutants killed 8/8"
    # A bare attention: keys are longer than queries in the sets with a past.
    longest = max(one.shapes["key"][2] - one.shapes["query"][2] for one in result.sets)
    assert longest > 50 and result.sets[0].shapes["key"][1] == 2


def test_each_of_a_few_sites_is_mutated_alone(tmp_path: Path) -> None:
    chain = " ".join(f"x{i + 1} = alibi.AlibiAttentionCausal(x{i}, key, value, slopes)" for i in range(2))
    constant = "<float[4] slopes = {0.5, 0.25, 0.125, 0.0625}>"
    model = bare_model(f"g ({QKV}) => (float[B, 4, Sq, 8] x2) {constant} {{ x0 = Identity(query) {chain} }}", [CAUSAL])
    result = run_verify(tmp_path, model, model)
    assert result.power is not None and result.power.summary() == "mutants killed 16/16"
    assert [mutant.site for mutant in result.power.mutants[:2]] == ["x1", "x2"]


def test_sites_in_branches_and_functions_with_computed_slopes(tmp_path: Path) -> None:
    branch = f"""g ({QKV}, float[4] logs) => (float[B, 4, Sq, 8] out) <bool yes = {{1}}> {{
        slopes = Exp(logs)
        out = If (yes) <
            then_branch = a () => (float[B, 4, Sq, 8] inner) {{
                inner = alibi.AlibiAttentionCausal(query, key, value, slopes)
            }},
            else_branch = b () => (float[B, 4, Sq, 8] other) {{ other = Identity(query) }}
        >
    }}"""
    call = f"g ({QKV}, float[4] logs) => (float[B, 4, Sq, 8] out) {{ out = local.layer(query, key, value, logs) }}"
    layer = f"""<domain: "local", opset_import: ["" : {OPSET}, "{DOMAIN}" : 1]>
    layer (query, key, value, logs) => (out) {{
        slopes = Exp(logs)
        out = alibi.AlibiAttentionCausal(query, key, value, slopes)
    }}"""
    for text, functions in ((branch, ""), (call, layer)):
        model = bare_model(text, [CAUSAL], functions)
        sites = find_sites(model)
        assert len(sites) == 1 and sites[0].slopes is None and sites[0].scale == pytest.approx(SCALE)
        result = run_verify(tmp_path, model, model)
        assert result.passed
        assert result.power is not None and result.power.summary() == "mutants killed 8/8", result.power.mutants


def test_causality_within_the_mask_is_reported_as_equivalent(tmp_path: Path) -> None:
    variant = Variant("linear", False, False, "additive")
    causal_mask = """
        query_shape = Shape(query) key_shape = Shape(key) S_q = Gather(query_shape, two) S_kv = Gather(key_shape, two)
        first = Sub(S_kv, S_q) j = Range(zero, S_kv, one) rows = Range(first, S_kv, one) row = Unsqueeze(rows, last)
        later = Greater(j, row) flat = Where(later, lowest, nothing) mask = Unsqueeze(flat, axes)
    """
    constants = """<float[4] slopes = {0.5, 0.25, 0.125, 0.0625}, int64 zero = {0}, int64 one = {1}, int64 two = {2},
        int64[1] last = {1}, int64[2] axes = {0, 1}, float lowest = {-3.4028235e38}, float nothing = {0}>"""
    fused = "out = alibi.AlibiAttentionLinearAdditiveMask(query, key, value, slopes, mask)"
    model = bare_model(f"g ({QKV}) => (float[B, 4, Sq, 8] out) {constants} {{ {causal_mask} {fused} }}", [variant])
    result = run_verify(tmp_path, model, model)
    assert result.passed and result.power is not None
    verdicts = {mutant.kind: mutant for mutant in result.power.mutants}
    assert verdicts["causality_changed"].verdict == "equivalent"
    assert "mask input" in verdicts["causality_changed"].reason
    assert not result.power.weak


def with_lengths() -> onnx.ModelProto:
    """A node with key lengths, which no exporter writes."""
    variant = BY_OP_TYPE["AlibiAttentionSymmetricLengths"]
    ranks = {"query": 4, "key": 4, "value": 4, "slopes": 1, "key_lengths": 1}
    types = dict.fromkeys(ranks, TensorProto.FLOAT) | {"key_lengths": TensorProto.INT64}
    node = helper.make_node(
        variant.op_type, list(ranks), ["y"], domain=DOMAIN, **FusedAttention(variant, 0.5).attributes()
    )
    inputs = [
        helper.make_tensor_value_info(name, types[name], [f"{name}{axis}" for axis in range(rank)])
        for name, rank in ranks.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c", "d"])
    body = function_proto(variant, OPSET, grouped=True, zero_rows=False, query_type=TensorProto.FLOAT)
    return helper.make_model(
        helper.make_graph([node], "lengths", inputs, [output]),
        functions=[body],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        ir_version=8,
    )


@pytest.mark.parametrize("kind", [kind for kind in MutantKind if kind not in OF_FORM])
def test_mutants_are_valid_models(kind: MutantKind) -> None:
    everything = rewrite(textgraphs.read("masks/window_with_padding"), options=Options(verify=False)).model
    assert everything is not None
    models = [*(tiny.rewritten() for tiny in FAMILY.values()), everything, with_lengths()]
    assert any(concerns(kind, site) for model in models for site in find_sites(model))
    for model in models:
        sites = [site for site in find_sites(model) if concerns(kind, site)]
        if not sites:
            continue
        before = model.SerializeToString(deterministic=True)
        mutant = mutate(model, kind, sites)
        onnx.checker.check_model(mutant)
        assert model.SerializeToString(deterministic=True) == before
        assert mutant.SerializeToString(deterministic=True) != before


def test_kinds_are_read_from_consumers() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (int64[B, T] a, int64[B, T] b, int64[B, T] c, bool[B, T] d, float[B, 1, T, T] wide_mask, float[B, T, 3] e,
       float[B, T] soft_mask, int64[B, T] plain)
      => (float[B, T, 3] out, float[B, 1, T, T] wide, int64[B, T] counted, bool[B, T] neither, float[B, T] soft,
          int64[B, T] same)
      <int64 two = {2}, int64 one = {1}, float[1] zero = {0}>
    {
        a32 = Cast<to=6>(a)
        x = Gather(words, a32)
        shifted = Add(b, two)
        y = Gather(kinds, shifted)
        sum = Add(x, y)
        out = Add(sum, e)
        counted = CumSum(c, one)
        neither = Not(d)
        wide = Identity(wide_mask)
        soft = Add(soft_mask, zero)
        same = Identity(plain)
    }"""
    model = onnx.parser.parse_model(text)
    for name, rows in (("words", 11), ("kinds", 5)):
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((rows, 3), np.float32), name))
    found = {entry.name: entry for entry in describe_inputs(model)}
    assert {name: entry.kind for name, entry in found.items()} == {
        "a": InputKind.TOKENS,
        "b": InputKind.TOKENS,
        "c": InputKind.PADDING_MASK,
        "d": InputKind.PADDING_MASK,
        "wide_mask": InputKind.WIDE_MASK,
        "e": InputKind.FLOAT,
        "soft_mask": InputKind.PADDING_MASK,
        "plain": InputKind.INTEGER,
    }
    assert found["a"].bound == 11 and found["b"].bound == 5 - 2
    assert found["soft_mask"].additive
    inputs = tuple(found.values())
    symbols = Symbols(inputs)
    assert symbols.roles == {"B": Role.BATCH, "T": Role.NEW}
    drawer = Drawer(inputs, symbols, {}, half_values=True)
    for number, case in enumerate(plan(inputs, symbols, 64)):
        one = drawer.draw(case, Relation.PAST_AND_NEW, (0, number))
        assert one.arrays["a"].max() < 11 and one.arrays["b"].max() < 3
        features = one.arrays["e"]
        np.testing.assert_array_equal(features.astype(np.float16).astype(np.float32), features)
        assert (one.kept[0].all()) == (case.padding.value == "none")


def test_symbols_find_their_roles() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (int64[s1, s2] ids, int64[s3, s4] attention_mask, float[s1, 4, s5, 8] past_k, float[s1, 4, s6, 8] past_v)
      => (int64[B, T] out) { out = Identity(ids) }"""
    inputs = describe_inputs(onnx.parser.parse_model(text))
    symbols = Symbols(inputs)
    assert [role.name for _, role in sorted(symbols.roles.items())] == [
        "BATCH",
        "NEW",
        "BATCH",
        "TOTAL",
        "PAST",
        "PAST",
    ]
    shapes = [symbols.shape(entry, DrawnSizes(2, 3, 5), Relation.PAST_AND_NEW) for entry in inputs]
    assert shapes == [(2, 3), (2, 8), (2, 4, 5, 8), (2, 4, 5, 8)]
    assert symbols.shape(inputs[1], DrawnSizes(2, 3, 5), Relation.NEW_ONLY) == (2, 3)
