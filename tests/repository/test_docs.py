"""The documentation is true: the table of refusal codes is generated, commands are those that CI runs."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.cli import bench_parser, check_parser, explain_parser, main, parser
from alibi_rewriter.explain.refused import STAGES
from alibi_rewriter.fused.family import FAMILY_MEMBERS
from alibi_rewriter.plugin import library_path
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from alibi_rewriter.rewriter.verdicts import Code, Notice
from evidence import Level
from generated import up_to_date

ROOT = Path(__file__).parents[2]


def refusal_table() -> str:
    """docs/refusal-codes.md; written anew with ``REGENERATE=1 pytest tests/repository/test_docs.py``."""
    rows = [f"| {c.number} | {c.title} | {c.meaning} | {c.remedy} |" for c in Code]
    told = [f"| {c.number} | {c.title} | {c.meaning} | {c.remedy} |" for c in Notice]
    return "\n".join(
        [
            "# Refusal codes",
            "",
            "A site that is not rewritten gets one of these. Numbers are never reused. ALB1xx: the attention itself;",
            "ALB2xx: its bias; ALB3xx: its mask; ALB4xx: what the fused node can express; ALB5xx: our own check.",
            "",
            "| code | name | what it means | what to do |",
            "|---|---|---|---|",
            *rows,
            "",
            "## Told, not refused",
            "",
            "A rewritten site may come with one of these: the notes of a run name it, and so does its proof.",
            "",
            "| code | name | what it means | what to do |",
            "|---|---|---|---|",
            *told,
            "",
        ]
    )


def test_refusal_codes_are_documented() -> None:
    page = ROOT / "docs" / "refusal-codes.md"
    assert up_to_date(page, refusal_table())


def test_refusal_numbers_are_unique() -> None:
    numbers = [c.number for c in (*Code, *Notice)]
    assert len(set(numbers)) == len(numbers)
    assert all(re.fullmatch(r"ALB\d{3}", n) for n in numbers)


def test_readme_has_exactly_two_set_up_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    assert [len(b.strip().splitlines()) for b in blocks] == [1, 1]
    assert "rewrite examples/bloom-tiny.onnx" in blocks[0]
    assert "pytest" in blocks[1]
    assert (ROOT / "examples" / "bloom-tiny.onnx").is_file()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "README.md" in script
    assert "test_command" in script


def usage() -> str:
    """Where options and exit codes are described."""
    pages = (ROOT / "README.md", ROOT / "docs" / "command-line.md")
    return "\n".join(p.read_text(encoding="utf-8") for p in pages)


def test_exit_codes_are_documented() -> None:
    readme = usage()
    help_text = parser().format_help()
    for code in ExitCode:
        assert f"| {code.value} |" in readme
        assert re.search(rf"\b{code.value} \w", help_text)


def test_options_are_documented() -> None:
    readme = usage()
    options = {
        o
        for made in (parser(), explain_parser(), check_parser(), bench_parser())
        for action in made._actions
        for o in action.option_strings
        if o.startswith("--")
    }
    for option in sorted(options - {"--help", "--version", "--output", "--verbose"}):
        assert option in readme, option


def test_specification_describes_the_whole_family() -> None:
    page = (ROOT / "docs" / "specification.md").read_text(encoding="utf-8")
    assert f"{len(FAMILY_MEMBERS)} members" in page
    for member in FAMILY_MEMBERS:
        for name in member.inputs:
            assert f"`{name}`" in page


def pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("**/*.md")])


def test_links_in_documents_exist() -> None:
    for page in pages():
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_stages_are_documented() -> None:
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    for stage, doing in STAGES.items():
        assert f"| {int(stage)} {stage.name.lower()} | {doing} |" in page


def test_the_landing_page_is_short() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 125
    assert "before-after.svg" in readme


def test_figures_of_caches_in_place_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks/onnxruntime/results/h200-in-place.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "decoding.md").read_text(encoding="utf-8")
    models = {"BLOOM-560m": record["models"]["bloom"], "MPT-7B, 4 layers": record["models"]["mpt"]}
    rows = re.findall(
        r"^\| (.+?) \| (\w+) (\d+)x(\d+)( ragged)? \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", page, re.MULTILINE
    )
    assert len(rows) == 16
    for model, kind, batch, length, ragged, original, grows, held, ratio in rows:
        key = f"{kind} {batch} {length}{ragged}"
        of = {column: models[model][column]["rows"].get(key, {}).get("ms") for column in ("ours+g", "in place+g")}
        first = models[model].get("original+g", {}).get("rows", {}).get(key, {}).get("ms")
        assert original == ("-" if first is None else f"{first:.3g}")
        assert (grows, held) == (f"{of['ours+g']:.3g}", f"{of['in place+g']:.3g}")
        assert ratio == f"{of['ours+g'] / of['in place+g']:.2f}"


# --- sessions --------------------------------------------------------------------------------------------


def sessions() -> list[tuple[Path, str, str]]:
    """Commands in the console blocks of all pages, with the output that the page shows."""
    found = []
    for page in (p for p in pages() if not p.name.startswith("start-")):  # test_whole_sessions.py runs those
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            if not block.startswith("$ "):
                continue  # commands without a session: they take a GPU, or long
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                found.append((page, command, output))
    return found


def normal(text: str) -> str:
    """Measured figures and times are not compared, nor where they are worst; everything else is, to the letter."""
    if text.startswith("onnxruntime "):  # rewrite bench: which lines and columns there are, and no factor
        text = re.sub(r"^  \?: .*\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"onnxruntime [\d.]+|[\d.]+ (?:ms|s|MiB|GiB)\b|[\d.]+ x\??", "#", text)
        return re.sub(r" +", " ", text).strip()
    measured = r"\d+\.\d+e[-+]\d+|\d+\.\d+ s\b|\d+(\.\d+)? [KM]iB\b|\(\d+ bytes\)|(?<=tensorrt-rtx )[\d.]+"
    # Which output is the worst depends on how a machine rounds.
    measured += r"|(?<=\) at output )'[^']+'"
    return re.sub(measured, "#", text).rstrip()


@pytest.mark.parametrize(
    ("page", "command", "output"), sessions(), ids=lambda v: v[:48] if isinstance(v, str) else v.name
)
def test_sessions_are_real(page: Path, command: str, output: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    if ("--engine" in command or page.parent.name == "engine") and (
        library_path() is None or importlib.util.find_spec("tensorrt_rtx") is None
    ):
        pytest.skip("engines need TensorRT-RTX and the plugin library")
    # A copy of what the pages refer to, so that nothing is written into the project.
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("*.alibi.onnx"))
    (tmp_path / "tests" / "data").mkdir(parents=True)
    for name in re.findall(r"tests/data/(\S+\.onnx)", command):
        shutil.copy(ROOT / "tests" / "data" / name, tmp_path / "tests" / "data" / name)
    words = shlex.split(command)
    assert words[0] in ("rewrite", "python")
    start = [sys.executable, "-m", "alibi_rewriter"] if words[0] == "rewrite" else [sys.executable]
    folder = tmp_path / page.parent.relative_to(ROOT) if words[0] == "python" else tmp_path
    done = subprocess.run(
        [*start, *words[1:]], cwd=folder, capture_output=True, text=True, timeout=300, check=False, env={**os.environ}
    )
    assert done.returncode in (0, 3), done.stderr
    assert normal(done.stdout) == normal(output)


@pytest.mark.parametrize(
    ("page", "heading"),
    [("deployment", "## onnxruntime, on"), ("deployment", "## onnxruntime, with"), ("command-line", "## Python")],
)
def test_python_in_pages_runs(page: str, heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", text[text.index(heading) :], flags=re.DOTALL)
    assert found is not None
    shutil.copy(ROOT / "examples" / "bloom-tiny.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    assert rewrite("model.onnx", options=Options(verify=False)).output is not None  # what pages on runtimes load
    names: dict[str, object] = {}
    exec(found.group(1), names)
    assert "session" in names or getattr(names["result"], "exit_code", None) == 0


def keys(value: object, above: str = "") -> set[str]:
    """Keys of the JSON report, as ``sites[].proof.form``; what models name themselves is left out."""
    if isinstance(value, list):
        return {k for v in value for k in keys(v, f"{above}[]")} or {above}
    if not isinstance(value, dict) or above in FREE:
        return {above}
    return {k for name, v in value.items() for k in keys(v, f"{above}.{name}" if above else name)}


FREE = {
    "versions",
    "input.opset",
    "timings",
    "verification.sets[].shapes",
    "sites[].proof.extents",
    "sites[].node.attributes",
    "verification.precision.original",
    "verification.precision.rewritten",
    "pictures.before.shapes",
    "pictures.before.constants",
    "pictures.after.shapes",
    "pictures.after.constants",
    "pictures.before.nodes[].attributes",
    "pictures.after.nodes[].attributes",
}


def test_every_key_of_the_report_is_documented(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE))
    found: set[str] = set()
    for name in ("bloom__tf5_h4_dynamo18_dyn_mask_fp16", "near__learned_abs_bias_dynamo18_dyn"):
        report = tmp_path / "report.json"
        model = ROOT / "tests" / "data" / f"{name}.onnx"
        main([str(model), "-o", str(tmp_path / "o.onnx"), "--json", str(report), "--report", str(tmp_path / "p.html")])
        found |= keys(json.loads(report.read_text(encoding="utf-8")))
    covered = {k for k in found if any(f"{k}.".startswith((f"{d}.", f"{d}[]")) for d in documented)}
    covered |= {k for k in found if any(d.startswith(f"{k}.") for d in documented)}  # null in one of the models
    assert found - covered == set()
    asked_for = ("engine", "tensor_parallel")
    unused = {d for d in documented if not d.startswith(asked_for) and not any(k.startswith(d) for k in found)}
    assert unused == set()


def test_what_was_executed_is_what_was_recorded() -> None:
    """The page is made from the record, whose levels and members exist; ``docs/executed.py`` makes both."""
    found = importlib.util.spec_from_file_location("executed", ROOT / "docs" / "executed.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    record = json.loads(module.RECORD.read_text(encoding="utf-8"))
    assert up_to_date(module.TARGET, module.page(record))
    known = {member.op_type for member in FAMILY_MEMBERS}
    assert {m for members in module.families().values() for m in members} == known
    for entry in record["counted"]:
        assert entry["runtime"] in module.RUNTIMES and entry["level"] in module.LEVELS and entry["member"] in known
        assert entry["checks"] > 0
    assert {level.value for level in Level} <= set(module.LEVELS)
    # Evidence replaces what was recorded for its runtime and level, and nothing else.
    one = {"runtime": "plugin", "level": "float64", "member": "AlibiAttentionCausal", "where": "a GPU", "what": ""}
    both = module.merged(record, [one, one])
    assert [e for e in both["counted"] if e["runtime"] == "plugin" and e["level"] == "float64"] == [
        {**{k: v for k, v in one.items() if k != "what"}, "checks": 2, "models": []}
    ]
    assert "float64, 1 of 3" in module.page(both)


def test_the_picture_is_up_to_date() -> None:
    found = importlib.util.spec_from_file_location("picture", ROOT / "docs" / "picture.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    assert up_to_date(module.TARGET, module.picture())
