"""All cells, or some of them: counted per operator, with what is wrong."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator

from .cells import Cell, plans
from .judge import Verdict, judge

KINDS = ("exact", "bounded", "unknown", "unjudged", "wrong")


def judged(op_types: list[str] | None = None, every: int = 1, first: int = 0) -> Iterator[tuple[Cell, Verdict]]:
    """Cells with their verdicts; only each ``every``-th of them."""
    for number, plan in enumerate(plans(op_types)):
        if number % every == first % every:
            cell = plan.cell()
            try:
                verdict = judge(cell.model, cell.target, cell.shapes)
            except Exception as error:  # noqa: BLE001 - of the analysis or of the comparison: both are findings
                verdict = Verdict("wrong", f"{type(error).__name__}: {error}")
            yield cell, verdict


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="operators")
    parser.add_argument("--every", type=int, default=1, help="judge each N-th cell only")
    parser.add_argument("--wrong", type=int, default=40, help="how many wrong cells are shown")
    given = parser.parse_args(arguments)
    counts: dict[str, Counter[str]] = {}
    shown: set[tuple[str, str]] = set()
    for cell, verdict in judged(given.only or None, given.every):
        counts.setdefault(cell.op_type, Counter())[verdict.kind] += 1
        if verdict.kind == "wrong" and len(shown) < given.wrong and (cell.op_type, cell.case) not in shown:
            shown.add((cell.op_type, cell.case))
            say(f"WRONG {cell.name}: {verdict.detail[:300]}")
    total: Counter[str] = sum(counts.values(), Counter())
    for op_type, own in (*sorted(counts.items()), ("all", total)):
        say(f"{op_type:16} {sum(own.values()):6} cells: " + ", ".join(f"{own[k]} {k}" for k in KINDS))
    return 1 if total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
