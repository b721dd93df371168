"""How an operator process is told to run."""

from __future__ import annotations

import socket
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from weir.workload.defaults import WorkloadDefaults

DEFAULT_ENGINE_IMAGE = "vllm/vllm-openai:v0.32.0"


@dataclass(frozen=True)
class OperatorConfig:
    """What `weir operator` takes on its command line."""

    identity: str = field(default_factory=lambda: f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}")
    """Names this process in the Lease and in Events. Unique among all processes, restarts of one pod included."""
    kubeconfig: Path | None = None
    """None: $KUBECONFIG, the pod's service account, ~/.kube/config."""
    namespaces: tuple[str, ...] = ()
    """Whose objects to look after; empty: all of the cluster's."""
    lease_namespace: str = ""
    """Empty: the namespace that the cluster configuration names (in a pod: its own)."""
    lease_name: str = "weir-operator"
    gateway_namespace: str = ""
    """Where gateway pods run; empty: the Lease's namespace."""
    gateway_selector: str = "app.kubernetes.io/name=weir,app.kubernetes.io/component=gateway"
    default_engine_image: str = DEFAULT_ENGINE_IMAGE
    allow_host_paths: bool = False
    secret_namespaces: tuple[str, ...] = ()
    """Where the gateways may read provider keys, so that conditions can say where not; empty: not known."""
    anonymous_overflow: bool = True
    """Whether the gateways let requests leave at all (there are no API keys that could let single ones)."""
    admin_host: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from other addresses
    admin_port: int = 8081
    """/healthz, /readyz and /metrics; 0: any free port."""
    workers: int = 8
    """Objects reconciled at once."""
    log_level: str = "info"
    workload: WorkloadDefaults = field(init=False)

    def __post_init__(self) -> None:
        defaults = WorkloadDefaults(self.default_engine_image, self.allow_host_paths)
        object.__setattr__(self, "workload", defaults)
