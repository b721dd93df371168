"""A gateway with engines and a provider around it, on the real control plane: pods are objects, what they stand for are processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from controlplane import ControlPlane
from engines.process import Stub
from weir.gateway.app import Gateway
from weir.gateway.config import GatewayConfig, Identity
from weir.kube.client import KubeClient
from weir.kube.config import load_config
from weir.kube.resources import FRONTIERPROVIDERS, MODELDEPLOYMENTS, PODS, SECRETS, SPENDLEDGERS, Json

KEY = "sk-frontier-test-key-0001"
_RUN = """
import pickle, sys
from weir.gateway.app import run
run(pickle.loads(bytes.fromhex(sys.argv[1])))
"""
PRICES = {"inputUsdPerMTok": "3", "cachedInputUsdPerMTok": "0.3", "outputUsdPerMTok": "15"}


async def until(what: str, holds: Callable[[], Any], timeout: float = 20.0) -> Any:
    """Polls until `holds()` (or what it awaits) is true, and returns that."""
    deadline = time.monotonic() + timeout
    while True:
        found = holds()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s for {what}"
        await asyncio.sleep(0.01)


@dataclass
class Running:
    """A gateway that serves."""

    url: str
    admin: str
    http: aiohttp.ClientSession
    gateway: Gateway | None = None
    """Where it runs in this process."""
    process: subprocess.Popen[bytes] | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def chat(self, model: str = "m", *, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
        """One request, read to its end."""
        body = {"model": model, "messages": [{"role": "user", "content": "Say something."}], **fields}
        async with self.http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as answer:
            content = await answer.read()
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, content)

    async def load(self) -> Any:
        """What /load says."""
        async with self.http.get(f"{self.admin}/load") as answer:
            return await answer.json()

    async def metrics(self) -> str:
        """What /metrics says."""
        async with self.http.get(f"{self.admin}/metrics") as answer:
            return await answer.text()


@dataclass(frozen=True)
class Answer:
    """Status, headers in lower case, and all of the body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def backend(self) -> str:
        """local, frontier, or nothing."""
        return self.headers.get("x-weir-backend", "")

    @property
    def replica(self) -> str:
        """The pod."""
        return self.headers.get("x-weir-replica", "")


