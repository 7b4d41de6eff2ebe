"""All cells, or some of them: counted per operator, with what is wrong."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .cells import Plan, plans
from .judge import Verdict, judge

KINDS = ("exact", "bounded", "unknown", "unjudged", "wrong")

Numbers = dict[str, set[int]]


def judged(plan: Plan) -> Verdict:
    """The verdict on a cell; what the analysis or the comparison raises is a finding as well."""
    cell = plan.cell()
    try:
        return judge(cell.model, cell.target, cell.shapes)
    except Exception as error:  # noqa: BLE001 - any type: see above
        return Verdict("wrong", f"{type(error).__name__}: {error}")


def chosen(op_types: list[str] | None, every: int, first: int, done: Numbers) -> Iterator[tuple[int, Plan]]:
    """Cells with their numbers within their operator: each ``every``-th, but those that were judged before."""
    numbers: Counter[str] = Counter()
    for plan in plans(op_types):
        number = numbers[plan.op_type]
        numbers[plan.op_type] += 1
        if number % every == first % every and number not in done.get(plan.op_type, ()):
            yield number, plan


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def read(record: Path | None, counts: dict[str, Counter[str]]) -> Numbers:
    """What an earlier run has written down, which counts as well."""
    done: Numbers = {}
    if record is not None and record.exists():
        for line in record.read_text(encoding="utf-8").splitlines():
            op_type, number, kind, _ = json.loads(line)
            if number not in done.setdefault(op_type, set()):
                done[op_type].add(number)
                counts.setdefault(op_type, Counter())[kind] += 1
    return done


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="operators")
    parser.add_argument("--every", type=int, default=1, help="judge each N-th cell of an operator only")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--wrong", type=int, default=40, help="how many wrong cells are shown")
    parser.add_argument("--record", type=Path, help="file for the verdicts; cells that it has are not judged again")
    given = parser.parse_args(arguments)
    counts: dict[str, Counter[str]] = {}
    shown: set[tuple[str, str]] = set()
    done = read(given.record, counts)
    record = given.record.open("a", encoding="utf-8") if given.record else None
    for number, plan in chosen(given.only or None, given.every, given.first, done):
        verdict = judged(plan)
        counts.setdefault(plan.op_type, Counter())[verdict.kind] += 1
        if record is not None:
            record.write(json.dumps([plan.op_type, number, verdict.kind, verdict.detail[:300]]) + "\n")
        if verdict.kind == "wrong" and len(shown) < given.wrong and (plan.op_type, plan.case) not in shown:
            shown.add((plan.op_type, plan.case))
            say(f"WRONG {plan.cell().name}: {verdict.detail[:300]}")
    if record is not None:
        record.close()
    total: Counter[str] = sum(counts.values(), Counter())
    for op_type, own in (*sorted(counts.items()), ("all", total)):
        say(f"{op_type:16} {sum(own.values()):6} cells: " + ", ".join(f"{own[k]} {k}" for k in KINDS))
    return 1 if total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
