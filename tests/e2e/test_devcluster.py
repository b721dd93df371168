"""The dev cluster is a cluster: it runs pods, answers through services, counts GPUs; and it goes without a trace."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane import rundir
from controlplane.api import Api
from devcluster import DevCluster, Node, images

ROOT = Path(__file__).parents[2]


@pytest.fixture
def space(dev_cluster: DevCluster) -> Iterator[str]:
    name = new_namespace(dev_cluster.api)
    yield name
    dev_cluster.api.request("DELETE", f"/api/v1/namespaces/{name}")


def test_a_locked_down_pod_runs_and_answers_through_a_service(dev_cluster: DevCluster, space: str) -> None:
    create_web(dev_cluster.api, space, gpus=2)
    with urllib.request.urlopen(f"{dev_cluster.door(space, 'web', 80)}/passwd", timeout=5) as answer:
        assert b"nonroot" in answer.read()
    with urllib.request.urlopen(f"{dev_cluster.door(space, 'web-0', 8000)}/group", timeout=5) as answer:
        assert answer.status == 200


def test_more_gpus_than_there_are_stay_pending(dev_cluster: DevCluster, space: str) -> None:
    api = dev_cluster.api
    capacity = int(api.request("GET", "/api/v1/nodes/gpu-a")["status"]["capacity"]["nvidia.com/gpu"])
    api.request("POST", f"/api/v1/namespaces/{space}/pods", web_pod("greedy", gpus=capacity + 1))

    def refusal() -> str:
        pod = api.request("GET", f"/api/v1/namespaces/{space}/pods/greedy")
        return "".join(each.get("message", "") for each in pod["status"].get("conditions", []))

    eventually(lambda: "Insufficient nvidia.com/gpu" in refusal())


def test_a_kubelet_refuses_gpus_that_are_taken(dev_cluster: DevCluster, space: str) -> None:
    api = dev_cluster.api
    past_the_scheduler = web_pod("greedy", gpus=9) | {"spec": web_pod("greedy", gpus=9)["spec"] | {"nodeName": "gpu-a"}}
    api.request("POST", f"/api/v1/namespaces/{space}/pods", past_the_scheduler)
    path = f"/api/v1/namespaces/{space}/pods/greedy"
    eventually(
        lambda: api.request("GET", path)["status"].get("reason") in {"OutOfnvidia.com/gpu", "UnexpectedAdmissionError"}
    )


def test_a_second_cluster_with_two_nodes_beside_it(dev_cluster: DevCluster) -> None:
    with DevCluster([Node("gpu-a", gpus=1), Node("gpu-b", gpus=1)]) as other:
        other.import_image(images.build(other.folder / "images.tar"))
        assert {node["metadata"]["name"] for node in other.api.request("GET", "/api/v1/nodes")["items"]} == {
            "gpu-a",
            "gpu-b",
        }
        assert len(dev_cluster.api.request("GET", "/api/v1/nodes")["items"]) == 1
        space = new_namespace(other.api)
        create_web(other.api, space, gpus=1, pods=2)  # one GPU each: one pod a node
        pods = other.api.request("GET", f"/api/v1/namespaces/{space}/pods")["items"]
        assert {pod["spec"]["nodeName"] for pod in pods} == {"gpu-a", "gpu-b"}
        for name in ("web-0", "web-1"):
            with urllib.request.urlopen(f"{other.door(space, name, 8000)}/passwd", timeout=5) as answer:
                assert answer.status == 200
        url = other.door(space, "web", 80)
        for _ in range(20):  # by chance over both nodes
            with urllib.request.urlopen(f"{url}/passwd", timeout=5) as answer:
                assert answer.status == 200


OWNER = """
import sys, time
sys.path.insert(0, {tests!r})
from devcluster import DevCluster, images
from test_devcluster import create_web
with DevCluster() as cluster:
    cluster.import_image(images.build(cluster.folder / "images.tar"))
    create_web(cluster.api, "default", gpus=1)
    print(cluster.folder, cluster.holder_pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.devcluster
@pytest.mark.parametrize("victim", ["owner", "process 1"])
def test_nothing_is_left_of_it(victim: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(tests=str(Path(__file__).parent))],
        env=os.environ | {"PYTHONPATH": str(ROOT / "hack")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    try:
        line = owner.stdout.readline().split()
        folder, holder = Path(line[0]), int(line[1])
        namespaces = {kind: os.readlink(f"/proc/{holder}/ns/{kind}") for kind in ("pid", "net", "mnt")}
        assert len(inside(namespaces)) > 8, "a cluster with a pod has more processes than that"
        os.kill(owner.pid if victim == "owner" else holder, signal.SIGKILL)
        eventually(lambda: not inside(namespaces))
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    if victim != "owner":  # nobody was left to clear away: the next start does
        made, lock = rundir.create()
        rundir.remove(made)
        os.close(lock)
    eventually(lambda: not folder.exists())
    assert folder.name not in Path("/proc/self/mountinfo").read_text()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{folder.name}"))


def test_the_dockerfile_copies_the_same_files() -> None:
    copied = dict(re.findall(r"^COPY (\S+) (/opt/\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert copied == images.SOURCES["weir"] | images.SOURCES["engines"]


def create_web(api: Api, namespace: str, gpus: int, pods: int = 1) -> None:
    """Pods web-0... behind the service web, waited for."""
    base = f"/api/v1/namespaces/{namespace}"
    service = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8000}]}
    api.request("POST", f"{base}/services", {"metadata": {"name": "web"}, "spec": service})
    names = [f"web-{index}" for index in range(pods)]
    for name in names:
        api.request("POST", f"{base}/pods", web_pod(name, gpus))
    for name in names:
        eventually(lambda name=name: ready(api.request("GET", f"{base}/pods/{name}")))  # type: ignore[misc]
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    eventually(lambda: sum(len(each["endpoints"] or ()) for each in api.request("GET", slices)["items"]) >= pods)


def ready(pod: dict[str, Any]) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))


def web_pod(name: str, gpus: int) -> dict[str, Any]:
    container = {
        "name": "web",
        "image": "weir.dev/engines:dev",
        "imagePullPolicy": "Never",
        "args": ["http.server", "8000", "--directory", "/etc"],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1},
        "resources": {"limits": {"nvidia.com/gpu": str(gpus), "memory": "64Mi"}},
        "securityContext": {
            "runAsNonRoot": True,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    spec = {"terminationGracePeriodSeconds": 1, "containers": [container]}
    return {"metadata": {"name": name, "labels": {"app": "web"}}, "spec": spec}


def new_namespace(api: Api) -> str:
    name = f"test-{secrets.token_hex(4)}"
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    eventually(lambda: api.exists(f"/api/v1/namespaces/{name}/serviceaccounts/default"))
    return name


def inside(namespaces: dict[str, str]) -> list[str]:
    """The processes in any of the namespaces."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for kind, namespace in namespaces.items():
            try:
                if os.readlink(process / "ns" / kind) == namespace:
                    found.append(process.name)
                    break
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                break  # ended while we looked, or nothing of ours
    return found


def eventually(holds: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"did not hold within {timeout} s"
        time.sleep(0.05)
