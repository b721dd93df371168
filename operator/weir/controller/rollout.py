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
    """One revision: replicas asked for, how many of them are Ready, and how many have started and not ended since.

    A replica can be alive and for a moment not Ready (a node out of touch, a slow probe): no reason to throw it away.
    """

    replicas: int
    ready: int
    alive: int


def shares(
    desired: int, strategy: Literal["Surge", "Replace"], new: Size, olds: Sequence[Size]
) -> tuple[int, tuple[int, ...]]:
    """Replicas for the new revision and for each old one (oldest first), `desired` being wanted in all.

    One replica at a time: the next is touched when every new one asked for is Ready. Surge asks for one more than desired and
    takes an old one away for each new one Ready; Replace takes the old one away first. Until the new revision has shown
    that it starts, growing demand is met with the old one. Old revisions that never came up go at once: they only hold
    accelerators that the new one needs.
    """
    carried = sum(old.replicas for old in olds if old.alive)
    if not carried or not desired:
        return desired, (0,) * len(olds)
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
    """`total` over the old revisions that are alive: the newest keep what they have, and the newest of all grows."""
    given = [0] * len(olds)
    left = total
    alive = [number for number, old in enumerate(olds) if old.alive]
    for number in reversed(alive):
        given[number] = min(olds[number].replicas, left)
        left -= given[number]
    given[alive[-1]] += left
    return tuple(given)
