"""The plugin library on the CPU: its interface driven by a host of ours, its planning against that in Python."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import shutil
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import compare_headers
import numpy as np
import pytest
from alibi_rewriter.engine.container import HEADER, MAGIC, encode
from alibi_rewriter.fused.family import KERNEL_MEMBERS
from alibi_rewriter.fused.layout import KEEP, OPERANDS, WHOLE, Layout, OperandView, OutputView
from alibi_rewriter.kernels.launch.plan import Call, Tensor, make_plan
from alibi_rewriter.plugin import library_path, self_test
from bundles import described, encoded, with_images
from hypothesis import given, settings
from hypothesis import strategies as st
from sources import sanitized

LIBRARY = library_path()
needs_library = pytest.mark.skipif(LIBRARY is None, reason="the plugin library was not built: no C++ compiler")
BFLOAT16 = "7"
WHOLE_LIFE = ("AlibiAttentionCausal", BFLOAT16, "64", str(len(KERNEL_MEMBERS)))
"""What the host program is asked to do with a library and a bundle."""


@pytest.fixture
def bundle_file(tmp_path: Path) -> Path:
    target = tmp_path / "kernels.bundle"
    target.write_bytes(encoded(tmp_path))
    return target


@needs_library
def test_a_whole_life_through_the_interface(host_program: Path, bundle_file: Path) -> None:
    command = [str(host_program), str(LIBRARY), str(bundle_file), *WHOLE_LIFE]
    checker = shutil.which("valgrind")
    if checker is not None:
        command = [checker, "--error-exitcode=99", "--leak-check=full", "-q", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_whole_life_under_the_address_sanitizer(bundle_file: Path, sanitized_library: Path) -> None:
    host = sanitized("host.cpp")
    command = [str(host), str(sanitized_library), str(bundle_file), *WHOLE_LIFE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_library
def test_the_library_depends_on_nothing_of_nvidia() -> None:
    assert LIBRARY is not None
    tool = shutil.which("readelf")
    if tool is None:
        pytest.skip("needs readelf")
    dynamic = subprocess.run([tool, "-d", str(LIBRARY)], capture_output=True, text=True, check=True).stdout
    needed = [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line]
    assert needed, "it needs the C library at least"
    assert all(
        name.startswith(("libc.so", "libgcc_s.so", "libdl.so", "ld-linux", "libm.so", "libpthread.so"))
        for name in needed
    ), needed
    symbols = subprocess.run(
        [tool, "--dyn-syms", "-W", str(LIBRARY)], capture_output=True, text=True, check=True
    ).stdout
    exported = {line.split()[-1] for line in symbols.splitlines() if " GLOBAL " in line and " UND " not in line}
    assert exported == {"getCreators", "setLoggerFinder", "alibiSelfTest"}


@needs_library
def test_it_registers_the_whole_family(host_library: Path, plan_dump: Path) -> None:
    assert LIBRARY is not None
    self_test(LIBRARY)
    host = ctypes.CDLL(str(host_library))
    assert host.hostOpen(str(LIBRARY).encode()) == len(KERNEL_MEMBERS)
    host.hostMember.restype = ctypes.c_char_p
    registered = [host.hostMember(index).decode() for index in range(len(KERNEL_MEMBERS))]
    assert sorted(registered) == sorted(member.op_type for member in KERNEL_MEMBERS)
    listed = subprocess.run([str(plan_dump), "--family"], capture_output=True, text=True, check=True).stdout
    expected = [f"{m.op_type} {m.form} {int(m.causal)} {' '.join(m.inputs)}" for m in KERNEL_MEMBERS]
    assert sorted(listed.splitlines()) == sorted(expected)


def dense(shape: tuple[int, ...], dtype: str, pointer: int, layout: str = "BHSD") -> Tensor:
    """A dense tensor, stored in ``layout``."""
    if len(shape) == 4 and layout == "BSHD":
        _, heads, rows, width = shape
        return Tensor(pointer, dtype, shape, (rows * heads * width, width, heads * width, 1))
    strides, step = [], 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= size
    return Tensor(pointer, dtype, shape, tuple(strides))


def in_packing(tensor: Tensor, layout: str, pieces: int) -> Tensor:
    """The same in one of ``pieces`` * 64 numbers per row, behind its first piece, or four numbers further than that."""
    rows, step, aside = tensor.shape[2], 192 if layout == "woven" else 64, 4 if layout == "thirds aside" else 0
    strides = (rows * pieces * 64, step, pieces * 64, 1)
    return dataclasses.replace(tensor, pointer=tensor.pointer + 2 * (64 + aside), strides=strides)


def as_line(call: Call, multiprocessors: int) -> str:
    """As plan_dump reads it."""
    types = {"": 0, "float16": 1, "bfloat16": 2, "float32": 3, "bool": 4, "int64": 5}
    words: list[object] = [90, multiprocessors, 0, int(call.rows_first)]
    for name in ("query", "key", "value", "output", "slopes", "mask", "key_positions", "key_bias", "key_lengths"):
        tensor: Tensor | None = getattr(call, name, None)
        if tensor is None:
            words += [0] * 11
            continue
        pad = [0] * (4 - len(tensor.shape))
        words += [1, types[tensor.dtype], *tensor.shape, *pad, *tensor.strides, *pad, tensor.pointer]
    return " ".join(map(str, words))


def expected(call: Call, extra: str | None, multiprocessors: int) -> str:
    """What plan_dump has to print, by the Python model."""
    mask_dtype = "bool" if extra == "bool" else None
    try:
        plan = make_plan(described(mask_dtype=mask_dtype, op_type=_member(extra)), call, 90, multiprocessors)
    except (ValueError, LookupError):
        return "error"
    launches = " ".join(f"{launch.kernel.name} {'x'.join(map(str, launch.grid))}" for launch in plan.launches)
    return f"{launches} {plan.launches[0].values['splits']} {plan.workspace_bytes} bounded"


def _member(extra: str | None) -> str:
    return {"bool": "AlibiAttentionCausalBooleanMask", "lengths": "AlibiAttentionCausalLengths"}.get(
        extra or "", "AlibiAttentionCausal"
    )


@st.composite
def calls(draw: st.DrawFn, extra: str | None) -> tuple[Call, int]:
    batch = draw(st.one_of(st.integers(1, 9), st.sampled_from((65_535, 65_536, 70_000))))
    kv_heads, group = draw(st.integers(1, 5)), draw(st.sampled_from((1, 2, 8, 24)))
    s_q, s_kv = draw(st.one_of(st.integers(1, 20), st.integers(1, 3000))), draw(st.integers(1, 140000))
    layout = draw(st.sampled_from(("BHSD", "BSHD", "thirds", "woven", "thirds aside")))
    pointer = draw(st.sampled_from((1 << 20, (1 << 20) + 16, (1 << 20) + 2)))
    heads = group * kv_heads
    shape, kept_shape = (batch, heads, s_q, 64), (batch, kv_heads, s_kv, 64)
    query = dense(shape, "bfloat16", pointer, layout)
    key = dense(kept_shape, "bfloat16", 1 << 20, layout)
    if layout not in ("BHSD", "BSHD"):
        query, key = (in_packing(tensor, layout, heads + 2 * kv_heads) for tensor in (query, key))
    elif draw(st.booleans()):  # heads that begin at every eighth byte are nothing for a tensor map
        head = s_q * 64 + draw(st.sampled_from((4, 8)))
        query = Tensor(pointer, "bfloat16", shape, (heads * head, head, 64, 1))
    mask = None
    if extra == "bool":
        shape = (batch, heads, s_q, s_kv)
        kept = tuple(size if draw(st.booleans()) else 1 for size in shape)
        mask = dense(kept, "bool", pointer)
    slopes = dense((heads,), "float32", 1 << 20)
    lengths = None
    if extra == "lengths":
        odd = draw(st.integers(0, 5)) == 0  # of a number that fits nothing, or of another type
        lengths = dense(
            (draw(st.sampled_from((1, batch, batch + 1 if odd else 1))),), "float32" if odd else "int64", 1 << 20
        )
    first = lengths is not None and draw(st.booleans())
    call = Call(query, key, key, query, slopes, 0.125, True, mask, key_lengths=lengths, rows_first=first)
    return call, draw(st.sampled_from((1, 108, 132, 148, 512)))


@pytest.mark.parametrize("extra", [None, "bool", "lengths"])
def test_the_library_plans_as_the_model_does(
    plan_dump: Path, tmp_path_factory: pytest.TempPathFactory, extra: str | None
) -> None:
    folder = tmp_path_factory.mktemp("bundle")
    bundle = folder / "bundle"
    bundle.write_bytes(encoded(folder, _member(extra), "bool" if extra == "bool" else None))

    @settings(max_examples=12, deadline=None)
    @given(st.lists(calls(extra), min_size=40, max_size=40))
    def compare(drawn: list[tuple[Call, int]]) -> None:
        text = "".join(as_line(call, count) + "\n" for call, count in drawn)
        done = subprocess.run([str(plan_dump), str(bundle)], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        for answer, (call, count) in zip(done.stdout.splitlines(), drawn, strict=True):
            wanted = expected(call, extra, count)
            assert answer == wanted or (wanted == "error" and answer.startswith("error ")), (answer, wanted)

    compare()


@st.composite
def views(draw: st.DrawFn) -> tuple[Layout, dict[str, tuple[int, ...]]]:
    """Views of tensors that they fit, mostly."""
    batch, kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rows, keys, width, value_width = (draw(st.integers(1, 6)) for _ in range(4))
    found, extents = {}, {}
    for name in OPERANDS:
        heads, own = (kv_heads * group if name == "query" else kv_heads), (value_width if name == "value" else width)
        sizes = {"B": batch, "H": heads, "S": rows if name == "query" else keys, "D": own}
        order = draw(st.permutations("BHS"))
        starts = (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
        more = (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
        cut = (sizes[order[2]], own)
        ends = tuple(first + size for first, size in zip(starts, cut, strict=True))
        whole = [end + extra for end, extra in zip(ends, more, strict=True)]
        if not any(more) and draw(st.booleans()):
            ends = (WHOLE, WHOLE)
        perm = tuple("".join((*order, "D")).index(axis) for axis in "BHSD")
        reshapes = draw(st.booleans())
        found[name] = OperandView((0, 0, *whole) if reshapes else KEEP, starts, ends, perm)
        leading = tuple(sizes[axis] for axis in order[:2])
        extents[name] = (*leading, whole[0] * whole[1]) if reshapes else (*leading, *whole)
    if draw(st.integers(0, 9)) == 0:
        extents["key"] = tuple(extent + draw(st.integers(0, 1)) for extent in extents["key"])
    perm = (*draw(st.permutations((0, 1, 2))), 3)
    merged = perm[2] == 1 and draw(st.booleans())
    output = OutputView(perm, (0, 0, kv_heads * group * value_width) if merged else KEEP)
    return Layout(found["query"], found["key"], found["value"], output), extents


def as_numpy_lays_it(layout: Layout, extents: dict[str, tuple[int, ...]]) -> str | None:
    """What plan_dump has to print: where numpy's own views are in memory; None if none fit each other."""
    words: list[int] = []
    arrays = {name: np.zeros(extents[name], np.uint8) for name in OPERANDS}
    try:
        operands = {name: layout[name].of(arrays[name]) for name in OPERANDS}
    except ValueError:
        return None
    query, key, value = (operands[name].shape for name in OPERANDS)
    if key != (query[0], value[1], value[2], query[3]) or value[0] != query[0]:
        return None
    for name in OPERANDS:
        start = operands[name].__array_interface__["data"][0] - arrays[name].__array_interface__["data"][0]
        words += [start, *operands[name].shape, *operands[name].strides]
    result = (*query[:3], value[3])
    moved = np.zeros([result[axis] for axis in layout.output.perm], np.uint8)
    inverse = np.argsort(layout.output.perm)
    words += [0, *result, *moved.transpose(inverse).strides]
    if layout.output.reshapes and moved.shape[2] * moved.shape[3] != layout.output.shape[2]:
        return None
    words += moved.shape if not layout.output.reshapes else (*moved.shape[:2], layout.output.shape[2])
    return " ".join(map(str, words))


