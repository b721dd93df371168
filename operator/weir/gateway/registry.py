"""Turns the view of the cluster into what requests use: models by the names clients say, their replicas, the providers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import structlog

from weir.api.frontierprovider import FrontierProvider
from weir.api.modeldeployment import ModelDeploymentSpec
from weir.api.spendledger import ledger_name
from weir.gateway.config import GatewayConfig
from weir.gateway.money import Budget
from weir.gateway.providers import Provider
from weir.gateway.replicas import Model, Replica
from weir.gateway.upstream import EnginePool
from weir.gateway.view import DeploymentView, EngineView, SecretView
from weir.kube.resources import Key
from weir.overflow.policy import OverflowPolicy

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Served:
    """A name that clients may say."""

    name: str
    model: Model
    engine_name: str
    """What the engine calls it."""
    spec: ModelDeploymentSpec
    key: Key
    """Of the ModelDeployment."""


class Registry:
    """Models, names, replicas, providers. Used from one event loop."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._deployments: Mapping[Key, DeploymentView] = {}
        self._engines: Mapping[Key, EngineView] = {}
        self._rebuild_due = False
        self._leaving: set[EnginePool] = set()  # of replicas that are gone: what runs there may finish
        self.models: dict[Key, Model] = {}
        self.names: dict[str, Served] = {}
        self.providers: dict[Key, Provider] = {}

    def follow(self, deployments: Mapping[Key, DeploymentView], engines: Mapping[Key, EngineView]) -> None:
        """The live stores to build from."""
        self._deployments, self._engines = deployments, engines

    def on_models(self) -> None:
        """Some ModelDeployment changed. Many changes at once make one rebuild."""
        if not self._rebuild_due:
            self._rebuild_due = True
            self._loop.call_soon(self._rebuild)

    def on_engine(self, key: Key, new: EngineView | None, old: EngineView | None) -> None:
        """An engine pod came, changed or went."""
        if old is not None and (new is None or _identity(new) != _identity(old)):
            self._detach(old)
        if new is not None:
            self._attach(new)

    def on_providers(self, providers: Mapping[Key, FrontierProvider], secrets: Mapping[Key, SecretView]) -> None:
        """Some provider or Secret changed."""
        for key in self.providers.keys() - providers.keys():
            del self.providers[key]
        for key, view in providers.items():
            provider = self.providers.get(key)
            if provider is None:
                provider = self.providers[key] = Provider(view)
            before = provider.no_key
            provider.update(view, secrets.get(Key(key.namespace, view.spec.credentials.secret_ref.name)))
            if provider.no_key and provider.no_key != before:
                log.warning("a provider cannot be used", provider=str(key), fix=provider.no_key)

    def budget_of(self, served: Served) -> Budget | None:
        """The model's own budget, if it has one."""
        overflow, view = served.spec.overflow, self._deployments.get(served.key)
        if overflow is None or overflow.budget is None:
            return None
        key = Key(served.key.namespace, ledger_name("ModelDeployment", served.key.name))
        return Budget(key, overflow.budget.usd_per_day.micros, view.ledger_uid if view else None)

    def tick(self, now: float) -> None:
        """Called a few times a second: connections that are overdue, replicas that may be tried again."""
        for model in self.models.values():
            for replica in model.replicas.values():
                replica.pool.expire(now)
            model.wake()
        for pool in list(self._leaving):
            pool.expire(now)
            if not pool.connections:
                self._leaving.discard(pool)

    def replicas(self) -> Iterator[tuple[Model, Replica]]:
        """All of them."""
        for model in self.models.values():
            for replica in model.replicas.values():
                yield model, replica

    def _rebuild(self) -> None:
        self._rebuild_due = False
        views = sorted(self._deployments.values(), key=lambda view: (view.created, view.uid))
        for key in self.models.keys() - self._deployments.keys():
            for replica in self.models.pop(key).replicas.values():
                self._close(replica)
        names: dict[str, Served] = {}
        for view in views:
            model = self.models.get(view.key)
            if model is None:
                model = self.models[view.key] = Model(str(view.key))
                for engine in self._engines.values():
                    self._attach(engine)
            model.generation = view.generation
            model.policy = OverflowPolicy.from_spec(view.spec)
            for name in view.served_names:
                self._claim(names, f"{view.key.namespace}/{name}", name, view)
        # Bare names come last: none, however old, may take what namespace/name says of a model of that namespace.
        for view in views:
            if view.key.namespace == self._config.default_namespace:
                for name in view.served_names:
                    self._claim(names, name, name, view)
        self.names = names

    def _claim(self, names: dict[str, Served], name: str, engine_name: str, view: DeploymentView) -> None:
        owner = names.setdefault(name, Served(name, self.models[view.key], engine_name, view.spec, view.key))
        before = self.names.get(name)
        if owner.key != view.key and (before is None or before.key != owner.key):
            log.warning("a name is claimed twice", name=name, owner=str(owner.key), other=str(view.key))

    def _attach(self, engine: EngineView) -> None:
        model = self.models.get(Key(engine.key.namespace, engine.model))
        if model is None:
            return
        replica = model.replicas.get(engine.uid)
        if replica is None:
            pool = EnginePool(engine.host, engine.port, self._config.engine_timeouts)
            replica = model.replicas[engine.uid] = Replica(engine.uid, engine.key.name, engine.slots, pool)
        replica.slots = engine.slots
        replica.accepting = engine.accepting
        model.wake()

    def _detach(self, engine: EngineView) -> None:
        model = self.models.get(Key(engine.key.namespace, engine.model))
        replica = model.replicas.pop(engine.uid, None) if model is not None else None
        if replica is not None:
            self._close(replica)

    def _close(self, replica: Replica) -> None:
        replica.accepting = False
        replica.pool.close()
        self._leaving.add(replica.pool)


def _identity(engine: EngineView) -> tuple[str, str, str, int]:
    """What makes it another replica. A pod keeps its uid when it is relabelled, or gets a new address."""
    return engine.uid, engine.model, engine.host, engine.port
