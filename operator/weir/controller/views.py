"""The operator's view of what ModelDeployments are made of: children, gateways and nodes, through reflectors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from weir.api.modeldeployment import ModelDeployment
from weir.controller.config import OperatorConfig
from weir.controller.gateways import GatewayPod, gateway_pod
from weir.controller.observed import (
    NodeView,
    PodView,
    ReplicaSetView,
    ServiceView,
    node_view,
    pod_view,
    replica_set_view,
    service_view,
)
from weir.controller.plan import Children
from weir.kube.client import KubeClient
from weir.kube.reflector import Reflector
from weir.kube.resources import NODES, PODS, REPLICASETS, SERVICES, Json, Key, Resource
from weir.workload.names import APP, MANAGED_BY, selector_text


class Child(Protocol):
    """What belongs to a ModelDeployment by label, and to it alone by owner."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...


C = TypeVar("C", bound=Child)


class ByModel(Generic[C]):
    """A reflector's objects by the ModelDeployment that their label names."""

    def __init__(self, changed: Callable[[Key], None]) -> None:
        self._by_model: dict[Key, dict[Key, C]] = {}
        self._changed = changed

    def __call__(self, key: Key, new: C | None, old: C | None) -> None:
        """The reflector's on_change."""
        for value in (old, new):
            if value is None or not value.model:
                continue
            model = Key(value.namespace, value.model)
            if value is new:
                self._by_model.setdefault(model, {})[key] = value
            elif key in (known := self._by_model.get(model, {})):
                del known[key]
                if not known:
                    del self._by_model[model]
            self._changed(model)

    def of(self, model: Key) -> Iterable[C]:
        """Those of one ModelDeployment, as the label says."""
        return tuple(self._by_model.get(model, {}).values())


class Views:
    """Reflectors of what ModelDeployments are made of. `changed` gets the key of the ModelDeployment concerned."""

    def __init__(self, kube: KubeClient, config: OperatorConfig, home: str, changed: Callable[[Key], None]) -> None:
        namespaces = config.namespaces or None
        self._pods: ByModel[PodView] = ByModel(changed)
        self._replica_sets: ByModel[ReplicaSetView] = ByModel(changed)
        self._services: ByModel[ServiceView] = ByModel(changed)

        def children(resource: Resource, decode: Callable[[Json], C], index: ByModel[C]) -> Reflector[C]:
            return Reflector(
                kube,
                resource,
                decode,
                namespaces=namespaces,
                label_selector=selector_text(APP | MANAGED_BY),
                on_change=index,
            )

        self._reflectors: list[Reflector[PodView] | Reflector[ReplicaSetView] | Reflector[ServiceView]] = [
            children(PODS, pod_view, self._pods),
            children(REPLICASETS, replica_set_view, self._replica_sets),
            children(SERVICES, service_view, self._services),
        ]
        self._gateways: Reflector[GatewayPod] = Reflector(
            kube,
            PODS,
            gateway_pod,
            namespaces=[config.gateway_namespace or home],
            label_selector=config.gateway_selector,
        )
        # Nodes only make messages better, so nothing waits for them: the right to list them may be missing.
        self._nodes: Reflector[NodeView] = Reflector(kube, NODES, node_view)

    async def run(self) -> None:
        """Follows the cluster until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reflector in (*self._reflectors, self._gateways, self._nodes):
                group.create_task(reflector.run())

    async def synced(self) -> None:
        """Returns when everything that decisions need was listed once."""
        for reflector in (*self._reflectors, self._gateways):
            await reflector.synced.wait()

    def children(self, mdep: ModelDeployment) -> Children:
        """What the ModelDeployment controls: by owner uid, since a label can be copied."""
        key, uid = Key(mdep.metadata.namespace, mdep.metadata.name), mdep.metadata.uid
        replica_sets = tuple(r for r in self._replica_sets.of(key) if r.owner_uid == uid and not r.deleting)
        theirs = {r.uid for r in self._replica_sets.of(key) if r.owner_uid == uid}
        return Children(
            service=next((s for s in self._services.of(key) if s.owner_uid == uid and s.name == key.name), None),
            replica_sets=replica_sets,
            pods=tuple(p for p in self._pods.of(key) if p.owner_uid in theirs),
        )

    @property
    def gateways(self) -> list[GatewayPod]:
        """Gateway pods, by name."""
        return sorted(self._gateways.store.values(), key=lambda g: g.name)

    @property
    def nodes(self) -> list[NodeView]:
        """Nodes, by name; empty where they may not be listed."""
        return sorted(self._nodes.store.values(), key=lambda n: n.name)
