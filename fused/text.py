"""Lines of ONNX text, and the operators whose spelling depends on the opset."""

from __future__ import annotations

from collections.abc import Sequence


class Body:
    """Lines of ONNX text, and the few operators whose spelling depends on the opset."""

    def __init__(self, opset: int, query_type: int) -> None:
        self.opset = opset
        self.query_type = query_type
        self.lines: list[str] = []
        self._has_minus_one = False

    def line(self, text: str) -> None:
        """One node."""
        self.lines.append(f"  {text}")

    def constant(self, name: str, type_name: str, values: Sequence[int | float], *, scalar: bool = True) -> None:
        """A constant: a scalar, or a vector."""
        shape = "" if scalar else f"[{len(values)}]"
        listed = ", ".join(repr(value) for value in values)
        self.line(f"{name} = Constant <value = {type_name}{shape} {{{listed}}}> ()")

    def attribute(self, output: str, name: str) -> None:
        """A float attribute of the node as a scalar."""
        if self.opset >= 12:
            self.line(f"{output} = Constant <value_float: float = @{name}> ()")
            return
        # Constant has no value_float yet; LeakyRelu's alpha carries a float attribute just as well.
        if not self._has_minus_one:
            self.constant("minus_one", "float", [-1.0])
            self._has_minus_one = True
        self.line(f"minus_{name} = LeakyRelu <alpha: float = @{name}> (minus_one)")
        self.line(f"{output} = Neg (minus_{name})")

    def extent(self, output: str, tensor: str, axis: int) -> None:
        """The extent of one axis, a scalar."""
        self.line(f"{output}_shape = Shape ({tensor})")
        self.constant(f"{output}_axis", "int64", [axis])
        self.line(f"{output} = Gather ({output}_shape, {output}_axis)")

    def unsqueeze(self, output: str, source: str, axes: Sequence[int]) -> None:
        """Axes of extent 1."""
        if self.opset < 13:
            self.line(f"{output} = Unsqueeze <axes = [{', '.join(map(str, axes))}]> ({source})")
            return
        self.constant(f"{output}_axes", "int64", axes, scalar=False)
        self.line(f"{output} = Unsqueeze ({source}, {output}_axes)")

    def reduce_max_last(self, output: str, source: str) -> None:
        """The maximum along the last axis, which stays."""
        if self.opset < 18:
            self.line(f"{output} = ReduceMax <axes = [-1], keepdims = 1> ({source})")
            return
        self.constant(f"{output}_axes", "int64", [-1], scalar=False)
        self.line(f"{output} = ReduceMax <keepdims = 1> ({source}, {output}_axes)")

    def cast_like_query(self, output: str, source: str) -> None:
        """The value in the query's type."""
        if self.opset < 15:
            self.line(f"{output} = Cast <to = {self.query_type}> ({source})")
        else:
            self.line(f"{output} = CastLike ({source}, query)")
