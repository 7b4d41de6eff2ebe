"""The recipe for a new form, done as it is written: into a copy of the package, in processes of its own.

The page's own form (``examples/new-form``) has one shape; a second one has a parameter and a causal member.  What is
promised of both: proven, verified, explained with its own formula, and every mutant killed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest
from slow import BESIDE
from test_layers import LAYERS

pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "examples" / "new-form" / "README.md"
GOLDEN = ROOT / "tests" / "golden"

CLIPPED = '''
```python
# patterns/forms/clipped.py
"""-min(|d|, limit): from some distance on, all keys are as far."""

from ...algebra import absolute, minimum
from .base import Form, Members

CLIPPED = Form(
    name="clipped",
    distance=lambda d, limit: -minimum(absolute(d), limit),
    formula="-{slope} * min(|i + (S_kv - S_q) - j|, {limit})",
    members=(Members(), Members(causal=True)),
    parameters=("limit",),
)
```

```python
# patterns/forms/__init__.py, after "from .base import Form, Members"
from .clipped import CLIPPED
```

```python
# patterns/forms/__init__.py, after "    SYMMETRIC,"
    CLIPPED,
```

```python
# tests/oracle.py, after "    "symmetric": lambda d: -abs(d),"
    "clipped": lambda d, limit: -min(abs(d), limit),
```
'''


@dataclass(frozen=True)
class Newcomer:
    """A form that a contributor adds.

    Attributes:
        recipe: A page whose blocks of Python say what goes where.
        golden: Texts of golden graphs by name, besides those that the page's own script writes.
        formulas: What ``explain`` has to say of the accepted golden graphs, by name.
        parameters: The attributes that their nodes have to carry.
    """

    recipe: str
    golden: Mapping[str, str]
    formulas: Mapping[str, str]
    parameters: Mapping[str, float]


def two_limits(text: str) -> str:
    """4 keys before the row, 3 after it: no one number is both."""
    text = text.replace("float four = {4.0}>", "float four = {3.0}, float far = {-4.0}>")
    return text.replace("absf = Cast<to=1>(absi)", "relf = Cast<to=1>(rel)\n   low = Max(relf, far)").replace(
        "near = Min(absf, four)", "both = Min(low, four)\n   near = Abs(both)"
    )


def clipped() -> Newcomer:
    text = (GOLDEN / "refusals/clipped.txt").read_text(encoding="utf-8")
    graph = text[text.index("<ir_version") :]
    causal = (GOLDEN / "forms/symmetric_causal.txt").read_text(encoding="utf-8")
    causal = causal[causal.index("<ir_version") :].replace("float low =", "float four = {4.0}, float low =")
    causal = causal.replace("neg = Neg(absf)", "near = Min(absf, four)\n   neg = Neg(near)")
    formula = "slope[h] * min(|i + (S_kv - S_q) - j|, 4)"
    return Newcomer(
        CLIPPED,
        {
            "forms/clipped": f"# becomes: AlibiAttentionClipped\n{graph}",
            "forms/clipped_causal": f"# becomes: AlibiAttentionCausalClipped\n{causal}",
            "refusals/clipped": f"# two limits\n# refused: ALB200\n# stage: bias\n# node: p\n{two_limits(graph)}",
        },
        {"forms/clipped": formula, "forms/clipped_causal": formula},
        {"bias_limit": 4.0},
    )


def lopsided() -> Newcomer:
    formula = "slope[h] * min(2 * d, -d),  d = j - i - (S_kv - S_q)"
    return Newcomer(PAGE.read_text(encoding="utf-8"), {}, {"forms/lopsided": formula}, {})


def copied(folder: Path) -> Path:
    """The package with its libraries, if they are built, and its tests and examples."""
    package = folder / "alibi_rewriter"
    package.mkdir()
    tops = {name for layer in LAYERS for name in layer if name}
    for name in sorted([*tops, "tests", "examples"]):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, package / name, ignore=shutil.ignore_patterns("__pycache__", "data"))
        elif source.with_suffix(".py").exists():
            shutil.copy(source.with_suffix(".py"), package)
    for name in ("__init__.py", "pyproject.toml"):
        shutil.copy(ROOT / name, package)
    return package


def follow(recipe: str, package: Path) -> None:
    """Write what the blocks of Python of a page say, and nothing else."""
    blocks = re.findall(r'```python\n# (\S+?)(?:, after "([^\n]+)")?\n(.*?)```', recipe, flags=re.DOTALL)
    assert len(blocks) == 4
    for name, line, text in blocks:
        path = package / name
        if not line:
            assert not path.exists()
            path.write_text(text, encoding="utf-8")
            continue
        lines = path.read_text(encoding="utf-8").split("\n")
        assert lines.count(line) == 1, f"{name} has no line {line!r}"
        assert text.count("\n") == 1, "a line"
        lines.insert(lines.index(line) + 1, text.rstrip("\n"))
        path.write_text("\n".join(lines), encoding="utf-8")


def python(package: Path, *words: str | Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=package,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(package.parent), **variables},
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.parametrize(
    "newcomer",
    [lopsided(), pytest.param(clipped(), marks=BESIDE)],
    ids=["the page's own", "a parameter, and causal"],
)
def test_the_recipe(newcomer: Newcomer, tmp_path: Path) -> None:
    package = copied(tmp_path)
    follow(newcomer.recipe, package)
    folder = package / "tests" / "golden"
    for name, text in newcomer.golden.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    form = next(iter(newcomer.formulas)).removeprefix("forms/")
    for line in re.findall(r"^python (examples/.+)$", newcomer.recipe, flags=re.MULTILINE):
        python(package, *line.split())
    chosen = f"({form} and (accepted or refused or probe or body_equals)) or (every_opset and 11)"
    files = ("tests/whole/test_golden.py", "tests/fused/test_function_body.py")
    variables = {"REGENERATE": "1", "ALIBI_SLOW": "1", "PYTHONPATH": f"{package.parent}{os.pathsep}{package / 'tests'}"}
    said = python(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", chosen, **variables)
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None and int(passed.group(1)) > 48, said  # the bodies alone: 12 members, 2 types, 2 policies
    for name, formula in newcomer.formulas.items():
        becomes = re.search(r"^# becomes: (\S+)$", (folder / f"{name}.txt").read_text(encoding="utf-8"), re.MULTILINE)
        assert becomes is not None
        check(package, name, becomes.group(1), formula, newcomer.parameters)


def check(package: Path, name: str, op_type: str, formula: str, parameters: Mapping[str, float]) -> None:
    """Proven, verified, explained with its own formula, mutants killed."""
    lines = (package / "tests" / "golden" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    model = onnx.parser.parse_model("\n".join(line for line in lines if not line.startswith("#")))
    onnx.save(model, package / "model.onnx")
    said = python(package, "-m", "alibi_rewriter", "model.onnx", "-o", "out.onnx", "--json", "out.json", "--explain")
    assert f"bias = {formula}" in said or f"bias = -{formula}" in said
    report: dict[str, Any] = json.loads((package / "out.json").read_text(encoding="utf-8"))
    (site,) = report["sites"]
    node = site["node"]
    assert site["verdict"] == "rewritten" and node["op_type"] == op_type
    assert {k: v for k, v in node["attributes"].items() if k.startswith("bias_")} == dict(parameters)
    assert site["proof"]["self_check"] > 0
    explained = " ".join(site["explanation"]["formula"])
    assert formula in explained and "slope[h] * j" not in explained
    verification = report["verification"]
    assert verification["status"] == "passed"
    verdicts: Sequence[dict[str, Any]] = verification["power"]["details"]
    killed = {mutant["kind"] for mutant in verdicts if mutant["verdict"] == "killed"}
    assert {mutant["verdict"] for mutant in verdicts} <= {"killed", "not_applicable"}, verdicts
    assert killed >= {"bias_dropped", "heads_rolled", "row_position_offset_by_one", "causality_changed"}
    assert ("form_parameter_off_by_one" in killed) == bool(parameters)
