"""Helm, and what it makes of the chart."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane import ControlPlane, programs

Json = dict[str, Any]

EVERYTHING: Json = {
    "image": {"tag": "1.2.3"},
    "imagePullSecrets": [{"name": "registry"}],
    "watchNamespaces": ["team-a", "team-b"],
    "operator": {"replicas": 2, "defaultEngineImage": "vllm:x", "allowHostPaths": True, "priorityClassName": "high"},
    "gateway": {
        "secretNamespaces": ["team-a"],
        "anonymousOverflow": True,
        "allowPrivateProviders": True,
        "drainSeconds": 60,
        "extraArgs": ["--stale-seconds=30"],
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "nodeSelector": {"e": "f"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
        ],
        "priorityClassName": "high",
        "serviceAccountAnnotations": {"g": "h"},
        "service": {"type": "LoadBalancer", "port": 8000, "annotations": {"i": "j"}},
    },
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"prometheus": "main"}},
        "rules": {"enabled": True, "labels": {"prometheus": "main"}, "runbookBaseURL": "https://example.com/runbooks/"},
    },
    "networkPolicy": {
        "enabled": True,
        "clients": [{"namespaceSelector": {"matchLabels": {"llm": "yes"}}}],
        "monitoring": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
    },
}


class Refused(Exception):  # noqa: N818 - it says what happened
    """Helm did not render; the text is its standard error."""


class Rendered(list[Json]):
    """The objects of a release."""

    def of(self, kind: str) -> list[Json]:
        """All of one kind."""
        return [obj for obj in self if obj["kind"] == kind]

    def one(self, kind: str, name: str) -> Json:
        """The only one of that kind and name."""
        (found,) = [obj for obj in self.of(kind) if obj["metadata"]["name"] == name]
        return found


@dataclass(frozen=True)
class Helm:
    """The program and the chart."""

    program: Path
    chart: Path
    namespace: str = "weir-system"
    everything = EVERYTHING
    """Values that switch everything on."""
    refused = Refused

    def render(self, values: Json | None = None, release: str = "weir") -> Rendered:
        """What `helm install` would create. Raises Refused."""
        text = self.run("template", release, str(self.chart), values=values)
        return Rendered(obj for obj in yaml.safe_load_all(text) if obj)

    def run(self, *arguments: str, values: Json | None = None, kubeconfig: Path | None = None) -> str:
        """Any command in the release's namespace; its standard output. Raises Refused."""
        command = [str(self.program), *arguments, "--namespace", self.namespace]
        command += [] if values is None else ["--values", "-"]
        command += [f"--kubeconfig={kubeconfig}"] if kubeconfig else []
        done = subprocess.run(command, input=yaml.safe_dump(values or {}), capture_output=True, text=True)
        if done.returncode != 0:
            raise Refused(done.stderr)
        return done.stdout


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Found or built."""
    return Helm(programs.find("helm")["helm"], Path(__file__).parents[2] / "charts" / "weir")


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A control plane of the module's own, without CRDs, whose namespaces let in nothing but restricted pods."""
    with ControlPlane() as plane:
        for name in ("weir-system", "team-a", "team-b"):
            labels = {"pod-security.kubernetes.io/enforce": "restricted"}
            plane.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        yield plane
