"""A Kubernetes control plane on loopback: real etcd, API server, controller manager and scheduler, without nodes or privileges."""

from __future__ import annotations

import secrets
import signal
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from controlplane import components, credentials, programs
from controlplane.api import Api
from controlplane.components import Layout, Ports
from controlplane.run import Run


class ControlPlane:
    """A context manager; ready in about 3 s. Several run at once; nothing is left after any end of the process."""

    def __init__(self) -> None:
        self._run = Run()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Finds or builds the programs and starts them. Raises programs.UnavailableError or run.RunError."""
        self._programs = programs.find(*components.PROGRAMS)
        self._run.begin()
        try:
            # An address of one's own in 127/8 keeps two runs apart, and every program that takes a port by chance.
            address = f"127.{64 + secrets.randbelow(64)}.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"
            self._layout = Layout(address, address, _free_ports(address), "10.96.0.0/16", has_nodes=False)
            hosts = [address, "127.0.0.1", "localhost", "kubernetes.default.svc", "10.96.0.1"]
            self._credentials = credentials.issue(self._run.folder / "credentials", hosts, nodes=[])
            self.api = Api(address, self._layout.ports.api, self.ca, self.token)
            components.start(self._run, self._programs, self._layout, self._credentials, self.api)
            self.kubeconfig = self._credentials.kubeconfig("admin", self.url)
        except BaseException:
            self._run.stop()
            raise

    def stop(self) -> None:
        """Ends it all and waits for the end."""
        self._run.stop()

    kubeconfig: Path
    """Of a cluster administrator."""

    api: Api
    """For a few requests by hand, as a cluster administrator."""

    @property
    def url(self) -> str:
        """Of the API server."""
        return self._layout.url

    @property
    def token(self) -> str:
        """Of a cluster administrator."""
        return self._credentials.tokens["admin"]

    @property
    def ca(self) -> Path:
        """PEM file that verifies the API server."""
        return self._credentials.ca

    @property
    def folder(self) -> Path:
        """Holds everything of this run: `logs/`, data, credentials. Goes with it."""
        return self._run.folder

    def pause_api(self) -> None:
        """The API server hangs: connections stand, nothing answers."""
        self._run.signal("kube-apiserver", signal.SIGSTOP)

    def resume_api(self) -> None:
        """Ends pause_api()."""
        self._run.signal("kube-apiserver", signal.SIGCONT)

    def stop_api(self) -> None:
        """The API server is gone: connections break, new ones are refused. Its data stays."""
        self._run.kill("kube-apiserver")

    def start_api(self) -> None:
        """Ends stop_api(); returns when the API server is ready, at the same address."""
        components.start_api(self._run, self._programs, self._layout, self._credentials, self.api)


def _free_ports(address: str) -> Ports:
    sockets = [socket.socket() for _ in range(5)]
    try:
        for each in sockets:
            each.bind((address, 0))
        return Ports(*(each.getsockname()[1] for each in sockets))
    finally:
        for each in sockets:
            each.close()
