"""Broken models in numbers: mutations of small models, as bytes and as structures.

``survives`` runs the pass on one and says what went wrong if anything but a verdict or a clear error came out.
``fuzz`` does so in processes whose time and memory are limited (``fuzz_pool``), so that no input ends the run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from enum import Enum
from functools import lru_cache, partial
from io import StringIO
from pathlib import Path

import fuzz_pool
import generator
import numpy as np
import onnx
from alibi_rewriter.base.errors import AlibiError, ExitCode
from alibi_rewriter.cli import main
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from google.protobuf.message import DecodeError
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from textgraphs import GOLDEN, read

SECONDS = 30.0
"""An input may not keep the pass busy for longer."""

MEMORY = 2 << 30
"""Bytes that the process which handles an input may have at most."""

FINE = ("verdict", "rejected")
"""Outcomes that are no findings."""

DATA = Path(__file__).parent / "data"

WEIGHTS = 1 << 12
"""Constants of exported models with more elements become inputs: mutations of weights find nothing."""

OPERATORS = (
    *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Min", "Max", "Where", "Equal", "Less", "And", "Not", "Pow"),
    *("MatMul", "Gemm", "Einsum", "Softmax", "Transpose", "Reshape", "Expand", "Tile", "Slice", "Gather", "GatherND"),
    *("Concat", "Split", "Squeeze", "Unsqueeze", "Shape", "Range", "ConstantOfShape", "CumSum", "Trilu", "Cast"),
    *("ScatterND", "ScatterElements", "NonZero", "OneHot", "Pad", "ReduceSum", "ReduceMax", "Identity", "Clip"),
    *("Attention", "MultiHeadAttention", "GroupQueryAttention", "If", "Loop", "Scan", "Constant", "EyeLike", "Flatten"),
)
INTEGERS = (0, 1, -1, 2, 3, 7, -2, 64, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63), 1 << 40)
FLOATS = (0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), float("-inf"), 3.4e38, -3.4e38, 1e-45, 65504.0)
NAMES = ("", "q", "\x1b[31mred\x1b[0m", "a" * 5000, "../../etc/passwd", "naïve\u202e", "%s%n", "x\x00y", "\ud7ff")

Mutation = Callable[[random.Random, ModelProto], None]


def seeds() -> list[ModelProto]:
    """Small models to start from: golden graphs, spellings of the generator, exported models without weights."""
    golden = [read(name) for name in GOLDEN]
    rng = random.Random(11)
    spelled = [generator.build(generator.sample(rng)) for _ in range(30)]
    exported = [_without_weights(onnx.load(p)) for p in sorted(DATA.glob("*.onnx"))]
    return golden + spelled + exported


def _without_weights(model: ModelProto) -> ModelProto:
    """The model with its weights as inputs, and without what exporters write for people."""
    graph = model.graph
    heavy = [t for t in graph.initializer if np.prod(t.dims, dtype=np.int64) > WEIGHTS]
    kept = [t for t in graph.initializer if np.prod(t.dims, dtype=np.int64) <= WEIGHTS]
    graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in heavy)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, model.graph, model):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    return model


def mutate_bytes(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """A few random changes of bytes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        kind = rng.randrange(7)
        size = len(data)
        at = rng.randrange(size + 1)
        if kind == 0 and size:
            data[at % size] ^= 1 << rng.randrange(8)
        elif kind == 1 and size:
            data[at % size] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del data[at : at + rng.choice((1, 2, 8, 64))]
        elif kind == 3:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 2, 9))))
        elif kind == 4:
            data[at:at] = data[at : at + rng.choice((4, 32, 256))]
        elif kind == 5:
            start = rng.randrange(len(other) + 1)
            data[at:at] = other[start : start + rng.choice((8, 64, 512))]
        else:
            del data[at:]
    return bytes(data)


