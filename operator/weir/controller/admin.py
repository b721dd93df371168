"""/healthz, /readyz and /metrics of the operator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

log = structlog.get_logger(__name__)

Check = Callable[[], str]
"""Says what is wrong; empty: nothing."""


@asynccontextmanager
async def admin_server(host: str, port: int, alive: Check, ready: Check) -> AsyncIterator[int]:
    """Serves while it is entered. Yields the port, which the system chooses where 0 is asked for."""

    def probe(check: Check) -> Callable[[web.Request], object]:
        async def answer(_: web.Request) -> web.Response:
            wrong = check()
            return web.Response(text=wrong or "ok", status=503 if wrong else 200)

        return answer

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", probe(alive)), web.get("/readyz", probe(ready)), web.get("/metrics", metrics)])  # type: ignore[arg-type]
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    bound: int = runner.addresses[0][1]
    log.info("admin port open", host=host, port=bound)
    try:
        yield bound
    finally:
        await runner.cleanup()
