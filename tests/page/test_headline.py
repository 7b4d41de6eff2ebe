"""The page's first lines, groups, filter, and what fingers and keyboards reach."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import onnx
import pytest
from alibi_rewriter import Options, rewrite
from alibi_rewriter.explain import Look, page_facts
from alibi_rewriter.explain.alike import leaders
from alibi_rewriter.page import to_html
from alibi_rewriter.rewriter.report import to_json, to_text
from onnx import ModelProto, NodeProto, numpy_helper
from textgraphs import read

pytest.importorskip("onnxruntime")

Report = dict[str, Any]
CHROMIUM = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)


def stacked(layers: int, *, other_slopes_from: int | None = None, name: str = "forms/linear_causal") -> ModelProto:
    """The golden attention so many times in a row, each with names of its own, the later ones with other slopes."""
    made = read(name)
    nodes = list(made.graph.node)
    own = {o for node in nodes for o in node.output}
    query, result = made.graph.input[0].name, made.graph.output[0].name
    slopes = next(t for t in made.graph.initializer if t.name == "slopes")
    doubled = numpy_helper.from_array(numpy_helper.to_array(slopes) * 2, "other_slopes")
    made.graph.initializer.append(doubled)
    del made.graph.node[:]
    for layer in range(layers):
        for node in nodes:
            copy = NodeProto.FromString(node.SerializeToString())
            before = f"{result}_{layer - 1}" if layer else query
            names = {o: f"{o}_{layer}" for o in own} | {query: before}
            if other_slopes_from is not None and layer >= other_slopes_from:
                names["slopes"] = "other_slopes"
            copy.name = f"{node.op_type}_{layer}_{node.output[0]}"
            copy.input[:] = [names.get(i, i) for i in node.input]
            copy.output[:] = [names[o] for o in node.output]
            made.graph.node.append(copy)
    made.graph.node[-1].output[0] = result
    return made


def report_of(model: ModelProto, **options: Any) -> Report:
    """The report with everything that the page is made from."""
    result = rewrite(model, options=Options(**options))
    look, report = Look(result), to_json(result)
    look.explain(report)
    page_facts(look, report)
    found: Report = json.loads(json.dumps(report))
    return found


@pytest.fixture(scope="module")
def proven() -> Report:
    return report_of(read("forms/linear_causal"))


@pytest.fixture(scope="module")
def refused() -> Report:
    return report_of(read("refusals/one_entry"))


@pytest.fixture(scope="module")
def both() -> Report:
    """Two attentions: one is rewritten, the other is refused because its scores are an output."""
    model = stacked(2)
    scores = next(n.input[0] for n in reversed(model.graph.node) if n.op_type == "Softmax")
    model.graph.output.append(onnx.helper.make_tensor_value_info(scores, onnx.TensorProto.FLOAT, None))
    return report_of(model, allow_partial=True, verify=False)


def facts(report: Report) -> dict[str, str]:
    """The headline's rows, without markup."""
    rows = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", to_html(report))
    return {name: html.unescape(re.sub(r"<[^>]+>", "", said)) for name, said in rows}


# --- the headline ----------------------------------------------------------------------------------------


def test_what_was_done_stands_first(proven: Report) -> None:
    report = {**proven, "output": {"path": "m.alibi.onnx", "sha256": "x"}}
    found = facts(report)
    assert found["written"] == "m.alibi.onnx"
    assert found["rewritten"] == "1 of 1 attentions with a position bias"
    assert found["not rewritten"] == "nothing that has a position bias"
    assert found["verified"].startswith("yes: original and rewritten model agree")
    assert re.search(r"\d+ of \d+ rewrites that are wrong on purpose were noticed", found["verified"])
    assert "at 8,192 tokens" in found["memory"] and "MiB" in found["memory"] + to_html(report)


def test_a_refusal_stands_first(refused: Report) -> None:
    found = facts(refused)
    assert found["written"] == "no model was written"
    assert found["rewritten"] == "0 of 1 attentions with a position bias"
    assert found["not rewritten"].startswith("ALB201 table-not-alibi (1)")
    assert found["verified"] == "no: nothing was compared with the original"


