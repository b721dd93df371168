"""Weir as helm installs it on the dev cluster, with models, a provider and clients: what end-to-end tests are made of."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from demo import client
from demo.client import Outcome, Record
from devcluster import DevCluster
from devcluster.tools import Tools
from weir.api.quantity import Usd
from weir.kube.client import KubeClient
from weir.kube.config import load_config
from weir.kube.errors import NotFound
from weir.kube.resources import (
    FRONTIERPROVIDERS,
    MODELDEPLOYMENTS,
    PODS,
    REPLICASETS,
    SPENDLEDGERS,
    Json,
    Resource,
)
from weir.simulate.trace import Arrival

SYSTEM, SPACE, OUTSIDE = "weir-system", "inference", "frontier"
"""Namespaces: Weir's, the models', the provider's."""
PRODUCT = "NVIDIA-H100-80GB-HBM3"
KEY = "sk-frontier-end-to-end-key"
VALUES: Json = {
    "image": {"repository": "weir.dev/weir", "tag": "dev", "pullPolicy": "Never"},
    "gateway": {
        "replicas": 2,
        "defaultNamespace": SPACE,
        "secretNamespaces": [SPACE],
        "anonymousOverflow": True,
        "allowPrivateProviders": True,  # the provider is a pod
        "drainSeconds": 20,
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
    },
}


async def until(what: str, holds: Callable[[], Any], timeout: float = 90.0) -> Any:
    """Polls until `holds()` is true, and returns that."""
    deadline = time.monotonic() + timeout
    while not (found := await holds()):
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s for {what}"
        await asyncio.sleep(0.2)
    return found


class Release:
    """The chart, installed as a platform team would: in a namespace that lets in nothing but restricted pods."""

    def __init__(self, cluster: DevCluster) -> None:
        self.cluster = cluster
        self.tools = Tools(cluster)
        restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
        namespaces: list[Json] = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
            for name, labels in ((SYSTEM, restricted), (SPACE, {}), (OUTSIDE, {}))
        ]
        self.tools.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(namespaces))
        self.install()

    def install(self, **changes: Json) -> None:
        """helm upgrade --install, with changed values (`gateway={...}`); returns when everything is Ready."""
        values = VALUES | {part: VALUES.get(part, {}) | change for part, change in changes.items()}
        command = ["upgrade", "--install", "weir", "charts/weir", f"--namespace={SYSTEM}", "--values=-"]
        self.tools.helm(*command, "--wait", "--timeout=180s", text=yaml.safe_dump(values))

    def uninstall(self) -> None:
        """helm uninstall; returns when it has all gone."""
        self.tools.helm("uninstall", "weir", f"--namespace={SYSTEM}", "--wait", "--timeout=120s")

    @property
    def url(self) -> str:
        """The gateway's Service, as it leads to now."""
        return self.cluster.door(SYSTEM, "weir-gateway", 80)


@dataclass
class Frontier:
    """A provider's stub, and what it remembers."""

    url: str
    base_url: str
    """As FrontierProviders write it."""
    host: str
    http: aiohttp.ClientSession

    async def bill(self) -> int:
        """Micro-dollars that it wants so far."""
        async with self.http.get(f"{self.url}/bill") as answer:
            return int((await answer.json())["microUsd"])

    async def requests(self) -> list[Json]:
        """What came in since it was last forgotten: headers, body, tokens."""
        async with self.http.get(f"{self.url}/requests") as answer:
            seen: list[Json] = (await answer.json())["requests"]
            return seen


