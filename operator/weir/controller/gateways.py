"""Asks every gateway for its load."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import pydantic
import structlog

from weir.api.load import LoadReport
from weir.kube.resources import Json

log = structlog.get_logger(__name__)

ADMIN_PORT_NAME = "admin"
ANSWER_SECONDS = 0.8
"""For an answer: a gateway is asked every second."""


@dataclass(frozen=True)
class GatewayPod:
    """Where a gateway answers. Equal as long as it is the same pod at the same address."""

    namespace: str
    name: str
    uid: str
    ip: str
    port: int
    ready: bool

    @property
    def url(self) -> str:
        """Of its load."""
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"http://{host}:{self.port}/load"


def gateway_pod(obj: Json) -> GatewayPod | None:
    """None for a pod that cannot be asked: it has no address yet, no port of that name, or has ended."""
    metadata, status = obj["metadata"], obj.get("status", {})
    ports = [p for c in obj["spec"]["containers"] for p in c.get("ports", ()) if p.get("name") == ADMIN_PORT_NAME]
    if not status.get("podIP") or not ports or status.get("phase") in ("Failed", "Succeeded"):
        return None
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ()))
    return GatewayPod(
        metadata["namespace"], metadata["name"], metadata["uid"], status["podIP"], ports[0]["containerPort"], ready
    )


class LoadClient:
    """Used as `async with`. One connection a gateway is kept open."""

    async def __aenter__(self) -> LoadClient:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, gateways: Sequence[GatewayPod]) -> dict[str, LoadReport]:
        """The answers by pod uid; who does not answer in time is missing."""
        answers = await asyncio.gather(*map(self._one, gateways))
        return {gateway.uid: answer for gateway, answer in zip(gateways, answers, strict=True) if answer is not None}

    async def _one(self, gateway: GatewayPod) -> LoadReport | None:
        try:
            async with self._session.get(gateway.url) as response:
                response.raise_for_status()
                return LoadReport.model_validate_json(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, pydantic.ValidationError) as error:
            # Shown as a metric and in the condition MetricsAvailable; here only what went wrong.
            log.debug("gateway does not answer", gateway=gateway.name, url=gateway.url, error=repr(error))
            return None