def test_a_part_a_dry_run_and_a_failure(both: Report, proven: Report) -> None:
    assert facts(both)["rewritten"] == "1 of 2 attentions with a position bias"
    assert facts(both)["not rewritten"].startswith("ALB120")
    dry = report_of(read("forms/linear_causal"), dry_run=True)
    assert facts(dry)["rewritten"].endswith("(1 proven)")
    assert facts(dry)["not rewritten"] == "1 proven ones, because this run wrote no model"
    failed = {**proven, "exit_code": 4, "verification": {**proven["verification"], "status": "failed"}}
    assert facts(failed)["verified"] == "no: it differs"
    skipped = {"status": "skipped", "skipped_reason": "the original <runs> on none of the inputs"}
    assert facts({**proven, "verification": skipped})["verified"] == "no: the original <runs> on none of the inputs"


# --- groups ----------------------------------------------------------------------------------------------


def test_equal_layers_are_one_explanation() -> None:
    result = rewrite(stacked(24), options=Options(dry_run=True))
    look = Look(result)
    text = to_text(result, explain=True, details=look.lines())
    assert result.explain() == text
    assert text.count("formula") == 1 and len(text.splitlines()) < 40
    assert "the same, up to names, at 23 more: " in text and "(23 in all)" in text
    report = to_json(result)
    look.explain(report)
    page = to_html(report)
    assert page.count("<div class='site ") == 1
    assert "and 23 more that are the same up to names" in page
    for site in result.analysis.sites:
        assert site.name in page


def test_other_slopes_are_another_explanation() -> None:
    look = Look(rewrite(stacked(5, other_slopes_from=3), options=Options(dry_run=True)))
    names = [s.name for s in look.sites]
    assert [look.like[n] for n in names] == [names[0]] * 3 + [names[3]] * 2
    lines = look.lines()
    assert list(lines) == [names[0], names[3]]
    assert f"the same, up to names, at 2 more: {names[1]}, {names[2]} (--site shows one)" in lines[names[0]]


def test_a_site_that_is_asked_for_is_shown() -> None:
    result = rewrite(stacked(3), options=Options(dry_run=True))
    second = result.analysis.sites[1].name
    assert f"  {second}: " in result.explain(site=re.escape(second))


def test_names_are_renamed_and_not_forgotten() -> None:
    """What is one name in one text has to be one name in the other, and words that are no names have to agree."""
    names = {"a", "b", "c", "x.y", "m"}
    texts = {
        "one": ["a[i] plus b[i] <- Add 'a'", "assumed: n (node 'm')"],
        "same": ["b[i] plus c[i] <- Add 'b'", "assumed: n (node 'm')"],
        "swapped": ["b[i] plus c[i] <- Add 'c'", "assumed: n (node 'm')"],
        "dotted": ["x.y[i] plus c[i] <- Add 'x.y'", "assumed: n (node 'm')"],
        "word": ["b[i] minus c[i] <- Add 'b'", "assumed: n (node 'm')"],
        "whole model": ["a[i] plus b[i] <- Add 'a'", "assumed: n (node 'a')"],
    }
    found = leaders(texts, names, "assumed")
    assert found == {
        "one": "one",
        "same": "one",
        "swapped": "swapped",
        "dotted": "one",
        "word": "word",
        "whole model": "whole model",
    }


# --- the filter, the refused bias, lists -----------------------------------------------------------------


