"""The two programs do their whole work with the rights that the chart gives them, and are refused nothing on the way.

They run as processes with the command lines of the chart's Deployments and the tokens of its service accounts, on a real API
server, once with the rights over the whole cluster and once with those in a few namespaces.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from engines.process import Stub

if TYPE_CHECKING:
    from tests.chart.conftest import Helm, Json

    from controlplane import ControlPlane

pytestmark = [pytest.mark.controlplane, pytest.mark.helm, pytest.mark.timeout(180)]

KEY = "sk-frontier-test-key-0001"
TEAM = "/api/v1/namespaces/team-a"
WEIR = "/apis/weir.dev/v1alpha1/namespaces/team-a"
APPS = "/apis/apps/v1/namespaces/team-a"
SPILL: Json = {
    "gateway": {
        "anonymousOverflow": True,
        "allowPrivateProviders": True,
        "defaultNamespace": "team-a",
        "drainSeconds": 5,
    }
}
EVERYWHERE: Json = {"gateway": SPILL["gateway"] | {"secretNamespaces": ["team-a"]}}
SOME: Json = EVERYWHERE | {"watchNamespaces": ["team-a", "team-b"]}


@pytest.fixture(params=[EVERYWHERE, SOME], ids=["whole cluster", "some namespaces"])
def programs(request: pytest.FixtureRequest, plane: ControlPlane, helm: Helm, tmp_path: Path) -> Iterator[Programs]:
    release = "weir"  # CRDs that an earlier release kept belong to its name
    helm.run("install", release, str(helm.chart), values=request.param, kubeconfig=plane.kubeconfig)
    with ExitStack() as stack:
        stack.callback(helm.run, "uninstall", release, kubeconfig=plane.kubeconfig)
        pods = {
            d["metadata"]["labels"]["app.kubernetes.io/component"]: d["spec"]["template"]["spec"]
            for d in helm.render(request.param, release).of("Deployment")
        }
        yield Programs(plane, tmp_path, stack, pods)


class Programs:
    """The processes of one release."""

    def __init__(self, plane: ControlPlane, folder: Path, stack: ExitStack, pods: dict[str, Json]) -> None:
        self.ports = {name: free_port() for name in ("operator", "gateway", "http")}
        self._logs = {name: folder / f"{name}.log" for name in pods}
        for name, pod in pods.items():
            command = [*pod["containers"][0]["args"], f"--admin-port={self.ports[name]}"]
            command += [f"--port={self.ports['http']}", "--host=127.0.0.1"] if name == "gateway" else []
            command += [f"--kubeconfig={kubeconfig(plane, folder, pod['serviceAccountName'])}"]
            names = {"POD_NAME": f"{name}-0", "POD_UID": secrets.token_hex(16), "POD_NAMESPACE": "weir-system"}
            environment = os.environ | names | {"PYTHONPATH": os.pathsep.join(sys.path)}
            with self._logs[name].open("w") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "weir.cli", *command], stdout=log, stderr=log, env=environment
                )
            stack.callback(end, process)

    def metrics(self, name: str) -> str:
        """What the program says to Prometheus; nothing while it does not listen."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}/metrics", timeout=5) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            return ""

    def log(self, name: str) -> str:
        """All that it has written."""
        return self._logs[name].read_text()

    def refused(self) -> list[str]:
        """Series and log lines that tell of a request which the API server forbade."""
        found = []
        for name in self._logs:
            found += [line for line in self.metrics(name).splitlines() if re.search(r'code="40[13]"', line)]
            found += [line for line in self.log(name).splitlines() if re.search(r"[Ff]orbidden|\b403\b", line)]
        return found