class World:
    """One namespace with what a test puts into it."""

    def __init__(self, plane: ControlPlane, kube: KubeClient, namespace: str, stack: contextlib.ExitStack) -> None:
        self.plane = plane
        self.kube = kube
        self.namespace = namespace
        self._stack = stack
        self._tasks: list[tuple[asyncio.Task[None], asyncio.Event]] = []
        self._http: list[aiohttp.ClientSession] = []
        self._count = 0

    async def close(self) -> None:
        """Stop the gateways that run in this process."""
        for session in self._http:
            await session.close()
        for task, stopping in self._tasks:
            stopping.set()
            await asyncio.wait([task], timeout=20)
            if not task.done():
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def model(
        self, name: str = "m", *, slots: int = 4, labels: dict[str, str] | None = None, **spec: Any
    ) -> Json:
        """Apply a ModelDeployment."""
        return await self.kube.create(
            MODELDEPLOYMENTS,
            {
                "metadata": {"name": name, "namespace": self.namespace, "labels": labels or {}},
                "spec": {"model": {"source": "hf://org/model"}, "engine": {"maxConcurrency": slots}, **spec},
            },
        )

    def engine(self, *arguments: str, model: str = "m", slots: int = 4, queue: int = 8) -> Stub:
        """Start a simulated vLLM."""
        flags = (f"--model={model}", f"--served-model-name={model}", f"--max-num-seqs={slots}")
        limit = (f"--max-num-queued-reqs={slots + queue}", "--sim-time-scale=20", "--shutdown-timeout=30")
        return self._stack.enter_context(Stub("engines.vllm", *flags, *limit, *arguments))

    async def pod(
        self,
        port: int,
        *,
        name: str = "",
        model: str = "m",
        slots: int = 4,
        ready: bool = True,
        host: str = "127.0.0.1",
    ) -> str:
        """The pod object of an engine that listens on `port`. Returns its name."""
        self._count += 1
        name = name or f"{model}-{self._count}"
        labels = {
            "app.kubernetes.io/managed-by": "weir",
            "app.kubernetes.io/name": "weir-model",
            "weir.dev/model": model,
        }
        annotations = {"weir.dev/max-concurrency": str(slots)}
        await self._pod(name, labels, annotations, {"http": port}, host, ready=ready)
        return name

    async def gateway_pod(self, running: Running, name: str, uid_sink: list[str] | None = None) -> None:
        """The pod object of a gateway."""
        labels = {"app.kubernetes.io/name": "weir", "app.kubernetes.io/component": "gateway"}
        ports = {"http": int(running.url.rpartition(":")[2]), "admin": int(running.admin.rpartition(":")[2])}
        made = await self._pod(name, labels, {}, ports, "127.0.0.1", ready=True)
        if uid_sink is not None:
            uid_sink.append(made["metadata"]["uid"])

    async def _pod(
        self,
        name: str,
        labels: dict[str, str],
        annotations: dict[str, str],
        ports: dict[str, int],
        host: str,
        *,
        ready: bool,
    ) -> Json:
        listed = [{"name": port, "containerPort": number} for port, number in ports.items()]
        container = {"name": "engine", "image": "engine", "ports": listed}
        made = await self.kube.create(
            PODS,
            {
                "metadata": {"name": name, "namespace": self.namespace, "labels": labels, "annotations": annotations},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
            },
        )
        await self.pod_status(name, host=host, ready=ready)
        return made

    async def pod_status(self, name: str, *, host: str = "127.0.0.1", ready: bool) -> None:
        """What a kubelet would say of the pod."""
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        status = {"phase": "Running", "podIP": host, "podIPs": [{"ip": host}], "conditions": [condition]}
        await self.kube.patch(PODS, self.namespace, name, {"status": status}, subresource="status")

    async def replica(self, *arguments: str, slots: int = 4, queue: int = 8, model: str = "m") -> tuple[Stub, str]:
        """An engine and its pod."""
        stub = self.engine(*arguments, slots=slots, queue=queue, model=model)
        return stub, await self.pod(stub.port, slots=slots, model=model)

    def frontier(self, *arguments: str) -> Stub:
        """Start a frontier stub."""
        flags = (f"--key={KEY}", "--model=big=3/0.3/15,128000,4096", "--ttft=0.01", "--tokens-per-second=2000")
        return self._stack.enter_context(Stub("engines.frontier", *flags, *arguments))

    async def provider(
        self,
        stub: Stub,
        name: str = "p",
        *,
        hosts: str | None = None,
        key: str = KEY,
        pricing: Any = PRICES,
        **spec: Any,
    ) -> Json:
        """A FrontierProvider and its Secret."""
        host = hosts if hosts is not None else stub.url.removeprefix("http://")
        await self.kube.create(
            SECRETS,
            {
                "metadata": {
                    "name": name,
                    "namespace": self.namespace,
                    "annotations": {"weir.dev/allowed-hosts": host},
                },
                "stringData": {"api-key": key},
            },
        )
        sold = {"name": "big", "contextTokens": 128000, "maxOutputTokens": 4096, "pricing": pricing}
        return await self.kube.create(
            FRONTIERPROVIDERS,
            {
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": {
                    "baseURL": f"{stub.url}/v1",
                    "credentials": {"secretRef": {"name": name}},
                    "models": [{k: v for k, v in sold.items() if v is not None}],
                    **spec,
                },
            },
        )

    async def ledger(self, kind: str, name: str) -> Json:
        """What the operator does when it first sees a budget: opens the book and notes its uid."""
        book = await self.kube.create(
            SPENDLEDGERS,
            {
                "metadata": {"name": f"{kind.lower()}.{name}", "namespace": self.namespace},
                "spec": {"for": {"kind": kind, "name": name}, "window": "Day"},
            },
        )
        uid = book["metadata"]["uid"]
        resource = FRONTIERPROVIDERS if kind == "FrontierProvider" else MODELDEPLOYMENTS
        status = {"ledgerUID": uid} if kind == "FrontierProvider" else {"overflow": {"ledgerUID": uid}}
        await self.kube.patch(resource, self.namespace, name, {"status": status}, subresource="status")
        return book

    async def book(self, name: str) -> Json:
        """The status of a SpendLedger."""
        found = await self.kube.get(SPENDLEDGERS, self.namespace, name)
        status: Json = found.get("status", {})
        return status

    def config(self, **changes: Any) -> GatewayConfig:
        """Everything a gateway of this namespace needs."""
        config = GatewayConfig(
            host="127.0.0.1",
            port=0,
            admin_port=0,
            kubeconfig=self.plane.kubeconfig,
            namespaces=(self.namespace,),
            default_namespace=self.namespace,
            secret_namespaces=(self.namespace,),
            anonymous_overflow=True,
            allow_private_providers=True,
            drain_seconds=10.0,
            drain_grace_seconds=0.0,
            identity=Identity(),
        )
        return replace(config, **changes)

    async def gateway(self, **changes: Any) -> Running:
        """A gateway in this process that has seen the namespace."""
        gateway = Gateway(self.config(**changes), self.kube)
        stopping = asyncio.Event()
        task = asyncio.create_task(gateway.run(stopping))
        self._tasks.append((task, stopping))
        await until("the gateway to listen", lambda: gateway.server.port or (task.done() and task.result()))
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=60)
        )
        self._http.append(session)
        url, admin = (f"http://127.0.0.1:{port}" for port in (gateway.server.port, gateway.admin.port))
        return Running(url, admin, session, gateway, stopping=stopping)

    async def ready(self, running: Running, replicas: int = 1, model: str = "m") -> None:
        """Until the gateway sees so many ready replicas."""

        async def seen() -> bool:
            text = await running.metrics()
            wanted = f'weir_gateway_replicas{{model="{model}",namespace="{self.namespace}"}} {float(replicas)}'
            return wanted in text

        await until(f"{replicas} replicas of {model}", seen)

    async def process(self, **changes: Any) -> Running:
        """A gateway as a process of its own, from the same configuration."""
        config = self.config(**changes)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        log = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        command = [sys.executable, "-c", _RUN, pickle.dumps(config).hex()]
        process = subprocess.Popen(  # noqa: ASYNC220 - a test may wait for it
            command, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        self._stack.callback(_reap, process)

        def said() -> dict[str, Any] | None:
            log.seek(0)
            text = log.read().decode()
            assert process.poll() is None, text
            lines = (line for line in text.splitlines() if '"the gateway serves"' in line)
            return next(map(json.loads, lines), None)

        ports = await until("the gateway to serve", said)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=60)
        )
        self._http.append(session)
        url, admin = (f"http://127.0.0.1:{ports[name]}" for name in ("port", "admin_port"))
        return Running(url, admin, session, process=process)


def _reap(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


@contextlib.asynccontextmanager
async def new_world(plane: ControlPlane, namespace: str) -> AsyncIterator[World]:
    """The means to fill a namespace, all of it gone at the end."""
    with contextlib.ExitStack() as stack:
        async with KubeClient(load_config(plane.kubeconfig)) as kube:
            made = World(plane, kube, namespace, stack)
            try:
                yield made
            finally:
                await made.close()
