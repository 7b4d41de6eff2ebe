"""What goes with what: the nearest spelling that makes a valid model whose fault, if any, is really there.

The rows of ``ROWS`` are read from top to bottom, each on what the rows above have made of a spelling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from .misses import LONG_MISSES
from .spelling import BY_ORDER, COUNTED, RUNTIME_SLOPES, SYMMETRIC, Spelling, is_table, words


class When:
    """A condition on a spelling; conditions are joined by ``&`` and ``|``, and turned by ``~``."""

    def __init__(self, holds: Callable[[Spelling], bool]) -> None:
        self.holds = holds

    def __and__(self, other: When) -> When:
        return When(lambda sp: self.holds(sp) and other.holds(sp))

    def __or__(self, other: When) -> When:
        return When(lambda sp: self.holds(sp) or other.holds(sp))

    def __invert__(self) -> When:
        return When(lambda sp: not self.holds(sp))


@dataclass(frozen=True)
class AtLeast:
    """A number that is raised to a bound, and kept if it is larger."""

    bound: int


@dataclass(frozen=True)
class Row:
    """Where ``when`` holds, fields get the values of ``then``."""

    when: When
    then: dict[str, object]

    def apply(self, sp: Spelling) -> Spelling:
        if not self.when.holds(sp):
            return sp
        raised = {k: max(v.bound, getattr(sp, k)) if isinstance(v, AtLeast) else v for k, v in self.then.items()}
        return dataclasses.replace(sp, **raised)


def has(**fields: object) -> When:
    """Each of these fields has this value, or one of these values."""
    wanted = {k: v if isinstance(v, (tuple, frozenset)) else (v,) for k, v in fields.items()}
    return When(lambda sp: all(getattr(sp, k) in v for k, v in wanted.items()))


def misses(*names: str) -> When:
    return has(miss=words(*names))


def opset_below(version: int) -> When:
    return When(lambda sp: sp.opset < version)


def then(**fields: object) -> dict[str, object]:
    return fields


TRUE_MODEL = has(miss="")
TABLE = When(is_table)
ODD_HEADS = When(lambda sp: sp.heads % 2 == 1)
SCALED_BIAS = When(lambda sp: sp.scale.startswith("after"))
MERGED = has(layout=("merged", "merged-bias"))
WIDE = has(padding=("wide", "wide-add"))
WHOLE_OPERATOR = has(layout=("operator", "mha"))
BEFORE_ONLY = has(scale=words("before-mul none q k both"))
"""Scales that an attention operator takes, or that sit on what goes into it."""

INSIDE = words("probabilities scores softcap-after softcap-before sink multiplied dropout axis")
"""Faults between the products, where an attention operator has no place for them."""

BETWEEN = (*INSIDE, *words("after-softmax masked-probabilities soft-window row-scale key-scale product"))
NEED_HEADS = words("data-slope batch-slope query-key forgetting float-mask-positions sink")
COMPUTED = words("abs maxmin where")
DISTANCES = (*COMPUTED, "table2", "gather")

FAULTS = (
    # A fault of the distance needs a distance.
    Row(misses("clip mod quadratic log bucket grid square-root") & ~has(bias=DISTANCES), then(bias="abs")),
    Row(
        misses("clip-far mod-far drop-far sine parity half-step flipped") & ~has(bias=COMPUTED),
        then(bias="abs"),
    ),
    Row(misses("i-only"), then(bias="j")),
    Row(misses("wrap"), then(bias="gather-linear")),
    Row(misses("three-ulp") & ~has(bias=words("table2 table2-linear table1 gather")), then(bias="table2")),
    Row(misses("three-ulp"), then(slopes="press")),
    Row(
        misses("slopes-on-batch"),
        then(bias="j-i", heads=2, static=True, layers=1, layout="bhsd", slopes="press", kv="all", factor=1.0),
    ),
    Row(misses("mask-multiplied") & has(layout=words("operator mha merged-bias")), then(layout="bhsd")),
    Row(misses("mask-multiplied"), then(padding="where", order="bias-first")),
    Row(
        misses("log-length") & (has(layout=words("operator mha merged-bias")) | ~has(order="bias-first")),
        then(layout="bhsd", order="bias-first"),
    ),
    Row(misses("causal-strict") & WIDE, then(padding="additive")),
    Row(misses("causal-strict"), then(causal="where", hide="min", layers=1)),
    # What shows far away only needs sizes that grow, and a computed bias.
    Row(has(miss=(*LONG_MISSES, "batch-one")), then(bias="abs", static=False, int32=False, half=False)),
    Row(misses("linear-far length-far"), then(bias="j-i")),
    Row(has(miss=(*LONG_MISSES, "batch-one"), layout="merged-bias"), then(layout="bhsd")),
    Row(has(miss=(*LONG_MISSES, "batch-one"), causal=("none", "constant")), then(causal="where")),
    Row(misses("one-sided"), then(bias="causal-max", causal="none")),
    Row(
        misses("product row-scale key-scale after-softmax masked-probabilities soft-window")
        & has(layout=("operator", "merged-bias")),
        then(layout="bhsd"),
    ),
    Row(misses("row-scale key-scale"), then(order="bias-first")),
    Row(misses("query-key"), then(bias="abs")),
    Row(misses("query-key") & has(layout=("operator", "merged-bias")), then(layout="bhsd")),
    Row(misses("length-slope"), then(bias="j-i")),
    Row(misses("length-slope") & has(causal="none"), then(causal="where")),
    Row(misses("one-side"), then(bias="where", causal="none")),
    # A fault in a table needs numbers that are written down.
    Row(misses("table-ulp table-noise table-entry table-tail") & ~TABLE, then(bias="table2")),
    Row(misses("table-ulp table-noise table-entry table-tail") & has(slopes="input"), then(slopes="press")),
    Row(misses("offset offset-one") & ~has(bias=DISTANCES), then(bias="abs")),
    Row(misses("offset"), then(cache=True)),
    Row(misses("causal-offset"), then(cache=True)),
    Row(misses("causal-offset window") & has(causal="none"), then(causal="where")),
    Row(
        misses("data-slope batch-slope slope-per-key slope-per-row") & ~has(bias=(*COMPUTED, "j-i")),
        then(bias="abs"),
    ),
    Row(misses("slope-per-row") & has(bias="j-i", causal="none"), then(causal="where")),
    Row(misses("data-slope batch-slope slope-per-key slope-per-row"), then(negate="distance", slopes="press")),
    Row(misses("data-slope batch-slope slope-per-key slope-per-row") & has(layout="merged-bias"), then(layout="bhsd")),
    Row(misses("finite-mask"), then(hide="finite", half=False)),
    Row(misses("finite-mask") & has(causal="none", padding="none"), then(causal="where")),
    Row(misses("packed position-ids"), then(bias="abs", cache=False, static=False)),
    Row(misses("position-ids") & has(layout="merged-bias"), then(layout="merged")),
    Row(misses("forgetting float-mask-positions"), then(bias="maskpos", cache=False)),
    Row(misses("forgetting float-mask-positions") & has(layout="merged-bias"), then(layout="bhsd")),
    Row(misses("forgetting"), then(slopes="press")),
    Row(misses("cls"), then(bias="abs", cache=False)),
    Row(misses("negative-total"), then(bias="j-i", causal="none")),
    Row(misses("sink") & MERGED, then(layout="bhsd")),
)

OPERATORS = (
    # The operator adds one mask of the query's type and computes the softmax inside.
    Row(has(layout="operator"), then(opset=23, order="one-tensor", softmax32=False)),
    Row(has(layout="operator") & ~has(padding="none"), then(padding="additive")),
    Row(has(layout="operator") & ~BEFORE_ONLY, then(scale="before-mul")),
    Row(has(layout="operator", miss=(*INSIDE, "value-scaled", "packed", "chunked")), then(layout="bhsd")),
    Row(has(layout=words("packed seq-first mha")), then(cache=False, kv="all")),
    Row(
        has(layout="mha", miss=(*BETWEEN, *NEED_HEADS, "value-scaled", "packed", "chunked", "key-term")),
        then(layout="bhsd"),
    ),
    Row(
        has(layout="mha"),
        then(half=False, order="one-tensor", guard="none", floor=False, twice=False, output_bias=False),
    ),
    Row(has(layout="mha") & ~BEFORE_ONLY, then(scale="before-mul")),
    Row(has(layout="seq-first", miss=(*NEED_HEADS, "value-scaled")), then(layout="bhsd")),
    Row(has(layout="fused"), then(half=False, opset=AtLeast(12))),
    Row(has(layout="fused", kv="one"), then(kv="all")),
)

BIAS = (
    Row(WIDE & (has(bias=COUNTED) | has(layout="merged-bias")), then(padding="additive")),
    Row(has(hide="finite") & ~misses("finite-mask"), then(hide="min")),
    Row(has(bias=COUNTED, padding=("none", "bool")), then(padding="additive")),
    Row(has(bias="maskpos-merged") & ~has(layout="merged-bias"), then(bias="maskpos")),
    Row(has(bias="maskpos", layout="merged-bias"), then(bias="maskpos-merged")),
    Row(has(bias="table2-inf", slopes="input"), then(slopes="press")),
    Row(has(bias="table2-inf"), then(negate="slope")),
    Row(has(bias="table2-inf", order="one-tensor", hide="1e9"), then(hide="min")),
    Row(TABLE & has(slopes=RUNTIME_SLOPES), then(slopes="press")),
    Row(~has(bias=SYMMETRIC), then(negate="slope")),
    Row(has(bias=words("outer einsum per-head")), then(slope_rank=1)),
    Row(has(bias="per-head", slopes=RUNTIME_SLOPES), then(slopes="press")),
    Row(has(bias="causal-max", causal="none") & ~misses("one-sided"), then(causal="where")),
    Row(has(bias="tril-sum"), then(opset=AtLeast(14), cache=False)),
    Row(has(bias="tril-sum", causal="none"), then(causal="where")),
)

VERSIONS = (
    Row(has(layout="einsum") | has(bias=words("einsum maxmin relu causal-max")), then(opset=AtLeast(12))),
    Row(has(causal="trilu"), then(opset=AtLeast(14))),
    Row(has(causal=BY_ORDER) | misses("clip dropout negative-total"), then(opset=AtLeast(12))),
    Row(misses("axis dropout"), then(opset=AtLeast(13))),
    Row(~has(kv="all") & has(layout=words("merged merged-bias einsum packed seq-first")), then(kv="all")),
    Row(has(padding="clamped") & (opset_below(12) | has(hide="inf")), then(opset=AtLeast(12), hide="min")),
    Row(has(int32=True) & (has(bias=COUNTED) | opset_below(14)), then(int32=False)),
    Row(misses("masked-probabilities mod-far parity clip-far drop-far"), then(opset=AtLeast(13))),
)

MASKS = (
    Row(ODD_HEADS & has(kv=words("grouped gathered tiled native")), then(kv="all")),
    Row(has(layout="merged-bias") & misses("batch-slope data-slope"), then(layout="merged")),
    Row(has(cache=False), then(query_start="past", present=False)),
    Row(has(padding="and", causal=("none", "add")), then(padding="where")),
    Row(has(half=False), then(softmax32=False, bias32=False)),
    Row(has(half=True, hide="1e9"), then(hide="min")),
    Row(
        has(order="one-tensor") & ~has(layout="operator") & (has(layout="merged-bias") | has(causal="none")),
        then(order="bias-first"),
    ),
    Row(has(order="one-tensor") & SCALED_BIAS, then(scale="before-mul")),
    Row(has(order="mask-first") & (has(layout="merged-bias") | SCALED_BIAS), then(order="bias-first")),
    Row(has(layers=2, hide="inf") & ~has(padding="none"), then(hide="min")),
    Row(has(layers=1), then(share=True)),
    Row(has(share=True, layers=2) & ~has(factor=1.0), then(share=False)),
)

EXTRAS = (
    # Choices that need others; the last word.
    Row(
        has(bias="table-batch") & (~has(layout="merged-bias") | has(layers=2, share=False)),
        then(layout="merged-bias", order="bias-first", kv="all", share=True, factor=1.0),
    ),
    Row(has(bias=("table-batch", "baked")), then(table_rank=3)),
    Row(has(bias="baked"), then(static=True)),
    # No exporter merges the heads of a table that is cut like that.
    Row(has(bias="table1-cut", layout="merged-bias"), then(layout="merged")),
    Row(has(bias=("min0", "table1-cut")), then(opset=AtLeast(12))),
    Row(has(bias="min0", causal="none"), then(causal="where")),
    Row(has(padding="and", causal=words("none add or-less float-bool scattered")), then(padding="where")),
    Row(has(padding=("gathernd", "gather-flat")), then(opset=AtLeast(12))),
    Row(has(layout="merged-bias", padding="pairs"), then(padding="where")),
    Row(~TRUE_MODEL | ~SCALED_BIAS | ~has(order="bias-first") | has(layout="merged-bias"), then(twice=False)),
    Row(~TRUE_MODEL | WHOLE_OPERATOR | opset_below(13), then(floor=False)),
    Row(
        has(guard="reduce") & ~(TRUE_MODEL & has(order="one-tensor", layout=words("bhsd kt kt3 direct packed fused"))),
        then(guard="none"),
    ),
    Row(has(guard="nan") & (~TRUE_MODEL | WHOLE_OPERATOR | opset_below(13)), then(guard="none")),
    Row(
        has(output_bias=True) | has(present=True) | misses("probabilities scores product"),
        then(body=False),
    ),
)

ROWS = (*FAULTS, *OPERATORS, *BIAS, *VERSIONS, *MASKS, *EXTRAS)


def repair(sp: Spelling) -> Spelling:
    """The nearest spelling that makes a valid model whose fault, if any, is really there."""
    for row in ROWS:
        sp = row.apply(sp)
    return sp
