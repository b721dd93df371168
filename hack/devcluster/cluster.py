"""A whole Kubernetes cluster in namespaces of its own: control plane, real nodes with fake GPUs, and a door from the machine."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from controlplane import components, credentials, programs
from controlplane.api import Api
from controlplane.components import Layout, Ports
from controlplane.run import Run
from devcluster import images, machine, network
from devcluster.door import Door
from devcluster.node import PROGRAMS, Node, RunningNode

_NAMESPACES = ("unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--mount-proc", "--propagation", "private")


class DevCluster:
    """A context manager; all nodes are Ready when it is entered. Needs root (machine.obstacle() says what is missing).

    Several run at once. Everything runs below one process 1 that ends with this process, whatever ends it.
    """

    def __init__(self, nodes: Sequence[Node] = (Node(),)) -> None:
        self._run = Run([*_NAMESPACES, "--fork", "--kill-child"])
        self._door = Door(self._run)
        self._specs = tuple(nodes)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @staticmethod
    def find_programs(*more: str) -> dict[str, Path]:
        """What a cluster runs, and `more`: asked for together, they are built together.

        Raises UnavailableError, before anything is built, where the machine cannot have a cluster.
        """
        if reason := machine.obstacle():
            raise programs.UnavailableError(reason)
        return programs.find(*components.PROGRAMS, *PROGRAMS, "pause", *more)

    def start(self) -> None:
        """Finds or builds the programs and starts all. Raises UnavailableError or RunError."""
        self._programs = self.find_programs()
        self._run.begin()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        run = self._run
        machine.make_cgroup(run.folder.name, *(spec.name for spec in self._specs))
        run.finish("network", ["bash", "-euc", network.cluster_script()])
        self._door.start()
        hosts = [
            str(network.CONTROL_PLANE),
            "127.0.0.1",
            "localhost",
            "kubernetes.default.svc",
            str(network.API_SERVICE),
        ]
        names = [spec.name for spec in self._specs]
        self._credentials = credentials.issue(run.folder / "credentials", hosts, names)
        layout = Layout(str(network.CONTROL_PLANE), "127.0.0.1", Ports(), str(network.SERVICE_RANGE), has_nodes=True)
        port = self._door.open(layout.address, layout.ports.api)
        self.api = Api("127.0.0.1", port, self._credentials.ca, self._credentials.tokens["admin"])
        self.kubeconfig = self._credentials.kubeconfig("admin", f"https://127.0.0.1:{port}")
        self.nodes = {
            spec.name: RunningNode(run, self._programs, spec, index) for index, spec in enumerate(self._specs)
        }
        for node in self.nodes.values():
            node.start_network()
            node.start_containerd()
        components.start(run, self._programs, layout, self._credentials, self.api)
        for node in self.nodes.values():
            node.wait_containerd()
            node.start_kubernetes(self._credentials, layout.url)
        self.import_image(images.build_pause(run.folder / "pause.tar"))
        for node in self.nodes.values():
            run.wait(f"node {node.spec.name}", partial(self._ready, node.spec), needs=f"{node.spec.name}.kubelet")
        account = "/api/v1/namespaces/default/serviceaccounts/default"  # without it every pod is refused
        run.wait("the default service account", lambda: self.api.exists(account))

    def _ready(self, spec: Node) -> bool:
        if not self.api.exists(f"/api/v1/nodes/{spec.name}"):
            return False
        status = self.api.request("GET", f"/api/v1/nodes/{spec.name}")["status"]
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", []))
        return ready and int(status["allocatable"].get("nvidia.com/gpu", 0)) == spec.gpus

    def stop(self) -> None:
        """Ends it all and waits for the end."""
        self._run.stop()

    kubeconfig: Path
    """Of a cluster administrator; works from the machine."""

    api: Api
    """For a few requests by hand, as a cluster administrator."""

    nodes: dict[str, RunningNode]

    @property
    def folder(self) -> Path:
        """Holds everything of this run: `logs/`, data, credentials. Goes with it."""
        return self._run.folder

    @property
    def holder_pid(self) -> int:
        """Process 1 of the cluster as the machine sees it: `nsenter --target PID --net` puts a command into its network."""
        return int(Path(f"/proc/{self._run.pid}/task/{self._run.pid}/children").read_text().split()[0])

    def import_image(self, archive: Path) -> None:
        """Loads the images of an OCI archive into every node."""
        for node in self.nodes.values():
            node.import_image(archive)

    def signal(self, program: str, number: signal.Signals) -> None:
        """Sends a signal to `kube-apiserver`, `gpu-a.kubelet` or any other name in folder/logs."""
        self._run.signal(program, number)

    def door(self, namespace: str, name: str, port: int, *, timeout: float = 10) -> str:
        """The URL on 127.0.0.1 that leads to a port of a Service, or of a pod where no Service has the name.

        The address is looked up now and kept: a pod that comes again is another. Waits up to timeout seconds for a pod's address.
        """
        base = f"/api/v1/namespaces/{namespace}"
        if self.api.exists(f"{base}/services/{name}"):
            host = self.api.request("GET", f"{base}/services/{name}")["spec"]["clusterIP"]
        else:
            host = self._pod_address(f"{base}/pods/{name}", timeout)
        return f"http://127.0.0.1:{self._door.open(host, port)}"

    def _pod_address(self, path: str, timeout: float) -> str:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            pod: dict[str, Any] = self.api.request("GET", path)
            if address := pod["status"].get("podIP"):
                return str(address)
            time.sleep(0.05)
        raise TimeoutError(f"waited {timeout:.0f} s for an address of {path}")
