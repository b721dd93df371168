"""The second port: probes, metrics, and the load that peers and the operator read."""

from __future__ import annotations

import time
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from weir.api.load import LoadReport
from weir.gateway.registry import Registry


class Admin:
    """Serves /healthz, /readyz, /metrics and /load."""

    def __init__(
        self, uid: str, registry: Registry, *, is_ready: Callable[[], str], before_metrics: Callable[[], None]
    ) -> None:
        """`is_ready` answers why not, or nothing."""
        self._uid = uid
        self._registry = registry
        self._is_ready = is_ready
        self._before_metrics = before_metrics
        self._started_at, self._began = time.time(), time.monotonic()
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/load", self._load)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen. Port 0 picks a free one, see `port`."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    def report(self) -> LoadReport:
        """What /load answers."""
        return LoadReport(
            gateway=self._uid,
            started_at=self._started_at,
            # Not the wall clock again: set back, it would make readers take every answer for an old one.
            at=self._started_at + time.monotonic() - self._began,
            ready=not self._is_ready(),
            models={model.key: model.report() for model in self._registry.models.values()},
        )

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        reason = self._is_ready()
        return web.Response(status=503 if reason else 200, text=f"{reason or 'ok'}\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        self._before_metrics()
        return web.Response(body=generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def _load(self, request: web.Request) -> web.Response:
        return web.Response(text=self.report().model_dump_json(by_alias=True), content_type="application/json")
