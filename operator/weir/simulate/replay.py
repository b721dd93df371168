"""Replays a trace through the very code that decides in production: scaling.policy for replicas, overflow.policy for requests.

Events in order of time; engines compute in calibrated steps (simulate.batch). Nothing here knows a clock: a day takes seconds.
What is not modelled: the gateway's own time (below a millisecond), failures, budgets, more than one gateway.
"""

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from weir.api.load import ModelLoad
from weir.api.modeldeployment import ModelDeploymentSpec
from weir.economics.pricing import Price, Usage, cost_micros
from weir.overflow.policy import LocalView, OverflowPolicy, Reason, RequestFacts, Route, TargetView, decide
from weir.scaling.demand import DemandMeter
from weir.scaling.policy import History, Observation, ScalingTarget, recommend
from weir.simulate.batch import Batch, Request
from weir.simulate.report import Moment
from weir.simulate.step_model import StepModel
from weir.simulate.trace import Arrival

TICK = 1.0
"""Seconds between two looks of the autoscaler, as in production."""
STRIDE = 0.1
"""Seconds of like steps that an engine computes at once: no arrival waits longer for its first step than this."""


@dataclass(frozen=True)
class World:
    """What a replay needs beside the model's spec and the trace."""

    engine: StepModel
    cold_start: float
    """Seconds from asking for a replica until it is ready."""
    replica_usd_per_hour: float
    price: Price | None = None
    """Of the provider's model; None: nothing may leave."""
    frontier_first_token: float = 0.6
    frontier_per_token: float = 0.015
    """Seconds; an assumption, stated in the report."""


@dataclass(eq=False)
class _Live:
    """One request on its way."""

    id: str
    arrival: Arrival
    failures: int = 0
    started: float = 0.0
    first_token: float = 0.0


@dataclass(eq=False)
class _Replica:
    batch: Batch
    ready_at: float
    running: dict[str, _Live] = field(default_factory=dict)
    stepping: bool = False
    leaving: bool = False


@dataclass(frozen=True)
class Finished:
    """What became of one request; times in seconds."""

    route: Route
    reason: Reason
    first_token: float
    per_token: float
    waited: float


@dataclass(frozen=True)
class Outcome:
    """A whole replay."""

    finished: Sequence[Finished]
    moments: Sequence[Moment]
    replica_changes: int
    usd_gpu: float
    usd_frontier: float


def replay(spec: ModelDeploymentSpec, arrivals: Sequence[Arrival], world: World) -> Outcome:
    """Plays `arrivals` against a model that starts with its minimum of replicas, ready."""
    return _Replay(spec, arrivals, world).run()


