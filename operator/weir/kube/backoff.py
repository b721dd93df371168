"""How long to wait before trying again: doubling, bounded, jittered so that many clients do not come back at once."""

from __future__ import annotations

import random


class Backoff:
    """Delays in seconds of base, 2 x base, 4 x base ... up to cap, each within +-50 % by chance."""

    def __init__(self, base: float, cap: float) -> None:
        self._base = base
        self._cap = cap
        self._failures = 0

    def next(self, at_least: float | None = None) -> float:
        """The next delay. `at_least` is what the server asked for; it is honoured up to the cap."""
        delay = min(self._cap, self._base * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return max(delay * random.uniform(0.5, 1.5), min(at_least or 0.0, self._cap))  # noqa: S311 - no secret

    def reset(self) -> None:
        self._failures = 0
