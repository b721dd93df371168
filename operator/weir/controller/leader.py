"""What the one operator that holds the Lease does: fills its view, keeps it fresh, works through the queue, scales."""

from __future__ import annotations

import asyncio
import time

import structlog

from weir.api.modeldeployment import ModelDeployment
from weir.controller import watching
from weir.controller.autoscale import Autoscaler
from weir.controller.config import OperatorConfig
from weir.controller.ledgers import Ledgers
from weir.controller.models import ModelReconciler
from weir.controller.names import WorkKey
from weir.controller.own import RESOURCES, OwnKinds
from weir.controller.providers import ProviderReconciler
from weir.controller.queue import WorkQueue
from weir.controller.secrets import Secrets
from weir.controller.telling import Teller
from weir.controller.views import Views
from weir.kube.client import KubeClient
from weir.kube.config import ClusterConfig
from weir.kube.errors import ApiError, NotFound
from weir.kube.events import EventRecorder
from weir.kube.resources import SPENDLEDGERS, Json, Resource
from weir.observability import metrics, operator_metrics
from weir.scaling.policy import Recommendation

log = structlog.get_logger(__name__)

RESYNC_SECONDS = 300.0
"""Everything is listed and looked at again this often, whatever the watches said."""
WAIT_SECONDS = 5.0
"""Between two looks for CRDs that are not installed yet."""
LEDGER_SECONDS = 0.5
"""Gateways write their ledgers every second: several writes are looked at together."""


class Leader:
    """One leadership. `run` ends only by being cancelled, or by raising."""

    def __init__(self, kube: KubeClient, cluster: ClusterConfig, config: OperatorConfig, home: str) -> None:
        self._kube = kube
        self._cluster = cluster
        self._config = config
        self._own = OwnKinds()
        self._queue: WorkQueue[WorkKey] = WorkQueue("operator")
        self._views = Views(kube, config, home, lambda key: self._queue.add(WorkKey("ModelDeployment", *key)))
        self._events = EventRecorder(kube, component="weir-operator", instance=config.identity, default_namespace=home)
        self._teller = Teller(self._events)
        self._autoscaler = Autoscaler(self._own, self._views, self._today, self._queue.add, self._tell_decision)
        secrets, ledgers = Secrets(kube), Ledgers(kube)
        self._models = ModelReconciler(
            kube, config, self._own, self._views, self._autoscaler, secrets, ledgers, self._teller
        )
        self._providers = ProviderReconciler(kube, self._own, secrets, ledgers, self._teller)

    async def run(self) -> None:
        """Until cancelled."""
        while not await self._list_own():  # noqa: ASYNC110 - there is no Event of a CRD to wait for
            await asyncio.sleep(WAIT_SECONDS)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._views.run())
            group.create_task(self._events.run())
            await self._views.synced()
            group.create_task(watching.watch(self._cluster, self._config.namespaces, self._see))
            group.create_task(self._queue.run(self._work, self._config.workers))
            group.create_task(self._autoscaler.run())
            group.create_task(self._resync())
            log.info("works", namespaces=self._config.namespaces or "*", objects=len(self._own.keys()))

    def stuck(self, seconds: float) -> str:
        """What has stood still for longer than that; empty: nothing."""
        if self._queue.oldest() > seconds:
            return f"an object has waited for {self._queue.oldest():.0f} s"
        ticked = self._autoscaler.ticked_at
        still = 0.0 if ticked is None else time.monotonic() - ticked
        return f"the autoscale loop has stood still for {still:.0f} s" if still > seconds else ""

    def _see(self, resource: Resource, obj: Json, *, gone: bool) -> None:
        for key in self._own.see(resource, obj, gone=gone):
            self._queue.add(key, LEDGER_SECONDS if resource == SPENDLEDGERS and not gone else 0.0)

    async def _list_own(self) -> bool:
        """Lists our own kinds and looks at everything. False where a CRD is not installed."""
        before = self._own.keys()
        for resource in RESOURCES:
            for namespace in self._config.namespaces or (None,):
                try:
                    found = await self._kube.list(resource, namespace)
                except NotFound:
                    log.error(
                        "waits for a CRD",
                        crd=f"{resource.plural}.{resource.group}",
                        fix="install the chart, or: weir crds | kubectl apply --server-side -f -",
                        retry_seconds=WAIT_SECONDS,
                    )
                    return False
                for obj in found.items:
                    self._see(resource, obj, gone=False)
        for key in before:  # those that went unseen find out by themselves that they are gone
            self._queue.add(key)
        return True

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            try:
                await self._list_own()
            except ApiError as error:
                log.warning("not listed again", error=str(error), retry_seconds=RESYNC_SECONDS)

    async def _work(self, key: WorkKey) -> float | None:
        result, began = "error", time.monotonic()
        try:
            if key.kind == "ModelDeployment":
                again = await self._models.reconcile(key.key)
            else:
                again = await self._providers.reconcile(key.key)
            result = "success" if again is None else "requeue"
            return again
        except Exception:
            metrics.RECONCILE_ERRORS.labels(key.kind).inc()
            raise
        finally:
            metrics.RECONCILES.labels(key.kind, result).inc()
            metrics.RECONCILE_SECONDS.labels(key.kind).observe(time.monotonic() - began)

    def _today(self) -> str:
        return self._kube.server_now().strftime("%Y-%m-%d")

    def _tell_decision(self, mdep: ModelDeployment, before: int, decision: Recommendation) -> None:
        direction = "up" if decision.desired > before else "down"
        operator_metrics.DECISIONS.labels(mdep.metadata.namespace, mdep.metadata.name, direction, decision.reason).inc()
        reason = "ScaledUp" if direction == "up" else "ScaledDown"
        message = f"from {before} to {decision.desired} replicas ({decision.reason}): {decision.message}"
        log.info("decides", model=mdep.key, before=before, desired=decision.desired, reason=str(decision.reason))
        self._teller.say(mdep, "Normal", reason, message)
