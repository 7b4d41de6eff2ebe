"""The cells: for each operator with a rule, each version since opset 11, each type of its schema, each case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx
import onnx.defs
from alibi_rewriter.rewriter.interpret.known import KNOWN
from onnx import ModelProto

from .elementwise import CASES as ELEMENTWISE
from .generated import CASES as GENERATED
from .material import Graph, T
from .moved import CASES as MOVED

FIRST_OPSET = 11

Build = Callable[[Graph], str]
Cases = Callable[[int, int], Iterator[tuple[str, Build]]]

CASES: dict[str, Cases] = {**ELEMENTWISE, **GENERATED, **MOVED}

SHAPES = ((1, 1), (2, 3), (3, 2), (1, 5))
LONG = ((1, 300), (1, 2100))
"""Sizes for cells that round or count: beyond what int8, bfloat16 and float16 hold."""


@dataclass(frozen=True)
class Cell:
    """One graph to be judged."""

    op_type: str
    version: int
    dtype: int
    case: str
    model: ModelProto
    target: str

    @property
    def name(self) -> str:
        return f"{self.op_type}-{self.version} {str(T.DataType.Name(self.dtype)).lower()} {self.case}"

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        return SHAPES + LONG if "long" in self.case else SHAPES

    @property
    def node(self) -> onnx.NodeProto:
        return next(n for n in self.model.graph.node if self.target in n.output)


def versions(op_type: str) -> list[int]:
    """The versions of an operator that a model of opset 11 or later can have."""
    last = onnx.defs.onnx_opset_version()
    found: set[int] = set()
    for opset in range(FIRST_OPSET, last + 1):
        try:
            found.add(onnx.defs.get_schema(op_type, opset, "").since_version)
        except onnx.defs.SchemaError:
            continue
    return sorted(found)


def schema_of(op_type: str, version: int) -> onnx.defs.OpSchema:
    return onnx.defs.get_schema(op_type, version, "")


BY_OUTPUT = frozenset({"ConstantOfShape", "EyeLike", "Cast", "CastLike"})
"""Operators whose type is that of the result."""


def types(op_type: str, version: int) -> list[int]:
    """The tensor types that the schema allows for the operand (or the result) that the cases vary."""
    schema = schema_of(op_type, version)
    formal = schema.outputs[0] if op_type in BY_OUTPUT else schema.inputs[1 if op_type == "Where" else 0]
    if op_type in ("Shape", "Size"):
        return [T.FLOAT]
    found = []
    for text in sorted(formal.types):
        if text.startswith("tensor("):
            kind = text[len("tensor(") : -1].upper()
            if kind in T.DataType.keys():  # noqa: SIM118 - a protobuf enum is no mapping
                found.append(int(T.DataType.Value(kind)))
    return sorted(found)


@dataclass(frozen=True)
class Plan:
    """A cell that has not been built yet: there are a hundred thousand."""

    op_type: str
    version: int
    dtype: int
    case: str
    build: Build

    def cell(self) -> Cell:
        graph = Graph(max(self.version, FIRST_OPSET))
        target = self.build(graph)
        return Cell(self.op_type, self.version, self.dtype, self.case, graph.model(), target)


def plans(op_types: list[str] | None = None) -> Iterator[Plan]:
    """All cells to be, in a fixed order."""
    for op_type in op_types or sorted(KNOWN):
        for version in versions(op_type):
            for dtype in types(op_type, version):
                for case, build in CASES[op_type](version, dtype):
                    yield Plan(op_type, version, dtype, case, build)