class _Replay:
    def __init__(self, spec: ModelDeploymentSpec, arrivals: Sequence[Arrival], world: World) -> None:
        self.target, self.policy = ScalingTarget.from_spec(spec), OverflowPolicy.from_spec(spec)
        self.world, self.arrivals = world, arrivals
        self.targets = (TargetView("frontier", "model"),) if spec.overflow and world.price else ()
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.replicas = [self._replica(0.0) for _ in range(spec.scaling.min_replicas)]
        self.waiting: deque[_Live] = deque()
        self.open = len(arrivals)
        self.finished: list[Finished] = []
        self.moments: list[Moment] = []
        self.history = History.begin(0.0, len(self.replicas))
        self.meter = DemandMeter()
        self.local_seconds = self.queued_seconds = self.spilled_seconds = 0.0
        self.service: list[float] = []
        self.last_request = 0.0
        self.changes, self.usd_gpu, self.frontier_micros = 0, 0.0, 0
        self.routed: Counter[Route] = Counter()

    def run(self) -> Outcome:
        for number, arrival in enumerate(self.arrivals):
            live = _Live(str(number), arrival)
            self._at(arrival.at, lambda live=live: self._arrive(live))  # type: ignore[misc]
        self._at(TICK, self._tick)
        while self.events:
            at, _, event = heapq.heappop(self.events)
            self._advance(at)
            event()
        return Outcome(self.finished, self.moments, self.changes, self.usd_gpu, self.frontier_micros / 1e6)

    def _at(self, at: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (at, next(self.order), event))

    def _advance(self, at: float) -> None:
        """Adds what the time since the last event cost, in the sums that a gateway keeps."""
        elapsed, self.now = at - self.now, at
        self.local_seconds += elapsed * sum(len(r.running) for r in self.replicas)
        self.queued_seconds += elapsed * len(self.waiting)
        self.usd_gpu += elapsed * len(self.replicas) * self.world.replica_usd_per_hour / 3600

    # Requests

    def _arrive(self, live: _Live) -> None:
        self.last_request = self.now
        self._place(live, ahead=len(self.waiting))

    def _place(self, live: _Live, ahead: int) -> None:
        """Decides, and does it. A request that waits is decided again when its wait ends."""
        waited = self.now - live.arrival.at
        ready = [r for r in self.replicas if r.ready_at <= self.now and not r.leaving]
        best = min(ready, key=lambda r: len(r.running), default=None)
        fits = best is not None and len(best.running) < self.target.slots
        view = LocalView(fits=fits, ready=len(ready), ahead=ahead)
        decision = decide(RequestFacts(waited=waited), view, self.targets, self.policy)
        match decision.route:
            case Route.LOCAL if best is not None:
                self.routed[Route.LOCAL] += 1
                live.started = self.now
                best.running[live.id] = live
                best.batch.add(Request(live.id, max(live.arrival.prompt_tokens, 1), max(live.arrival.output_tokens, 1)))
                self._step(best)
            case Route.HOLD:
                if live not in self.waiting:
                    self.waiting.append(live)
                # A microsecond late: the difference of two floats must not come out below `until`.
                self._at(live.arrival.at + decision.until + 1e-6, lambda: self._wait_ended(live))
            case Route.SPILL:
                self._spill(live, decision.reason, waited)
            case _:
                self._end(Finished(Route.REFUSE, decision.reason, 0.0, 0.0, waited), work=True)

    def _wait_ended(self, live: _Live) -> None:
        if live in self.waiting:
            ahead = self.waiting.index(live)
            self.waiting.remove(live)
            self._place(live, ahead)

    def _spill(self, live: _Live, reason: Reason, waited: float) -> None:
        usage = Usage(live.arrival.prompt_tokens, live.arrival.output_tokens)
        self.frontier_micros += cost_micros(self.world.price, usage) if self.world.price else 0
        first = waited + self.world.frontier_first_token
        self._end(Finished(Route.SPILL, reason, first, self.world.frontier_per_token, waited), work=True)

    def _end(self, finished: Finished, *, work: bool = False) -> None:
        """`work`: it left for want of capacity, and counts as the demand that it would have been here."""
        self.finished.append(finished)
        if finished.route is not Route.LOCAL:
            self.routed[finished.route] += 1
        self.open -= 1
        if work:
            self.spilled_seconds += sum(self.service) / len(self.service) if self.service else 1.0

    # Engines

    def _step(self, replica: _Replica) -> None:
        if replica.stepping or not replica.batch.busy:
            return
        replica.stepping = True
        result = replica.batch.step(STRIDE)
        self._at(self.now + result.seconds, lambda: self._stepped(replica, result.tokens, result.finished))

    def _stepped(self, replica: _Replica, tokens: dict[str, int], finished: Sequence[str]) -> None:
        replica.stepping = False
        for name in tokens:
            live = replica.running[name]
            live.first_token = live.first_token or self.now
        for name in finished:
            live = replica.running.pop(name)
            rest = max(live.arrival.output_tokens - 1, 1)
            first, waited = live.first_token - live.arrival.at, live.started - live.arrival.at
            self.service = [*self.service[-99:], self.now - live.started]
            self._end(Finished(Route.LOCAL, Reason.SLOT_FREE, first, (self.now - live.first_token) / rest, waited))
        self._step(replica)
        if replica.leaving and not replica.running:
            self.replicas.remove(replica)
        if finished:
            self._admit()

    def _admit(self) -> None:
        """Gives free slots to those who wait, in their order."""
        while self.waiting and any(
            r.ready_at <= self.now and not r.leaving and len(r.running) < self.target.slots for r in self.replicas
        ):
            self._place(self.waiting.popleft(), ahead=0)

    # Replicas

    def _replica(self, ready_at: float) -> _Replica:
        return _Replica(Batch(self.world.engine, self.target.slots), ready_at)

    def _tick(self) -> None:
        staying = [r for r in self.replicas if not r.leaving]
        ready = [r for r in staying if r.ready_at <= self.now]
        running = sum(len(r.running) for r in self.replicas)
        load = ModelLoad(
            in_flight={"all": running},
            queued=len(self.waiting),
            local_slot_seconds=self.local_seconds,
            queued_slot_seconds=self.queued_seconds,
            spilled_work_seconds=self.spilled_seconds,
        )
        self.meter.add("gateway", 0.0, self.now, load, self.now)
        seen = Observation(
            now=self.now,
            current=len(staying),
            ready=len(ready),
            scheduled=len(staying),
            demand=self.meter.demand(["gateway"], self.now),
            idle=self.now - self.last_request,
        )
        answer = recommend(self.target, seen, self.history)
        self.history = answer.history
        self._resize(staying, answer.desired)
        self._record(seen, len(staying))
        self._admit()
        if self.open or self.waiting or len(staying) > self.target.minimum:
            self._at(self.now + TICK, self._tick)

    def _resize(self, staying: list[_Replica], desired: int) -> None:
        self.changes += desired != len(staying)
        for _ in range(desired - len(staying)):
            self.replicas.append(self._replica(self.now + self.world.cold_start))
        by_worth = sorted(staying, key=lambda r: (r.ready_at <= self.now, len(r.running)))
        for replica in by_worth[: max(len(staying) - desired, 0)]:
            replica.leaving = True
            if not replica.running:
                self.replicas.remove(replica)

    def _record(self, seen: Observation, asked: int) -> None:
        slots = seen.ready * self.target.slots
        demand = seen.demand.panic if seen.demand else 0.0
        routed, self.routed = self.routed, Counter()
        self.moments.append(
            Moment(
                at=self.now,
                demand=demand,
                slots=slots,
                replicas=asked,
                ready=seen.ready,
                utilization=demand / slots if slots else None,
                local=routed[Route.LOCAL],
                spilled=routed[Route.SPILL],
                refused=routed[Route.REFUSE],
                usd_gpu=self.usd_gpu,
                usd_frontier=self.frontier_micros / 1e6,
            )
        )
