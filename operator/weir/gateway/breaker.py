"""When a provider is not to be asked: after failures in a row or in number, and while it says that it is full. No clock, no I/O."""

from __future__ import annotations

from collections import deque
from enum import IntEnum

CONSECUTIVE = 5
WINDOW_SECONDS = 30.0
AT_LEAST = 10
FIRST_PAUSE_SECONDS = 5.0
LAST_PAUSE_SECONDS = 60.0
"""The pause doubles with each failed probe."""


class State(IntEnum):
    """The value of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Opens on 5 failures in a row, or when half of at least 10 calls in 30 s failed; then one probe at a time decides.

    `now` is monotonic seconds throughout. `probe` is what `begin` answered for that call.
    """

    def __init__(self) -> None:
        self._row = 0
        self._calls: deque[tuple[float, bool]] = deque()
        self._pause = 0.0
        self._open_until = 0.0
        self._probing = False
        self._full_until = 0.0

    def state(self, now: float) -> State:
        """What it is now."""
        if not self._pause:
            return State.CLOSED
        return State.OPEN if now < self._open_until else State.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Whether a call may be made now."""
        return not self._pause or (now >= self._open_until and not self._probing)

    def full_for(self, now: float) -> float:
        """Seconds for which the provider asked to be left alone: that is no failure."""
        return max(0.0, self._full_until - now)

    def begin(self) -> bool:
        """A call begins. True: it is the probe."""
        probe = bool(self._pause)
        self._probing = self._probing or probe
        return probe

    def succeed(self, now: float, *, probe: bool) -> None:
        """The provider answered as it should, if only that a request is wrong."""
        if probe:
            self._probing = False
            self._pause = 0.0
        self._row = 0
        self._note(now, failed=False)

    def fail(self, now: float, *, probe: bool) -> None:
        """5xx, a timeout, a broken connection."""
        self._row += 1
        self._note(now, failed=True)
        failures = sum(failed for _, failed in self._calls)
        too_many = len(self._calls) >= AT_LEAST and 2 * failures >= len(self._calls)
        if probe:
            self._probing = False
            self._open(now, min(LAST_PAUSE_SECONDS, 2 * self._pause))
        elif not self._pause and (self._row >= CONSECUTIVE or too_many):
            self._open(now, FIRST_PAUSE_SECONDS)

    def full(self, now: float, seconds: float, *, probe: bool) -> None:
        """429: come back after `seconds`. It answers, so a probe has found it well."""
        self._full_until = max(self._full_until, now + seconds)
        if probe:
            self._probing = False
            self._pause = 0.0

    def cancel(self, *, probe: bool) -> None:
        """The call ended without a verdict: its client left."""
        if probe:
            self._probing = False

    def _open(self, now: float, pause: float) -> None:
        self._pause = pause
        self._open_until = now + pause
        self._calls.clear()
        self._row = 0

    def _note(self, now: float, *, failed: bool) -> None:
        self._calls.append((now, failed))
        while self._calls[0][0] < now - WINDOW_SECONDS:
            self._calls.popleft()
