"""The models and their replicas as the gateway uses them: exact slots, who waits for one, and where the next request goes.

A slot is taken here and given back in one place, `Slot.release`, which also hands it to whoever waits longest: the slot passes from hand
to hand, so that nobody who comes later can take it in between.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from weir.api.load import ModelLoad
from weir.gateway.load import LoadCounters
from weir.gateway.upstream import EnginePool, Failure
from weir.overflow.policy import OverflowPolicy

FULL_SECONDS = 0.25
"""A replica that said it was full, against our count, is left alone for so long."""
SUSPECT_SECONDS = 1.0
"""A replica that failed is left alone for so long, then tried again: it may be gone before its pod says so."""
SUSPECT_AFTER = 3
"""Errors in a row, of a replica that answers: one request that breaks engines must not make all of them look broken."""


_UNREACHABLE = frozenset({Failure.CONNECT, Failure.RESET, Failure.TIMEOUT})


class Replica:
    """One ready engine pod, between two starts of its engine."""

    __slots__ = ("accepting", "avoid_until", "errors", "in_flight", "name", "peers_in_flight", "pool", "slots", "uid")

    def __init__(self, uid: str, name: str, slots: int, pool: EnginePool) -> None:
        self.uid = uid
        self.name = name
        self.slots = slots
        self.pool = pool
        self.in_flight = 0
        """Slots taken by this gateway."""
        self.peers_in_flight = 0
        """Slots taken by the others, as they last said."""
        self.accepting = True
        """False once it terminates, is not ready or gone: what runs there may finish."""
        self.avoid_until = 0.0
        """Loop time until which it gets no new request."""
        self.errors = 0
        """In a row."""

    @property
    def taken(self) -> int:
        """Slots in use."""
        return self.in_flight + self.peers_in_flight

    def fits(self, slots: int, now: float) -> bool:
        """Whether it can take a request of that many slots."""
        taken = self.in_flight + self.peers_in_flight
        return self.accepting and now >= self.avoid_until and taken + slots <= self.slots

    def failed(self, failure: Failure | None, now: float) -> None:
        """It failed a request."""
        self.errors += 1
        if failure in _UNREACHABLE or self.errors >= SUSPECT_AFTER:
            self.avoid_until = now + SUSPECT_SECONDS

    def full(self, now: float) -> None:
        """It has no room, whatever we count."""
        self.avoid_until = now + FULL_SECONDS


class Slot:
    """The right to run one request on a replica."""

    __slots__ = ("_model", "_slots", "replica")

    def __init__(self, model: Model, replica: Replica, slots: int) -> None:
        self._model = model
        self._slots = slots
        self.replica = replica
        replica.in_flight += slots
        model.load.local.add(slots, model.loop.time())

    def release(self) -> None:
        """Give it back. A second call does nothing."""
        slots, self._slots = self._slots, 0
        if slots:
            self.replica.in_flight -= slots
            self._model.load.local.add(-slots, self._model.loop.time())
            self._model.wake()


class Waiter:
    """One request in the queue."""

    __slots__ = ("_ahead", "_model", "avoid", "collected", "granted", "slots")

    def __init__(self, model: Model, slots: int, avoid: Collection[str], ahead: int) -> None:
        self._model = model
        self._ahead = ahead
        self.slots = slots
        self.avoid = avoid
        self.granted: asyncio.Future[Slot] = model.loop.create_future()
        self.collected = False

    @property
    def ahead(self) -> int:
        """At most so many were there before it and still are."""
        return max(0, min(self._ahead, self._model.queue_length - 1))

    async def wait(self, seconds: float) -> Slot | None:
        """A slot, which is then the caller's to release, or None when the time is up."""
        await asyncio.wait((self.granted,), timeout=seconds)
        self.collected = self.granted.done()
        return self.granted.result() if self.collected else None


class Model:
    """One ModelDeployment."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.loop = asyncio.get_running_loop()
        self.load = LoadCounters(self.loop.time())
        self.policy = OverflowPolicy(0, 0.0, 0.0)
        self.generation = 0
        self.replicas: dict[str, Replica] = {}
        """By uid: of the pod and of its engine's life."""
        self._queue: deque[Waiter] = deque()

    @property
    def queue_length(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    def ready(self, avoid: Collection[str] = ()) -> int:
        """Replicas that take requests, without those in `avoid` (uids)."""
        return sum(replica.accepting and replica.uid not in avoid for replica in self.replicas.values())

    def largest(self) -> int:
        """The slots of the largest replica that takes requests; 0 where there is none."""
        return max((replica.slots for replica in self.replicas.values() if replica.accepting), default=0)

    def fits(self, slots: int, avoid: Collection[str] = ()) -> bool:
        """Whether some replica has room now."""
        return self._choose(slots, avoid) is not None

    def take(self, slots: int, avoid: Collection[str] = ()) -> Slot | None:
        """A slot on the less loaded of two random replicas, or on any that has room."""
        replica = self._choose(slots, avoid)
        return Slot(self, replica, slots) if replica is not None else None

    @contextmanager
    def queue(self, slots: int, avoid: Collection[str]) -> Iterator[Waiter]:
        """Wait in line. A slot that was granted and not collected with `wait` is given back at the end."""
        waiter = Waiter(self, slots, frozenset(avoid), len(self._queue))
        self._queue.append(waiter)
        self.load.queued.add(slots, self.loop.time())
        try:
            yield waiter
        finally:
            if not waiter.granted.done():
                self._queue.remove(waiter)
                self._leave(waiter)
            elif not waiter.collected:
                waiter.granted.result().release()

    def wake(self) -> None:
        """Room may have come free: hand it to those who wait, in order of arrival."""
        if not self._queue:
            return
        for waiter in list(self._queue):
            slot = self.take(waiter.slots, waiter.avoid)
            if slot is not None:
                self._queue.remove(waiter)
                self._leave(waiter)
                waiter.granted.set_result(slot)
            elif not waiter.avoid:
                return  # whoever comes next must not overtake; one that avoids a replica holds nobody else up

    def report(self) -> ModelLoad:
        """For /load."""
        in_flight = {replica.name: replica.in_flight for replica in self.replicas.values() if replica.in_flight}
        return self.load.report(in_flight, self.generation, self.loop.time())

    def arrived(self) -> None:
        """A request for this model came in."""
        self.load.last_request_at = time.time()

    def _leave(self, waiter: Waiter) -> None:
        self.load.queued.add(-waiter.slots, self.loop.time())

    def _choose(self, slots: int, avoid: Collection[str]) -> Replica | None:
        now = self.loop.time()
        replicas = list(self.replicas.values())
        if avoid:
            replicas = [replica for replica in replicas if replica.uid not in avoid]
        if not replicas:
            return None
        count = len(replicas)
        first = replicas[int(random.random() * count)]  # noqa: S311 - spreads load, keeps no secret
        second = replicas[int(random.random() * count)]  # noqa: S311
        if second.taken * first.slots < first.taken * second.slots:
            first, second = second, first
        for replica in (first, second):
            if replica.fits(slots, now):
                return replica
        fitting = [replica for replica in replicas if replica.fits(slots, now)]
        return min(fitting, key=lambda replica: replica.taken / replica.slots, default=None)
