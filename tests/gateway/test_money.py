"""A budget's account against an API server whose clock the test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from aiohttp import web

from weir.api.spendledger import SpendLedger
from weir.gateway.money import Budget, Till
from weir.kube.client import KubeClient
from weir.kube.config import ClusterConfig
from weir.kube.resources import SPENDLEDGERS, Key

MIDNIGHT = datetime(2026, 5, 2, tzinfo=UTC)
BUDGET = Budget(Key("d", "frontierprovider.p"), 1_000_000, "L")


class ApiServer:
    """One SpendLedger, written by compare-and-swap."""

    def __init__(self) -> None:
        self.now = MIDNIGHT
        self.book: Any = {
            "apiVersion": "weir.dev/v1alpha1",
            "kind": "SpendLedger",
            "metadata": {"name": "frontierprovider.p", "namespace": "d", "uid": "L", "resourceVersion": "1"},
            "spec": {"for": {"kind": "FrontierProvider", "name": "p"}, "window": "Day"},
            "status": {},
        }

    def _answer(self, content: Any, status: int = 200) -> web.Response:
        return web.json_response(content, status=status, headers={"Date": format_datetime(self.now, usegmt=True)})

    async def get(self, _: web.Request) -> web.Response:
        return self._answer(self.book)

    async def put(self, request: web.Request) -> web.Response:
        sent = await request.json()
        version = self.book["metadata"]["resourceVersion"]
        if sent["metadata"]["resourceVersion"] != version:
            return self._answer({"kind": "Status", "reason": "Conflict", "message": "too late", "code": 409}, 409)
        metadata = self.book["metadata"] | {"resourceVersion": str(int(version) + 1)}
        self.book = self.book | {"metadata": metadata, "status": sent["status"]}
        return self._answer(self.book)


@asynccontextmanager
async def api_server() -> AsyncIterator[tuple[ApiServer, KubeClient]]:
    """It, and a client that has not asked it yet."""
    made, app = ApiServer(), web.Application()
    path = SPENDLEDGERS.path("d", "frontierprovider.p")
    app.router.add_get(path, made.get)
    app.router.add_put(f"{path}/status", made.put)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with KubeClient(ClusterConfig(f"http://127.0.0.1:{runner.addresses[0][1]}")) as kube:
            yield made, kube
    finally:
        await runner.cleanup()


async def test_a_clock_that_turns_back_over_midnight_forgets_nothing() -> None:
    async with api_server() as (api, kube):
        account = Till(kube, "g", lambda key: SpendLedger.from_object(api.book)).account(BUDGET)
        spent = 0
        for seconds in (1, -3600, 1, -3600, 1):
            api.now = MIDNIGHT + timedelta(seconds=seconds)
            await kube.get(SPENDLEDGERS, "d", "frontierprovider.p")
            assert (kube.server_now_at_least() < MIDNIGHT) is (seconds < 0)
            assert account.window == "2026-05-02"
            for _ in range(5):
                reservation = await account.reserve(10_000)
                assert reservation is not None
                reservation.settle(10_000)
                spent += 10_000
        while reservation := await account.reserve(10_000):
            reservation.settle(10_000)
            spent += 10_000
        assert spent == BUDGET.limit
        await account.tidy()
        assert api.book["status"]["spentUsd"] == "1"
