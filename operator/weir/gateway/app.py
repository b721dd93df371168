"""The gateway as a process: puts its parts together, runs them, and ends without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
from collections.abc import Coroutine
from typing import Any

import structlog
import uvloop

from weir.gateway.admin import Admin
from weir.gateway.config import GatewayConfig
from weir.gateway.frontier import Frontier
from weir.gateway.life import Life
from weir.gateway.meter import Meter
from weir.gateway.money import Till
from weir.gateway.peers import Peers
from weir.gateway.registry import Registry
from weir.gateway.routes import Routes
from weir.gateway.server import Server
from weir.gateway.upstream import TICK_SECONDS
from weir.gateway.view import ClusterView
from weir.kube.client import KubeClient
from weir.kube.config import load_config
from weir.kube.resources import Key
from weir.observability import gateway_metrics as metrics
from weir.observability.logs import configure_logging

log = structlog.get_logger(__name__)


def run(config: GatewayConfig) -> None:
    """Serves until SIGTERM or SIGINT. Raises ConfigError where there is no cluster, OSError where a port is taken."""
    configure_logging(config.log_level)
    _raise_file_limit()
    gc.freeze()  # modules live for ever; requests leave hardly any cycles, so looking for them can be rare
    gc.set_threshold(50_000, 50, 100)
    uvloop.run(_main(config))


async def _main(config: GatewayConfig) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with KubeClient(load_config(config.kubeconfig), user_agent="weir-gateway") as kube:
        await Gateway(config, kube).run(stopping)


class Gateway:
    """All parts of one gateway."""

    def __init__(self, config: GatewayConfig, kube: KubeClient) -> None:
        self.config = config
        self.registry = Registry(config)
        self.view = ClusterView(
            kube,
            config,
            on_models=self.registry.on_models,
            on_engine=self.registry.on_engine,
            on_providers=self._on_providers,
        )
        self.registry.follow(self.view.deployments.store, self.view.engines.store)
        self.till = Till(kube, config.identity.uid, self.view.ledgers.store.get)
        self.frontier = Frontier(allow_private=config.allow_private_providers)
        self.meter = Meter()
        self.life = Life(config, self.registry, self.view, self.till, self.frontier, self.meter)
        routes = Routes(self.life, self.registry, self.meter)
        self.server = Server(routes.handle, config.limits, config.patience, self.meter.http_refused)
        self.peers = Peers(config, self.view, self.registry)
        self.admin = Admin(
            config.identity.uid, self.registry, is_ready=self._why_not_ready, before_metrics=self._set_levels
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Serves until `stopping` is set and what was in flight has its answer."""
        background = [*self.view.run(), self.till.run(), self.peers.run(), self._tick()]
        try:
            await self.admin.start(self.config.host, self.config.admin_port)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(each) for each in background]
                background = []
                await self._serve(stopping)
                for task in tasks:
                    task.cancel()
        finally:
            for coroutine in background:
                coroutine.close()
            self.server.stop()
            await self.frontier.close()
            await self.admin.stop()

    async def _serve(self, stopping: asyncio.Event) -> None:
        await self._first(stopping, self.view.wait_synced())
        if stopping.is_set():
            return
        await self.server.start(self.config.host, self.config.port)
        log.info("the gateway serves", port=self.server.port, admin_port=self.admin.port)
        await stopping.wait()
        log.info("the gateway drains", in_flight=self.server.in_flight)
        self.server.draining = True
        await asyncio.sleep(self.config.drain_grace_seconds)
        loop = asyncio.get_running_loop()
        ends = loop.time() + self.config.drain_seconds
        await self.server.drain(self.config.drain_seconds)
        self.server.close()  # what came while the last answer was on its way is answered too, and then nothing more can come
        await self.server.drain(ends - loop.time())
        if lost := self.server.in_flight:
            metrics.LOST.labels("", "").inc(lost)
            log.error("requests were still in flight when the time to drain was up", lost=lost)
        await self.till.close()

    @staticmethod
    async def _first(stopping: asyncio.Event, other: Coroutine[Any, Any, None]) -> None:
        tasks = [asyncio.ensure_future(stopping.wait()), asyncio.ensure_future(other)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    async def _tick(self) -> None:
        """One timer for all that is overdue."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = loop.time()
            self.registry.tick(now)
            self.life.tick(now)

    def _on_providers(self) -> None:
        secrets = self.view.secrets.store if self.view.secrets is not None else {}
        self.registry.on_providers(self.view.providers.store, secrets)

    def _why_not_ready(self) -> str:
        if not self.view.synced:
            return "the cluster has not been read yet"
        return "draining" if self.server.draining else ""

    def _set_levels(self) -> None:
        self.meter.levels(self.registry, self._budgets, self.view.age(asyncio.get_running_loop().time()))

    def _budgets(self) -> dict[Key, int]:
        found = {}
        for key, account in self.till.accounts.items():
            with contextlib.suppress(LookupError):  # before the API server's first answer its day is not known
                left = account.left()
                found[key] = left if left is not None else 0
        return found


def _raise_file_limit() -> None:
    """A stream takes two descriptors; the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
