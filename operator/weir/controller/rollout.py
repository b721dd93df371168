"""How many replicas each revision is to have while a new one takes over. Pure.

Counts are worked out from what is Ready, never from what was asked for a moment ago, so that looking twice, or at a view that is
a little old, asks for the same thing again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Size:
    """One revision: replicas asked for, how many of them are Ready, and whether one of them ever was.

    A revision that served can be without a Ready replica for a while (a restart, a node out of touch, a slow probe): no reason to
    throw it away for one that has shown nothing yet.
    """

    replicas: int
    ready: int
    served: bool


def shares(
    desired: int, strategy: Literal["Surge", "Replace"], new: Size | None, olds: Sequence[Size]
) -> tuple[int, tuple[int, ...]]:
    """Replicas for the new revision and for each old one (oldest first), `desired` being wanted in all.

    `new` is None until the API server has accepted it: as long as the old ones serve, all is theirs.

    One replica at a time: the next is touched when every new one asked for is Ready. Surge asks for one more than desired and
    takes an old one away for each new one Ready; Replace takes the old one away first. Until the new revision has shown
    that it starts, growing demand is met with the old one. Old revisions that never came up go at once: they only hold
    accelerators that the new one needs.
    """
    carried = sum(old.replicas for old in olds if old.served)
    if not carried or not desired:
        return desired, (0,) * len(olds)
    if new is None:
        return 0, _spread(desired, olds)
    ready = min(new.ready, new.replicas)
    proven, settled = ready > 0, ready == new.replicas
    if strategy == "Surge":
        old = max(0, desired - ready)
        if proven:
            old = min(old, carried)
        # Desired 3, 1 new Ready of 1: the old carry 2, the new may be 3 + 1 - 2 = 2. Not settled: only what demand adds.
        count = max(min(new.replicas, desired), min(desired, desired - old + (1 if settled else 0)))
        return count, _spread(old, olds)
    count = min(desired, new.replicas + (1 if settled else 0))
    old = desired - count
    if proven:
        old = min(old, carried)  # what demand adds goes to the new revision
        count = desired - old
    elif new.replicas and not old:
        old = 1  # demand fell while the new one starts: the last replica that serves stays until it does
    return count, _spread(old, olds)


def _spread(total: int, olds: Sequence[Size]) -> tuple[int, ...]:
    """`total` over the old revisions that served: first what is Ready, then what is asked for, of the newest before the older;
    the newest of all grows."""
    given = [0] * len(olds)
    left = total
    serving = [number for number, old in enumerate(olds) if old.served and old.replicas]
    for kept in ([min(old.ready, old.replicas) for old in olds], [old.replicas for old in olds]):
        for number in reversed(serving):
            more = min(kept[number] - given[number], left)
            given[number] += more
            left -= more
    given[serving[-1]] += left
    return tuple(given)
