"""The API server's clock, as seen through the Date headers of its answers. Pure: the readings come in as arguments.

Budgets turn by this clock, so that a node with a wrong clock opens no day early. A Date header is cut to whole seconds,
so one answer bounds the offset between that clock and ours to an interval a second (and the round trip) wide; each
further answer, falling elsewhere in its second, narrows the interval. Worked: an answer with Date 100 to a request sent
at 7.2 and answered at 7.3 (our clock) says offset is in [100 - 7.3, 101 - 7.2] = [92.7, 93.8]; a later one with Date 103
sent at 9.9, answered 10.0 says [93.0, 94.1]; together [93.0, 93.8], so 93.4 is within 0.4 s of the truth.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from functools import lru_cache


class ServerClock:
    """Estimates offset = server's unix time - our monotonic time, both in seconds."""

    def __init__(self) -> None:
        self._low = float("-inf")
        self._high = float("inf")

    def observe(self, date: str, sent: float, received: float) -> None:
        """Take one answer's Date header; `sent` and `received` are our monotonic seconds around it.

        Raises ValueError for a header that is no date.
        """
        second = _unix(date)
        low, high = second - received, second + 1.0 - sent
        # No common ground means that a clock was stepped or drifted, or that another API server answered: believe the newest.
        if low > self._high or high < self._low:
            self._low, self._high = low, high
        else:
            self._low, self._high = max(low, self._low), min(high, self._high)

    @property
    def known(self) -> bool:
        return self._low != float("-inf")

    @property
    def uncertainty(self) -> float:
        """Half the width of what is known, in seconds: the estimate is at most this far off. Infinite before any answer."""
        return (self._high - self._low) / 2.0

    def unix(self, monotonic: float) -> float:
        """The server's unix time in seconds at one of our monotonic times. Raises LookupError before any answer."""
        if not self.known:
            raise LookupError("the API server has not answered yet, so its clock is unknown")
        return monotonic + (self._low + self._high) / 2.0

    def earliest(self, monotonic: float) -> float:
        """The least that the server's unix time can be, by all answers so far: for what must not happen early.

        Raises LookupError before any answer.
        """
        self.unix(monotonic)
        return monotonic + self._low


@lru_cache(maxsize=4)  # many answers bear the same second, and parsing it takes longer than all the rest here
def _unix(date: str) -> float:
    return parsedate_to_datetime(date).timestamp()
