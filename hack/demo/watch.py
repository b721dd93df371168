"""Looks at the demo's cluster once a second, as an SRE would: ReplicaSets, pods and the gateway's /load."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from weir.api.load import LoadReport
from weir.kube.client import KubeClient
from weir.kube.resources import PODS, REPLICASETS
from weir.scaling.demand import DemandMeter
from weir.simulate.report import Moment

NAMESPACE, MODEL = "inference", "chat"


@dataclass
class Watcher:
    """Collects `moments` of the main model, and hands each to `show`."""

    kube: KubeClient
    load_url: str
    slots: int
    """Of a replica."""
    usd_per_hour: float
    """Of a replica."""
    began: float
    show: Callable[[Moment], None]
    moments: list[Moment] = field(default_factory=list)
    _meter: DemandMeter = field(default_factory=DemandMeter)
    _requests: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        """Until cancelled."""
        async with aiohttp.ClientSession() as session:
            while True:
                self.moments.append(await self._look(session))
                self.show(self.moments[-1])
                await asyncio.sleep(1 - (time.monotonic() - self.began) % 1)

    async def _look(self, session: aiohttp.ClientSession) -> Moment:
        async with session.get(self.load_url) as response:
            report = LoadReport.model_validate_json(await response.read())
        labels = f"weir.dev/model={MODEL}"
        sets = (await self.kube.list(REPLICASETS, NAMESPACE, label_selector=labels)).items
        pods = (await self.kube.list(PODS, NAMESPACE, label_selector=labels)).items
        ready = sum(
            any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
            and "deletionTimestamp" not in pod["metadata"]
            for pod in pods
        )
        now = time.monotonic()
        load = report.models[f"{NAMESPACE}/{MODEL}"]
        self._meter.add(report.gateway, report.started_at, report.at, load, now)
        demand = self._meter.demand([report.gateway], now)
        wanted = demand.panic if demand else 0.0
        before = self.moments[-1] if self.moments else None
        at = round(now - self.began, 2)
        elapsed = at - before.at if before else 0.0
        routes: Counter[str] = Counter()
        for model in report.models.values():  # the one with the small budget too: its refusals are part of the picture
            routes.update({route: sum(reasons.values()) for route, reasons in model.requests.items()})
        new, self._requests = routes - self._requests, routes
        return Moment(
            at=at,
            demand=wanted,
            slots=ready * self.slots,
            replicas=sum(s["spec"]["replicas"] for s in sets),
            ready=ready,
            utilization=wanted / (ready * self.slots) if ready else None,
            local=new["local"],
            spilled=new["frontier"],
            refused=new["refused"],
            usd_gpu=(before.usd_gpu if before else 0.0) + len(pods) * self.usd_per_hour * elapsed / 3600,
            usd_frontier=sum(model.frontier_micro_usd for model in report.models.values()) / 1_000_000,
        )
