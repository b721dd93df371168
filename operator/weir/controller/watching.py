"""kopf, and all of it that is used: it watches our own kinds and says which object changed.

No finalizers, annotations, timers or peering: nothing of kopf's is ever stored in the cluster. It has a thread and an event loop of its
own, because it takes over the signals of the main thread, and at its end cancels whatever else runs in its loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from functools import partial
from typing import Any, Protocol

import aiohttp
import kopf

from weir.controller.own import RESOURCES
from weir.kube.config import ClusterConfig
from weir.kube.resources import Json, Resource

_LOG_LEVELS = {"kopf": logging.WARNING, "kopf._core.reactor.running": logging.ERROR}
"""Else it tells of every event, and warns that it leaves signals alone, which is what its thread is for."""


class Seen(Protocol):
    """Gets every object as it is now, or as it was when it went."""

    def __call__(self, resource: Resource, obj: Json, *, gone: bool) -> None: ...


async def watch(cluster: ClusterConfig, namespaces: tuple[str, ...], seen: Seen) -> None:
    """Calls `seen` in the caller's loop until cancelled. Empty `namespaces`: all. Raises when kopf gives up."""
    loop, stop = asyncio.get_running_loop(), threading.Event()
    ended: asyncio.Future[None] = loop.create_future()

    def tell(resource: Resource, obj: Json, gone: bool) -> None:
        if not stop.is_set():
            loop.call_soon_threadsafe(partial(seen, resource, obj, gone=gone))

    def work() -> None:
        error: Exception = RuntimeError("kopf ended by itself")
        try:
            asyncio.run(
                kopf.operator(
                    registry=_registry(cluster, tell),
                    settings=_settings(),
                    clusterwide=not namespaces,
                    namespaces=namespaces,
                    standalone=True,
                    stop_flag=stop,
                )
            )
        except Exception as failure:  # handed to whoever waits below
            error = failure
        if not stop.is_set():
            loop.call_soon_threadsafe(ended.set_exception, error)

    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    # A daemon: its orderly end takes seconds, and nothing it holds is worth waiting for.
    threading.Thread(target=work, name="kopf", daemon=True).start()
    try:
        await ended
    finally:
        stop.set()


class _Tell(Protocol):
    def __call__(self, resource: Resource, obj: Json, gone: bool) -> None: ...


def _registry(cluster: ClusterConfig, tell: _Tell) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        """The same server and credentials as our own client's. Called again when they are no longer taken."""
        headers = {"Authorization": f"Bearer {cluster.token()}"} if cluster.token else {}
        connector = aiohttp.TCPConnector(limit=0, ssl=cluster.ssl or True)
        session = aiohttp.ClientSession(connector=connector, headers=headers)
        return kopf.AiohttpSession(server=cluster.server, aiohttp_session=session)

    for resource in RESOURCES:
        _register(registry, resource, tell)
    return registry


def _register(registry: kopf.OperatorRegistry, resource: Resource, tell: _Tell) -> None:
    # What a handler raises is neither retried nor kept, so it only passes on.
    async def handler(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002 - kopf's name for it
        tell(resource, {**body, "metadata": dict(body["metadata"])}, gone=type == "DELETED")

    kopf.on.event(resource.group, resource.version, resource.plural, registry=registry)(handler)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.posting.loggers = False
    # Our CRDs are there before kopf starts, and neither they nor namespaces may be listable.
    settings.scanning.disabled = True
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    return settings
