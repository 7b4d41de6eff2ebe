"""The launch description: what is written is read back, and what is malformed is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
from alibi_rewriter.kernels.compile.compiler import SELECTION, WORKSPACE
from alibi_rewriter.kernels.launch.description import (
    Argument,
    Condition,
    Description,
    DescriptionError,
    Extent,
    Factor,
    Image,
    Kernel,
    TensorMap,
)
from alibi_rewriter.kernels.requests import BufferLayout, KernelRequest
from hypothesis import given
from hypothesis import strategies as st

IMAGE = Image("a.cubin", "0" * 64, "a.ptx", "1" * 64, "8.0")


def kernel(role: str = "prefill", **changes: Any) -> Kernel:
    """A kernel with plausible values."""
    one = Extent()
    plain = Kernel(
        name=role, role=role, arch=90, exact_arch=True, layout=BufferLayout(),
        conditions=(Condition("surplus", at_least=0),),
        entry="entry", image=IMAGE, threads=128, shared_bytes=1024, registers=64, spill_bytes=0,
        grid=(Extent((Factor(("s_q",), 128),), at_most="multiprocessors"), one, one),
        arguments=(
            Argument("query", "tensor_map", 16, TensorMap("query", (64, 64, 1, 1), 128)),
            Argument("", "zero32"),
            Argument("slopes", "pointer", 16),
            Argument("key_head", "int64", 8),
            Argument("s_q", "int32"),
            Argument("scale", "float32"),
        ),
        tile="128x64",
        programs=1,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def description() -> Description:
    """A description with plausible values."""
    request = KernelRequest("AlibiAttentionCausal", "bfloat16", 64, 64)
    return Description(request, "test", SELECTION, WORKSPACE, (kernel(), kernel("decode")))


def test_round_trip() -> None:
    assert Description.from_json(description().to_json()) == description()


def test_text_is_stable() -> None:
    assert description().to_json() == Description.from_json(description().to_json()).to_json()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 1),
        (("format",), "1"),
        (("kernels", 1, "programs"), 0),
        (("kernels", 1, "programs"), 33),
        (("request", "dtype"), "float64"),
        (("request", "op_type"), "Attention"),
        (("request", "head_dim"), 65),
        (("request", "head_dim"), True),
        (("request", "mask_dtype"), "bool"),
        (("selection", "max_splits"), 0),
        (("selection", "decode_rows"), -1),
        (("workspace", 0, "name"), "scratch"),
        (("workspace", 0, "element_bytes"), 3),
        (("workspace", 0, "extent", "factors", 0, "names"), ["keys"]),
        (("kernels", 0, "role"), "postfill"),
        (("kernels", 0, "threads"), 100),
        (("kernels", 0, "threads"), 128.0),
        (("kernels", 0, "shared_bytes"), 1 << 20),
        (("kernels", 0, "entry"), ""),
        (("kernels", 0, "grid"), []),
        (("kernels", 0, "grid", 0, "at_most"), "everything"),
        (("kernels", 0, "grid", 0, "factors", 0, "divisor"), 0),
        (("kernels", 0, "conditions", 0, "size"), "colour"),
        (("kernels", 0, "arguments", 0, "kind"), "double"),
        (("kernels", 0, "arguments", 0, "tensor_map"), None),
        (("kernels", 0, "arguments", 0, "tensor_map", "box"), [64, 64]),
        (("kernels", 0, "arguments", 0, "tensor_map", "swizzle_bytes"), 48),
        (("kernels", 0, "arguments", 2, "name"), "slope"),
        (("kernels", 0, "arguments", 3, "name"), "scale"),
        (("kernels", 0, "arguments", 3, "multiple_of"), 0),
        (("kernels", 0, "arguments", 4, "name"), "slopes"),
        (("kernels", 1, "name"), "prefill"),
    ],
)  # fmt: skip
def test_malformed_is_refused(path: tuple[str | int, ...], value: Any) -> None:
    document = json.loads(description().to_json())
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(DescriptionError):
        Description.from_json(json.dumps(document))


def _places(document: Any, where: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = []
    if isinstance(document, dict):
        for name, item in document.items():
            found += [(*where, name), *_places(item, (*where, name))]
    elif isinstance(document, list):
        for index, item in enumerate(document):
            found += _places(item, (*where, index))
    return found


PLACES = _places(json.loads(description().to_json()))


@given(st.sampled_from(PLACES))
def test_nothing_may_be_missing(path: tuple[str | int, ...]) -> None:
    document = copy.deepcopy(json.loads(description().to_json()))
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    with pytest.raises(DescriptionError):
        Description.from_json(json.dumps(document))


@given(st.sampled_from([(), *(path for path in PLACES if path)]))
def test_nothing_unknown_is_accepted(path: tuple[str | int, ...]) -> None:
    document = json.loads(description().to_json())
    place: Any = document
    for step in path:
        place = place[step]
    if not isinstance(place, dict):
        return
    place["surprise"] = 1
    with pytest.raises(DescriptionError):
        Description.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"format": 1}'])
def test_not_a_description(text: str) -> None:
    with pytest.raises(DescriptionError):
        Description.from_json(text)


def test_an_argument_is_there_once() -> None:
    twice = (Argument("s_q", "int32"), Argument("s_q", "int32"))
    with pytest.raises(DescriptionError):
        kernel(arguments=twice)


def test_extent() -> None:
    sizes = {"s_q": 130, "heads": 3, "multiprocessors": 5}
    assert Extent((Factor(("s_q",), 128), Factor(("heads",)))).value(sizes) == 6
    assert Extent((Factor(("s_q",), 128), Factor(("heads",))), at_most="multiprocessors").value(sizes) == 5
    assert Extent().value(sizes) == 1
