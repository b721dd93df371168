"""The control plane that tier 1 stands on does what a real one does, and goes without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from controlplane import ControlPlane
from controlplane.api import ApiError

HACK = Path(__file__).parents[2] / "hack"


def test_controllers_and_admission_run(control_plane: ControlPlane, namespace: str) -> None:
    api = control_plane.api
    pod = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web"}]}}
    api.request(
        "POST",
        f"/apis/apps/v1/namespaces/{namespace}/replicasets",
        {
            "metadata": {"name": "web"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": pod},
        },
    )
    pods = f"/api/v1/namespaces/{namespace}/pods"
    eventually(lambda: len(api.request("GET", pods)["items"]) == 3)
    assert all(
        volume["name"].startswith("kube-api-access")
        for volume in api.request("GET", pods)["items"][0]["spec"]["volumes"]
    )
    api.request("DELETE", f"/apis/apps/v1/namespaces/{namespace}/replicasets/web")
    eventually(lambda: api.request("GET", pods)["items"] == [])  # the garbage collector


def test_service_accounts_have_no_rights_of_their_own(control_plane: ControlPlane, namespace: str) -> None:
    review = {
        "spec": {
            "user": f"system:serviceaccount:{namespace}:default",
            "resourceAttributes": {"verb": "list", "resource": "pods"},
        }
    }
    answer = control_plane.api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    assert answer["status"]["allowed"] is False


def test_objects_survive_a_stopped_api_server(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.stop_api()
    with pytest.raises(ConnectionRefusedError):
        control_plane.api.request("GET", "/readyz")
    control_plane.start_api()
    assert control_plane.api.exists(f"/api/v1/namespaces/{namespace}")


def test_a_paused_api_server_hangs_and_comes_back(control_plane: ControlPlane) -> None:
    control_plane.pause_api()
    try:
        with pytest.raises((TimeoutError, ApiError)):
            control_plane.api.request("GET", "/readyz", timeout=0.5)
    finally:
        control_plane.resume_api()
    eventually(control_plane.api.ready)


OWNER = """
import os, sys, time
from controlplane import ControlPlane
with ControlPlane() as plane:
    print(plane.folder, flush=True)
    time.sleep(600)
"""


@pytest.mark.controlplane
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_of_it(end: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env=os.environ | {"PYTHONPATH": str(HACK)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    assert mentioned(folder), "its processes carry its folder in their command lines"
    owner.send_signal(end)
    owner.wait()
    owner.stdout.close()
    eventually(lambda: not mentioned(folder) and not folder.exists())


def mentioned(folder: Path) -> list[str]:
    """The command lines of running processes that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        if str(folder) in line:
            found.append(line)
    return found


def eventually(holds: object, timeout: float = 20) -> None:
    assert callable(holds)
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"did not hold within {timeout} s"
        time.sleep(0.05)
