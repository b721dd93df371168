"""Demand of one model, from the sums that gateways answer on /load.

Every gateway's sums only grow (weir.api.load), so the mean demand over a window is a difference of two answers divided by
the time between them: exact whatever the polling does, and blind to nothing that came and went between two polls.
"""

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from weir.api.load import ModelLoad

STABLE_WINDOW = 60.0
"""Seconds of demand that ordinary decisions look at."""
PANIC_WINDOW = 6.0
"""Seconds of demand that a sudden rise is judged by: knative's tenth of the stable window."""
STALE_AFTER = 10.0
"""Seconds without an answer after which a gateway's demand is unknown."""


class Sample(NamedTuple):
    """`work` slot-seconds had been asked for since the gateway began, at `at` (seconds, the gateway's own clock)."""

    at: float
    work: float


@dataclass(frozen=True)
class Demand:
    """Mean slots wanted at once, over both windows; `now` is the count of this moment."""

    stable: float
    panic: float
    now: int
    last_request_at: float
    """Unix seconds of the latest arrival at any gateway, 0 for none."""
    complete: bool
    """Every gateway answered lately: what is known is all there is."""


@dataclass
class _Gateway:
    started_at: float
    answered_at: float
    latest: ModelLoad
    samples: deque[Sample] = field(default_factory=deque)

    def mean(self, window: float) -> float:
        """Slots wanted on average over the last `window` seconds of its answers, or over as much of them as is known."""
        end = self.samples[-1]
        start = end.at - window
        older = self.samples[0]
        for sample in self.samples:
            if sample.at > start:
                if older.at < start:  # the window begins between two answers: work grew evenly between them
                    part = (start - older.at) / (sample.at - older.at)
                    older = Sample(start, older.work + part * (sample.work - older.work))
                break
            older = sample
        if end.at <= older.at:
            return float(_slots(self.latest))
        return (end.work - older.work) / (end.at - older.at)


def _slots(load: ModelLoad) -> int:
    return sum(load.in_flight.values()) + load.queued + load.spilling


class DemandMeter:
    """Collects the answers of all gateways for one model. Knows no clock: `now` is the reader's, in monotonic seconds."""

    def __init__(self) -> None:
        self._gateways: dict[str, _Gateway] = {}

    def add(self, gateway: str, started_at: float, at: float, load: ModelLoad, now: float) -> None:
        """One gateway's answer. A later `started_at` is a new life: its sums begin again at nothing."""
        known = self._gateways.get(gateway)
        if known is None or known.started_at != started_at:
            known = self._gateways[gateway] = _Gateway(started_at, now, load)
            if at - started_at <= STABLE_WINDOW:
                known.samples.append(Sample(started_at, 0.0))
        known.answered_at, known.latest = now, load
        if not known.samples or at > known.samples[-1].at:
            known.samples.append(Sample(at, load.work_seconds))
        while len(known.samples) > 2 and known.samples[1].at < at - STABLE_WINDOW:
            known.samples.popleft()

    def demand(self, gateways: Collection[str], now: float) -> Demand | None:
        """Demand over the gateways that exist; those that are gone are forgotten. None where nobody answered lately."""
        self._gateways = {name: g for name, g in self._gateways.items() if name in gateways}
        fresh: Mapping[str, _Gateway] = {
            name: g for name, g in self._gateways.items() if now - g.answered_at <= STALE_AFTER
        }
        if not fresh:
            return None
        return Demand(
            stable=sum(g.mean(STABLE_WINDOW) for g in fresh.values()),
            panic=sum(g.mean(PANIC_WINDOW) for g in fresh.values()),
            now=sum(_slots(g.latest) for g in fresh.values()),
            last_request_at=max(g.latest.last_request_at for g in fresh.values()),
            complete=len(fresh) == len(set(gateways)),
        )