@dataclass
class ClusterWorld:
    """What one test puts into the cluster, and looks at."""

    release: Release
    kube: KubeClient
    http: aiohttp.ClientSession
    _made: list[tuple[Resource, str, str]] = field(default_factory=list)

    # put in

    async def apply(self, resource: Resource, name: str, namespace: str = SPACE, **content: Any) -> None:
        """Server-side apply; goes when the test ends."""
        obj = {"metadata": {"name": name, "namespace": namespace}, **content}
        obj["metadata"] |= content.get("metadata", {}) | {"name": name, "namespace": namespace}
        await self.kube.apply(resource, obj, field_manager="test")
        if (resource, namespace, name) not in self._made:
            self._made.append((resource, namespace, name))

    async def model(self, name: str, *, engine: Json | None = None, env: Json | None = None, **spec: Any) -> None:
        """A ModelDeployment of simulated engines, one replica of four slots unless told otherwise. Applied again, it changes."""
        variables = [{"name": key, "value": value} for key, value in (env or {}).items()]
        base = {
            "image": "weir.dev/engines:dev",
            "command": ["/opt/python/bin/python3", "-m", "engines.vllm"],
            "env": variables,
            "maxConcurrency": 4,
            "drainTimeout": "10s",
        }
        whole = {
            "model": {"source": "hf://org/model"},
            "engine": base | (engine or {}),
            "accelerator": {"product": PRODUCT},
            "template": {
                "imagePullPolicy": "Never",
                "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
            },
            "scaling": {"minReplicas": 1, "maxReplicas": 1},
        }
        await self.apply(MODELDEPLOYMENTS, name, spec=whole | spec)

    async def frontier(self, name: str, *arguments: str) -> Frontier:
        """A frontier stub in a pod behind a Service, answering."""
        labels = {"app": name}
        container = {
            "name": "frontier",
            "image": "weir.dev/engines:dev",
            "imagePullPolicy": "Never",
            "args": ["engines.frontier", "--port=9000", f"--key={KEY}", "--model=big=3/0.3/15,128000,4096", *arguments],
            "ports": [{"containerPort": 9000}],
            # Not a readinessProbe: on a busy machine that would take it out of its Service.
            "startupProbe": {"httpGet": {"path": "/healthz", "port": 9000}, "periodSeconds": 1, "failureThreshold": 60},
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        }
        spec = {"containers": [container], "terminationGracePeriodSeconds": 1}
        service = Resource("", "v1", "services", "Service")
        await self.apply(PODS, name, OUTSIDE, metadata={"labels": labels}, spec=spec)
        await self.apply(service, name, OUTSIDE, spec={"selector": labels, "ports": [{"port": 9000}]})
        await until(f"{name} to be ready", lambda: self._pod_ready(name))
        url = self.release.cluster.door(OUTSIDE, name, 9000)
        host = (await self.kube.get(service, OUTSIDE, name))["spec"]["clusterIP"] + ":9000"
        return Frontier(url, f"http://{host}/v1", host, self.http)

    async def _pod_ready(self, name: str) -> bool:
        return ready(await self.kube.get(PODS, OUTSIDE, name))

    async def provider(self, name: str, frontier: Frontier, **spec: Any) -> None:
        """A FrontierProvider that sells the stub's model `big` at its price, with the Secret `name`."""
        await self.secret(name, {"api-key": KEY}, frontier.host)
        prices = {"inputUsdPerMTok": "3", "cachedInputUsdPerMTok": "0.3", "outputUsdPerMTok": "15"}
        sold = {"name": "big", "contextTokens": 128000, "maxOutputTokens": 4096, "pricing": prices}
        whole = {"baseURL": frontier.base_url, "credentials": {"secretRef": {"name": name}}, "models": [sold]}
        await self.apply(FRONTIERPROVIDERS, name, spec=whole | spec)

    async def secret(self, name: str, values: Json, host: str = "") -> None:
        """A Secret whose key may be sent to that host."""
        secret = Resource("", "v1", "secrets", "Secret")
        annotations = {"weir.dev/allowed-hosts": host} if host else {}
        await self.apply(secret, name, metadata={"annotations": annotations}, stringData=values)

    async def clear(self) -> None:
        """Everything that was put in goes. Not waited for."""
        for resource, namespace, name in reversed(self._made):
            with contextlib.suppress(NotFound):
                await self.kube.delete(resource, namespace, name)

    # look at

    async def status(self, name: str, resource: Resource = MODELDEPLOYMENTS) -> Json:
        """Of a ModelDeployment, or another kind of ours."""
        status: Json = (await self.kube.get(resource, SPACE, name)).get("status", {})
        return status

    async def until_condition(
        self,
        name: str,
        kind: str,
        wanted: str,
        says: str = "",
        resource: Resource = MODELDEPLOYMENTS,
        timeout: float = 90.0,
    ) -> str:
        """Waits for "True Serving" (status, reason) with those words in the message, and returns that. Else says what it was."""
        last: Json = {}

        async def holds() -> bool:
            nonlocal last
            conditions = (await self.status(name, resource)).get("conditions", ())
            last = next((each for each in conditions if each["type"] == kind), {})
            return f"{last.get('status')} {last.get('reason')}" == wanted and says in last["message"]

        try:
            await until(f"{kind} of {name} to be {wanted}", holds, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {last}") from error
        message: str = last["message"]
        return message

    async def until_ready(self, name: str, count: int = 1, timeout: float = 120.0) -> None:
        """Waits until exactly `count` replicas are wanted, there and Ready, all of one revision, and gateways see them."""

        async def holds() -> bool:
            status = await self.status(name)
            counts = [status.get(part) for part in ("desiredReplicas", "replicas", "readyReplicas")]
            return counts == [count] * 3 and len(await self.replica_sets(name)) == 1

        try:
            await until(f"{count} ready replicas of {name}", holds, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; status {json.dumps(await self.status(name))}") from error

    async def until_restarted(self, pod: Json) -> None:
        """Waits until the pod, as it was seen before, has started its container again and is Ready."""
        meta, before = pod["metadata"], restarts(pod)

        async def holds() -> bool:
            now = await self.kube.get(PODS, meta["namespace"], meta["name"])
            return restarts(now) > before and ready(now)

        await until(f"{meta['name']} to have started again", holds)

    async def pods(self, name: str) -> list[Json]:
        """Those of a model that are not going."""
        found = await self.kube.list(PODS, SPACE, label_selector=f"weir.dev/model={name}")
        return [pod for pod in found.items if "deletionTimestamp" not in pod["metadata"]]

    async def replica_sets(self, name: str) -> list[Json]:
        """Those of a model."""
        return list((await self.kube.list(REPLICASETS, SPACE, label_selector=f"weir.dev/model={name}")).items)

    async def own_pods(self, component: str) -> list[Json]:
        """The pods of the operator or the gateway that are not going."""
        found = await self.kube.list(PODS, SYSTEM, label_selector=f"app.kubernetes.io/component={component}")
        return [pod for pod in found.items if "deletionTimestamp" not in pod["metadata"]]

    async def running(self, pod: Json) -> int:
        """Requests that an engine runs, by its own count."""
        url = self.release.cluster.door(SPACE, pod["metadata"]["name"], 8000)
        async with self.http.get(f"{url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return round(sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{")))

    async def book(self, name: str) -> tuple[int, int]:
        """Of a SpendLedger: micro-dollars spent for certain, and with what is out with gateways."""
        status = (await self.kube.get(SPENDLEDGERS, SPACE, name)).get("status", {})
        spent, leased = (Usd(status.get(part, "0")).micros for part in ("spentUsd", "leasedUsd"))
        return spent, spent + leased

    # do

    async def break_engine(self, pod: Json, fault: Json) -> None:
        """Tells a simulated engine to go wrong from now on."""
        url = self.release.cluster.door(SPACE, pod["metadata"]["name"], 8000)
        async with self.http.post(f"{url}/sim/fault", json=fault) as answer:
            assert answer.status == 200, await answer.text()

    async def chat(self, model: str, *, headers: Json | None = None, **fields: Any) -> Answer:
        """One request, read to its end."""
        body = {"model": model, "messages": [{"role": "user", "content": "Say something."}], **fields}
        async with self.http.post(f"{self.release.url}/v1/chat/completions", json=body, headers=headers) as answer:
            content = await answer.read()
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, content)

    @contextlib.asynccontextmanager
    async def load(self, model: str, clients: int, tokens: int = 40) -> AsyncIterator[list[Record]]:
        """So many clients, each asking again when it has its answer; two of three stream. The records of what became of it all.

        When the block ends, the requests on their way are still answered.
        """
        records: list[Record] = []
        stopping, began, numbers = asyncio.Event(), time.monotonic(), itertools.count()

        async def one(session: aiohttp.ClientSession) -> None:
            while not stopping.is_set():
                size = Arrival(0.0, 50, tokens)
                stream = bool(next(numbers) % client.STREAM_EVERY)
                await client.send(session, model, size, records, began, stream=stream)

        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(self.release.url, connector=connector, timeout=client.TIMEOUT) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(clients):
                group.create_task(one(session))
            try:
                yield records
            finally:
                stopping.set()


