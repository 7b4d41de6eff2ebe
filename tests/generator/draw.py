"""Random spellings, and simpler ones."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator

from .spelling import CHOICES, Spelling, words
from .valid import repair

VARIED = words("bias opset layout scale slopes heads causal padding")
"""Fields of which every choice is drawn as often."""


def sample(rng: random.Random, miss: str = "") -> Spelling:
    """A random spelling; the first choice of most fields is the simple one, and is drawn more often."""
    drawn: dict[str, object] = {}
    for name, options in CHOICES.items():
        drawn[name] = options[0] if name not in VARIED and rng.random() < 0.5 else rng.choice(options)
    spelling = Spelling(**drawn, miss=miss, where=rng.random(), seed=rng.randrange(1 << 30))  # type: ignore[arg-type]
    return repair(spelling)


def simpler(sp: Spelling) -> Iterator[Spelling]:
    """Spellings with one field set to its simplest value: candidates for shrinking."""
    plain = Spelling(miss=sp.miss)
    for name in (f.name for f in dataclasses.fields(Spelling)):
        if name != "miss" and getattr(sp, name) != getattr(plain, name):
            candidate = repair(dataclasses.replace(sp, **{name: getattr(plain, name)}))
            if candidate != sp:
                yield candidate


def shrink(sp: Spelling, fails: Callable[[Spelling], bool], limit: int = 120) -> Spelling:
    """The simplest spelling found greedily for which ``fails`` still holds."""
    seen = {sp}
    for _ in range(limit):
        for candidate in simpler(sp):
            if candidate in seen:
                continue
            seen.add(candidate)
            if fails(candidate):
                sp = candidate
                break
        else:
            return sp
    return sp
