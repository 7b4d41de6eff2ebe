"""The page: complete, self-contained, small, safe with hostile names, and rendered by a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import pytest
from alibi_rewriter.cli import main
from alibi_rewriter.page import to_html
from alibi_rewriter.page.drawing import draw
from alibi_rewriter.page.layout import place
from alibi_rewriter.page.markup import esc, middle, size
from onnx import ModelProto
from textgraphs import read

pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
BLOOM = ROOT / "examples" / "bloom-tiny.onnx"
HALF = DATA / "bloom__tf5_h4_dynamo18_dyn_mask_fp16.onnx"
REFUSED = DATA / "near__d2v_cls_padded_ts17_dyn.onnx"

SECTIONS = ["census", "drawing", "slopes", "bias", "verification", "precision", "memory", "sites", "provenance"]

ENGINE: dict[str, Any] = {
    "backend": "TensorRT-RTX",
    "version": "1.7.1",
    "targets": ["sm_89"],
    "profiles": [{"input_ids": {"min": [1, 1], "opt": [1, 512], "max": [4, 2048]}}],
    "plan": {"path": "model.plan", "bytes": 123456, "sha256": "ab" * 32},
    "plugin_layers": {"expected": 2, "found": 2},
    "strategy": "plugin",
    "timings": [{"name": "prefill 512", "milliseconds": 1.25}, {"name": "decode", "milliseconds": 0.05}],
    "embedded": ["libalibi.so"],
    "load": {"Python": "import tensorrt\nprint('<hello>')"},
    "not_executed": ["nothing was run: no GPU"],
}

Printed = pytest.CaptureFixture[str]


class Checker(HTMLParser):
    """Every element is closed by its own end tag, and nothing is loaded or run."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "srcset", "action"), (tag, name)
            if name == "href":
                assert value is not None and value.startswith("#")
            if name == "id" and value is not None:
                self.ids.append(value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert not checker.tags & {"script", "img", "iframe", "object", "embed", "link", "form", "base"}
    assert not re.search(r"https?://|url\(|@import|javascript:", page)
    assert len(page.encode()) < 2_000_000
    return checker


def page_of(model: Path, folder: Path, *options: str) -> tuple[str, dict[str, Any]]:
    html, report = folder / "page.html", folder / "report.json"
    main([str(model), "-o", str(folder / "out.onnx"), "--report", str(html), "--json", str(report), *options])
    return html.read_text(encoding="utf-8"), json.loads(report.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def bloom(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    return page_of(BLOOM, tmp_path_factory.mktemp("bloom"))


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    return page_of(HALF, tmp_path_factory.mktemp("half"))


# --- content ---------------------------------------------------------------------------------------------


def test_every_section_is_there(bloom: tuple[str, dict[str, Any]]) -> None:
    page, _ = bloom
    checker = checked(page)
    assert [i for i in checker.ids if i in SECTIONS] == SECTIONS
    text = " ".join(checker.text)
    assert "every attention with a position bias is proven ALiBi" in text
    assert "AlibiAttention" in text and "the standard geometric slopes" in text
    assert "exactly nothing" in text, "the residual of BLOOM's bias is zero"
    assert "tolerance" in text and "KiB" in text and "LessOrEqual" in text


def test_the_page_is_made_from_the_report_alone(bloom: tuple[str, dict[str, Any]]) -> None:
    page, report = bloom
    assert to_html(report) == page


def test_half_precision_is_compared_with_the_oracle(half: tuple[str, dict[str, Any]]) -> None:
    page, report = half
    text = " ".join(checked(page).text)
    precision = report["verification"]["precision"]
    assert precision["original"] and precision["rewritten"]
    assert "float16" in text and "against the float32 original" in text


def test_a_refused_model(tmp_path: Path, capsys: Printed) -> None:
    page, report = page_of(REFUSED, tmp_path)
    text = " ".join(checked(page).text)
    assert report["exit_code"] == 3 and report["pictures"]["after"] is None
    assert "ALB200" in text and "for instance" in text and "furthest stage" in text and "what to do" in text
    assert not (tmp_path / "out.onnx").exists()


def test_a_model_without_attention(tmp_path: Path) -> None:
    path = tmp_path / "relu.onnx"
    made = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Relu(x) }'
    )
    onnx.save(made, path)
    page, report = page_of(path, tmp_path)
    assert report["pictures"] is None
    assert "no attention was found" in " ".join(checked(page).text)


def test_an_empty_report_is_a_page() -> None:
    assert [i for i in checked(to_html({})).ids if i in SECTIONS] == SECTIONS


def test_engine_facts_appear_when_there_are_any(bloom: tuple[str, dict[str, Any]]) -> None:
    page, report = bloom
    assert "engine" not in checked(page).ids
    checker = checked(to_html({**report, "engine": ENGINE}))
    text = " ".join(checker.text)
    assert "engine" in checker.ids
    for word in ("TensorRT-RTX", "sm_89", "1 x 512", "2 of 2", "prefill 512", "1.250 ms", "libalibi.so", "<hello>"):
        assert word in text, word
    for key in ENGINE:
        checked(to_html({**report, "engine": {key: ENGINE[key]}}))
        checked(to_html({**report, "engine": {k: v for k, v in ENGINE.items() if k != key}}))


def test_a_failed_verification_is_shown(bloom: tuple[str, dict[str, Any]]) -> None:
    _, report = bloom
    broken = json.loads(json.dumps(report))
    broken["exit_code"] = 4
    entry = broken["verification"]["sets"][0]["outputs"][0]
    entry.update(max_abs="inf", passed=False)
    broken["verification"]["status"] = "failed"
    page = to_html(broken)
    checked(page)
    assert "verification failed: nothing was written" in page and "class='bad'" in page


# --- hostile names ---------------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'/><svg onload=alert(1)>",
    "</title></style><script>document.title='x'</script>",
    "\x1b[2J\x9b31m\x00\u202e",
    "&lt;script&gt;",
    "x" * 1_000_000,
]


