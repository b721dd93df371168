"""Asks the other gateways for their counts a few times a second, so that together they fill no replica beyond its slots.

A peer that is silent is taken at its last word until its pod is not ready or gone: an error toward holding, not overload.
"""

from __future__ import annotations

import asyncio

import aiohttp
import pydantic
import structlog

from weir.api.load import LoadReport
from weir.gateway.config import GatewayConfig
from weir.gateway.registry import Registry
from weir.gateway.view import ClusterView, GatewayView
from weir.observability import gateway_metrics as metrics

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 1.0


class Peers:
    """Keeps `peers_in_flight` of every replica."""

    def __init__(self, config: GatewayConfig, view: ClusterView, registry: Registry) -> None:
        self._config = config
        self._view = view
        self._registry = registry
        self._reports: dict[str, LoadReport] = {}
        self._silent: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        if self._view.gateways is None:
            return
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while True:
                others = {
                    peer.uid: peer
                    for peer in self._view.gateways.store.values()
                    if peer.uid != self._config.identity.uid
                }
                await asyncio.gather(*(self._ask(session, peer) for peer in others.values()))
                self._reports = {uid: report for uid, report in self._reports.items() if uid in others}
                self._silent &= others.keys()
                metrics.PEERS_SILENT.set(len(self._silent))
                self._spread()
                await asyncio.sleep(self._config.peer_poll_seconds)

    async def _ask(self, session: aiohttp.ClientSession, peer: GatewayView) -> None:
        host = f"[{peer.host}]" if ":" in peer.host else peer.host
        try:
            async with session.get(f"http://{host}:{peer.port}/load") as answer:
                answer.raise_for_status()
                self._reports[peer.uid] = LoadReport.model_validate_json(await answer.read())
        except (aiohttp.ClientError, TimeoutError, pydantic.ValidationError) as error:
            if peer.uid not in self._silent:
                self._silent.add(peer.uid)
                log.warning("a gateway does not say its load; its last word stands", peer=peer.host, error=str(error))
        else:
            self._silent.discard(peer.uid)

    def _spread(self) -> None:
        for model, replica in self._registry.replicas():
            before = replica.peers_in_flight
            replica.peers_in_flight = sum(
                report.models[model.key].in_flight.get(replica.name, 0)
                for report in self._reports.values()
                if model.key in report.models
            )
            if replica.peers_in_flight < before:
                model.wake()
