"""Names and replicas follow what the cluster shows, in whatever order it shows it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from weir.gateway.config import GatewayConfig, Identity
from weir.gateway.registry import Registry
from weir.gateway.view import DeploymentView, EngineView, decode_deployment
from weir.kube.resources import Key

POD = EngineView(Key("home", "pod"), "uid-pod", "m", "127.0.0.1", 8000, 4, accepting=True)


def deployment(namespace: str, name: str, day: int, *served: str) -> DeploymentView:
    """Made on that day of a month."""
    metadata = {
        "namespace": namespace,
        "name": name,
        "uid": f"uid-{namespace}-{name}",
        "creationTimestamp": f"2026-01-{day:02d}T00:00:00Z",
    }
    spec = {"model": {"source": "hf://org/m", "servedNames": list(served)}}
    view = decode_deployment({"metadata": metadata, "spec": spec})
    assert view is not None
    return view


class Cluster:
    """The stores that a registry follows, changed as reflectors change them."""

    def __init__(self) -> None:
        self.registry = Registry(GatewayConfig(default_namespace="home", identity=Identity(uid="g")))
        self.deployments: dict[Key, DeploymentView] = {}
        self.engines: dict[Key, EngineView] = {}
        self.registry.follow(self.deployments, self.engines)

    async def deploy(self, *views: DeploymentView) -> None:
        """One after the other, each seen by itself."""
        for view in views:
            self.deployments[view.key] = view
            self.registry.on_models()
            await asyncio.sleep(0)

    def engine(self, new: EngineView | None) -> None:
        """The pod comes, changes or goes."""
        old = self.engines.pop(POD.key, None)
        if new is not None:
            self.engines[POD.key] = new
        self.registry.on_engine(POD.key, new, old)

    def replicas(self, name: str) -> list[tuple[str, int, bool]]:
        """Host, port and whether it takes requests, of each replica of that model."""
        model = self.registry.models[Key("home", name)]
        return [(each.pool.host, each.pool.port, each.accepting) for each in model.replicas.values()]

    def owner(self, name: str) -> str:
        """Whose model answers to that name."""
        return str(self.registry.names[name].key)


async def test_a_pod_that_is_given_to_another_model_leaves_its_own() -> None:
    cluster = Cluster()
    await cluster.deploy(deployment("home", "m", 1), deployment("home", "n", 2))
    cluster.engine(POD)
    assert (cluster.replicas("m"), cluster.replicas("n")) == ([("127.0.0.1", 8000, True)], [])
    cluster.engine(replace(POD, model="n"))
    assert (cluster.replicas("m"), cluster.replicas("n")) == ([], [("127.0.0.1", 8000, True)])
    cluster.engine(None)
    assert (cluster.replicas("m"), cluster.replicas("n")) == ([], [])


@pytest.mark.parametrize(
    "moved", [{"host": "127.0.0.2"}, {"port": 8001}, {"uid": "uid-other"}], ids=["ip", "port", "uid"]
)
async def test_a_pod_that_moves_is_another_replica_and_the_old_one_takes_no_more(moved: dict[str, object]) -> None:
    cluster = Cluster()
    await cluster.deploy(deployment("home", "m", 1))
    cluster.engine(POD)
    ((_, before),) = cluster.registry.replicas()
    new = replace(POD, **moved)  # type: ignore[arg-type]
    cluster.engine(new)
    assert cluster.replicas("m") == [(new.host, new.port, True)]
    assert not before.accepting
    ((_, after),) = cluster.registry.replicas()
    assert after is not before


async def test_a_pod_that_only_changes_stays_the_same_replica() -> None:
    cluster = Cluster()
    await cluster.deploy(deployment("home", "m", 1))
    cluster.engine(POD)
    ((_, before),) = cluster.registry.replicas()
    cluster.engine(replace(POD, slots=8, accepting=False))
    ((_, after),) = cluster.registry.replicas()
    assert after is before
    assert (after.slots, after.accepting) == (8, False)


@pytest.mark.parametrize("elder", ["home", "openai"])
async def test_a_bare_name_never_takes_what_is_another_namespaces(elder: str) -> None:
    mine = deployment("home", "x", 1 if elder == "home" else 2, "openai/gpt", "plain")
    other = deployment("openai", "g", 1 if elder == "openai" else 2, "gpt")
    cluster = Cluster()
    await cluster.deploy(mine)
    assert cluster.owner("openai/gpt") == "home/x"
    await cluster.deploy(other)
    assert cluster.owner("openai/gpt") == "openai/g"
    assert cluster.owner("home/openai/gpt") == "home/x", "its own namespace's form is always its own"
    assert cluster.owner("plain") == "home/x"
    assert cluster.registry.names["home/openai/gpt"].engine_name == "openai/gpt"
    del cluster.deployments[other.key]
    await cluster.deploy(mine)
    assert cluster.owner("openai/gpt") == "home/x"


async def test_within_a_namespace_the_oldest_keeps_a_name_in_both_forms() -> None:
    cluster = Cluster()
    await cluster.deploy(deployment("home", "young", 2, "gpt", "b"), deployment("home", "old", 1, "gpt", "a"))
    owners = {name: served.key.name for name, served in cluster.registry.names.items()}
    assert owners == {"gpt": "old", "a": "old", "b": "young", "home/gpt": "old", "home/a": "old", "home/b": "young"}
