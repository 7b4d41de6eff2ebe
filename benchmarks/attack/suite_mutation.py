"""Does the fast suite see broken code?  One semantic change at a time, and the tests that should fail.

``python benchmarks/attack/suite_mutation.py --named`` runs the changes of ``suite_mutations.py``, which are data;
``--generated 200 --seed 1`` draws changes from the syntax trees of the modules that prove and rewrite: a comparison,
a bound, a sign, an "and" for an "or", a guard that no longer guards.  Each runs in a copy of the repository.  It prints
which test killed it or that it survived, and ends with status 1 if any survived that is not listed as equivalent, and
with 2 if a change does not fit the code any more.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy  # noqa: F401 - here and below: loaded once, for all runs of the tests
import onnx.reference  # noqa: F401
import onnxruntime  # noqa: F401
import pytest
from suite_mutations import EQUIVALENT, MUTATIONS, TESTS, TESTS_OF_NATIVE

ROOT = Path(__file__).resolve().parents[2]
TARGETS = (
    *(
        "rewriter/prove/proof.py",
        "rewriter/prove/terms.py",
        "rewriter/prove/positions.py",
        "rewriter/recognise/softmax.py",
        "rewriter/recognise/visibility.py",
        "rewriter/bind/masks.py",
        "rewriter/emit/nodes.py",
    ),
    *("rewriter/interpret/arithmetic.py", "rewriter/interpret/generators.py", "rewriter/interpret/movement.py"),
    *("rewriter/interpret/digits.py", "rewriter/interpret/sizes/facts.py", "rewriter/interpret/tables/fitting.py"),
    *("rewriter/interpret/tables/element.py", "rewriter/interpret/extents.py", "rewriter/interpret/sizes/room.py"),
    *("rewriter/interpret/shapes.py", "rewriter/interpret/tables/solvers.py", "rewriter/interpret/engine.py"),
)
COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: (" in ", " not in "),
    ast.NotIn: (" not in ", " in "),
    ast.Is: (" is ", " is not "),
    ast.IsNot: (" is not ", " is "),
}


@dataclass(frozen=True)
class Mutation:
    """One change: in a file the text from ``start`` on, which is ``old``, becomes ``new``."""

    file: str
    start: int
    old: str
    new: str

    def told(self, source: str) -> str:
        """Where it is, what, and the line that it makes."""
        line = source.count("\n", 0, self.start) + 1
        made = source[: self.start] + self.new + source[self.start + len(self.old) :]
        whole = made.splitlines()[line - 1].strip()
        change = f"{' '.join(self.old.split())[:90]}  ->  {' '.join(self.new.split())[:90]}"
        return f"{self.file}:{line}: {change}" + (f"  in  {whole[:110]}" if len(self.old) < 40 else "")


def named() -> Iterator[Mutation]:
    """The changes that are listed as data.

    Raises:
        SystemExit: With status 2, if the text of one is not there, or more than once.
    """
    gone = []
    for file, old, new in MUTATIONS:
        source = (ROOT / file).read_text(encoding="utf-8")
        if source.count(old) != 1:
            gone.append(f"{file}: {source.count(old)} times: {old!r}")
        else:
            yield Mutation(file, source.index(old), old, new)
    if gone:
        print("these changes do not fit the code any more:", *gone, sep="\n  ", file=sys.stderr)
        raise SystemExit(2)


def generated(file: str) -> list[Mutation]:
    """All changes of the known kinds in a file."""
    source = (ROOT / file).read_text(encoding="utf-8")
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: list[Mutation] = []

    def place(node: ast.AST, *, end: bool = False) -> int:
        line, column = (node.end_lineno, node.end_col_offset) if end else (node.lineno, node.col_offset)  # type: ignore[attr-defined]
        text = source[starts[line - 1] : starts[line]]
        return starts[line - 1] + len(text.encode()[:column].decode())

    def add(start: int, end: int, new: str) -> None:
        if source[start:end] != new:
            found.append(Mutation(file, start, source[start:end], new))

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            start, end = place(node.left, end=True), place(node.comparators[0])
            old, new = COMPARISONS[type(node.ops[0])]
            between = source[start:end]
            if old.strip() in between:
                add(start, end, between.replace(old.strip(), new.strip(), 1))
        elif isinstance(node, ast.BoolOp):
            word, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            start, end = place(node.values[0], end=True), place(node.values[1])
            between = source[start:end]
            if len(node.values) == 2 and re.search(rf"\b{word}\b", between):
                add(start, end, re.sub(rf"\b{word}\b", other, between, count=1))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            add(place(node), place(node.operand), "")
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            start, end = place(node.left, end=True), place(node.right)
            between = source[start:end]
            sign, other = ("+", "-") if isinstance(node.op, ast.Add) else ("-", "+")
            if sign in between:
                add(start, end, between.replace(sign, other, 1))
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("all", "any", "min", "max")
        ):
            swapped = {"all": "any", "any": "all", "min": "max", "max": "min"}[node.func.id]
            add(place(node.func), place(node.func, end=True), swapped)
        elif isinstance(node, ast.Constant) and type(node.value) is int and 0 <= node.value <= 64:
            add(place(node), place(node, end=True), str(node.value + 1))
        elif (
            isinstance(node, ast.If)
            and len(node.body) == 1
            and isinstance(node.body[0], ast.Return | ast.Continue | ast.Raise)
        ):
            add(place(node.test), place(node.test, end=True), "False")
    return found


def copy_of(folder: Path) -> Path:
    """A copy of what git knows, as a package of its own name."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    copy = folder / "copy"
    for name in files.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    (folder / "path").mkdir()
    (folder / "path" / "alibi_rewriter").symlink_to(copy)
    return copy