def hostile(name: str) -> ModelProto:
    """A model whose nodes and tensors are all called something unkind."""
    made = read("masks/boolean_padding")
    names: dict[str, str] = {}

    def rename(old: str) -> str:
        return names.setdefault(old, f"{name}{len(names)}") if old else old

    for node in made.graph.node:
        node.name = name + node.op_type
        for values in (node.input, node.output):
            renamed = [rename(v) for v in values]
            del values[:]
            values.extend(renamed)
    for group in (made.graph.input, made.graph.output, made.graph.value_info, made.graph.initializer):
        for value in group:
            value.name = rename(value.name)
    made.producer_name = name[:10_000]
    return made


@pytest.mark.parametrize("name", HOSTILE, ids=[repr(n[:24]) for n in HOSTILE])
def test_names_are_escaped(name: str, tmp_path: Path, capsys: Printed) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(hostile(name), path)
    page, report = page_of(path, tmp_path, "--explain", "--no-verify")
    checker = checked(page)
    assert report["census"]["rewritten"] == 1
    assert [i for i in checker.ids if i in SECTIONS] == SECTIONS
    assert all(line.isprintable() for line in page.split("\n"))
    printed = capsys.readouterr()
    assert all(line.isprintable() for line in (printed.out + printed.err).split("\n"))


def test_markup_helpers() -> None:
    assert esc("<a href='x'>&\"") == "&lt;a href=&#x27;x&#x27;&gt;&amp;&quot;"
    assert esc("\x00\x1b\n") == "\\x00\\x1b\\x0a"
    assert len(esc("&" * 1000, 10)) <= 60
    assert middle("past_key_values.0.key", 12) == "pas…es.0.key"
    assert [size(v) for v in (0, 1023, 1024, 1536, 5 << 30)] == ["0 B", "1023 B", "1 KiB", "1.5 KiB", "5 GiB"]


def test_many_sites_stay_small(bloom: tuple[str, dict[str, Any]]) -> None:
    _, report = bloom
    many = {**report, "sites": report["sites"] * 400}
    assert len(to_html(many).encode()) < 2_000_000


# --- the drawing -----------------------------------------------------------------------------------------


def test_a_layout_has_no_overlaps_and_no_edges_upwards(bloom: tuple[str, dict[str, Any]]) -> None:
    graph = bloom[1]["pictures"]["before"]
    names = {o: k for k, n in enumerate(graph["nodes"]) for o in n["outputs"]}
    edges = [(names[i], k) for k, n in enumerate(graph["nodes"]) for i in n["inputs"] if i in names]
    placed = place(len(graph["nodes"]), edges)
    assert all(placed.layer[a] < placed.layer[b] for a, b in edges)
    rows: dict[int, list[float]] = {}
    for node, layer in placed.layer.items():
        rows.setdefault(layer, []).append(placed.x[node])
    for row in rows.values():
        row.sort()
        assert all(b - a > 0.95 for a, b in pairwise(row))
    assert place(len(graph["nodes"]), edges) == placed


def test_the_drawing_leaves_out_what_only_computes_shapes(bloom: tuple[str, dict[str, Any]]) -> None:
    pictures = bloom[1]["pictures"]
    drawing, width, plumbing = draw(pictures["before"], "before", {})
    assert plumbing > 0 and width > 100
    assert ">Shape<" not in drawing and ">Softmax<" in drawing and "attention_mask" in drawing
    assert "int64 [s43, s53]" in drawing, "hovering shows shapes"
    after, _, _ = draw(pictures["after"], "after", {"transpose": "query"})
    assert "class='box fused'" in after and ">query<" in after and ">Softmax<" not in after


# --- a browser -------------------------------------------------------------------------------------------


def browser() -> str | None:
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


@pytest.mark.skipif(browser() is None, reason="no Chromium is installed")
@pytest.mark.parametrize("which", ["bloom", "half", "hostile"])
def test_a_browser_renders_it(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    page = tmp_path / "page.html"
    if which == "hostile":
        path = tmp_path / "model.onnx"
        onnx.save(hostile(HOSTILE[3]), path)
        page.write_text(page_of(path, tmp_path, "--no-verify")[0], encoding="utf-8")
    else:
        page.write_text(request.getfixturevalue(which)[0], encoding="utf-8")
    command = browser()
    assert command is not None
    picture = tmp_path / "page.png"
    done = subprocess.run(
        [
            command,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1280,2000",
            f"--screenshot={picture}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert ":CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    checker = Checker()
    checker.feed(done.stdout)
    assert [i for i in checker.ids if i in SECTIONS] == SECTIONS
    assert "script" not in checker.tags
    assert picture.stat().st_size > 20_000, "an empty page would be smaller"
