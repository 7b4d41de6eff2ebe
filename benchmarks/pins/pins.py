"""Hashes of everything that the pass says about known models: what a change of structure must leave as it is.

    python benchmarks/pins/pins.py record pins.json      before the change
    python benchmarks/pins/pins.py compare pins.json     after it; exits with 1 and names what differs

Per model three hashes: of the written file, of the JSON report without timings, and of what ``--explain`` prints.
The models are the golden graphs, ``tests/data`` and the examples.  Verification is left out: it draws nothing that a
change of structure could reach, and takes most of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
from alibi_rewriter.cli import main as command

REPOSITORY = Path(__file__).resolve().parents[2]
TIMES = frozenset({"timings", "version"})
"""Keys of the report that may differ between two runs or two releases."""

ARGUMENTS = ("model.onnx", "--no-verify", "--explain", "-o", "out.onnx", "--json", "out.json")


def models() -> Iterator[tuple[str, onnx.ModelProto]]:
    """(name, model) of everything that is pinned, in the order of names."""
    golden = REPOSITORY / "tests" / "golden"
    for path in sorted(golden.rglob("*.txt")):
        if not path.name.endswith(".expected.txt"):
            lines = path.read_text(encoding="utf-8").splitlines()
            text = "\n".join(line for line in lines if not line.startswith("#"))
            yield f"golden/{path.relative_to(golden).with_suffix('')}", onnx.parser.parse_model(text)
    for folder in ("tests/data", "examples"):
        for path in sorted((REPOSITORY / folder).glob("*.onnx")):
            yield f"{folder}/{path.stem}", onnx.load(path)


def pinned(model: onnx.ModelProto) -> dict[str, str]:
    """The hashes of one model."""
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # so that no message holds a path of this machine
        try:
            onnx.save(model, "model.onnx")
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                status = int(
                    command(["model.onnx", "-o", "out.onnx", "--no-verify", "--explain", "--json", "out.json"])
                )
            written = Path("out.onnx").read_bytes() if Path("out.onnx").exists() else b""
            report = json.loads(Path("out.json").read_text()) if Path("out.json").exists() else None
        finally:
            os.chdir(home)
    said = "\n".join(line for line in printed.getvalue().splitlines() if not line.startswith("time"))
    return {
        "status": str(status),
        "output": digest(written),
        "json": digest(json.dumps(without_times(report), sort_keys=True).encode()),
        "explain": digest(said.encode()),
    }


def without_times(value: Any) -> Any:
    """A report without what differs between two runs."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [without_times(inner) for inner in value]
    return value


def digest(data: bytes) -> str:
    """A short name of these bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def renamed(known: Mapping[str, Mapping[str, str]], found: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The new name of each model that is gone, where exactly one new model has its hashes."""
    moved = {}
    for old in (name for name in known if name not in found):
        same = [new for new in found if new not in known and found[new] == known[old]]
        if len(same) == 1:
            moved[old] = same[0]
    return moved


def main() -> int:
    """Record, or compare; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    found = {name: pinned(model) for name, model in models()}
    if options.what == "record":
        options.file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        sys.stdout.write(f"{len(found)} models recorded\n")
        return 0
    known = json.loads(options.file.read_text(encoding="utf-8"))
    for old, new in renamed(known, found).items():
        sys.stdout.write(f"{old} is {new} now\n")
        known[new] = known.pop(old)
    different = [
        f"{name}: {', '.join(k for k in known[name] if known[name][k] != found[name][k]) if name in known else 'new'}"
        for name in found
        if known.get(name) != found[name]
    ]
    different += [f"{name}: gone" for name in known if name not in found]
    for line in different:
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{len(found)} models, {len(different)} differ\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
