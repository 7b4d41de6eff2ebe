"""Sites that are the same up to names.  Twenty-four equal layers are one explanation and twenty-three names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from onnx import GraphProto

from ..graph.index import label, subgraphs

_WORD = re.compile(r"[^\s\[\]()'\",*=<>+]+")
"""What a name may look like in a text.  A name that it does not match keeps sites apart."""


def names_of(graph: GraphProto) -> frozenset[str]:
    """The names of all nodes and tensors of a graph, its bodies included."""
    found: set[str] = set()
    waiting = [graph]
    while waiting:
        one = waiting.pop()
        found.update(v.name for group in (one.input, one.output, one.initializer) for v in group)
        for node in one.node:
            found.add(label(node))
            found.update(node.output)
            waiting.extend(body for _, body in subgraphs(node))
    return frozenset(found - {""})


def leaders(texts: Mapping[str, Sequence[str]], names: Collection[str], literal: str) -> dict[str, str]:
    """For each site the first one whose text is the same up to names.

    Args:
        texts: What is said of each site, in the order of the sites.
        names: What counts as a name.
        literal: Lines that begin so are about the whole model.  In them a name stands for itself.

    Returns:
        The leader of each site; that of a first one is itself.
    """
    first: dict[tuple[str, ...], str] = {}
    found = {}
    for site, lines in texts.items():
        own = _without_names((line for line in lines if not line.startswith(literal)), names)
        whole = tuple(sorted(line for line in lines if line.startswith(literal)))
        found[site] = first.setdefault((*own, *whole), site)
    return found


def _without_names(lines: Iterable[str], names: Collection[str]) -> tuple[str, ...]:
    """The lines with names as numbers, in the order in which they occur.  Equal names get equal numbers."""
    numbers: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        word = found[0]
        # The formula ends names in words of its own, such as ".slope".
        for name in (word, word.rpartition(".")[0]):
            if name in names:
                return numbers.setdefault(name, f"#{len(numbers)}") + word[len(name) :]
        return word

    return tuple(_WORD.sub(number, line) for line in lines)