def test_the_library_finds_operands_where_numpy_has_them(plan_dump: Path) -> None:
    @settings(max_examples=12, deadline=None)
    @given(st.lists(views(), min_size=40, max_size=40))
    def compare(drawn: list[tuple[Layout, dict[str, tuple[int, ...]]]]) -> None:
        lines = []
        for layout, extents in drawn:
            lists = [*layout.attributes().values(), *(extents[name] for name in OPERANDS)]
            lines.append(" ".join(" ".join(map(str, (len(one), *one))) for one in lists) + "\n")
        done = subprocess.run(
            [str(plan_dump), "--views"], input="".join(lines), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for answer, (layout, extents) in zip(done.stdout.splitlines(), drawn, strict=True):
            wanted = as_numpy_lays_it(layout, extents)
            assert answer == wanted or (wanted is None and answer.startswith("error ")), (layout, extents)

    compare()


def test_an_alternative_is_the_next_kernel_that_fits(plan_dump: Path, tmp_path: Path) -> None:
    """TensorRT times them all: the second is the second that fits this call, and beyond the last it is the last."""
    (tmp_path / "bundle").write_bytes(encoded(tmp_path, _member(None), None))
    query, key = dense((1, 2, 2048, 64), "bfloat16", 1 << 20), dense((1, 2, 2048, 64), "bfloat16", 1 << 20)
    call = Call(query, key, key, query, dense((2,), "float32", 1 << 20), 0.125, True, None)
    description = described(op_type=_member(None))
    names: list[str] = []
    while True:
        try:
            plan = make_plan(description, call, 90, 132)
        except (ValueError, LookupError):
            break
        names.append(next(launch.kernel.name for launch in plan.launches if launch.kernel.role == "prefill"))
        description = replace(description, kernels=tuple(k for k in description.kernels if k.name != names[-1]))
    assert len(names) > 2
    first = as_line(call, 132).split(" ")
    text = "".join(" ".join([*first[:2], str(k), *first[3:]]) + "\n" for k in range(len(names) + 1))
    command = [str(plan_dump), str(tmp_path / "bundle")]
    answers = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout.splitlines()
    for answer, name in zip(answers, [*names, names[-1]], strict=True):
        assert name in answer.split(), (answer, names)


def test_what_is_encoded_is_compressed_and_checked(tmp_path: Path) -> None:
    content = encoded(tmp_path)
    magic, length, raw, crc = HEADER.unpack(content[: HEADER.size])
    body = content[HEADER.size :]
    assert magic == MAGIC
    assert len(body) == length
    assert zlib.crc32(body) == crc
    assert len(zlib.decompress(body, -zlib.MAX_WBITS)) == raw
    assert length < raw


def test_an_image_that_changed_is_refused(tmp_path: Path) -> None:
    description = with_images(described(), tmp_path)
    (tmp_path / "0.cubin").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"0\.cubin"):
        encode(description, tmp_path, machine_code=(90,))


