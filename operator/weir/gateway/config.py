"""What a gateway is told when it starts."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from weir.gateway.http1 import Limits
from weir.gateway.server import Patience
from weir.gateway.upstream import Timeouts


@dataclass(frozen=True)
class Identity:
    """Who this gateway is. Outside a pod there are no peers, and the ledger knows it by its process."""

    pod: str = ""
    namespace: str = ""
    uid: str = field(default_factory=lambda: f"process-{uuid.uuid4().hex}")

    @classmethod
    def from_environment(cls) -> Identity:
        """POD_NAME, POD_NAMESPACE and POD_UID, as the chart sets them."""
        uid = os.environ.get("POD_UID")
        found = {"pod": os.environ.get("POD_NAME", ""), "namespace": os.environ.get("POD_NAMESPACE", "")}
        return cls(**found, uid=uid) if uid else cls(**found)


@dataclass(frozen=True)
class GatewayConfig:
    """Times in seconds, sizes in bytes."""

    host: str = "0.0.0.0"  # noqa: S104 - it is there to be reached
    port: int = 8080
    admin_port: int = 8081
    kubeconfig: Path | None = None
    namespaces: tuple[str, ...] = ()
    """Where models and providers are looked for; empty: everywhere."""
    default_namespace: str = "default"
    """Its models are called by their bare names, those of other namespaces by namespace/name."""
    secret_namespaces: tuple[str, ...] = ()
    """Where Secrets of providers may be read; nowhere else."""
    anonymous_overflow: bool = False
    """Requests without an API key may leave the cluster."""
    allow_private_providers: bool = False
    """Providers may have private, loopback or link-local addresses."""
    max_body_bytes: int = 32 * 1024 * 1024
    drain_seconds: float = 300.0
    """How long requests in flight may go on after SIGTERM."""
    drain_grace_seconds: float = 2.0
    """How long new connections are still taken after SIGTERM, so that endpoints can forget this pod first."""
    log_level: str = "info"
    identity: Identity = field(default_factory=Identity.from_environment)
    stale_seconds: float = 60.0
    """Without contact to the Kubernetes API for so long nothing leaves the cluster any more."""
    peer_poll_seconds: float = 0.3
    comment_seconds: float = 10.0
    """A stream that waits gets a comment this often, so that nothing on the way takes it for dead."""
    first_token_seconds: float = 600.0
    """A replica that has sent no first token by then has failed."""
    patience: Patience = field(default_factory=Patience)
    engine_timeouts: Timeouts = field(default_factory=Timeouts)

    @property
    def limits(self) -> Limits:
        """What a client may send."""
        return Limits(body_bytes=self.max_body_bytes)

    @property
    def watch_seconds(self) -> float:
        """The API server must speak this often, so that the age of the view stays well below `stale_seconds`."""
        return max(1.0, min(25.0, self.stale_seconds / 3))
