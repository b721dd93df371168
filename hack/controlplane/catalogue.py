"""What can be built: the pinned Go modules below modules/ and the programs each of them holds.

A module of its own for every set of dependencies that does not fit together with the others. The versions that count are in
the go.mod files; those here are for the linker, for the names of cache folders, and to tell whether a program on PATH fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MODULES = Path(__file__).parent / "modules"


@dataclass(frozen=True)
class Module:
    """One go.mod and what is built from it."""

    directory: Path
    version: str
    programs: dict[str, str]
    """Program name -> Go package."""
    linker_flags: str = "-s -w"
    version_argument: str | None = None
    """How a program found on PATH is asked for its version; None: one on PATH is never taken."""


KUBERNETES = "1.36.3"
_COMPONENT_BASE = "k8s.io/component-base/version"

CATALOGUE: tuple[Module, ...] = (
    Module(
        MODULES / "kubernetes",
        KUBERNETES,
        {
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubelet",
                "kube-proxy",
                "kubectl",
            )
        },
        # Without these it calls itself v0.0.0-master, and clients that check the version object.
        f"-s -w -X {_COMPONENT_BASE}.gitVersion=v{KUBERNETES} -X {_COMPONENT_BASE}.gitMajor=1 "
        f"-X {_COMPONENT_BASE}.gitMinor=36 -X {_COMPONENT_BASE}.gitTreeState=clean",
        "--version",
    ),
    Module(MODULES / "etcd", "3.6.15", {"etcd": "go.etcd.io/etcd/server/v3"}, version_argument="--version"),
    Module(
        MODULES / "containerd",
        "2.4.2",
        {
            name: f"github.com/containerd/containerd/v2/cmd/{name}"
            for name in ("containerd", "containerd-shim-runc-v2", "ctr")
        },
        "-s -w -X github.com/containerd/containerd/v2/version.Version=2.4.2",
    ),
    Module(
        MODULES / "cni",
        "1.9.1",
        {
            name: f"github.com/containernetworking/plugins/plugins/{kind}/{name}"
            for name, kind in (("ptp", "main"), ("loopback", "main"), ("host-local", "ipam"))
        },
        "-s -w -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=v1.9.1",
    ),
    Module(
        MODULES / "helm",
        "4.3.1",
        {"helm": "helm.sh/helm/v4/cmd/helm"},
        "-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1",
        "version",
    ),
    Module(MODULES / "gpu", "0.36.3", {"gpu-device-plugin": "weir.dev/hack/gpu"}),
    Module(MODULES / "pause", "1", {"pause": "weir.dev/hack/pause"}),
)


def module_of(program: str) -> Module:
    """The module that holds a program; KeyError names what there is."""
    for module in CATALOGUE:
        if program in module.programs:
            return module
    raise KeyError(f"{program} is none of {sorted(name for module in CATALOGUE for name in module.programs)}")
