"""The report has the types that are published: docs/report.schema.json is theirs, and real reports fit, key by key."""

from __future__ import annotations

import importlib.util
import json
import os
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import onnx
import pytest
from alibi_rewriter import Options, rewrite
from alibi_rewriter.cli import main
from alibi_rewriter.engine.facts import EngineFacts
from alibi_rewriter.explain import Look, page_facts
from alibi_rewriter.report_types import EngineRecord, ManifestRecord, Report
from alibi_rewriter.rewriter.report import to_json
from textgraphs import read

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"


def test_the_published_schema_is_that_of_the_types() -> None:
    pytest.importorskip("msgspec")
    found = importlib.util.spec_from_file_location("docs_schema", ROOT / "docs" / "schema.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    if os.environ.get("REGENERATE"):
        module.TARGET.write_text(module.schema(), encoding="utf-8")
    assert module.TARGET.read_text(encoding="utf-8") == module.schema()


# --- reports ---------------------------------------------------------------------------------------------


def misfits(value: Any, kind: Any, place: str = "report") -> Iterator[str]:
    """What of a value a type does not say: a missing or unknown key, or another type."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        found = [list(misfits(value, one, place)) for one in inside]
        if all(found):
            yield from min(found, key=len)
    elif origin is Literal:
        if value not in inside:
            yield f"{place}: {value!r} is none of {inside}"
    elif origin is list:
        if not isinstance(value, list):
            yield f"{place}: {type(value).__name__} is no list"
            return
        for k, one in enumerate(value):
            yield from misfits(one, inside[0], f"{place}[{k}]")
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{place}: {type(value).__name__} is no object"
            return
        for name, one in value.items():
            yield from misfits(one, inside[1], f"{place}.{name}")
    elif typing.is_typeddict(kind):
        if not isinstance(value, dict):
            yield f"{place}: {type(value).__name__} is no object"
            return
        hints = get_type_hints(kind)
        yield from (f"{place}.{name} is missing" for name in sorted(kind.__required_keys__ - set(value)))
        yield from (f"{place}.{name} is unknown" for name in sorted(set(value) - set(hints)))
        for name in sorted(set(value) & set(hints)):
            yield from misfits(value[name], hints[name], f"{place}.{name}")
    elif kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{place}: {value!r} is no number"
    elif type(value) is not kind:
        yield f"{place}: {value!r} is no {kind.__name__}"


def report_of(model: Any, **options: Any) -> Any:
    """The whole report of a run, as a file would hold it."""
    result = rewrite(model, options=Options(**options))
    look, report = Look(result), to_json(result)
    look.explain(report)
    page_facts(look, report)
    return json.loads(json.dumps(report, allow_nan=False))


def clipped() -> onnx.ModelProto:
    """A softmax of nothing that is known: no attention at all."""
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Relu(x) }'
    return onnx.parser.parse_model(text)


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "16 bits, verified": (DATA / "bloom__tf5_h4_dynamo18_dyn_mask_fp16.onnx", {}),
    "site by site": (ROOT / "examples" / "bloom-tiny.onnx", {"verify_sites": True}),
    "a learned table": (DATA / "near__learned_abs_bias_dynamo18_dyn.onnx", {}),
    "no counterexample": (DATA / "near__per_batch_slope_dynamo18_dyn.onnx", {}),
    "dry run": (DATA / "mosaicbert__buffer_dynamo23_dyn.onnx", {"dry_run": True}),
    "inlined": (DATA / "idiom__scale_both_ts17_dyn.onnx", {"inline": True, "verify": False}),
    "nothing could be compared": (ROOT / "examples" / "bloom-tiny.onnx", {"val_ranges": {"input_ids": (1e8, 2e8)}}),
    "no attention": (clipped(), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_reports_fit_the_types(case: str) -> None:
    pytest.importorskip("onnxruntime")
    model, options = CASES[case]
    assert list(misfits(report_of(model, **options), Report)) == []


def test_the_report_of_ranks_fits_the_types(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = DATA / "mpt__tf5_h4clip_ts17_dyn_mask.onnx"
    place = tmp_path / "report.json"
    assert main([str(model), "--tensor-parallel", "2", "-o", str(tmp_path / "out"), "--json", str(place)]) == 0
    assert list(misfits(json.loads(place.read_text(encoding="utf-8")), Report)) == []
    found = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert list(misfits(found, ManifestRecord)) == []


@pytest.mark.parametrize("name", ["forms/symmetric", "refusals/one_entry", "masks/boolean_padding"])
def test_reports_of_golden_graphs_fit_the_types(name: str) -> None:
    assert list(misfits(report_of(read(name), verify=False, dry_run=True), Report)) == []


def test_the_engine_part_has_the_keys_of_the_facts() -> None:
    """What a build says, from its own record: the keys are those of the type, but for the error that stands alone."""
    source = Path(importlib.util.find_spec(EngineFacts.__module__).origin)  # type: ignore[union-attr,arg-type]
    text = source.read_text(encoding="utf-8")
    body = text[text.index("def to_json") :].split("def ")[1]
    keys = {line.split('"')[1] for line in body.splitlines() if line.startswith('            "')}
    assert keys | {"error"} == set(get_type_hints(EngineRecord))


def test_misfits_are_found() -> None:
    report = report_of(read("forms/symmetric"), verify=False, dry_run=True)
    report["new"] = 1
    report["sites"][0]["verdict"] = "maybe"
    report["census"]["sites"] = "one"
    del report["tool"]["version"]
    report["sites"][0]["proof"]["scale"] = float(np.float32(1)) > 0
    assert sorted(misfits(report, Report)) == [
        "report.census.sites: 'one' is no int",
        "report.new is unknown",
        "report.sites[0].proof.scale: True is no number",
        "report.sites[0].verdict: 'maybe' is none of ('rewritten', 'proven', 'refused')",
        "report.tool.version is missing",
    ]
