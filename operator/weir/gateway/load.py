"""What one model's requests amount to at this gateway: exact sums for /load. No I/O; `now` is monotonic seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from weir.api.load import ModelLoad
from weir.overflow.policy import Reason

SMOOTHING = 0.05
"""Weight of the latest request in the mean service time: about the last twenty count."""
UNKNOWN_SERVICE_SECONDS = 1.0
"""Until the first request was served anywhere. A cold model's first demand may be too low for a moment, never zero."""


class Integral:
    """A level that changes in steps, and its sum over time."""

    __slots__ = ("_at", "_sum", "level")

    def __init__(self, now: float) -> None:
        self.level = 0
        self._sum = 0.0
        self._at = now

    def add(self, change: int, now: float) -> None:
        """The level changes by `change`."""
        self._sum += self.level * (now - self._at)
        self._at = now
        self.level += change

    def total(self, now: float) -> float:
        """Level x seconds since the start."""
        return self._sum + self.level * (now - self._at)


class LoadCounters:
    """The sums behind one ModelLoad."""

    def __init__(self, now: float) -> None:
        self.local = Integral(now)
        self.queued = Integral(now)
        self.spilling = 0
        self.spilled_work_seconds = 0.0
        self.frontier_micro_usd = 0
        self.last_request_at = 0.0
        """Unix seconds."""
        self._requests: dict[str, Counter[str]] = {}
        self._local_seconds = 0.0
        self._elsewhere_seconds = 0.0

    def decided(self, route: str, reason: Reason) -> None:
        """A request's final route: local, frontier or refused."""
        counter = self._requests.get(route)
        if counter is None:
            counter = self._requests[route] = Counter()
        counter[reason] += 1

    def served(self, seconds: float, *, local: bool) -> None:
        """A request was answered in full, after `seconds` of service."""
        if local:
            self._local_seconds = _smooth(self._local_seconds, seconds)
        else:
            self._elsewhere_seconds = _smooth(self._elsewhere_seconds, seconds)

    @property
    def mean_service_seconds(self) -> float:
        """Of a local request; before the first of them what a provider took."""
        return self._local_seconds or self._elsewhere_seconds or UNKNOWN_SERVICE_SECONDS

    def left(self, slots: int) -> None:
        """A request left, or was refused, for want of capacity: it is demand all the same."""
        self.spilled_work_seconds += slots * self.mean_service_seconds

    def report(self, in_flight: Mapping[str, int], generation: int, now: float) -> ModelLoad:
        """The state now."""
        return ModelLoad(
            in_flight=dict(in_flight),
            queued=self.queued.level,
            spilling=self.spilling,
            local_slot_seconds=self.local.total(now),
            queued_slot_seconds=self.queued.total(now),
            spilled_work_seconds=self.spilled_work_seconds,
            mean_service_seconds=self.mean_service_seconds,
            requests={route: dict(counter) for route, counter in self._requests.items()},
            last_request_at=self.last_request_at,
            observed_generation=generation,
            frontier_micro_usd=self.frontier_micro_usd,
        )


def _smooth(mean: float, value: float) -> float:
    return value if not mean else mean + SMOOTHING * (value - mean)
