"""Counts what happened, for Prometheus and the log. The label children are kept: looking one up costs more than counting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TypeVar

import structlog
from prometheus_client.metrics import MetricWrapperBase

from weir.economics.pricing import Usage
from weir.gateway.http1 import Refusal
from weir.gateway.job import Job
from weir.gateway.providers import Provider
from weir.gateway.registry import Registry
from weir.kube.resources import Key
from weir.observability import gateway_metrics as metrics
from weir.observability.logs import redact

log = structlog.get_logger(__name__)

M = TypeVar("M", bound=MetricWrapperBase)

CLIENT_LEFT = 499
FRONTIER = "frontier"
LOCAL = "local"
REFUSED = "refused"

_LEVELS = (
    *(metrics.REPLICAS, metrics.IN_FLIGHT, metrics.PEERS_IN_FLIGHT, metrics.QUEUED, metrics.SPILLING),
    *(metrics.BREAKER, metrics.BUDGET_REMAINING),
)


class _Series:
    """What a request of one kind counts in."""

    __slots__ = ("cached", "completion", "duration", "first_token", "held", "prompt", "requests")

    def __init__(self, key: Key, route: str, reason: str, code: int) -> None:
        self.requests = metrics.REQUESTS.labels(*key, route, reason, str(code))
        self.held = metrics.HOLD_SECONDS.labels(*key)
        self.duration = metrics.DURATION_SECONDS.labels(*key, route)
        self.first_token = metrics.FIRST_TOKEN_SECONDS.labels(*key, route)
        self.prompt, self.completion, self.cached = (
            metrics.TOKENS.labels(*key, route, kind) for kind in ("prompt", "completion", "cached")
        )


class Meter:
    """One for the gateway."""

    def __init__(self) -> None:
        self._series: dict[tuple[Key, str, str, int], _Series] = {}
        self._children: dict[tuple[object, ...], MetricWrapperBase] = {}

    def _child(self, metric: M, *labels: str) -> M:
        key = (metric, *labels)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = metric.labels(*labels)
        return found  # type: ignore[return-value]

    def finished(self, job: Job) -> None:
        """The request has ended, with `route`, `reason` and `code` as the job says."""
        served = job.served
        which = (served.key, job.route, job.reason, job.code)
        series = self._series.get(which)
        if series is None:
            series = self._series[which] = _Series(*which)
        series.requests.inc()
        if job.held:
            series.held.observe(job.held)
        relay = job.relay
        if relay is None or job.route == REFUSED:
            return
        series.duration.observe(job.loop.time() - job.arrived)
        if relay.first_token_at is not None:
            series.first_token.observe(relay.first_token_at - job.arrived)
            if (usage := relay.usage) is not None:
                series.prompt.inc(usage.prompt)
                series.completion.inc(usage.completion)
                if usage.cached:
                    series.cached.inc(usage.cached)

    def unknown(self, code: int, reason: str) -> None:
        """A request that named no known model, or could not be understood."""
        self._child(metrics.REQUESTS, "", "", REFUSED, reason, str(code)).inc()

    def http_refused(self, refusal: Refusal) -> None:
        """A request that could not even be read."""
        self._child(metrics.HTTP_REFUSED, str(refusal.status)).inc()

    def attempt_failed(self, job: Job, side: str, where: str, kind: str, detail: str) -> None:
        """An attempt ended without a first token."""
        key = job.served.key
        self._child(metrics.UPSTREAM_FAILURES, key.namespace, key.name, side, kind).inc()
        log.info(
            "an attempt failed",
            model=job.served.model.key,
            request=job.request_id.decode(),
            side=side,
            at=where,
            kind=kind,
            detail=redact(detail),
        )

    def broken(self, job: Job, where: str, detail: str) -> None:
        """A stream ended with an error event after its first token."""
        key = job.served.key
        self._child(metrics.BROKEN_STREAMS, key.namespace, key.name).inc()
        log.warning(
            "a stream broke after its first token",
            model=job.served.model.key,
            request=job.request_id.decode(),
            at=where,
            detail=redact(detail),
        )

    def spent(self, job: Job, provider: Provider, model: str, micros: int, usage: Usage | None) -> None:
        """A request at a provider has its price."""
        meta = provider.view.metadata
        labels = (meta.namespace, meta.name, model)
        self._child(metrics.SPEND, *labels).inc(micros / 1e6)
        if usage is None and micros:
            self._child(metrics.UNREPORTED_SPEND, *labels).inc(micros / 1e6)
        log.info(
            "a request was spilled",
            model=job.served.model.key,
            request=job.request_id.decode(),
            provider=provider.name,
            to=model,
            reason=job.reason,
            micro_usd=micros,
            usage_reported=usage is not None,
            prompt_tokens=usage.prompt if usage else None,
            completion_tokens=usage.completion if usage else None,
        )

    def redacted(self, fields: Collection[str]) -> None:
        """Fields that did not leave the cluster."""
        for name in fields:
            self._child(metrics.REDACTED, name).inc()

    def levels(self, registry: Registry, budgets: Callable[[], dict[Key, int]], age: float) -> None:
        """The gauges, just before they are read."""
        now = asyncio.get_running_loop().time()
        for gauge in _LEVELS:
            gauge.clear()
        for key, model in registry.models.items():
            metrics.REPLICAS.labels(*key).set(model.ready())
            metrics.IN_FLIGHT.labels(*key).set(model.load.local.level)
            peers = sum(replica.peers_in_flight for replica in model.replicas.values())
            metrics.PEERS_IN_FLIGHT.labels(*key).set(peers)
            metrics.QUEUED.labels(*key).set(model.load.queued.level)
            metrics.SPILLING.labels(*key).set(model.load.spilling)
        for key, provider in registry.providers.items():
            metrics.BREAKER.labels(*key).set(provider.breaker.state(now))
        for key, micros in budgets().items():
            metrics.BUDGET_REMAINING.labels(*key).set(micros / 1e6)
        metrics.VIEW_AGE.set(age)
