"""An operator process on the real control plane, with a node that stands in for the kubelet and gateways that only tell their load."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web

from controlplane import ControlPlane
from testbed.gateway import until
from weir.api.load import LoadReport, ModelLoad
from weir.kube.client import KubeClient
from weir.kube.config import load_config
from weir.kube.errors import ApiError, Conflict, NotFound
from weir.kube.resources import MODELDEPLOYMENTS, NODES, PODS, REPLICASETS, Json, Resource

WRITES = ("create", "update", "patch", "apply", "delete")
GPU = "nvidia.com/gpu"
PRODUCT = "TEST-GPU"


async def stays(what: str, holds: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Looks all the time for that long, and fails the moment it does not hold."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert await holds(), f"it did not stay so: {what}"
        await asyncio.sleep(0.05)


class OperatorProcess:
    """`weir operator` as users start it."""

    def __init__(self, plane: ControlPlane, namespace: str, *flags: str) -> None:
        self.port = _free_port()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        where = (f"--namespace={namespace}", f"--lease-namespace={namespace}", f"--gateway-namespace={namespace}")
        command = (sys.executable, "-m", "weir.cli", "operator", *where, f"--admin-port={self.port}")
        self.process = subprocess.Popen(
            [*command, f"--kubeconfig={plane.kubeconfig}", *flags],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    @property
    def log(self) -> str:
        """Everything it said so far."""
        self._log.seek(0)
        return self._log.read().decode()

    @property
    def leads(self) -> bool:
        """Whether it began to work."""
        assert self.process.poll() is None, self.log
        return '"event":"works"' in self.log

    async def metrics(self) -> dict[str, float]:
        """Its series, as Prometheus reads them."""
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{self.port}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    async def writes(self) -> dict[str, float]:
        """Its requests so far that change something, by verb, resource and answer; those for the Lease apart."""
        found = re.compile(r'weir_kube_requests_total\{code="(\d+)",resource="(\w+)",verb="(\w+)"\}')
        counted = {found.fullmatch(name): value for name, value in (await self.metrics()).items()}
        return {
            f"{m[3]} {m[2]} {m[1]}": value for m, value in counted.items() if m and m[3] in WRITES and m[2] != "leases"
        }

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@dataclass
class StandInNode:
    """A Node with GPUs, and what a kubelet does to pods that the real scheduler binds to it: starts, reports, ends them.

    What a test wants to go wrong it sets here.
    """

    kube: KubeClient
    namespace: str
    gpus: int = 16
    startup_seconds: float = 0.0
    faults: dict[str, Json] = field(default_factory=dict)
    """By revision: parts of a containerStatuses entry (state, lastState, restartCount) instead of getting Ready."""
    sick: bool = False
    """No pod is Ready, although engines run."""
    startups: dict[str, float] = field(default_factory=dict)
    """By pod uid: monotonic seconds when it was first seen here."""

    @property
    def name(self) -> str:
        return f"node-{self.namespace}"

    async def create(self) -> None:
        """Tainted, so that only pods of this test come here."""
        labels = {"kubernetes.io/hostname": self.name, "nvidia.com/gpu.product": PRODUCT}
        await self.kube.create(NODES, {"metadata": {"name": self.name, "labels": labels}})
        await self.beat()
        # Takes away what admission adds to every new node: there is no node controller here that would.
        taint = {"key": "test", "value": self.namespace, "effect": "NoSchedule"}
        await self.kube.patch(NODES, None, self.name, {"spec": {"taints": [taint]}})

    async def beat(self) -> None:
        """Says that it is well, and how many GPUs it has."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "StandIn", "lastHeartbeatTime": now}
        have = {"cpu": "64", "memory": "512Gi", "pods": "500", "ephemeral-storage": "1Ti", GPU: str(self.gpus)}
        status = {"conditions": [ready], "capacity": have, "allocatable": have}
        await self.kube.patch(NODES, None, self.name, {"status": status}, subresource="status")

    async def run(self) -> None:
        """Until cancelled."""
        beaten = 0.0
        while True:
            with contextlib.suppress(ApiError):  # the API server is stopped by some tests
                if time.monotonic() - beaten > 5:
                    await self.beat()
                    beaten = time.monotonic()
                for pod in (await self.kube.list(PODS, self.namespace)).items:
                    await self._tend(pod)
            await asyncio.sleep(0.05)

    async def _tend(self, pod: Json) -> None:
        name = pod["metadata"]["name"]
        if pod["spec"].get("nodeName") != self.name:
            return
        with contextlib.suppress(NotFound, Conflict):
            if "deletionTimestamp" in pod["metadata"]:
                await self.kube.delete(PODS, self.namespace, name, grace_period_seconds=0)
            elif (status := self._status(pod)) is not None:
                await self.kube.patch(
                    PODS, self.namespace, name, {"status": status}, kind="strategic", subresource="status"
                )

    def _status(self, pod: Json) -> Json | None:
        """What the pod's status should say; None where it says so already."""
        begun = self.startups.setdefault(pod["metadata"]["uid"], time.monotonic())
        fault = self.faults.get(pod["metadata"]["labels"].get("weir.dev/revision", ""))
        seen = pod["status"]
        started = fault is None and (
            any(c.get("started") for c in seen.get("containerStatuses", ()))
            or time.monotonic() - begun >= self.startup_seconds
        )
        ready = started and not self.sick
        container = {"name": "engine", "image": "e", "imageID": "", "restartCount": 0}
        containers = [container | {"ready": ready, "started": started} | (fault or {})]
        was_ready = any(c["type"] == "Ready" and c["status"] == "True" for c in seen.get("conditions", ()))
        same_words = not fault or seen.get("containerStatuses") == containers
        if seen.get("podIP") and ready == was_ready and same_words:
            return None
        number = 2 + len(self.startups) % 250
        return {
            "phase": "Running",
            "podIP": seen.get("podIP") or f"127.0.8.{number}",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": containers,
        }


