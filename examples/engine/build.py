"""Rewrites a model and builds an engine from it through the Python interface.

python build.py MODEL [--target sm_89]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from alibi_rewriter import rewrite
from alibi_rewriter.engine.build import build_engine
from alibi_rewriter.engine.options import EngineOptions
from alibi_rewriter.engine.targets import parse_targets


def main() -> None:
    """Builds and says how to load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--target", default="sm_89")
    options = parser.parse_args()
    result = rewrite(options.model, Path(f"{options.model.stem}.alibi.onnx"))
    if result.output is None:
        raise SystemExit(f"nothing was rewritten (exit {result.exit_code.value})")
    plan = result.output.with_suffix(".engine")
    facts = build_engine(result.output, plan, EngineOptions(targets=parse_targets([options.target])))
    print(f"{facts.found} of {facts.expected} fused nodes are plugin layers")
    print(f"{plan}: {facts.backend}, {', '.join(facts.to_json()['targets'])}")  # type: ignore[arg-type]
    print("load it in Python:")
    print(facts.load_instructions()["Python"])


if __name__ == "__main__":
    main()
