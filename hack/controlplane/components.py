"""The command lines of etcd, kube-apiserver, kube-controller-manager and kube-scheduler, and the order to start them in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane.api import Api
from controlplane.credentials import Credentials
from controlplane.run import Run

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


@dataclass(frozen=True)
class Ports:
    """Where each listens."""

    etcd: int = 2379
    etcd_peer: int = 2380
    api: int = 6443
    controller_manager: int = 10257
    scheduler: int = 10259


@dataclass(frozen=True)
class Layout:
    """What the components must know of one another."""

    address: str
    """Where the API server listens and is known."""
    private_address: str
    """Where the others listen."""
    ports: Ports
    service_range: str
    has_nodes: bool
    """False: nobody renews the heartbeat of a Node, so nobody may judge by it either."""

    @property
    def url(self) -> str:
        """Of the API server."""
        return f"https://{self.address}:{self.ports.api}"


def start(run: Run, programs: Mapping[str, Path], layout: Layout, credentials: Credentials, api: Api) -> None:
    """Starts the four; returns when the API server is ready."""
    run.start("etcd", [programs["etcd"], *_etcd(layout, run.folder)])
    start_api(run, programs, layout, credentials, api)
    for name, arguments in (
        ("kube-controller-manager", _controller_manager(layout, credentials)),
        ("kube-scheduler", _common(layout, credentials, "kube-scheduler", layout.ports.scheduler)),
    ):
        run.start(name, [programs[name], *arguments])


def start_api(run: Run, programs: Mapping[str, Path], layout: Layout, credentials: Credentials, api: Api) -> None:
    """Starts the API server and waits until it is ready, as seen through api."""
    run.start("kube-apiserver", [programs["kube-apiserver"], *_api(layout, credentials)])
    run.wait("the API server", api.ready, needs="kube-apiserver")


def _etcd(layout: Layout, folder: Path) -> list[str]:
    client = f"http://{layout.private_address}:{layout.ports.etcd}"
    peer = f"http://{layout.private_address}:{layout.ports.etcd_peer}"
    return [
        f"--data-dir={folder}/etcd",
        "--unsafe-no-fsync",  # the data dies with the run
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--log-level=warn",
    ]


def _api(layout: Layout, credentials: Credentials) -> list[str]:
    return [
        f"--etcd-servers=http://{layout.private_address}:{layout.ports.etcd}",
        f"--bind-address={layout.address}",
        f"--advertise-address={layout.address}",
        f"--secure-port={layout.ports.api}",
        f"--tls-cert-file={credentials.serving}",
        f"--tls-private-key-file={credentials.serving.with_suffix('.key')}",
        f"--token-auth-file={credentials.token_file}",
        f"--service-account-key-file={credentials.service_account_key}",
        f"--service-account-signing-key-file={credentials.service_account_key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={layout.service_range}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",  # there is no DNS for node names: logs and exec go by address
    ]


def _controller_manager(layout: Layout, credentials: Credentials) -> list[str]:
    off = ["node-ipam-controller", "node-route-controller", "service-lb-controller", "cloud-node-lifecycle-controller"]
    if not layout.has_nodes:
        off.append("node-lifecycle-controller")
    return [
        *_common(layout, credentials, "kube-controller-manager", layout.ports.controller_manager),
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={credentials.service_account_key}",
        f"--root-ca-file={credentials.ca}",  # pods trust the API server by it
        f"--controllers={','.join(['*', *(f'-{name}' for name in off)])}",
    ]


def _common(layout: Layout, credentials: Credentials, name: str, port: int) -> list[str]:
    return [
        f"--kubeconfig={credentials.kubeconfig(f'system:{name}', layout.url)}",
        "--leader-elect=false",
        f"--bind-address={layout.private_address}",
        f"--secure-port={port}",
        # The default of 20 requests a second spreads the start of 100 pods over 5 s of nothing but waiting.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]
