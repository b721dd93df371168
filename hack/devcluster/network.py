"""The network of a cluster: addresses, and the scripts that set up its own network and mount namespaces.

                       10.211.0.1 (control plane, door)
                            |  bridge "nodes"
              +-------------+-------------+
        10.211.0.2 (node 0)         10.211.0.3 (node 1)
    pods 10.210.0.0/22           pods 10.210.4.0/22           services 10.96.0.0/16

Nothing leads out: no address here means anything to the machine, so any number of clusters use the same ones.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

CONTROL_PLANE = IPv4Address("10.211.0.1")
POD_RANGE = IPv4Network("10.210.0.0/16")
SERVICE_RANGE = IPv4Network("10.96.0.0/16")
API_SERVICE = SERVICE_RANGE[1]

# The kubelet would write these for the whole machine: it gets files of its own with the values that it wants to see.
_SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}


def node_address(index: int) -> IPv4Address:
    """Of the index-th node."""
    return CONTROL_PLANE + 1 + index


def pod_range(index: int) -> IPv4Network:
    """1022 addresses for the pods of the index-th node: enough for 250 of them and as many that are just ending."""
    return list(POD_RANGE.subnets(new_prefix=22))[index]


def cluster_script() -> str:
    """Run once in the cluster's namespaces."""
    return f"""
ip link set lo up
ip link add nodes type bridge
ip addr add {CONTROL_PLANE}/24 dev nodes
ip link set nodes up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects
# From outside the nodes, services are reached through the kube-proxy of the first node.
ip route add {SERVICE_RANGE} via {node_address(0)}
"""


def node_script(index: int, folder: Path) -> str:
    """Run in the fresh network and mount namespaces of a node; process 1 lives in the cluster's."""
    sysctls = "\n".join(
        f"echo {value} > {folder}/sysctl/{name}; mount --bind {folder}/sysctl/{name} /proc/sys/{name}"
        for name, value in _SYSCTLS.items()
    )
    return f"""
ip link add eth0 type veth peer name node{index} netns 1
nsenter --target 1 --net ip link set node{index} master nodes up
nsenter --target 1 --net ip route add {pod_range(index)} via {node_address(index)}
ip link set lo up
ip link set eth0 up
ip addr add {node_address(index)}/24 dev eth0
ip route add default via {CONTROL_PLANE}
echo 1 > /proc/sys/net/ipv4/ip_forward
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /var/lib
mkdir -p /var/lib/kubelet /var/lib/cni {folder}/kubelet {folder}/sysctl/vm {folder}/sysctl/kernel/keys
mount --bind {folder}/kubelet /var/lib/kubelet
{sysctls}
mount --make-rshared /
touch {folder}/ready
exec sleep infinity
"""
