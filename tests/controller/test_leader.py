"""What makes the operator's liveness probe fail."""

from __future__ import annotations

from weir.controller.config import OperatorConfig
from weir.controller.leader import Leader
from weir.kube.client import KubeClient
from weir.kube.config import ClusterConfig


def test_a_loop_that_has_not_begun_does_not_stand_still() -> None:
    """It begins when all is listed, and waits for as long as CRDs are missing."""
    cluster = ClusterConfig("http://127.0.0.1:1")
    leader = Leader(KubeClient(cluster), cluster, OperatorConfig(), "weir-system")
    assert leader.stuck(0.0) == ""
