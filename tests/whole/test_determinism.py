"""The same model gives the same bytes and the same report, wherever and however it is run, in any order of nodes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from generator import build, sample
from onnx import GraphProto, ModelProto, NodeProto
from slow import thinned
from textgraphs import read

pytest.importorskip("onnxruntime")

DATA = sorted((Path(__file__).parents[1] / "data").glob("*.onnx"))

EVERYTHING = r"""
import hashlib, json, re, sys
from pathlib import Path
from alibi_rewriter.cli import main
out = Path(sys.argv[1])
for number, path in enumerate(sys.argv[2:]):
    verify = ["--verify-sites"] if number % 6 == 0 else ["--no-verify"]
    words = [path, "-o", str(out / "out.onnx"), "--json", str(out / "report.json"), "--report", str(out / "page.html")]
    code = main([*words, "--explain", "--extract", str(out / "sites"), *verify])
    report = json.loads((out / "report.json").read_bytes())
    del report["timings"]
    page, times = re.subn(rb"<summary>time per phase</summary>.*?</details>", b"", (out / "page.html").read_bytes())
    assert times == 1
    print(Path(path).name, code, file=sys.stderr)
    made = sorted(p for p in out.rglob("*.onnx"))
    for file in made:
        print(file.name, hashlib.sha256(file.read_bytes()).hexdigest(), file=sys.stderr)
        file.unlink()
    print(hashlib.sha256(json.dumps(report).encode()).hexdigest(), file=sys.stderr)
    print(hashlib.sha256(page).hexdigest(), file=sys.stderr)
"""

PLACES = (
    {"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "UTC"},
    {"PYTHONHASHSEED": "2", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Tokyo", "COLUMNS": "40"},
    {"PYTHONHASHSEED": "77", "LC_ALL": "de_DE.UTF-8", "PYTHONUTF8": "0", "NO_COLOR": "1"},
)


@pytest.mark.skipif(sys.platform == "win32", reason="locales")
def test_everything_is_the_same_everywhere(tmp_path: Path) -> None:
    """Outputs, reports, pages and subgraphs of exported models: hash seed, locale, time zone, folder."""
    said, chosen = [], DATA if os.environ.get("ALIBI_SLOW") else DATA[::4]
    for number, place in enumerate(PLACES):
        folder = tmp_path / f"run {number} naïve"
        folder.mkdir()
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", EVERYTHING, str(out), *map(str, chosen)],
            env={**os.environ, **place},
            cwd=folder,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
        said.append(done.stderr.decode().splitlines())
    assert len(said[0]) > 5 * len(chosen)
    assert said[0] == said[1]
    assert said[0] == said[2]


# --- the order of nodes ------------------------------------------------------------------------------------


def replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    copies = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def reads(node: NodeProto) -> set[str]:
    """Names that a node needs, those of its bodies included."""
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found |= {name for inner in attribute.g.node for name in reads(inner)}
    return found


def valid_order(graph: GraphProto, rng: random.Random) -> None:
    """Another order in which every node stands behind what it needs."""
    waiting = list(graph.node)
    made = {o for n in waiting for o in n.output}
    there: set[str] = set()
    order: list[NodeProto] = []
    while waiting:
        ready = [n for n in waiting if not (reads(n) & made) - there]
        chosen = rng.choice(ready)
        order.append(chosen)
        there |= set(chosen.output)
        waiting = [n for n in waiting if n is not chosen]
    replace_nodes(graph, order)


def any_order(graph: GraphProto, rng: random.Random) -> None:
    """An order that ONNX does not allow, and that loads all the same."""
    nodes = list(graph.node)
    rng.shuffle(nodes)
    replace_nodes(graph, nodes)


def bodies(graph: GraphProto) -> list[GraphProto]:
    found = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += bodies(attribute.g)
    return found


def verdicts(model: ModelProto) -> list[tuple[object, ...]]:
    """What the pass says of every site, without the order in which it found them."""
    result = rewrite(model, options=Options(verify=False))
    found: list[tuple[object, ...]] = []
    for site in result.analysis.sites:
        if site.binding is None:
            assert site.refusal is not None
            found.append((site.name, site.refusal.code.number, site.refusal.stage.name, site.refusal.tensor))
            continue
        proof = site.binding.proof
        slopes = None if proof.slopes is None else tuple(float(s) for s in proof.slopes)
        masks = (site.binding.boolean is None, site.binding.additive is None, site.binding.positions is None)
        found.append((site.name, proof.form.name, proof.causal, slopes, float(proof.attention.scale), masks))
    found.append((result.exit_code, len(result.fused)))
    return sorted(found, key=repr)


@pytest.mark.parametrize("change", [valid_order, any_order], ids=lambda c: c.__name__)
@pytest.mark.parametrize("path", thinned(DATA, 2), ids=lambda p: p.stem)
def test_exported_models_in_another_order(path: Path, change: Callable[[GraphProto, random.Random], None]) -> None:
    model = onnx.load(path)
    wanted = verdicts(model)
    changed = ModelProto.FromString(model.SerializeToString())
    for graph in bodies(changed.graph):
        change(graph, random.Random(path.stem))
    assert verdicts(changed) == wanted


@pytest.mark.parametrize("change", [valid_order, any_order], ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", ["scopes/if_body", "scopes/local_function", "layouts/gqa", "refusals/wraps_around"])
def test_golden_models_in_another_order(name: str, change: Callable[[GraphProto, random.Random], None]) -> None:
    model = read(name)
    wanted = verdicts(model)
    for seed in range(3):
        changed = ModelProto.FromString(model.SerializeToString())
        for graph in bodies(changed.graph):
            change(graph, random.Random(seed))
        assert verdicts(changed) == wanted


@pytest.mark.parametrize("number", range(12))
def test_generated_models_in_another_order(number: int) -> None:
    model = build(sample(random.Random(f"order-{number}")))
    wanted = verdicts(model)
    for change in (valid_order, any_order):
        changed = ModelProto.FromString(model.SerializeToString())
        for graph in bodies(changed.graph):
            change(graph, random.Random(number))
        assert verdicts(changed) == wanted


def test_verification_in_another_order() -> None:
    """What is compared, and what comes out, depends on the graph and not on the order that it is written in."""
    model = read("positions/counted")
    changed = ModelProto.FromString(model.SerializeToString())
    valid_order(changed.graph, random.Random(0))
    assert [n.output for n in changed.graph.node] != [n.output for n in model.graph.node]
    records = []
    for made in (model, changed):
        found = rewrite(made, options=Options(verify_sites=True)).verification
        assert found is not None and found.passed
        records.append([(m.kind, m.verdict) for m in found.power.mutants] if found.power else [])
    assert records[0] == records[1]
