"""What the layout is measured by.

``python tests/repository/structure.py`` prints a line per measure, and what is over its limit.

rooms       no room of the package holds more than 30 % of its lines
functions   no function has more than 60 lines of code (without its docstring), outside the kernels
calls       no call passes more than 8 arguments by position, outside the kernels
classes     no two public classes have one name
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from test_layers import MODULES, parsed

MOST_LINES = 60
MOST_POSITIONS = 8
LARGEST_ROOM = 0.30
KERNELS = ("kernels.",)
"""What kernels and driver calls pass, and how long kernels are, is decided by a compiler and an interface of others."""


def room(module: str) -> str:
    """The folder of a module, two levels deep inside of the pass."""
    parts = module.split(".")[:-1] or [module]
    return ".".join(parts[:2])


def plain() -> Iterator[tuple[str, Path]]:
    for module, path in MODULES.items():
        if not module.startswith(KERNELS):
            yield module, path


def rooms() -> list[str]:
    """Rooms that are too large."""
    lines: Counter[str] = Counter()
    for module, path in MODULES.items():
        lines[room(module)] += len(path.read_text(encoding="utf-8").splitlines())
    whole = sum(lines.values())
    return [f"{name}: {n / whole:.0%} of {whole} lines" for name, n in lines.items() if n > LARGEST_ROOM * whole]


def functions() -> list[str]:
    """Functions that are too long."""
    found = []
    for module, path in plain():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                first = node.body[0]
                documented = ast.get_docstring(node) is not None and first.end_lineno is not None
                length = node.end_lineno - (first.end_lineno if documented and first.end_lineno else node.lineno - 1)
                if length > MOST_LINES:
                    found.append(f"{module}.{node.name}: {length} lines")
    return found


def calls() -> list[str]:
    """Calls with too many arguments by position."""
    return [
        f"{module}:{node.lineno}: {len(node.args)} arguments"
        for module, path in plain()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and len(node.args) > MOST_POSITIONS
    ]


def classes() -> list[str]:
    """Public classes that share a name."""
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    return [f"{name}: {', '.join(where)}" for name, where in sorted(places.items()) if len(where) > 1]


MEASURES = (rooms, functions, calls, classes)


def main() -> int:
    """Print every measure; the exit status is 1 where something is over its limit."""
    status = 0
    for measure in MEASURES:
        found = measure()
        sys.stdout.write(f"{measure.__name__}: {len(found) or 'none'} over the limit\n")
        for line in found:
            sys.stdout.write(f"  {line}\n")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