class LoadGateway:
    """Answers /load as a gateway does, for a load that a test sets; its sums grow with time."""

    def __init__(self) -> None:
        self._started = time.time()
        self._now = self._started
        self._rates: dict[str, tuple[float, float, float]] = {}
        self._sums: dict[str, ModelLoad] = {}
        self.answers = True

    def set(self, model: str, *, local: float = 0, queued: float = 0, spilling: float = 0, **counts: Any) -> None:
        """From now on `model` (namespace/name) has so many requests at once in each place."""
        self._advance()
        self._rates[model] = (local, queued, spilling)
        known = self._sums.setdefault(model, ModelLoad())
        changes: dict[str, Any] = {"queued": int(queued), "spilling": int(spilling), "in_flight": {}}
        if local or queued or spilling:
            changes["last_request_at"] = time.time()
        self._sums[model] = known.model_copy(update=changes | counts)

    def restart(self) -> None:
        """From now on it is a new process, which knows nothing of before."""
        self._started = self._now = time.time()
        self._rates, self._sums = {}, {}

    async def load(self, _: web.Request) -> web.Response:
        if not self.answers:
            return web.Response(status=503)
        self._advance()
        report = LoadReport(gateway="test", started_at=self._started, at=self._now, ready=True, models=dict(self._sums))
        return web.Response(text=report.model_dump_json(by_alias=True), content_type="application/json")

    def _advance(self) -> None:
        now = time.time()
        passed, self._now = now - self._now, now
        for model, (local, queued, spilling) in self._rates.items():
            sums = self._sums[model]
            self._sums[model] = sums.model_copy(
                update={
                    "local_slot_seconds": sums.local_slot_seconds + local * passed,
                    "queued_slot_seconds": sums.queued_slot_seconds + queued * passed,
                    "spilled_work_seconds": sums.spilled_work_seconds + spilling * passed,
                }
            )


