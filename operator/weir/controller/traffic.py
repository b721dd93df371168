"""Where a model's requests went over the last minute, from the sums that gateways answer. Knows no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from weir.api.load import ModelLoad
from weir.overflow.policy import Reason

WINDOW = 60.0
"""Seconds."""
FRONTIER = "frontier"
"""The route of requests that left."""


@dataclass(frozen=True)
class _Sums:
    at: float
    requests: int
    left: int
    out_of_budget: int


@dataclass
class _Gateway:
    started_at: float
    micro_usd: int
    samples: deque[_Sums] = field(default_factory=deque)


class Traffic:
    """Collects the answers of all gateways for one model. `now` is the reader's clock, in seconds."""

    def __init__(self) -> None:
        self._gateways: dict[str, _Gateway] = {}
        self._day = ""
        self._micro_usd = 0

    def add(self, gateway: str, started_at: float, load: ModelLoad, now: float, day: str) -> None:
        """One gateway's answer; `day` is the UTC day to which what was spent since the last answer belongs."""
        if day != self._day:
            self._day, self._micro_usd = day, 0
        known = self._gateways.get(gateway)
        if known is None or known.started_at != started_at:
            known = self._gateways[gateway] = _Gateway(started_at, load.frontier_micro_usd)
        self._micro_usd += load.frontier_micro_usd - known.micro_usd
        known.micro_usd = load.frontier_micro_usd
        counts = load.requests
        known.samples.append(
            _Sums(
                at=now,
                requests=sum(sum(reasons.values()) for reasons in counts.values()),
                left=sum(counts.get(FRONTIER, {}).values()),
                out_of_budget=sum(reasons.get(Reason.BUDGET_EXHAUSTED, 0) for reasons in counts.values()),
            )
        )
        while len(known.samples) > 1 and known.samples[1].at <= now - WINDOW:
            known.samples.popleft()

    def keep(self, gateways: Collection[str]) -> None:
        """Forget the gateways that are gone."""
        self._gateways = {name: known for name, known in self._gateways.items() if name in gateways}

    @property
    def share(self) -> float:
        """Of the requests of the last minute, those that left the cluster: 0 to 1."""
        requests = self._sum("requests")
        return self._sum("left") / requests if requests else 0.0

    @property
    def out_of_budget(self) -> bool:
        """Whether a request of the last minute stayed or was refused because no budget was left for it."""
        return self._sum("out_of_budget") > 0

    @property
    def micro_usd_today(self) -> int:
        """Spent at providers since the operator began to look, in this UTC day."""
        return self._micro_usd

    def _sum(self, name: str) -> int:
        return sum(
            int(getattr(known.samples[-1], name) - getattr(known.samples[0], name))
            for known in self._gateways.values()
            if known.samples
        )