def mutate_model(rng: random.Random, model: ModelProto) -> ModelProto:
    """A few random changes of structure."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        rng.choice(MUTATIONS)(rng, copy)
    return copy


def mutate_structure(rng: random.Random, content: bytes) -> bytes | None:
    """A few random changes of structure of a model that comes as bytes; None if the bytes hold no model any more."""
    model = _parsed(content)
    try:
        return None if model is None else mutate_model(rng, model).SerializeToString()
    except Exception:  # noqa: BLE001 - not even protobuf takes it
        return None


def cross(rng: random.Random, first: bytes, second: bytes) -> bytes | None:
    """Some nodes of one model, with the constants that they read, in another; None if one of them is not a model."""
    model, other = _parsed(first), _parsed(second)
    if model is None or other is None or not other.graph.node:
        return None
    start = rng.randrange(len(other.graph.node))
    taken = other.graph.node[start : start + rng.choice((1, 2, 5, 20))]
    read_names = {i for n in taken for i in n.input}
    own = {t.name for t in model.graph.initializer}
    model.graph.initializer.extend(t for t in other.graph.initializer if t.name in read_names - own)
    at = rng.randrange(len(model.graph.node) + 1)
    for offset, node in enumerate(taken):
        model.graph.node.insert(at + offset, node)
    made = [o for n in taken for o in n.output if o]
    found = _place(rng, model)
    if found is not None and made:
        found[1].input[found[2]] = rng.choice(made)
    return model.SerializeToString()


def _parsed(content: bytes) -> ModelProto | None:
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        return None
    return model


def _values(model: ModelProto) -> list[str]:
    graph = model.graph
    made = [o for n in graph.node for o in n.output]
    return [*made, *(i.name for i in graph.input), *(t.name for t in graph.initializer), "", "nowhere"]


def _node(rng: random.Random, model: ModelProto) -> NodeProto:
    return rng.choice(model.graph.node) if model.graph.node else model.graph.node.add()


def _rewire(rng: random.Random, model: ModelProto) -> None:
    node = _node(rng, model)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(_values(model))


def _more_or_fewer_inputs(rng: random.Random, model: ModelProto) -> None:
    node = _node(rng, model)
    if rng.random() < 0.5 and node.input:
        del node.input[rng.randrange(len(node.input))]
    else:
        node.input.append(rng.choice(_values(model)))


def _outputs(rng: random.Random, model: ModelProto) -> None:
    node = _node(rng, model)
    if rng.random() < 0.5 and node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice((*NAMES, *_values(model)))
    elif rng.random() < 0.5:
        node.output.append(rng.choice(NAMES))
    else:
        del node.output[:]


def _operator(rng: random.Random, model: ModelProto) -> None:
    _node(rng, model).op_type = rng.choice(OPERATORS)


def _domain(rng: random.Random, model: ModelProto) -> None:
    _node(rng, model).domain = rng.choice(("", "ai.onnx", "com.microsoft", "alibi", "nowhere"))


def _remove(rng: random.Random, model: ModelProto) -> None:
    if model.graph.node:
        del model.graph.node[rng.randrange(len(model.graph.node))]


def _repeat(rng: random.Random, model: ModelProto) -> None:
    model.graph.node.append(_node(rng, model))


def _shuffle(rng: random.Random, model: ModelProto) -> None:
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    rng.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _attribute(rng: random.Random, model: ModelProto) -> None:
    node = _node(rng, model)
    if node.attribute and rng.random() < 0.3:
        del node.attribute[rng.randrange(len(node.attribute))]
        return
    names = ["axis", "perm", "axes", "to", "equation", "value", "keepdims", "scale", "num_heads", "then_branch"]
    name = rng.choice([*(a.name for a in node.attribute), *names])
    kept = [AttributeProto.FromString(a.SerializeToString()) for a in node.attribute if a.name != name]
    value: object = rng.choice((
        rng.choice(INTEGERS),
        rng.choice(FLOATS),
        [rng.choice(INTEGERS) for _ in range(rng.randrange(1, 5))],
        [rng.choice(FLOATS) for _ in range(rng.randrange(1, 3))],
        rng.choice(("bij,bjk->bik", "...->", "ii,jj", "->", "a,b", "é", ",,,")),
        numpy_helper.from_array(np.array(rng.choice(FLOATS), np.float32)),
        model.graph,
    ))  # fmt: skip
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.append(helper.make_attribute(name, value))


def _tensor(rng: random.Random, model: ModelProto) -> None:
    tensors = [*model.graph.initializer, *(a.t for n in model.graph.node for a in n.attribute if a.HasField("t"))]
    if not tensors:
        return
    tensor = rng.choice(tensors)
    kind = rng.randrange(7)
    if kind == 0:
        tensor.dims[:] = [rng.choice(INTEGERS) for _ in range(rng.randrange(5))]
    elif kind == 1:
        tensor.data_type = rng.randrange(26)
    elif kind == 2:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif kind == 3:
        tensor.name = rng.choice(NAMES)
    elif kind == 4:
        tensor.data_location = TensorProto.EXTERNAL
        for key in ("location", "offset", "length"):
            value = rng.choice(("weights.bin", "/etc/passwd", "..", "-1", "0", "99999999999999999999", "x", ""))
            tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
    else:
        try:
            array = np.array(numpy_helper.to_array(tensor))
        except Exception:  # noqa: BLE001 - broken already
            return
        if array.size and array.dtype.kind in "fi":
            flat = array.reshape(-1)
            value = rng.choice(FLOATS if array.dtype.kind == "f" else INTEGERS[:10])
            with np.errstate(all="ignore"):
                flat[rng.randrange(flat.size)] = (
                    np.clip(value, -(2**31), 2**31 - 1) if array.dtype.kind == "i" else value
                )
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _shape(rng: random.Random, model: ModelProto) -> None:
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if not values:
        return
    tensor = rng.choice(values).type.tensor_type
    kind = rng.randrange(5)
    if kind == 0:
        tensor.ClearField("shape")
    elif kind == 1:
        tensor.elem_type = rng.randrange(26)
    elif kind == 2 or not tensor.shape.dim:
        tensor.shape.dim.add().dim_value = rng.choice(INTEGERS)
    elif kind == 3:
        rng.choice(tensor.shape.dim).dim_value = rng.choice(INTEGERS)
    else:
        rng.choice(tensor.shape.dim).dim_param = rng.choice((*NAMES[:-1], "B", "S", "batch", "-1", "S + 1"))


def _interface(rng: random.Random, model: ModelProto) -> None:
    kind = rng.randrange(5)
    graph = model.graph
    if kind == 0 and graph.output:
        del graph.output[rng.randrange(len(graph.output))]
    elif kind == 1:
        graph.output.append(helper.make_tensor_value_info(rng.choice(_values(model)), TensorProto.FLOAT, None))
    elif kind == 2 and graph.input:
        del graph.input[rng.randrange(len(graph.input))]
    elif kind == 3 and graph.input:
        graph.input.append(rng.choice(graph.input))
    elif graph.initializer:
        graph.initializer.append(rng.choice(graph.initializer))


def _versions(rng: random.Random, model: ModelProto) -> None:
    if rng.random() < 0.3:
        model.ir_version = rng.choice((0, 1, 3, 7, 8, 10, 99, (1 << 62)))
    elif rng.random() < 0.3:
        del model.opset_import[:]
    else:
        model.opset_import.append(helper.make_opsetid(rng.choice(("", "com.microsoft")), rng.randrange(40)))


def _nested(rng: random.Random, model: ModelProto) -> None:
    node = _node(rng, model)
    inner = NodeProto.FromString(node.SerializeToString())
    outputs = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in node.output]
    body = helper.make_graph([inner], "body", [], outputs)
    condition = rng.choice(_values(model))
    made = helper.make_node("If", [condition], list(node.output), then_branch=body, else_branch=body)
    node.CopyFrom(made)


def _huge(rng: random.Random, model: ModelProto) -> None:
    node = _node(rng, model)
    if node.input:
        name = f"huge_{rng.randrange(1000)}"
        sizes = np.array([rng.choice((1 << 20, 1 << 40, 1 << 62)) for _ in range(rng.randrange(1, 5))], np.int64)
        model.graph.initializer.append(numpy_helper.from_array(sizes, f"{name}_sizes"))
        kind = rng.choice(("ConstantOfShape", "Expand", "Tile"))
        first = [] if kind == "ConstantOfShape" else [node.input[0]]
        model.graph.node.insert(0, helper.make_node(kind, [*first, f"{name}_sizes"], [name]))
        node.input[rng.randrange(len(node.input))] = name


def _place(rng: random.Random, model: ModelProto) -> tuple[int, NodeProto, int] | None:
    """A node with inputs, where it stands, and one of its inputs."""
    at = rng.randrange(len(model.graph.node)) if model.graph.node else 0
    node = model.graph.node[at] if model.graph.node else None
    return None if node is None or not node.input else (at, node, rng.randrange(len(node.input)))


def _chain(rng: random.Random, model: ModelProto) -> None:
    """An operator again and again before an input of a node, each time on its own result: what doubles, grows."""
    found = _place(rng, model)
    if found is None:
        return
    at, node, position = found
    kind = rng.choice(
        ("Add", "Mul", "Sub", "Max", "Min", "Pow", "Mod", "Div", "Xor", "Gather", "Tile", "Concat", "Abs")
    )
    value, other = node.input[position], rng.choice(_values(model))
    for k in range(rng.choice((2, 8, 30, 60))):
        made = f"chain_{rng.randrange(1 << 30)}"
        operands = [value] if kind == "Abs" else [value, rng.choice((value, value, other))]
        attributes = {"axis": 0} if kind == "Concat" else {}
        model.graph.node.insert(at + k, helper.make_node(kind, operands, [made], **attributes))
        value = made
    node.input[position] = value


def _between(rng: random.Random, model: ModelProto) -> None:
    """An operator between a value and its reader."""
    found = _place(rng, model)
    if found is None:
        return
    at, node, position = found
    made = f"between_{rng.randrange(1 << 30)}"
    kinds = ("Cast", "Neg", "Abs", "Identity", "Transpose", "Squeeze", "Softmax", "Relu", "Not", "Clip", "Dropout")
    kind = rng.choice(kinds)
    attributes = {"to": rng.choice((1, 6, 7, 9, 10, 16))} if kind == "Cast" else {}
    model.graph.node.insert(at, helper.make_node(kind, [node.input[position]], [made], **attributes))
    node.input[position] = made


MUTATIONS: tuple[Mutation, ...] = (
    *(_rewire, _more_or_fewer_inputs, _outputs, _operator, _domain, _remove, _repeat, _shuffle, _attribute),
    *(_attribute, _tensor, _tensor, _shape, _shape, _interface, _versions, _nested, _huge),
    *(_chain, _between),
)


class Effort(Enum):
    """How much of the program an input goes through; the expensive parts run on fewer."""

    PROOF = "load, find and prove"
    PROBE = "and evaluate every proven bias in numbers"
    EXPLAIN = "as a command, with explanation, page and JSON"
    VERIFY = "as a command, with comparison in onnxruntime"

    @classmethod
    def of(cls, number: int) -> Effort:
        """What the input of a number gets."""
        if number % 72 == 0:
            return cls.VERIFY
        if number % 24 == 0:
            return cls.EXPLAIN
        return cls.PROBE if number % 4 == 0 else cls.PROOF


def survives(content: bytes, folder: Path, effort: Effort = Effort.PROBE) -> str:
    """Run the pass on a file with these bytes.

    Args:
        content: Of the file.
        folder: An empty folder to write it to.
        effort: How much of the pass to run.

    Returns:
        ``verdict`` or ``rejected``, or what went wrong.
    """
    path = folder / "model.onnx"
    path.write_bytes(content)
    try:
        with np.errstate(all="ignore"):
            if effort in (Effort.EXPLAIN, Effort.VERIFY):
                return _command(path, effort)
            rewrite(path, options=Options(verify=False, probe=effort is Effort.PROBE))
    except AlibiError as error:
        return "rejected" if str(error) else "an error without a message"
    except Exception as error:  # noqa: BLE001 - whatever escapes is a finding
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else "?"
        return f"{type(error).__name__} at {place}: {str(error)[:200]}"
    finally:
        for left in folder.iterdir():
            left.unlink()
    return "verdict"


def _command(path: Path, effort: Effort) -> str:
    report = path.with_suffix(".json")
    words = [str(path), "-o", str(path.with_name("out.onnx")), "--json", str(report)]
    if effort is Effort.EXPLAIN:
        words += ["--no-verify", "--explain", "--report", str(path.with_suffix(".html"))]
    said = StringIO()
    with redirect_stdout(StringIO()), redirect_stderr(said):
        code = main(words)
    if code in (ExitCode.DONE, ExitCode.NOT_REWRITTEN, ExitCode.NOT_VERIFIED):
        return "verdict"
    if code == ExitCode.VERIFICATION_FAILED and _assumes(report):
        return "verdict"  # an input on which what the proof assumes, and the report says, does not hold
    line = said.getvalue().strip()
    if code == ExitCode.INPUT_REJECTED and line and "\n" not in line:
        return "rejected"
    return f"exit code {code}: {line[:300] or 'nothing was said'}"


def _assumes(report: Path) -> bool:
    sites = json.loads(report.read_text(encoding="utf-8"))["sites"]
    return any((site.get("proof") or {}).get("assumptions") for site in sites)


@lru_cache(maxsize=1)
def _start() -> tuple[tuple[ModelProto, ...], tuple[bytes, ...]]:
    models = tuple(seeds())
    return models, tuple(m.SerializeToString() for m in models)


def made(seed: int, number: int) -> bytes:
    """The input of a number, always the same.  Every second one is a mutation of bytes."""
    models, contents = _start()
    rng = random.Random(f"{seed}-{number}")
    which = rng.randrange(len(models))
    if number % 2 == 0:
        try:
            return mutate_model(rng, models[which]).SerializeToString()
        except Exception:  # noqa: BLE001 - not even protobuf takes it
            pass
    return mutate_bytes(rng, contents[which], rng.choice(contents))


def inputs(seed: int, start: int, count: int) -> Iterator[tuple[int, bytes]]:
    """Numbered inputs."""
    return ((number, made(seed, number)) for number in range(start, start + count))


def fuzz(seed: int, start: int, count: int, jobs: int = 1) -> dict[str, list[int]]:
    """Outcomes with the numbers of the inputs, in their order; each input in limited time and memory."""
    _start()  # once, before the processes are made
    found: dict[str, list[int]] = {}
    outcomes = fuzz_pool.run(
        partial(_judge, seed), range(start, start + count), fuzz_pool.Limits(SECONDS, MEMORY, jobs)
    )
    for number, outcome in outcomes:
        found.setdefault(outcome, []).append(number)
    return {outcome: sorted(numbers) for outcome, numbers in found.items()}


def _judge(seed: int, number: int, folder: Path) -> str:
    return survives(made(seed, number), folder, Effort.of(number))