def test_a_verdict_can_be_chosen(both: Report, proven: Report) -> None:
    page = to_html(both)
    assert re.findall(r"<label for='show-([\w-]+)'>([^<]+)", page) == [
        ("all", "all (2)"),
        ("rewritten", "rewritten (1)"),
        ("refused", "refused (1)"),
    ]
    style = re.search(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    assert style is not None
    for kind in ("rewritten", "proven", "refused", "no-bias"):
        assert f"#show-{kind}:checked ~ .site:not(.{kind})" in style[1]
    assert "name='verdict'" not in to_html(proven)


def test_an_attention_without_a_bias_is_not_called_refused() -> None:
    report = report_of(read("refusals/no_bias"))
    page = to_html(report)
    assert "<div class='site no-bias'>" in page and ">no bias</span>" in page
    assert facts(report)["rewritten"] == "no attention has a position bias"


def test_a_refused_bias_is_drawn_beside_the_closest_line(refused: Report) -> None:
    example = refused["sites"][0]["explanation"]["stop"]["counterexample"]
    assert len(example["keys"]) == len(example["added"]) == len(example["closest"]) > 2
    place = example["keys"].index(example["index"][3])
    assert example["added"][place] == example["value"] and example["closest"][place] == example["expected"]
    apart = [abs(a - c) for a, c in zip(example["added"], example["closest"], strict=True) if a is not None]
    assert max(apart) == abs(example["value"] - example["expected"])
    page = to_html(refused)
    assert "the bias of one row and the closest line" in page
    assert page.count("class='original'") >= sum(a is not None for a in example["added"])
    for value in (f"{example['value']:.6g}", f"{example['expected']:.6g}"):
        assert f"<td>{value}</td>" in page
    older = json.loads(json.dumps(refused))
    for key in ("keys", "added", "closest"):
        del older["sites"][0]["explanation"]["stop"]["counterexample"][key]
    assert "closest line" not in to_html(older), "a report of an older version is a page all the same"


def test_what_hovering_shows_is_in_tables(proven: Report) -> None:
    page = to_html(proven)
    bare = re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    for node in (*proven["pictures"]["before"]["nodes"], *proven["pictures"]["after"]["nodes"]):
        for name in (node["name"], *node["outputs"]):
            assert f"<code>{html.escape(name, quote=True)}</code>" in bare, name
    for shape in proven["pictures"]["before"]["shapes"].values():
        assert html.escape(shape) in bare
    bias = proven["pictures"]["bias"]
    assert f"<td>{bias['values'][0][0]:.4g}</td>" in bare
    assert bare.count("as a table") >= 4


def test_words_that_readers_know(proven: Report) -> None:
    page = to_html(proven)
    assert "wrong on purpose" in page
    for word in ("Chains of movement", "privacy", "premise", "residual"):
        assert word not in re.sub(r"class='[^']*'|<style>.*?</style>", "", page, flags=re.DOTALL), word


# --- a narrow screen -------------------------------------------------------------------------------------

MEASURE = """
<title>waiting</title><iframe style="width:390px;height:4000px;border:0" srcdoc="{page}"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, wrong = [];
  const wide = page.documentElement.scrollWidth;
  if (wide > 390) wrong.push("page " + wide);
  for (const text of page.querySelectorAll("svg text")) {{
    const box = text.getBBox(), view = text.ownerSVGElement.viewBox.baseVal;
    if (box.x < -1 || box.x + box.width > view.width + 1) wrong.push("text " + text.textContent);
  }}
  for (const part of page.querySelectorAll("dd, p, li, summary, figcaption, h1, h2, svg"))
    if (part.getBoundingClientRect().right > 391 && !part.closest(".wide, details:not([open])"))
      wrong.push("part " + part.tagName + " " + part.textContent.slice(0, 40));
  document.title = wrong.length ? wrong.join("; ") : "fits";
}};
</script>
"""


def on_a_narrow_screen(page: str, folder: Path) -> str:
    """What a browser of 390 pixels finds cut off: ``fits``, or a list."""
    wrapper = folder / "narrow.html"
    wrapper.write_text(MEASURE.format(page=html.escape(page, quote=True)), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--window-size=600,4000", "--dump-dom", wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    return title[1] if title else ""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("which", ["proven", "refused", "both"])
def test_nothing_is_cut_off_on_a_narrow_screen(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    page = to_html(request.getfixturevalue(which)).replace("<details>", "<details open>")
    assert on_a_narrow_screen(page, tmp_path) == "fits"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_what_is_cut_off_is_noticed(tmp_path: Path, proven: Report) -> None:
    page = to_html(proven).replace("font-size: 13px", "font-size: 30px")
    page = page.replace("</header>", "<p style='width: 500px'>wide</p></header>")
    found = on_a_narrow_screen(page, tmp_path)
    assert "page " in found and "part P wide" in found and "text head 0" in found
