"""What the gateway sees of the cluster: models, replicas, providers, keys, account books and other gateways, kept by watches.

The last view stands while the API is away: requests are served on it as before, and `age` says how old it is, so that
nothing leaves the cluster on a view that may be forbidden by now.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from weir.api.frontierprovider import ALLOWED_HOSTS_ANNOTATION, FrontierProvider
from weir.api.modeldeployment import ModelDeployment, ModelDeploymentSpec
from weir.api.spendledger import SpendLedger
from weir.gateway.config import GatewayConfig
from weir.kube.client import KubeClient
from weir.kube.reflector import Reflector
from weir.kube.resources import FRONTIERPROVIDERS, MODELDEPLOYMENTS, PODS, SECRETS, SPENDLEDGERS, Json, Key, Resource

T = TypeVar("T")

MODEL_LABEL = "weir.dev/model"
CONCURRENCY_ANNOTATION = "weir.dev/max-concurrency"
ENGINES = "app.kubernetes.io/managed-by=weir,weir.dev/model"
GATEWAYS = "app.kubernetes.io/name=weir,app.kubernetes.io/component=gateway"


@dataclass(frozen=True)
class DeploymentView:
    """A ModelDeployment, without what changes all the time."""

    key: Key
    uid: str
    created: str
    generation: int
    served_names: tuple[str, ...]
    spec: ModelDeploymentSpec
    ledger_uid: str | None


@dataclass(frozen=True)
class EngineView:
    """An engine pod that can be reached."""

    key: Key
    uid: str
    """Of the pod and its engine's life: one that was started again is another, and may have what the one before it failed."""
    model: str
    host: str
    port: int
    slots: int
    accepting: bool
    """Ready, and not on its way out."""


@dataclass(frozen=True)
class GatewayView:
    """A gateway pod that can be reached on its admin port."""

    uid: str
    host: str
    port: int


@dataclass(frozen=True)
class SecretView:
    """A Secret whose owner says where its keys may be sent."""

    allowed_hosts: frozenset[str]
    data: Mapping[str, str] = field(repr=False)


def decode_deployment(obj: Json) -> DeploymentView | None:
    """None while it is being deleted."""
    mdep = ModelDeployment.from_object(obj)
    meta = mdep.metadata
    if meta.deletion_timestamp:
        return None
    return DeploymentView(
        key=Key(meta.namespace, meta.name),
        uid=meta.uid,
        created=meta.creation_timestamp,
        generation=meta.generation,
        served_names=mdep.served_names,
        spec=mdep.spec,
        ledger_uid=mdep.status.overflow.ledger_uid,
    )


def decode_engine(obj: Json) -> EngineView | None:
    """None where it has no address or no port named http yet."""
    meta, address = obj["metadata"], _address(obj, "http")
    if address is None:
        return None
    restarts = sum(container.get("restartCount", 0) for container in obj["status"].get("containerStatuses", ()))
    return EngineView(
        key=Key(meta["namespace"], meta["name"]),
        uid=f"{meta['uid']}.{restarts}",
        model=meta["labels"][MODEL_LABEL],
        host=address[0],
        port=address[1],
        slots=max(1, int(meta.get("annotations", {}).get(CONCURRENCY_ANNOTATION, "1"))),
        accepting=_is_ready(obj) and "deletionTimestamp" not in meta,
    )


def decode_gateway(obj: Json) -> GatewayView | None:
    """None where it is not ready: its counts no longer matter."""
    address = _address(obj, "admin")
    return GatewayView(obj["metadata"]["uid"], *address) if address and _is_ready(obj) else None


def decode_secret(obj: Json) -> SecretView | None:
    """None without the annotation: then its keys go nowhere, and are not kept."""
    hosts = obj["metadata"].get("annotations", {}).get(ALLOWED_HOSTS_ANNOTATION)
    if not hosts:
        return None
    data = {name: base64.b64decode(value).decode() for name, value in (obj.get("data") or {}).items()}
    return SecretView(frozenset(host.strip().lower() for host in hosts.split(",") if host.strip()), data)


def _address(pod: Json, port_name: str) -> tuple[str, int] | None:
    host = pod.get("status", {}).get("podIP")
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", ()):
            if port.get("name") == port_name and host:
                return host, port["containerPort"]
    return None


def _is_ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


class ClusterView:
    """The reflectors. The callbacks are called after each change, and must be quick."""

    def __init__(
        self,
        kube: KubeClient,
        config: GatewayConfig,
        *,
        on_models: Callable[[], None],
        on_engine: Callable[[Key, EngineView | None, EngineView | None], None],
        on_providers: Callable[[], None],
    ) -> None:
        self._kube = kube
        self._config = config
        namespaces = config.namespaces or None
        self.deployments = self._reflect(
            MODELDEPLOYMENTS, decode_deployment, namespaces, on_change=lambda key, new, old: on_models()
        )
        self.engines = self._reflect(PODS, decode_engine, namespaces, label_selector=ENGINES, on_change=on_engine)
        self.providers = self._reflect(
            FRONTIERPROVIDERS, FrontierProvider.from_object, namespaces, on_change=lambda key, new, old: on_providers()
        )
        self.ledgers = self._reflect(SPENDLEDGERS, SpendLedger.from_object, namespaces)
        self.secrets: Reflector[SecretView] | None = None
        if config.secret_namespaces:
            self.secrets = self._reflect(
                SECRETS, decode_secret, config.secret_namespaces, on_change=lambda key, new, old: on_providers()
            )
        self.gateways: Reflector[GatewayView] | None = None
        if config.identity.namespace:
            own = (config.identity.namespace,)
            self.gateways = self._reflect(PODS, decode_gateway, own, label_selector=GATEWAYS)

    def _reflect(
        self,
        resource: Resource,
        decode: Callable[[Json], T | None],
        namespaces: tuple[str, ...] | None,
        *,
        label_selector: str = "",
        on_change: Callable[[Key, T | None, T | None], None] | None = None,
    ) -> Reflector[T]:
        return Reflector(
            self._kube,
            resource,
            decode,
            namespaces=namespaces,
            label_selector=label_selector,
            on_change=on_change,
            watch_seconds=self._config.watch_seconds,
        )

    @property
    def _policy(self) -> list[Reflector[Any]]:
        """What says whether a request may leave, and to whom."""
        found: list[Reflector[Any]] = [self.deployments, self.providers, self.ledgers]
        return [*found, self.secrets] if self.secrets is not None else found

    @property
    def synced(self) -> bool:
        """Everything has been seen once."""
        return self.engines.synced.is_set() and all(reflector.synced.is_set() for reflector in self._policy)

    @property
    def gateway_count(self) -> int:
        """Ready gateways, this one included: they share what providers allow."""
        return max(1, len(self.gateways.store)) if self.gateways is not None else 1

    def age(self, now: float) -> float:
        """Seconds since what decides about leaving was last confirmed; infinite before the first time."""
        return now - min(reflector.last_contact for reflector in self._policy)

    def is_stale(self, now: float) -> bool:
        """Whether what decides about leaving was last confirmed too long ago. `now`: monotonic seconds."""
        return self.age(now) > self._config.stale_seconds

    def run(self) -> list[Coroutine[Any, Any, None]]:
        """What is to be run for as long as the gateway lives."""
        followed = [*self._policy, self.engines, *([self.gateways] if self.gateways is not None else [])]
        return [reflector.run() for reflector in followed]

    async def wait_synced(self) -> None:
        """Until everything has been seen once."""
        await asyncio.gather(*(reflector.synced.wait() for reflector in [*self._policy, self.engines]))
