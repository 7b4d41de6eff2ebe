"""Generates docs/report.schema.json, the JSON Schema of the report, from report_types.py; needs msgspec.

python docs/schema.py
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
from alibi_rewriter.report_types import Report

TARGET = Path(__file__).with_name("report.schema.json")


def schema() -> str:
    """The schema as text; keys that it does not know may come while ``schema_version`` stays."""
    made = msgspec.json.schema(Report)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "alibi-rewriter report"}
    return json.dumps({**head, **made}, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    TARGET.write_text(schema(), encoding="utf-8")
