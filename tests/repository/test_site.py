"""The documentation as a site.  It builds without a warning, loads nothing from elsewhere, and its commands exist."""

from __future__ import annotations

import configparser
import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from alibi_rewriter.base import cures
from alibi_rewriter.cli import bench_parser, check_parser, explain_parser, parser

ROOT = Path(__file__).parents[2]


def module(name: str) -> ModuleType:
    """A script of docs/, not run."""
    found = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert found is not None and found.loader is not None
    made = importlib.util.module_from_spec(found)
    sys.modules[f"docs_{name}"] = made  # dataclasses look themselves up
    found.loader.exec_module(made)
    return made


# --- the site --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("the site needs mkdocs-material (pip install '.[docs]'); .ci/run builds it in any case")
    folder = tmp_path_factory.mktemp("site")
    environment = {k: v for k, v in os.environ.items() if k != "ALIBI_REPOSITORY"} | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    for page in [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]:
        name = {"README": "index", "CHANGELOG": "changes"}.get(page.stem, page.stem)
        assert (site / f"{name}.html").is_file() or (site / f"{name.lower()}.html").is_file(), name
    for page in (ROOT / "examples").glob("*/README.md"):
        assert (site / "examples" / page.parent.name / "index.html").is_file()


def test_every_link_leads_to_a_page_and_every_picture_is_there(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r'(?:href|src)="([^"#]+)(?:#[^"]*)?"', text):
            if "://" not in target and not target.startswith(("data:", "mailto:")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_site_asks_nobody_for_anything(site: Path) -> None:
    """No font, script, style or picture from elsewhere; links that a reader follows are another matter."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe|source)[^>]+src="(?:https?:)?//[^"]+', text), page
        assert not re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect|preload)"[^>]+href="(?:https?:)?//', text), page


def test_lists_and_tables_are_read_as_such(site: Path) -> None:
    """A list right behind a paragraph is a list on the repository's pages and running text on the site."""
    for page in site.rglob("*.html"):
        text = re.sub(r"<pre.*?</pre>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.findall(r"^(?:\* |\d\. |\| ).*", text, flags=re.MULTILINE), page.name


def test_links_lead_to_the_repository_where_there_is_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mkdocs")
    hooks = module("site")
    text = "[a](../README.md#x) [b](executed.json) `[c](d)` ![e](f.svg)\n```\n[g](h.md)\n```\n"
    monkeypatch.delenv("ALIBI_REPOSITORY", raising=False)
    wanted = "[a](index.md#x) b `[c](d)` ![e](f.svg)\n```\n[g](h.md)\n```\n"
    assert hooks.linked("docs/engines.md", text.replace("`[c](d)`", "`c`")) == wanted.replace("`[c](d)`", "`c`")
    monkeypatch.setenv("ALIBI_REPOSITORY", "https://example.org/a")
    assert "[b](https://example.org/a/blob/main/docs/executed.json)" in hooks.linked("docs/engines.md", text)


def test_ci_builds_the_site() -> None:
    assert "mkdocs build --strict" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace(
        '"$tools/mkdocs"', "mkdocs"
    )


# --- pictures and figures --------------------------------------------------------------------------------


def test_pictures_and_the_readme_say_what_was_recorded() -> None:
    charts = module("charts")
    readme = ROOT / "README.md"
    for name, draw in charts.PICTURES.items():
        path = ROOT / "docs" / name
        if os.environ.get("REGENERATE"):
            path.write_text(draw(), encoding="utf-8")
        assert path.read_text(encoding="utf-8") == draw(), name
    text = readme.read_text(encoding="utf-8")
    if os.environ.get("REGENERATE"):
        text = charts.with_gains(text)
        readme.write_text(text, encoding="utf-8")
    assert charts.BEGIN in text and charts.with_gains(text) == text
    assert charts.milliseconds("bloom", "ours+g", "prefill 1 2048") == pytest.approx(5.23, abs=0.01)
    assert charts.on_one_core()["model, encoder"][0]["underflow"] == 573


def test_figures_in_prose_are_those_of_the_records() -> None:
    charts = module("charts")
    cpu, models = charts.on_one_core(), charts.gpu()["models"]
    pages = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("performance", "faq")}
    words = {name: " ".join(text.split()) for name, text in pages.items()}
    encoder, decoder = cpu["attention, encoder"], cpu["attention, decoder"]
    peak = f"{encoder[0]['underflow']:.0f} MiB instead of {encoder[0]['original'] / 1024:.1f} GiB"
    assert peak in words["faq"]
    gains = [table[2048]["original"] / table[2048]["underflow"] for table in (encoder, decoder)]
    assert f"{gains[0]:.1f} (encoder) to {gains[1]:.1f} (decoder) times as fast" in words["performance"]
    jina = [models["jina"][runner]["mib"] / 1024 for runner in ("ours+g", "original")]
    assert f"need {jina[0]:.1f} instead of {jina[1]:.1f} GiB" in words["performance"]
    kernels = json.loads(charts.KERNELS.read_text(encoding="utf-8"))["prefill"]
    rates = [{row["name"]: row.get("tflops") for row in entry["rows"]} for entry in kernels]
    long = [
        rate["ours, certified skip"] / rate["ours"]
        for entry, rate in zip(kernels, rates, strict=True)
        if int(entry["shape"].split()[2].partition("x")[0]) >= 4096 and rate.get("ours, certified skip")
    ]
    assert f"{min(long):.1f} to {max(long):.1f} times these rates" in words["performance"]


def test_the_status_is_that_of_the_record() -> None:
    """README.md says at once what was executed where and what not; docs/executed.json is what is known of it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    status = " ".join(text[text.index("**Status.**") : text.index("## Set up")].split())
    executed, rest = status.split("*Built, not executed:*")
    reached: dict[str, set[str]] = {}
    for entry in json.loads((ROOT / "docs" / "executed.json").read_text(encoding="utf-8"))["counted"]:
        reached.setdefault(entry["runtime"], set()).add(entry["level"])
    ran = {"executed", "float64", "end to end"}
    assert "whole models in onnxruntime on the CPU" in executed and "end to end" in reached["onnxruntime"]
    assert "onnxruntime on CUDA and on their own" in executed
    assert reached["onnxruntime-cuda"] & ran and reached["kernels"] & ran
    assert "TensorRT engines" in rest and "plan" in reached["rtx"] and not reached["rtx"] & ran


def test_the_versions_are_those_of_the_installation() -> None:
    page = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    for name, wanted in cures.REQUIREMENTS.items():
        least = re.search(r">=([\d.]+)", wanted)
        row = re.search(rf"^\| {re.escape(name)} \| ([\d.]+)", page, flags=re.MULTILINE | re.IGNORECASE)
        if least is not None:
            assert row is not None and row[1] == least[1], name


# --- commands --------------------------------------------------------------------------------------------

STARTS = {"rewrite", "python", "python3", "pip", "bash", "trtexec", "git", "cd", ".", "source", "mkdocs"}
"""First words of the commands that pages show."""


def pages() -> list[Path]:
    """Pages whose commands a reader may type."""
    docs = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return sorted([*docs, *(ROOT / "benchmarks").glob("*/README.md")])


def commands() -> Iterator[tuple[Path, str]]:
    """Every command of every page, comments and continuations taken away."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"```(?:console|sh|bash|)\n(.*?)```", text, flags=re.DOTALL)
        outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        blocks += re.findall(r"(?:^    .*\n)+", outside, flags=re.MULTILINE)
        for block in blocks:
            session = re.match(r"\$ ", block) is not None
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                if session and not line.startswith("$ "):
                    continue
                bare = re.sub(r"\s+#.*$", "", line.removeprefix("$ ").strip())
                for part in re.split(r" && | \| ", bare):
                    part = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", part)
                    if part and (part.split()[0].removeprefix(".venv/bin/") in STARTS or session):
                        yield page, part


def refused(words: list[str]) -> str:
    """Why ``rewrite`` does not take these words; empty if it does."""
    made = {"explain": explain_parser, "check": check_parser, "bench": bench_parser}
    if words[:1] in (["doctor"], ["completion"]):
        return ""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            if words[:1] and words[0] in made:
                made[words[0]]().parse_args(words[1:])
            else:
                parser().parse_args(words)
    except SystemExit as ended:
        return errors.getvalue() if ended.code else ""
    return ""


def problem(page: Path, command: str) -> str:
    """What is wrong with a command; empty if nothing is."""
    if command.startswith("rewrite ") and re.search(r"\[-|\]$|\[--|\||N,N", command):
        return ""  # a synopsis; test_docs.py compares its options with the parsers
    words = shlex.split(command.replace("\n", " "))
    first, rest = words[0].removeprefix(".venv/bin/").removeprefix(".venv-test/bin/"), words[1:]
    if first == "rewrite":
        return refused(rest)
    if first in ("python", "python3"):
        return script_problem(page, rest)
    if first == "pip":
        return "".join(extra_problem(word) for word in rest)
    if first == "bash":
        return "" if (ROOT / rest[0]).is_file() else f"there is no {rest[0]}"
    return "" if first in STARTS or first.startswith(".venv") else f"unknown command {first}"


def extra_problem(word: str) -> str:
    """An extra that the package has not."""
    found = re.fullmatch(r"\.\[([\w,]+)\]", word)
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = set(settings["options.extras_require"])
    return "" if found is None or set(found[1].split(",")) <= extras else f"no extra {word}"


def script_problem(page: Path, words: list[str]) -> str:
    """A module or script that is not there, or an option that it does not know."""
    if words[0] in ("-c", "-V"):
        return ""
    if words[0] == "-m":
        name = words[1]
        inside = name.removeprefix("alibi_rewriter.").replace(".", "/")
        there = (ROOT / f"{inside}.py").is_file() or (ROOT / inside / "__init__.py").is_file()
        return "" if name in ("pytest", "venv", "pip", "mkdocs") or there else f"there is no module {name}"
    places = [folder / words[0] for folder in (page.parent, ROOT)]
    script = next((path for path in places if path.is_file()), None)
    if script is None:
        return f"there is no {words[0]}"
    text = script.read_text(encoding="utf-8") + "".join(with_helpers(script))
    options = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
    return "".join(f"{words[0]} does not know {o}" for o in sorted(options) if f'"{o}"' not in text)


def with_helpers(script: Path) -> Iterator[str]:
    """The texts of what a script imports of the project's own helpers: options may be theirs."""
    text = script.read_text(encoding="utf-8")
    for name in re.findall(r"^\s*(?:from|import) (\w+)", text, flags=re.MULTILINE):
        for folder in (script.parent, ROOT / "tests"):
            for path in (*folder.rglob(f"{name}.py"), *folder.rglob(f"{name}/*.py")):
                yield path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "command"), list(commands()), ids=lambda v: v[:60] if isinstance(v, str) else v.stem)
def test_every_command_of_the_pages_exists(page: Path, command: str) -> None:
    assert problem(page, command) == ""


def test_commands_that_do_not_exist_are_noticed() -> None:
    page = ROOT / "docs" / "engines.md"
    found = list(commands())
    assert len(found) > 60 and any(part.startswith("trtexec ") for _, part in found)
    for wrong in (
        "rewrite m.onnx --engin-e",
        "rewrite bench m.onnx --lenghts 3",
        "python examples/embedding/big.py",
        "python docs/charts.py --all",
        "python -m alibi_rewriter.kernels.compiler",
        "pip install '.[everything]'",
        "bash .ci/walk",
        "frobnicate x",
    ):
        assert problem(page, wrong), wrong