@dataclass(frozen=True)
class Answer:
    """Status, headers in lower case, and all of the body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def replica(self) -> str:
        """The pod that answered."""
        return self.headers.get("x-weir-replica", "")


def unanswered(records: Sequence[Record]) -> Counter[str]:
    """What became of the requests that got no whole answer, counted."""
    return Counter(f"{r.outcome} {r.status} {r.code}" for r in records if r.outcome is not Outcome.ANSWER)


def ready(pod: Json) -> bool:
    """Whether a pod says so."""
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))


def restarts(pod: Json) -> int:
    """How often its container was started again."""
    return sum(container["restartCount"] for container in pod["status"]["containerStatuses"])


def kill(pod: Json) -> None:
    """SIGKILL, from outside, to everything that runs in the pod's containers. Its sandbox stays, so the kubelet starts them again."""
    found = _processes(pod["metadata"]["uid"])
    assert found, f"nothing runs in {pod['metadata']['name']}"
    for process in found:
        os.kill(process, signal.SIGKILL)


def _processes(pod_uid: str) -> list[int]:
    """As this machine numbers them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended while we looked
            if f"pod{pod_uid}" not in (process / "cgroup").read_text():
                continue
            if not (process / "cmdline").read_bytes().startswith(b"/pause"):
                found.append(int(process.name))
    return found


@contextlib.asynccontextmanager
async def new_cluster_world(release: Release) -> AsyncIterator[ClusterWorld]:
    """The means to fill the cluster, and to look at it."""
    async with (
        KubeClient(load_config(release.cluster.kubeconfig)) as kube,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=client.TIMEOUT) as http,
    ):
        world = ClusterWorld(release, kube, http)
        try:
            yield world
        finally:
            await world.clear()
