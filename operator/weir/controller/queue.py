"""What is to be looked at next: each key at most once, never two workers on one key, now or later.

A key that comes in while it is being worked on is worked on again afterwards, since what came in may be news. Work that fails is
tried again with growing delay.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from weir.kube.backoff import Backoff
from weir.kube.errors import ApiError
from weir.observability import metrics

log = structlog.get_logger(__name__)

K = TypeVar("K", bound=Hashable)
Work = Callable[[K], Awaitable[float | None]]
"""Looks at one key; answers in how many seconds it wants to look again (None: when something happens)."""

RETRY_BASE = 0.25
RETRY_CAP = 30.0


class WorkQueue(Generic[K]):
    """Used from one event loop: `add` at any time, `run` works until cancelled."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._since: dict[K, float] = {}  # of the keys in _ready: when they came in
        self._later: dict[K, asyncio.TimerHandle] = {}
        self._working: dict[K, float] = {}  # since when
        self._again: set[K] = set()
        self._failures: dict[K, Backoff] = {}

    def add(self, key: K, after: float = 0.0) -> None:
        """Look at `key` in `after` seconds, or earlier if something else says so."""
        if after <= 0:
            self._put(key)
            return
        loop = asyncio.get_running_loop()
        planned = self._later.get(key)
        if planned is not None:
            if planned.when() <= loop.time() + after:
                return
            planned.cancel()
        self._later[key] = loop.call_later(after, self._put, key)

    def oldest(self) -> float:
        """Seconds that the key waited for or worked on longest has taken so far; 0 when there is none."""
        since = [*self._working.values(), *self._since.values()]
        return time.monotonic() - min(since) if since else 0.0

    async def run(self, work: Work[K], workers: int) -> None:
        """Works on up to `workers` keys at once, until cancelled. What `work` raises is logged, and tried again."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._worker(work))

    def _put(self, key: K) -> None:
        planned = self._later.pop(key, None)
        if planned is not None:
            planned.cancel()
        metrics.WORKQUEUE_ADDS.labels(self._name).inc()
        if key in self._working:
            self._again.add(key)
        elif key not in self._since:
            self._since[key] = time.monotonic()
            self._ready.put_nowait(key)
            metrics.WORKQUEUE_DEPTH.labels(self._name).set(len(self._since))

    async def _worker(self, work: Work[K]) -> None:
        while True:
            key = await self._ready.get()
            now = time.monotonic()
            metrics.WORKQUEUE_QUEUE_SECONDS.labels(self._name).observe(now - self._since.pop(key))
            metrics.WORKQUEUE_DEPTH.labels(self._name).set(len(self._since))
            self._working[key] = now
            try:
                after = await self._attempt(work, key)
            finally:
                del self._working[key]
            if key in self._again:
                self._again.discard(key)
                self._put(key)
            if after is not None:
                self.add(key, after)

    async def _attempt(self, work: Work[K], key: K) -> float | None:
        try:
            after = await work(key)
        except Exception as error:
            delay = self._failures.setdefault(key, Backoff(RETRY_BASE, RETRY_CAP)).next()
            metrics.WORKQUEUE_RETRIES.labels(self._name).inc()
            # An API server that refuses or is away says all there is to say; anything else is a bug, and its trace is wanted.
            log.warning(
                "tried again later",
                key=str(key),
                retry_seconds=round(delay, 2),
                error=str(error) or type(error).__name__,
                exc_info=not isinstance(error, ApiError),
            )
            return delay
        self._failures.pop(key, None)
        return after
