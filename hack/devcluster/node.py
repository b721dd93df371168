"""One node: containerd, kubelet, kube-proxy and the GPU device plugin in network and mount namespaces of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from controlplane.credentials import Credentials
from controlplane.run import Run
from devcluster import network
from devcluster.machine import SYSTEM_PATH

PROGRAMS = (
    *("kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr"),
    *("ptp", "loopback", "host-local", "gpu-device-plugin"),
)
PAUSE_IMAGE = "weir.dev/pause:1"
MAX_PODS = 250


@dataclass(frozen=True)
class Node:
    """A node as tests order it."""

    name: str = "gpu-a"
    gpus: int = 8
    product: str = "NVIDIA-H100-80GB-HBM3"
    """Becomes the label nvidia.com/gpu.product, as NVIDIA's feature discovery sets it."""


class RunningNode:
    """A node within a run. Its programs are NAME.containerd, NAME.kubelet, NAME.kube-proxy, NAME.gpu."""

    def __init__(self, run: Run, programs: Mapping[str, Path], spec: Node, index: int) -> None:
        self.spec = spec
        self._run, self._programs, self._index = run, programs, index
        self.folder = run.folder / spec.name
        self._enter: list[str] = []

    @property
    def _socket(self) -> Path:
        return self.folder / "containerd.sock"

    def start_network(self) -> None:
        """Makes the namespaces. The control plane need not be there yet."""
        self.folder.mkdir()
        unshare = ["unshare", "--net", "--mount", "--propagation", "private"]
        script = network.node_script(self._index, self.folder)
        pid = self._run.start(self.spec.name, [*unshare, "bash", "-euc", script], {"PATH": SYSTEM_PATH})
        self._run.wait(f"{self.spec.name}'s network", (self.folder / "ready").exists, needs=self.spec.name)
        self._enter = ["nsenter", f"--target={pid}", "--net", "--mount"]

    def start_containerd(self) -> None:
        """Starts the container runtime and does not wait."""
        conf = self.folder / "cni"
        conf.mkdir()
        (conf / "10-weir.conflist").write_text(json.dumps(_cni(self._index)))
        config = self.folder / "containerd.toml"
        config.write_text(_CONTAINERD.format(folder=self.folder, bin=self._programs["ptp"].parent, pause=PAUSE_IMAGE))
        shim = self._programs["containerd-shim-runc-v2"].parent
        self._start("containerd", "--config", config, PATH=f"{shim}:{SYSTEM_PATH}")

    def wait_containerd(self) -> None:
        """Returns when it takes images."""
        self._run.wait(f"{self.spec.name}'s containerd", self._socket.exists, needs=f"{self.spec.name}.containerd")

    def start_kubernetes(self, credentials: Credentials, api: str) -> None:
        """Starts kubelet, kube-proxy and device plugin and does not wait."""
        name, address = self.spec.name, network.node_address(self._index)
        config = self.folder / "kubelet.yaml"
        config.write_text(yaml.safe_dump(_kubelet(self._run.folder.name, name, str(address), str(self._socket))))
        kubeconfig = credentials.kubeconfig(f"system:node:{name}", api)
        labels = f"nvidia.com/gpu.product={self.spec.product}" if self.spec.gpus else ""
        self._start(
            "kubelet",
            f"--config={config}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={name}",
            f"--node-ip={address}",
            f"--node-labels={labels}",
            f"--cert-dir={self.folder}/pki",
        )
        proxy = self.folder / "kube-proxy.yaml"
        proxy.write_text(yaml.safe_dump(_kube_proxy(name, str(credentials.kubeconfig("system:kube-proxy", api)))))
        self._start("kube-proxy", f"--config={proxy}")
        if self.spec.gpus:
            self._start("gpu-device-plugin", f"--gpus={self.spec.gpus}", f"--node={name}", name="gpu")

    def _start(self, program: str, *arguments: object, name: str | None = None, **environment: str) -> None:
        argv = [*self._enter, self._programs[program], *arguments]
        self._run.start(f"{self.spec.name}.{name or program}", argv, {"PATH": SYSTEM_PATH} | environment)

    def import_image(self, archive: Path) -> None:
        """Loads the images of an OCI archive; unpacks only layers that are new."""
        self._images("import", "--local", archive)

    def tag_image(self, image: str, name: str) -> None:
        """Gives an image that is here a further name."""
        self._images("tag", image, name)

    def _images(self, *command: object) -> None:
        ctr = [*self._enter, self._programs["ctr"], "--address", self._socket, "--namespace", "k8s.io"]
        self._run.finish(f"{self.spec.name}.images", [*ctr, "images", *command])


def _cni(index: int) -> dict[str, Any]:
    # Point-to-point and not a bridge: all traffic is routed, so what kube-proxy translates comes back the same way
    # whether or not the machine has br_netfilter.
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": str(network.pod_range(index))}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {"cniVersion": "1.0.0", "name": "weir", "plugins": [{"type": "ptp", "ipMasq": False, "ipam": ipam}]}


# restrict_oom_score_adj: without CAP_SYS_RESOURCE every pod would fail ("can't get final child's PID from pipe: EOF").
_CONTAINERD = """
version = 3
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/containerd/opt"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{bin}"]
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


def _kubelet(cgroup: str, name: str, address: str, socket: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "containerRuntimeEndpoint": f"unix://{socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}/{name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "readOnlyPort": 0,
        "maxPods": MAX_PODS,
        "resolvConf": "",  # no DNS in this cluster, and none of the machine's
        "podLogsDir": "/var/log/pods",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        # Nobody but the API server and the door can reach it: its network leads nowhere.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "makeIPTablesUtilChains": False,
        # It shares the disk with the machine and must not judge by it.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "4s",
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "eventRecordQPS": 0,
    }


def _kube_proxy(name: str, kubeconfig: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": kubeconfig, "qps": 50, "burst": 100},
        "hostnameOverride": name,
        "mode": "iptables",
        "clusterCIDR": str(network.POD_RANGE),
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        # Connection tracking has limits for the whole machine only, which are not ours to change.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"localhostNodePorts": False, "minSyncPeriod": "100ms"},
        "nodePortAddresses": ["primary"],
    }
