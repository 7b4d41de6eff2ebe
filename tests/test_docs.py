"""The documentation is true: the table of refusal codes is generated, commands are those that CI runs."""

import os
import re
from pathlib import Path

from alibi_rewriter.cli import parser
from alibi_rewriter.rewriter.errors import Code, ExitCode
from alibi_rewriter.rewriter.spec import FAMILY_MEMBERS

ROOT = Path(__file__).parent.parent


def refusal_table() -> str:
    """docs/refusal-codes.md; written anew with ``REGENERATE=1 pytest tests/test_docs.py``."""
    rows = [f"| {c.number} | {c.title} | {c.meaning} | {c.remedy} |" for c in Code]
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
        ]
    )


def test_refusal_codes_are_documented() -> None:
    page = ROOT / "docs" / "refusal-codes.md"
    if os.environ.get("REGENERATE"):
        page.write_text(refusal_table(), encoding="utf-8")
    assert page.read_text(encoding="utf-8") == refusal_table()


def test_refusal_numbers_are_unique() -> None:
    numbers = [c.number for c in Code]
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


def test_exit_codes_are_documented() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    help_text = parser().format_help()
    for code in ExitCode:
        assert f"| {code.value} |" in readme or code in (ExitCode.ENGINE_FAILED, ExitCode.PLUGIN_NOT_USED)
        assert re.search(rf"\b{code.value} \w", help_text)


def test_options_are_documented() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    options = {o for action in parser()._actions for o in action.option_strings if o.startswith("--")}
    for option in sorted(options - {"--help", "--version", "--output", "--verbose"}):
        assert option in readme, option


def test_specification_describes_the_whole_family() -> None:
    page = (ROOT / "docs" / "specification.md").read_text(encoding="utf-8")
    assert f"{len(FAMILY_MEMBERS)} members" in page
    for member in FAMILY_MEMBERS:
        for name in member.inputs:
            assert f"`{name}`" in page


def test_links_in_documents_exist() -> None:
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
