"""Input shapes as users write them: trtexec's spelling and Polygraphy's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from ..base.errors import UsageError

Shape = tuple[int, ...]

_ITEM = re.compile(r"(?P<name>.+?):(?P<dims>\[[^\]]*\]|\d+(?:x\d+)*|scalar)(?:[,\s]+|$)", re.IGNORECASE)


def parse_shapes(option: str, texts: Sequence[str]) -> dict[str, Shape]:
    """``ids:1x32,mask:1x32`` or ``ids:[1,32] mask:[1,32]`` as shapes by input name.

    Args:
        option: The option's name, for messages.
        texts: Its values.

    Raises:
        UsageError: It is written otherwise, or names an input twice.
    """
    found: dict[str, Shape] = {}
    for text in texts:
        place = 0
        while place < len(text):
            match = _ITEM.match(text, place)
            if match is None:
                raise UsageError(
                    f"{option} '{text}' is not NAME:DIMS. Examples: ids:1x32,mask:1x32 or ids:[1,32] mask:[1,32]"
                )
            name, shape = match.group("name"), _dims(option, text, match.group("dims"))
            if name in found:
                raise UsageError(f"{option} gives '{name}' twice")
            found[name] = shape
            place = match.end()
    return found


def _dims(option: str, text: str, written: str) -> Shape:
    if written.lower() == "scalar":
        return ()
    pieces = [p for p in written.strip("[]").replace("x", ",").split(",") if p.strip()]
    if not all(p.strip().isdigit() for p in pieces):
        raise UsageError(f"{option} '{text}': '{written}' are not extents")
    return tuple(int(p) for p in pieces)


@dataclass(frozen=True)
class ProfileInput:
    """A graph input.

    Attributes:
        name: Its name.
        dims: Per axis the extent, or the symbol that names it (empty if it has no name).
    """

    name: str
    dims: tuple[int | str, ...]

    @property
    def is_dynamic(self) -> bool:
        """Whether any extent is open."""
        return any(isinstance(d, str) for d in self.dims)

    def __str__(self) -> str:
        return f"{self.name}[{', '.join(str(d) or '?' for d in self.dims)}]"


def inputs_of(model: ModelProto) -> list[ProfileInput]:
    """The inputs that a caller provides, in order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in constants:
            continue
        dims: list[int | str] = []
        for dim in value.type.tensor_type.shape.dim:
            dims.append(dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param)
        found.append(ProfileInput(value.name, tuple(dims)))
    return found


def check_shapes(option: str, shapes: Mapping[str, Shape], inputs: Sequence[ProfileInput]) -> None:
    """Checks, before any heavy work, that every name is an input and that ranks and fixed extents are the model's.

    Raises:
        UsageError: Something does not fit; the message says what would.
    """
    known = {item.name: item for item in inputs}
    for name, shape in shapes.items():
        if name not in known:
            raise UsageError(f"{option}: the model has no input '{name}'. Its inputs: {', '.join(map(str, inputs))}")
        item = known[name]
        if len(shape) != len(item.dims):
            raise UsageError(f"{option}: '{name}' has rank {len(item.dims)}, not {len(shape)}: {item}")
        for axis, (given, wanted) in enumerate(zip(shape, item.dims, strict=True)):
            if isinstance(wanted, int) and given != wanted:
                raise UsageError(f"{option}: axis {axis} of '{name}' is fixed to {wanted}, not {given}: {item}")
