"""The layout shows how the pass works.  Imports go one way only, and no module reaches into another."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

LAYERS = (
    ("base",),
    ("algebra",),
    ("patterns",),
    ("fused",),
    ("graph", "plugin"),
    ("kernels",),
    ("verify",),
    ("rewriter",),
    ("shards",),
    ("explain", "engine", "page"),
    ("runtime",),
    ("speed", "intact", "api", "ir_pass", "olive_pass", "report_types"),
    ("completion", "running", "several"),
    ("cli",),
    ("entry", "__main__", ""),
)
"""Folders and modules of the package; each imports from itself and from those above it only ("" is the package)."""

PHASES = (
    ("verdicts",),
    ("prepare",),
    ("interpret",),
    ("records",),
    ("recognise",),
    ("restore",),
    ("prove",),
    ("bind",),
    ("emit",),
    ("analysis",),
    ("check",),
    ("result", "notices"),
    ("absorb",),
    ("working_copy", "apply", "cache"),
    ("compared",),
    ("pipeline", "census"),
    ("report", "spec", ""),
)
"""The same inside ``rewriter``: the path of the data is the list of folders."""


@dataclass(frozen=True)
class Import:
    """``module`` imports ``imported``, or something that it defines."""

    module: str
    line: int
    imported: str


def sources() -> dict[str, Path]:
    """Path by module name below the package; tests, benchmarks and examples are no part of it."""
    tops = {name for layer in LAYERS for name in layer}
    found = {}
    # Environments and build folders lie beside the package, with thousands of modules.
    inside = (path for top in tops - {""} for path in (ROOT / top).rglob("*.py"))
    for path in sorted([*ROOT.glob("*.py"), *inside]):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        if (parts[0] if parts else "") in tops:
            found[".".join(parts)] = path
    return found


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(modules: Mapping[str, Path]) -> Iterator[Import]:
    """All relative imports, those for type checkers and those inside of functions included."""
    for module, path in modules.items():
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = [part for part in package[: len(package) - node.level + 1] if part]
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}".lstrip(".")
                yield Import(module, node.lineno, inner if inner in modules else source)


def rank(layers: tuple[tuple[str, ...], ...], name: str) -> int:
    return next(number for number, layer in enumerate(layers) if name in layer)


def phase(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


MODULES = sources()


@cache
def all_imports() -> tuple[Import, ...]:
    """Of the whole package.  Seconds of parsing, which workers that run none of these tests do not need."""
    return tuple(imports(MODULES))


def test_every_module_has_a_layer() -> None:
    assert len(MODULES) > 200
    for module in MODULES:
        assert rank(LAYERS, module.split(".")[0]) >= 0
        if module.startswith("rewriter"):
            assert rank(PHASES, phase(module)) >= 0, f"{module} is in no phase"


def test_no_import_goes_upwards() -> None:
    wrong = [
        f"{each.module}:{each.line} imports {each.imported}"
        for each in all_imports()
        if rank(LAYERS, each.imported.split(".")[0]) > rank(LAYERS, each.module.split(".")[0])
    ]
    assert wrong == []


def test_the_path_of_the_data_goes_one_way() -> None:
    wrong = [
        f"{each.module}:{each.line} imports {each.imported}"
        for each in all_imports()
        if each.module.startswith("rewriter.")
        and each.imported.startswith("rewriter.")
        and rank(PHASES, phase(each.imported)) > rank(PHASES, phase(each.module))
    ]
    assert wrong == []


def test_no_circle_between_modules() -> None:
    left = {
        module: {e.imported for e in all_imports() if e.module == module and e.imported != module} for module in MODULES
    }
    while True:
        leaves = [module for module, wanted in left.items() if not wanted & left.keys()]
        if not leaves:
            break
        for module in leaves:
            del left[module]
    assert sorted(left) == [], "these import each other"


def test_nobody_reaches_into_another_module() -> None:
    """``module._name`` and ``from module import _name`` are for the module itself; tests are no exception."""
    wrong = []
    for path in sorted([*MODULES.values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]):
        tree = parsed(path)
        # os._exit and the like are the interface that their libraries give.
        own = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and is_ours(n)]
        names = {alias.asname or alias.name for node in own for alias in node.names}
        where = path.relative_to(ROOT)
        for node in own:
            wrong += [f"{where}:{node.lineno} imports {a.name}" for a in node.names if is_private(a.name)]
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or not is_private(node.attr):
                continue
            if isinstance(node.value, ast.Name) and node.value.id in names:
                wrong.append(f"{where}:{node.lineno} uses {node.value.id}.{node.attr}")
    assert wrong == []


def is_ours(node: ast.ImportFrom) -> bool:
    return bool(node.level) or (node.module or "").split(".")[0] == "alibi_rewriter"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")
