"""Writes Kubernetes Events for people to read: `kubectl describe` shows them beside the object they are about.

Recording never waits and never raises. What has been said within ten minutes is not said again: its count is raised.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import structlog

from weir.kube.client import KubeClient
from weir.kube.errors import ApiError, NotFound
from weir.kube.resources import EVENTS, ObjectRef
from weir.observability import metrics

log = structlog.get_logger(__name__)

EventType = Literal["Normal", "Warning"]

SERIES_SECONDS = 600.0
REMEMBERED = 2000
WAITING = 500
WRITES_PER_SECOND = 10.0


class _Said(NamedTuple):
    """What makes two events the same."""

    about: ObjectRef
    type: EventType
    reason: str
    message: str


@dataclass
class _Series:
    name: str
    last: float
    count: int


class EventRecorder:
    """`record()` at any time; `run()` writes in the background; `flush()` writes what is waiting, before the end."""

    def __init__(
        self, client: KubeClient, *, component: str, instance: str, default_namespace: str = "default"
    ) -> None:
        self._client = client
        self._component = component
        self._instance = instance
        self._default_namespace = default_namespace
        self._series: OrderedDict[_Said, _Series] = OrderedDict()
        self._waiting: dict[_Said, int] = {}
        self._wake = asyncio.Event()

    def record(self, about: ObjectRef, type: EventType, reason: str, message: str) -> None:  # noqa: A002 - its name in the API
        """`reason` is a CamelCase word of at most 128 characters; `message` a sentence, cut at 1,000 bytes.

        Where more than WAITING different ones wait to be written the newest is dropped, counted and logged.
        """
        said = _Said(about, type, reason, message)
        if said not in self._waiting and len(self._waiting) >= WAITING:
            metrics.EVENTS_DROPPED.labels("overflow").inc()
            log.warning(
                "event not written: too many are waiting", object=str(about.key), reason=reason, message=message
            )
            return
        self._waiting[said] = self._waiting.get(said, 0) + 1
        self._wake.set()

    async def run(self) -> None:
        """Writes until cancelled, at most WRITES_PER_SECOND: what is said again meanwhile costs no write of its own."""
        while True:
            await self._wake.wait()
            await self._write_next()
            await asyncio.sleep(1 / WRITES_PER_SECOND)

    async def flush(self) -> None:
        while self._waiting:
            await self._write_next()

    async def _write_next(self) -> None:
        said = next(iter(self._waiting), None)
        if said is None:
            self._wake.clear()
            return
        times = self._waiting.pop(said)
        try:
            await self._write(said, times)
        except ApiError as error:
            metrics.EVENTS_DROPPED.labels("error").inc()
            log.warning(
                "event not written",
                object=str(said.about.key),
                reason=said.reason,
                message=said.message,
                error=str(error),
            )

    async def _write(self, said: _Said, times: int) -> None:
        now = time.monotonic()
        series = self._series.pop(said, None)
        if series is not None and now - series.last < SERIES_SECONDS:
            series.count, series.last = series.count + times, now
            try:
                await self._patch(said, series)
            except NotFound:  # somebody tidied up
                series = None
        else:
            series = None
        if series is None:
            series = _Series(f"{said.about.name[:200]}.{uuid.uuid4().hex[:16]}", now, times)
            await self._create(said, series)
        self._series[said] = series
        while len(self._series) > REMEMBERED:
            self._series.popitem(last=False)

    async def _create(self, said: _Said, series: _Series) -> None:
        about = said.about
        event = {
            "metadata": {"namespace": self._namespace(about), "name": series.name},
            "eventTime": _now(),
            "type": said.type,
            "reason": said.reason,
            "action": said.reason,
            "note": said.message.encode()[:1000].decode("utf-8", "ignore"),
            "regarding": {
                "apiVersion": about.api_version,
                "kind": about.kind,
                "namespace": about.namespace,
                "name": about.name,
                "uid": about.uid,
            },
            "reportingController": self._component,
            "reportingInstance": self._instance[:128],
        }
        if series.count > 1:
            event["series"] = {"count": series.count, "lastObservedTime": _now()}
        await self._client.create(EVENTS, event)
        metrics.EVENTS_WRITTEN.labels("create").inc()

    async def _patch(self, said: _Said, series: _Series) -> None:
        patch = {"series": {"count": series.count, "lastObservedTime": _now()}}
        await self._client.patch(EVENTS, self._namespace(said.about), series.name, patch)
        metrics.EVENTS_WRITTEN.labels("update").inc()

    def _namespace(self, about: ObjectRef) -> str:
        return about.namespace or self._default_namespace


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
