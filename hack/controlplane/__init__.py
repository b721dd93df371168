"""A real Kubernetes control plane for tests, from published Go modules: no Docker, no privileges, no mocks."""

from controlplane.plane import ControlPlane

__all__ = ["ControlPlane"]
