"""Which heads each rank gets.

Key heads are divided where there are enough of them, and each takes its query heads along.  Where there are fewer key
heads than ranks, the query heads are divided, and every rank holds the key heads that they need.
"""

from __future__ import annotations

from dataclasses import dataclass

from .cuts import NotSeparable, Ranges, evenly, normal


@dataclass(frozen=True)
class Heads:
    """Heads of one attention by rank.

    Attributes:
        queries: Query heads of each rank, one range.
        keys: Key heads of each rank, one range.  Ranks may hold the same ones.
    """

    queries: tuple[Ranges, ...]
    keys: tuple[Ranges, ...]

    @property
    def replicated(self) -> bool:
        """Whether a key head is held by several ranks."""
        return sum(stop - start for part in self.keys for start, stop in part) > max(p[-1][1] for p in self.keys)


def divide(heads: int, key_heads: int, ranks: int) -> Heads:
    """The heads of each rank.

    Args:
        heads: Query heads.
        key_heads: Key heads, which divide them.
        ranks: How many ranks there are.

    Raises:
        NotSeparable: There are fewer heads than ranks, or a rank's query heads would not share its key heads evenly.
    """
    if heads < ranks:
        raise NotSeparable(f"it has {heads} heads, fewer than the {ranks} ranks")
    group = heads // key_heads
    if key_heads >= ranks:
        keys = evenly(key_heads, ranks)
        return Heads(tuple(normal((a * group, b * group) for a, b in part) for part in keys), keys)
    queries = evenly(heads, ranks)
    keys = tuple(normal((a // group, (b - 1) // group + 1) for a, b in part) for part in queries)
    for (mine,), (own,) in zip(queries, keys, strict=True):
        count, held = mine[1] - mine[0], own[1] - own[0]
        share = count // held
        if count % held or any((mine[0] + h) // group - own[0] != h // share for h in range(count)):
            raise NotSeparable(
                f"its {heads} query heads on {key_heads} key heads do not divide among {ranks} ranks so that a rank's "
                "query heads share its key heads evenly"
            )
    return Heads(queries, keys)