def test_they_do_all_their_work_and_are_refused_nothing(plane: ControlPlane, programs: Programs) -> None:
    api = plane.api
    model = f"m-{secrets.token_hex(2)}"
    with Stub("engines.frontier", f"--key={KEY}", "--model=big=3/0.3/15,128000,4096", "--ttft=0.01") as stub:
        eventually(
            "the operator leads", lambda: 'weir_leader{lease="weir-operator"} 1.0' in programs.metrics("operator")
        )
        for path, obj in objects(model, stub):
            api.request("POST", path, obj)

        eventually("a ReplicaSet", lambda: len(replica_sets(plane, model)) == 1)
        eventually("a Service", lambda: api.exists(f"{TEAM}/services/{model}"))
        eventually("conditions", lambda: status(plane, "modeldeployments", model).get("conditions"))
        eventually("a book", lambda: status(plane, "frontierproviders", model).get("ledgerUID"))
        eventually("an event", lambda: events(plane, model))

        eventually("the request to spill", lambda: ask(programs.ports["http"], model) == "frontier", within=60)
        eventually(
            "dollars in the book", lambda: status(plane, "spendledgers", f"frontierprovider.{model}").get("holders")
        )

        first = replica_sets(plane, model)[0]["metadata"]["name"]
        change = {"spec": {"engine": {"maxConcurrency": 8}}}
        api.request("PATCH", f"{WEIR}/modeldeployments/{model}", change, "application/merge-patch+json")
        eventually(
            "a new revision alone", lambda: [r["metadata"]["name"] for r in replica_sets(plane, model)] != [first]
        )
        eventually("the old one gone", lambda: not api.exists(f"{APPS}/replicasets/{first}"))

        api.request("DELETE", f"{TEAM}/services/{model}")
        eventually("the Service again", lambda: api.exists(f"{TEAM}/services/{model}"))
        change = {"spec": {"scaling": {"minReplicas": 3, "maxReplicas": 3}}}
        api.request("PATCH", f"{WEIR}/modeldeployments/{model}", change, "application/merge-patch+json")
        eventually("three replicas", lambda: [r["spec"]["replicas"] for r in replica_sets(plane, model)] == [3])
    assert programs.refused() == []


def objects(model: str, stub: Stub) -> list[tuple[str, Json]]:
    """A model that nothing can run here, with a provider that has a budget."""
    host = stub.url.removeprefix("http://")
    pricing = {"inputUsdPerMTok": "3", "cachedInputUsdPerMTok": "0.3", "outputUsdPerMTok": "15"}
    metadata = {"name": model, "namespace": "team-a"}
    return [
        (
            f"{TEAM}/secrets",
            {"metadata": metadata | {"annotations": {"weir.dev/allowed-hosts": host}}, "stringData": {"api-key": KEY}},
        ),
        (
            f"{WEIR}/frontierproviders",
            {
                "apiVersion": "weir.dev/v1alpha1",
                "kind": "FrontierProvider",
                "metadata": metadata,
                "spec": {
                    "baseURL": f"{stub.url}/v1",
                    "credentials": {"secretRef": {"name": model}},
                    "models": [{"name": "big", "contextTokens": 128000, "maxOutputTokens": 4096, "pricing": pricing}],
                    "budget": {"usdPerDay": "5"},
                },
            },
        ),
        (
            f"{WEIR}/modeldeployments",
            {
                "apiVersion": "weir.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": metadata,
                "spec": {
                    "model": {"source": "hf://a/b"},
                    "overflow": {
                        "targets": [{"providerRef": {"name": model}, "model": "big"}],
                        "budget": {"usdPerDay": "1"},
                    },
                },
            },
        ),
    ]


def ask(port: int, model: str) -> str:
    """Which side answered a small chat request; empty where none did."""
    body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "Say something."}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "x-weir-overflow": "only"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.headers.get("x-weir-backend", ""))
    except OSError:
        return ""


def kubeconfig(plane: ControlPlane, folder: Path, account: str) -> Path:
    """Of a service account, with a token as its pods would get it."""
    path = f"/api/v1/namespaces/weir-system/serviceaccounts/{account}/token"
    token = plane.api.request("POST", path, {"spec": {"expirationSeconds": 3600}})["status"]["token"]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": plane.url, "certificate-authority": str(plane.ca)}}],
        "users": [{"name": "c", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c", "namespace": "weir-system"}}],
    }
    file = folder / f"{account}.kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return file


def replica_sets(plane: ControlPlane, model: str) -> list[Json]:
    found: list[Json] = plane.api.request("GET", f"{APPS}/replicasets?labelSelector=weir.dev/model={model}")["items"]
    return found


def status(plane: ControlPlane, plural: str, name: str) -> Json:
    found: Json = plane.api.request("GET", f"{WEIR}/{plural}/{name}").get("status", {})
    return found


def events(plane: ControlPlane, name: str) -> list[Any]:
    listed = plane.api.request("GET", "/apis/events.k8s.io/v1/namespaces/team-a/events")["items"]
    return [e for e in listed if e["regarding"].get("name") == name and e["reportingController"] == "weir-operator"]


def eventually(what: str, holds: Callable[[], object], within: float = 30) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"waited {within:g} s for {what}"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