def killed_by(copy: Path, tests: list[str], seconds: int) -> str | None:
    """The first test that fails, or None.

    The tests run in a fork of this process, which has loaded all that is no part of the project.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        child = os.fork()
        if child == 0:
            _test(copy, tests, said.fileno())
        status = _ended(child, seconds)
        said.seek(0)
        text = said.read()
    if status is None:
        return f"more than {seconds} s"
    if status == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    return failed.group(1) if failed else f"status {status}: {text[-400:]}"


def _test(copy: Path, tests: list[str], said: int) -> None:
    """Runs the tests of a copy in this process and ends it."""
    status = 70
    try:
        os.setsid()
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ["PYTHONPATH"] = str(copy.parent / "path")
        os.environ["PYTHONDONTWRITEBYTECODE"] = os.environ["ALIBI_NO_BYTECODE"] = "1"
        sys.dont_write_bytecode = True
        sys.path[0] = os.environ["PYTHONPATH"]
        os.chdir(copy)
        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]))
        sys.stdout.flush()
    finally:
        os._exit(status)


def _ended(child: int, seconds: int) -> int | None:
    """The status of a child; None if it had to be ended after some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main() -> int:
    """Run the changes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--named", action="store_true", help="the changes of suite_mutations.py")
    parser.add_argument("--generated", type=int, default=0, metavar="COUNT", help="changes drawn from the syntax trees")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first one, to go on where a run ended")
    parser.add_argument("--only", default="", help="files with this in their names")
    parser.add_argument("--seconds", type=int, default=900, help="for the tests of one change")
    parser.add_argument("--tests", nargs="*", default=list(TESTS))
    parser.add_argument("--without", nargs="*", default=[], metavar="TEST", help="tests that fail as it is")
    parser.add_argument("--list", action="store_true", help="print the changes and run nothing")
    options = parser.parse_args()
    options.tests += [f"--deselect={name}" for name in options.without]
    chosen = [m for m in named() if options.only in m.file] if options.named else []
    if options.generated:
        every = [m for file in TARGETS if options.only in file for m in generated(file)]
        chosen += random.Random(options.seed).sample(every, min(options.generated, len(every)))
    chosen = chosen[options.first :]
    sources = {m.file: (ROOT / m.file).read_text(encoding="utf-8") for m in chosen}
    if options.list:
        print(*(m.told(sources[m.file]) for m in chosen), sep="\n")
        return 0
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of(Path(folder))
        broken = killed_by(copy, options.tests, 3 * options.seconds)
        if broken is not None:
            print(f"the tests fail without any change: {broken}", file=sys.stderr)
            return 2
        for mutation in chosen:
            source = sources[mutation.file]
            end = mutation.start + len(mutation.old)
            (copy / mutation.file).write_text(source[: mutation.start] + mutation.new + source[end:], encoding="utf-8")
            start = time.perf_counter()
            native = list(TESTS_OF_NATIVE) if mutation.file.endswith(".cpp") else None
            killer = killed_by(copy, native or options.tests, options.seconds)
            (copy / mutation.file).write_text(source, encoding="utf-8")
            reason = EQUIVALENT.get((mutation.file, mutation.old, mutation.new))
            kind = "killed" if killer else "equivalent" if reason else "SURVIVED"
            counts[kind] += 1
            took = time.perf_counter() - start
            print(f"{kind} ({took:.0f} s) {mutation.told(source)}  {killer or reason or ''}", flush=True)
    total = sum(counts.values())
    print(f"{total} changes: " + ", ".join(f"{counts[k]} {k}" for k in sorted(counts)))
    return 1 if counts["SURVIVED"] else 0


if __name__ == "__main__":
    sys.exit(main())
