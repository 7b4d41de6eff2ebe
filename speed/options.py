"""The options of `rewrite bench`: a parser needs them long before onnx is imported."""

from __future__ import annotations

import argparse
from pathlib import Path

PROVIDERS = ("cpu", "cuda")

LENGTHS = (128, 512, 2048)
"""Tokens of a sequence where nothing else is asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``rewrite bench``."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="the original model; it is never changed")
    parser.add_argument("--rewritten", metavar="FILE", type=Path, help="what `rewrite` wrote (default: made here)")
    parser.add_argument(
        "--lengths", metavar="N,N", type=_numbers, default=LENGTHS, help="tokens per sequence (default: 128,512,2048)"
    )
    parser.add_argument("--batch", metavar="N", type=_positive, default=1, help="sequences per run (default 1)")
    parser.add_argument(
        "--past", metavar="N", type=_count, help="tokens in the cache (default: none, and decode steps)"
    )
    parser.add_argument(
        "--shapes", metavar="SHAPES", nargs="+", action="append", default=[], help="one case: ids:1x32,mask:1x32"
    )
    parser.add_argument("--provider", choices=PROVIDERS, default="cpu", help="where it runs: cpu (default) or cuda")
    parser.add_argument(
        "--threads", metavar="N", type=_count, default=0, help="threads (default: onnxruntime's choice)"
    )
    parser.add_argument("--rounds", metavar="N", type=_positive, default=7, help="turns of each model (default 7)")
    parser.add_argument(
        "--seconds", metavar="N", type=_positive, default=30, help="about so long per case (default 30)"
    )
    parser.add_argument("--no-verify", action="store_true", help="do not compare outputs before measuring")
    parser.add_argument("--json", metavar="FILE", type=Path, help="the figures as JSON ('-' for stdout)")
    parser.add_argument("--report", metavar="FILE", type=Path, help="the page of the run, with the figures (HTML)")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(",") if part)


def _positive(text: str) -> int:
    number = _count(text)
    if not number:
        raise argparse.ArgumentTypeError("has to be at least 1")
    return number


def _count(text: str) -> int:
    if not text.strip().isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number")
    return int(text)
