"""Where the API server is and how to log in: a kubeconfig file, or what a pod is given. Reads files, opens no connection."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from weir.kube.kubeconfig import ConfigError, read_kubeconfig

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_SECONDS = 60.0
"""A mounted token is read again this often: the kubelet renews it at 80 % of its life, which is at least ten minutes."""

TokenSource = Callable[[], str]


class FileToken:
    """A bearer token in a file that somebody else renews. Kept for TOKEN_SECONDS, then read again."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._token = ""
        self._read_at = float("-inf")

    def __call__(self) -> str:
        """Raises ConfigError where the file is missing or empty."""
        now = self._clock()
        if now - self._read_at >= TOKEN_SECONDS:
            try:
                self._token = self._path.read_text().strip()
            except OSError as error:
                raise ConfigError(f"the token file {self._path} cannot be read: {error.strerror}") from error
            if not self._token:
                raise ConfigError(f"the token file {self._path} is empty")
            self._read_at = now
        return self._token


@dataclass(frozen=True)
class ClusterConfig:
    """How to reach one cluster."""

    server: str
    """Base URL without a trailing slash."""
    ssl: ssl.SSLContext | None = field(default=None, repr=False)
    """None for plain HTTP."""
    token: TokenSource | None = field(default=None, repr=False)
    """Asked before every request."""
    namespace: str = "default"
    """Where this program lives, or what the kubeconfig context names."""
    server_hostname: str | None = None
    """The name the server's certificate must carry, where it is not the URL's."""
    source: str = ""
    """Where this came from, for messages."""


def load_config(
    kubeconfig: Path | None = None,
    context: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    service_account: Path = SERVICE_ACCOUNT,
    home: Path | None = None,
) -> ClusterConfig:
    """The first of: the given file, $KUBECONFIG, the pod's service account, ~/.kube/config.

    Raises ConfigError, in one sentence: what was tried, or what in the file found cannot be used.
    """
    if kubeconfig is not None:
        return _from_files([kubeconfig], context)
    listed = [Path(name) for name in environ.get("KUBECONFIG", "").split(os.pathsep) if name]
    if listed:
        return _from_files(listed, context)
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if host and (service_account / "token").exists():
        return _in_cluster(host, port, service_account)
    default = (home or Path.home()) / ".kube" / "config"
    if default.exists():
        return _from_files([default], context)
    raise ConfigError(
        "no cluster configuration found: no --kubeconfig given, KUBECONFIG is not set, this is no pod "
        f"(KUBERNETES_SERVICE_HOST and {service_account}/token are wanted), and {default} does not exist"
    )


def _in_cluster(host: str, port: str, service_account: Path) -> ClusterConfig:
    try:
        tls = ssl.create_default_context(cafile=str(service_account / "ca.crt"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the cluster's CA {service_account}/ca.crt cannot be used: {error}") from error
    namespace = service_account / "namespace"
    return ClusterConfig(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ssl=tls,
        token=FileToken(service_account / "token"),
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
        source=f"service account in {service_account}",
    )


def _from_files(paths: list[Path], context: str | None) -> ClusterConfig:
    entry = read_kubeconfig(paths, context)
    token: TokenSource | None = None
    if entry.token_file is not None:
        token = FileToken(entry.token_file)
    elif entry.token:
        fixed = entry.token
        token = lambda: fixed  # noqa: E731
    return ClusterConfig(
        server=entry.server.rstrip("/"),
        ssl=entry.tls_context() if entry.server.startswith("https:") else None,
        token=token,
        namespace=entry.namespace,
        server_hostname=entry.tls_server_name,
        source=entry.source,
    )
