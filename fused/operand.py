"""The steps of a function body that make [B, H, S, D] of the tensor that a node's attributes describe."""

from __future__ import annotations

from .layout import SLICED, Moves
from .text import Body

VIEWED = ("heads", "part", "pieces")
"""What an operand is called behind its name once it is transposed, sliced, reshaped; the last step stands first."""


def view_attributes(name: str, moves: Moves) -> list[str]:
    """The attributes of a view that a body refers to."""
    found = [f"{name}_shape"] if name in moves.reshaped else []
    found += [f"{name}_starts", f"{name}_ends"] if name in moves.sliced else []
    return [*found, f"{name}_perm"] if name in moves.transposed else found


def write_operand(body: Body, name: str, moves: Moves) -> str:
    """An operand as [B, H, S, D]: the node's view of its tensor.  Returns what it is called."""
    current = name
    if name in moves.reshaped:
        body.line(f"{name}_cut = Constant <value_ints: ints = @{name}_shape> ()")
        body.line(f"{name}_pieces = Reshape ({current}, {name}_cut)")
        current = f"{name}_pieces"
    if name in moves.sliced:
        for side in ("starts", "ends"):
            body.line(f"{name}_{side} = Constant <value_ints: ints = @{name}_{side}> ()")
        body.constant(f"{name}_axes", "int64", SLICED, scalar=False)
        body.line(f"{name}_part = Slice ({current}, {name}_starts, {name}_ends, {name}_axes)")
        current = f"{name}_part"
    if name in moves.transposed:
        body.line(f"{name}_heads = Transpose <perm: ints = @{name}_perm> ({current})")
        current = f"{name}_heads"
    return current