class OperatorWorld:
    """One namespace with what a test puts into it."""

    def __init__(self, plane: ControlPlane, kube: KubeClient, namespace: str, stack: contextlib.AsyncExitStack) -> None:
        self.plane = plane
        self.kube = kube
        self.namespace = namespace
        self.node = StandInNode(kube, namespace)
        self._stack = stack

    async def operator(self, *flags: str, leads: bool = True) -> OperatorProcess:
        """Start one, and wait until it works."""
        process = OperatorProcess(self.plane, self.namespace, *flags)
        self._stack.callback(_reap, process)
        if leads:
            await until("the operator to lead", lambda: process.leads, timeout=60)
        return process

    async def gateway(self, name: str = "gateway") -> LoadGateway:
        """A gateway pod, and what answers at its address."""
        told = LoadGateway()
        app = web.Application()
        app.add_routes([web.get("/load", told.load)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        labels = {"app.kubernetes.io/name": "weir", "app.kubernetes.io/component": "gateway"}
        ports = [{"name": "admin", "containerPort": runner.addresses[0][1]}]
        pod = {"containers": [{"name": "gateway", "image": "gateway", "ports": ports}], "nodeSelector": {"no": "node"}}
        metadata = {"name": name, "namespace": self.namespace, "labels": labels}
        await self.kube.create(PODS, {"metadata": metadata, "spec": pod})
        status = {"phase": "Running", "podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
        await self.kube.patch(PODS, self.namespace, name, {"status": status}, subresource="status")
        return told

    async def model(self, name: str = "m", **spec: Any) -> Json:
        """Create a ModelDeployment whose pods fit the stand-in node."""
        return await self.kube.create(MODELDEPLOYMENTS, self.manifest(name, **spec))

    def manifest(self, name: str = "m", **spec: Any) -> Json:
        """A ModelDeployment whose pods fit the stand-in node."""
        toleration = {"key": "test", "operator": "Equal", "value": self.namespace, "effect": "NoSchedule"}
        base = {
            "model": {"source": "hf://org/model"},
            "engine": {"maxConcurrency": 10, "drainTimeout": "1s"},
            "accelerator": {"resource": GPU, "product": PRODUCT},
            "template": {"tolerations": [toleration], "nodeSelector": {"kubernetes.io/hostname": self.node.name}},
        }
        return {"metadata": {"name": name, "namespace": self.namespace}, "spec": base | spec}

    async def change(self, name: str = "m", **spec: Any) -> None:
        """Merge into a ModelDeployment's spec."""
        await self.kube.patch(MODELDEPLOYMENTS, self.namespace, name, {"spec": spec})

    async def get(self, resource: Resource, name: str) -> Json | None:
        """One object, or None."""
        try:
            return await self.kube.get(resource, self.namespace, name)
        except NotFound:
            return None

    async def status(self, name: str = "m", resource: Resource = MODELDEPLOYMENTS) -> Json:
        """Of a ModelDeployment, or another kind of ours."""
        found = await self.kube.get(resource, self.namespace, name)
        status: Json = found.get("status", {})
        return status

    async def condition(self, kind: str, name: str = "m", resource: Resource = MODELDEPLOYMENTS) -> Json:
        """One condition; empty before it is there."""
        conditions = (await self.status(name, resource)).get("conditions", ())
        return next((c for c in conditions if c["type"] == kind), {})

    async def until_condition(
        self, kind: str, status: str, reason: str, name: str = "m", resource: Resource = MODELDEPLOYMENTS,
        timeout: float = 40,
    ) -> str:  # fmt: skip
        """Waits for it; the message. On failure says what the conditions were."""
        last: Json = {}

        async def holds() -> bool:
            nonlocal last
            last = await self.condition(kind, name, resource)
            return (last.get("status"), last.get("reason")) == (status, reason)

        try:
            await until(f"{kind}={status} {reason}", holds, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {last}, status {await self.status(name, resource)}") from error
        message: str = last["message"]
        return message

    async def pods(self, name: str = "m") -> list[Json]:
        """Those of a model that are not going."""
        found = await self.kube.list(PODS, self.namespace, label_selector=f"weir.dev/model={name}")
        return [pod for pod in found.items if "deletionTimestamp" not in pod["metadata"]]

    async def replica_sets(self, name: str = "m") -> list[Json]:
        """Those of a model."""
        found = await self.kube.list(REPLICASETS, self.namespace, label_selector=f"weir.dev/model={name}")
        return list(found.items)

    async def until_ready(self, count: int, name: str = "m", timeout: float = 40) -> None:
        """Waits until exactly `count` replicas are wanted, there and Ready."""

        async def holds() -> bool:
            status = await self.status(name)
            return [status.get(part) for part in ("desiredReplicas", "replicas", "readyReplicas")] == [count] * 3

        try:
            await until(f"{count} ready replicas", holds, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; status {await self.status(name)}") from error


def _reap(operator: OperatorProcess) -> None:
    if operator.process.poll() is None:
        operator.process.kill()
    operator.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def new_operator_world(plane: ControlPlane, namespace: str) -> AsyncIterator[OperatorWorld]:
    """The means to fill a namespace, all of it gone at the end."""
    async with contextlib.AsyncExitStack() as stack:
        kube = await stack.enter_async_context(KubeClient(load_config(plane.kubeconfig)))
        world = OperatorWorld(plane, kube, namespace, stack)
        await world.node.create()
        tending = asyncio.create_task(world.node.run())
        try:
            yield world
        finally:
            await _clear(world)
            tending.cancel()
            await asyncio.wait({tending})
            await kube.delete(NODES, None, world.node.name)


async def _clear(world: OperatorWorld) -> None:
    """Removes what holds pods, and waits for the pods: none may outlive its node."""
    for mdep in (await world.kube.list(MODELDEPLOYMENTS, world.namespace)).items:
        await world.kube.delete(MODELDEPLOYMENTS, world.namespace, mdep["metadata"]["name"])

    async def empty() -> bool:
        found = (await world.kube.list(PODS, world.namespace, label_selector="weir.dev/model")).items
        return not found

    await until("the garbage collector to remove the replicas", empty, timeout=60)
