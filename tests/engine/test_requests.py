"""What the user writes and what is derived from it: targets, shapes, profiles, needed kernels."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from alibi_rewriter import Options, rewrite
from alibi_rewriter.base.errors import EngineFailed, UsageError
from alibi_rewriter.engine.build import EngineOptions, build_engine
from alibi_rewriter.engine.needs import needs
from alibi_rewriter.engine.profiles import make_profile
from alibi_rewriter.engine.shapes import inputs_of, parse_shapes
from alibi_rewriter.engine.targets import images_for, parse_targets
from alibi_rewriter.kernels.compile.compiler import ARCHITECTURES
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

DATA = Path(__file__).parents[1] / "data"


def test_targets_are_read_in_every_spelling() -> None:
    assert parse_targets(["sm_90,8.9", "86", "sm80", "compute_120a"]) == (80, 86, 89, 90, 120)


@pytest.mark.parametrize("text", ["hopper", "sm_", "9", "sm_1234", "7.5", "sm_75"])
def test_other_targets_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=text):
        parse_targets([text])


@given(st.lists(st.sampled_from((80, 86, 87, 89, 90, 100, 103, 110, 120, 121)), min_size=1))
def test_every_target_is_served(targets: list[int]) -> None:
    images = images_for(targets)
    assert images.ptx == (80,)
    assert set(images.machine_code) <= set(ARCHITECTURES)
    for target in targets:
        same = any(a == target or (a < 90 and a // 10 == target // 10 and a <= target) for a in images.machine_code)
        assert same or 80 in images.ptx


@pytest.mark.parametrize(
    "texts", [["ids:1x32,mask:2x8x4"], ["ids:[1,32]", "mask:[2, 8, 4]"], ["ids:[1,32] mask:2x8x4"]]
)
def test_shapes_are_read_in_both_spellings(texts: list[str]) -> None:
    assert parse_shapes("--opt-shapes", texts) == {"ids": (1, 32), "mask": (2, 8, 4)}


def test_names_may_hold_colons_and_scalars_have_no_extents() -> None:
    assert parse_shapes("--opt-shapes", ["model/ids:0:1x32,step:scalar"]) == {"model/ids:0": (1, 32), "step": ()}


@pytest.mark.parametrize("text", ["ids", "ids:", "ids:1y32", "ids:[1,a]", ":1x2", "ids:1x32,ids:2x2"])
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--opt-shapes"):
        parse_shapes("--opt-shapes", [text])


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_.]{1,8}", fullmatch=True), st.lists(st.integers(0, 9999), min_size=1), min_size=1
    )
)
def test_written_shapes_come_back(shapes: dict[str, list[int]]) -> None:
    wanted = {name: tuple(dims) for name, dims in shapes.items()}
    trtexec = ",".join(f"{name}:{'x'.join(map(str, dims))}" for name, dims in shapes.items())
    polygraphy = [f"{name}:[{','.join(map(str, dims))}]" for name, dims in shapes.items()]
    assert parse_shapes("", [trtexec]) == parse_shapes("", polygraphy) == wanted


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory: pytest.TempPathFactory) -> dict[str, onnx.ModelProto]:
    """Rewritten families: with a cache, a plain decoder, an encoder."""
    found = {}
    for name in (
        "bloom__optimum_textgen_past+onnxsim", "mpt__tf5_h4clip_ts17_dyn_mask", "jina__v2_sdpa_dynamo18_dyn",
        "baichuan13b__decode_dynamo18_dyn", "falcon__tf5_h4_gqa_new_eager_dynamo18_static_nomask",
    ):  # fmt: skip
        result = rewrite(DATA / f"{name}.onnx", tmp_path_factory.mktemp("m") / "m.onnx", options=Options(verify=False))
        assert result.model is not None
        found[name.split("__")[0]] = result.model
    return found


def profile(model: onnx.ModelProto, **given: str) -> dict[str, tuple[tuple[int, ...], ...]]:
    shapes = {kind: parse_shapes(kind, [text]) for kind, text in given.items()}
    return dict(make_profile(model, DATA, shapes).shapes)


def test_derived_profiles_of_a_decoder_with_a_cache_agree(rewritten: dict[str, onnx.ModelProto]) -> None:
    shapes = profile(rewritten["bloom"])
    for kind in range(3):
        (batch, new), past = shapes["input_ids"][kind], shapes["past_key_values.0.key"][kind][2]
        assert shapes["attention_mask"][kind] == (batch, past + new)
        assert shapes["past_key_values.1.value"][kind] == shapes["past_key_values.0.key"][kind]
    assert shapes["past_key_values.0.key"][0][2] == 0, "the first call has no past"


def test_given_shapes_decide_what_depends_on_them(rewritten: dict[str, onnx.ModelProto]) -> None:
    shapes = profile(rewritten["bloom"], opt="input_ids:2x1", max="attention_mask:4x512,input_ids:4x12")
    assert shapes["input_ids"][1] == (2, 1)
    assert shapes["past_key_values.0.key"][2][2] == 500
    assert shapes["past_key_values.0.key"][2][0] == 4


def test_contradicting_shapes_are_refused(rewritten: dict[str, onnx.ModelProto]) -> None:
    with pytest.raises(UsageError, match="contradict"):
        profile(rewritten["mpt"], opt="input_ids:1x16,attention_mask:2x16")


@pytest.mark.parametrize(
    ("text", "message"),
    [("ids:1x8", "input_ids"), ("input_ids:8", "rank 2"), ("input_ids:1x8x1", "rank 2")],
)
def test_shapes_that_do_not_fit_the_model_are_refused(
    rewritten: dict[str, onnx.ModelProto], text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        profile(rewritten["jina"], opt=text)


def test_shapes_have_to_grow(rewritten: dict[str, onnx.ModelProto]) -> None:
    with pytest.raises(UsageError, match="grow"):
        profile(rewritten["jina"], min="input_ids:1x9", opt="input_ids:1x8", max="input_ids:1x10")


def test_a_static_model_has_no_profile(rewritten: dict[str, onnx.ModelProto]) -> None:
    assert profile(rewritten["falcon"]) == {}


def test_fixed_extents_cannot_be_changed(rewritten: dict[str, onnx.ModelProto]) -> None:
    item = inputs_of(rewritten["falcon"])[0]
    with pytest.raises(UsageError, match="fixed"):
        profile(rewritten["falcon"], opt=f"{item.name}:" + "x".join("3" for _ in item.dims))


def test_every_fused_node_says_what_it_needs(rewritten: dict[str, onnx.ModelProto]) -> None:
    wanted = {
        "bloom": ("bool", False),
        "jina": ("float32", False),
        "baichuan13b": ("bool", True),
        "falcon": (None, False),
    }
    for family, (mask, rows) in wanted.items():
        found = [need for _, need in needs(rewritten[family], DATA)]
        assert len(found) == 2
        assert {(n.request.head_dim, n.request.mask_dtype, n.mask_rows) for n in found} == {(8, mask, rows)}


def single(dims: list[int | str], elem: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """One fused node on graph inputs."""
    names = ["q", "k", "v"]
    node = helper.make_node(
        "AlibiAttentionCausal", [*names, "s"], ["o"], "node", domain="alibi", scale=0.5, empty_rows="mean",
        layout="BHSD", bias="linear", causal=1,
    )  # fmt: skip
    inputs = [helper.make_tensor_value_info(name, elem, dims) for name in names]
    slopes = helper.make_tensor("s", TensorProto.FLOAT, [2], [0.5, 0.25])
    output = helper.make_tensor_value_info("o", elem, None)
    graph = helper.make_graph([node], "g", inputs, [output], [slopes])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("alibi", 1)])


@pytest.mark.parametrize(
    ("dims", "elem", "message"),
    [
        ([1, 2, 4, "d"], TensorProto.FLOAT, "head size of 'q'"),
        ([1, 2, 4, 12], TensorProto.FLOAT, "multiples of 8"),
        ([1, 2, 4, 264], TensorProto.FLOAT, "264"),
        ([1, 2, 4, 64], TensorProto.DOUBLE, "type of its query 'q'"),
    ],
)
def test_what_no_kernel_takes_is_refused_by_name(dims: list[int | str], elem: int, message: str) -> None:
    with pytest.raises(EngineFailed, match=message) as caught:
        list(needs(single(dims, elem), Path()))
    assert "'node'" in str(caught.value)
    assert "native" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "elem", "dims", "message"),
    [
        ("mask", TensorProto.BOOL, [1, 1, 1, 1, 4], "mask 'm' has 5 axes instead of 4"),
        ("mask", TensorProto.BOOL, [1, 1, 1, 5], "axis 3 of its mask 'm' is 5 instead of 4"),
        ("slopes", TensorProto.FLOAT, [1, 2], "slopes 's' has 2 axes instead of 1"),
        ("slopes", TensorProto.FLOAT, [3], "axis 0 of its slopes 's' is 3 instead of 2"),
        ("slopes", TensorProto.FLOAT16, [2], "slopes 's' is float16 instead of float32"),
    ],
)
@pytest.mark.parametrize("strategy", ["plugin", "native"])
def test_inputs_that_no_fused_node_has_are_refused_before_any_work(
    name: str, elem: int, dims: list[int], message: str, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = single([1, 2, 4, 64])
    node = model.graph.node[0]
    node.op_type = "AlibiAttentionCausalBooleanMask"
    node.input.append("m")
    made = helper.make_tensor_value_info({"mask": "m", "slopes": "s"}[name], elem, dims)
    if name == "slopes":
        del model.graph.initializer[:]
        model.graph.input.append(helper.make_tensor_value_info("m", TensorProto.BOOL, [1, 1, 1, 4]))
    model.graph.input.append(made)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    monkeypatch.setattr("alibi_rewriter.engine.build.make_profile", lambda *_, **__: pytest.fail("work was begun"))
    with pytest.raises(EngineFailed, match=message):
        build_engine(path, tmp_path / "model.engine", EngineOptions(strategy=strategy))
    assert not (tmp_path / "model.engine").exists()


@pytest.mark.parametrize(
    "op_type",
    ["AlibiAttentionCausalWindow", "AlibiAttentionCausalKeyBias", "AlibiAttentionSymmetricKeyBiasWindowBooleanMask"],
)
def test_windows_and_key_biases_have_kernels(op_type: str) -> None:
    model = single([1, 2, 4, 64])
    node = model.graph.node[0]
    node.op_type = op_type
    if "Mask" in op_type:
        node.input.append("m")
        model.graph.input.append(helper.make_tensor_value_info("m", TensorProto.BOOL, [1, 1, 4, 4]))
    if "KeyBias" in op_type:
        node.input.append("kb")
        model.graph.input.append(helper.make_tensor_value_info("kb", TensorProto.FLOAT, [1, 2, 4]))
    ((_, need),) = needs(model, Path())
    assert need.request.op_type == op_type
    assert need.mask_rows == ("Mask" in op_type)
