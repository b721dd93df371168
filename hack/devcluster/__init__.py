"""A real Kubernetes cluster without Docker: kubelet, containerd and runc in namespaces of their own, on a machine's own kernel."""

from devcluster.cluster import DevCluster
from devcluster.node import Node

__all__ = ["DevCluster", "Node"]
