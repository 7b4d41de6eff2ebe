"""Extents that inputs declare under one name.  The proof takes them for one number, which no caller is made to keep.

An exporter gives one name to what is one length in its program.  A runtime does not compare its inputs with that.
Where no operator of the graph does either, inputs of other extents would compute something else.
"""

from __future__ import annotations

from ...algebra import Size, of
from ...graph.index import Scope
from ..interpret import Interpreter
from ..records.reading import Attention

MOST_NAMED = 4
"""Inputs that are named; a decoder has two caches per layer."""


def shared_sizes(interpreter: Interpreter, attention: Attention) -> list[str]:
    """What a site takes for granted of the extents of inputs, a sentence per name that several of them have."""
    declared = interpreter.facts.once(("declared",), lambda: _declared(interpreter.scope))
    bounds = [index.bound for index in attention.frame.order]
    own = {a for bound in bounds for value in (bound, interpreter.facts.normal(bound)) for a in value.all_atoms()}
    # An extent that was replaced by others rests on their names too.
    own |= {a for atom in tuple(own) for a in interpreter.facts.normal(of(atom)).all_atoms()}
    found = []
    for size in sorted(a for a in own if isinstance(a, Size) and a.name in declared):
        places = declared[size.name]
        more = f" and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else ""
        if len(places) > 1:
            shown = ", ".join(f"'{name}' axis {axis}" for name, axis in places[:MOST_NAMED])
            found.append(f"{size.text} is the same number wherever inputs declare it: {shown}{more}")
    return found


def _declared(scope: Scope) -> dict[str, list[tuple[str, int]]]:
    """Names of extents, and the inputs and axes that have them; an input once for each name."""
    while scope.parent is not None:
        scope = scope.parent
    found: dict[str, list[tuple[str, int]]] = {}
    for name, value in scope.inputs.items():
        if name in scope.initializers:
            continue
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            places = found.setdefault(dim.dim_param, []) if dim.dim_param else []
            if all(known != name for known, _ in places):
                places.append((name, axis))
    return found
