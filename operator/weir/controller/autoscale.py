"""Once a second: asks the gateways, works out every model's demand, and decides how many replicas each is to have.

What is decided lives here and, once acted on, in the ReplicaSets; after a restart it is read back from there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field

import structlog

from weir.api.load import LoadReport, ModelLoad
from weir.api.modeldeployment import ModelDeployment
from weir.controller.conditions import ScalingView
from weir.controller.gateways import GatewayPod, LoadClient
from weir.controller.names import WorkKey
from weir.controller.own import OwnKinds
from weir.controller.status import JUMP, QUIET_SECONDS
from weir.controller.traffic import Traffic
from weir.controller.views import Views
from weir.kube.resources import Key
from weir.observability import operator_metrics as metrics
from weir.scaling.demand import DemandMeter
from weir.scaling.policy import History, Observation, Reason, Recommendation, ScalingTarget, recommend

log = structlog.get_logger(__name__)

TICK_SECONDS = 1.0


@dataclass
class _Model:
    """What is remembered of one model between two ticks."""

    uid: str
    desired: int
    since: float
    """Monotonic seconds when it was first looked at."""
    history: History
    demand: DemandMeter = field(default_factory=DemandMeter)
    traffic: Traffic = field(default_factory=Traffic)
    last_request_at: float = 0.0
    """Unix seconds, the latest that any gateway told of: one that restarts has forgotten it."""
    view: ScalingView | None = None
    in_flight: dict[str, int] = field(default_factory=dict)
    shown: ScalingView | None = None
    shown_at: float = 0.0


class Autoscaler:
    """Decides; `decided` and `enqueue` tell whoever acts on it."""

    def __init__(
        self,
        own: OwnKinds,
        views: Views,
        today: Callable[[], str],
        enqueue: Callable[[WorkKey], None],
        decided: Callable[[ModelDeployment, int, Recommendation], None],
    ) -> None:
        self._own = own
        self._views = views
        self._today = today
        self._enqueue = enqueue
        self._decided = decided
        self._models: dict[Key, _Model] = {}
        self._heard: set[str] = set()  # gateways that ever answered
        self.ticked_at: float | None = None
        """Monotonic seconds of the latest pass; None before it runs."""

    def adopt(self, mdep: ModelDeployment, last_desired: int | None) -> None:
        """Begin to scale a model, from what its replicas were last scaled for, else from its minimum."""
        key = Key(mdep.metadata.namespace, mdep.metadata.name)
        known = self._models.get(key)
        if known is None or known.uid != mdep.metadata.uid:
            now = time.monotonic()
            first = mdep.spec.scaling.min_replicas if last_desired is None else last_desired
            self._models[key] = _Model(mdep.metadata.uid, first, now, History.begin(now, first))

    def forget(self, key: Key) -> None:
        """It is gone."""
        self._models.pop(key, None)

    def desired(self, mdep: ModelDeployment) -> int:
        """How many replicas an adopted model is to have now."""
        if mdep.spec.scaling.policy == "Manual":
            return mdep.spec.replicas or 0
        return self._models[Key(mdep.metadata.namespace, mdep.metadata.name)].desired

    def view(self, key: Key) -> ScalingView | None:
        """What was last seen and decided; None in the second before the first look."""
        return self._models[key].view

    def in_flight(self, key: Key) -> dict[str, int]:
        """Requests by pod name."""
        return self._models[key].in_flight

    def out_of_budget(self, key: Key) -> bool:
        """Whether gateways lately found no budget left for a request."""
        return self._models[key].traffic.out_of_budget

    async def run(self) -> None:
        """Until cancelled."""
        self.ticked_at = time.monotonic()
        async with LoadClient() as client:
            while True:
                began = time.monotonic()
                gateways = self._views.gateways
                self._tick(gateways, await client.ask(gateways))
                await asyncio.sleep(max(0.0, began + TICK_SECONDS - time.monotonic()))

    def _tick(self, gateways: list[GatewayPod], answers: dict[str, LoadReport]) -> None:
        now = self.ticked_at = time.monotonic()
        self._heard = {g.uid for g in gateways if g.uid in answers or g.uid in self._heard}
        # One that never answered and is not Ready has not had a request yet: its silence hides nothing.
        present = {g.uid for g in gateways if g.ready or g.uid in self._heard}
        metrics.GATEWAYS.labels("answering").set(len(answers))
        metrics.GATEWAYS.labels("silent").set(len(gateways) - len(answers))
        for key, model in self._models.items():
            mdep = self._own.models.get(key)
            if mdep is not None and mdep.metadata.uid == model.uid:
                self._look(key, mdep, model, present, answers, now)

    def _look(
        self, key: Key, mdep: ModelDeployment, model: _Model, present: Set[str], answers: dict[str, LoadReport],
        now: float,
    ) -> None:  # fmt: skip
        today = self._today()
        name = f"{key.namespace}/{key.name}"
        loads = {uid: (report, report.models.get(name, ModelLoad())) for uid, report in answers.items()}
        model.in_flight = {}
        for uid, (report, load) in loads.items():
            model.demand.add(uid, report.started_at, report.at, load, now)
            model.traffic.add(uid, report.started_at, load, now, today)
            model.last_request_at = max(model.last_request_at, load.last_request_at)
            for pod, count in load.in_flight.items():
                model.in_flight[pod] = model.in_flight.get(pod, 0) + count
        model.traffic.keep(present)
        demand = model.demand.demand(present, now)
        pods = [pod for pod in self._views.children(mdep).pods if pod.live]
        target = ScalingTarget.from_spec(mdep.spec)
        current = self.desired(mdep)
        seen = Observation(
            now=now,
            current=current,
            ready=sum(pod.ready for pod in pods),
            scheduled=sum(pod.scheduled for pod in pods),
            demand=demand,
            idle=max(0.0, min(now - model.since, time.time() - model.last_request_at)),
        )
        decision = None
        if mdep.spec.scaling.policy == "Manual":
            model.history, model.desired = History.begin(now, current), current  # should the policy change
        else:
            decision = recommend(target, seen, model.history)
            model.history, model.desired = decision.history, decision.desired
        view = model.view = ScalingView(
            reason=decision.reason if decision else Reason.MANUAL,
            limit=decision.limit if decision else ScalingView.limit,
            message=decision.message if decision else "",
            utilization=seen.utilization(target.slots),
            demand=demand.stable if demand else None,
            in_flight=sum(model.in_flight.values()),
            queued=sum(load.queued for _, load in loads.values()),
            spilling=sum(load.spilling for _, load in loads.values()),
            share=model.traffic.share,
            micro_usd_today=model.traffic.micro_usd_today,
            gateways=len(present),
            answering=len(present & answers.keys()),
        )
        self._measure(key, view, target, seen)
        if decision and decision.desired != current:
            self._decided(mdep, current, decision)
        if (decision and decision.desired != current) or self._worth_showing(model, view, now):
            model.shown, model.shown_at = view, now
            self._enqueue(WorkKey("ModelDeployment", *key))

    def _worth_showing(self, model: _Model, new: ScalingView, now: float) -> bool:
        old = model.shown
        if new == old or old is None:
            return old is None
        jump = abs((new.utilization or 0) - (old.utilization or 0)) * 100 >= JUMP or abs(new.share - old.share) >= 0.05
        words = (old.reason, old.limit, old.gateways, old.answering, bool(old.spilling or old.share))
        return bool(
            jump
            or words != (new.reason, new.limit, new.gateways, new.answering, bool(new.spilling or new.share))
            or now - model.shown_at >= QUIET_SECONDS
        )

    def _measure(self, key: Key, view: ScalingView, target: ScalingTarget, seen: Observation) -> None:
        metrics.CAPACITY.labels(*key).set(seen.ready * target.slots)
        metrics.OVERFLOW_SHARE.labels(*key).set(view.share)
        for gauge, value in ((metrics.UTILIZATION, view.utilization), (metrics.DEMAND, view.demand)):
            if value is None:
                gauge.remove_by_labels({"namespace": key.namespace, "model": key.name})
            else:
                gauge.labels(*key).set(value)
        if view.reason == Reason.MANUAL:
            metrics.SIGNAL_AVAILABLE.remove_by_labels({"namespace": key.namespace, "model": key.name})
        else:
            metrics.SIGNAL_AVAILABLE.labels(*key).set(seen.demand is not None)