@needs_library
@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=4000), st.integers(0, 9))
def test_any_body_is_decompressed_as_zlib_compressed_it(host_library: Path, content: bytes, level: int) -> None:
    """The library reads what zlib writes at every level; a body that is no bundle is refused with a reason."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = compressor.compress(content) + compressor.flush()
    packed = HEADER.pack(MAGIC, len(body), len(content), zlib.crc32(body)) + body
    host = ctypes.CDLL(str(host_library))
    host.hostCreate.restype = ctypes.c_void_p
    host.hostLastMessage.restype = ctypes.c_char_p
    host.hostOpen(str(LIBRARY).encode())
    arguments = (b"AlibiAttentionCausal", ctypes.c_float(1.0), b"mean", b"BHSD", packed, ctypes.c_int64(len(packed)), 0,
                 -1, -1, None, None)  # fmt: skip
    assert not host.hostCreate(*arguments)
    assert b"attached kernels" in host.hostLastMessage()
    assert b"compressed data" not in host.hostLastMessage()


@needs_library
def test_nvidias_headers_describe_the_same_interface(tmp_path: Path, bundle_file: Path) -> None:
    """``compare_headers.py`` is the command for headers of several versions."""
    assert LIBRARY is not None
    places = [Path(p) for p in os.environ.get("ALIBI_TENSORRT_INCLUDE", "").split(os.pathsep) if p]
    places += [Path("/usr/include"), Path("/usr/local/tensorrt/include"), Path("/usr/local/cuda/include")]
    tensorrt, cuda = (compare_headers.found_in(places, h) for h in (compare_headers.HEADER, compare_headers.CUDA))
    if not tensorrt or not cuda:
        pytest.skip("TensorRT's headers are not installed (ALIBI_TENSORRT_INCLUDE names their folder)")
    assert compare_headers.compare(tensorrt[0], cuda[0], LIBRARY, bundle_file, tmp_path) is None
