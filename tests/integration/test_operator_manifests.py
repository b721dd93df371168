"""What the golden files hold is what a real API server takes, and as near to Pod Security `restricted` as vLLM's image allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane import ControlPlane
from controlplane.api import ApiError

GOLDEN = Path(__file__).parents[1] / "workload" / "golden"
CASES = sorted(GOLDEN.glob("*.out.yaml"))
COLLECTIONS = {"Service": "/api/v1/namespaces/{}/services", "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets"}


def load(path: Path, namespace: str) -> list[Any]:
    made = list(yaml.safe_load_all(path.read_text()))
    return [obj | {"metadata": obj["metadata"] | {"namespace": namespace}} for obj in made]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name.removesuffix(".out.yaml"))
def test_accepted(control_plane: ControlPlane, namespace: str, path: Path) -> None:
    for obj in load(path, namespace):
        collection = COLLECTIONS[obj["kind"]].format(namespace)
        # Strict: a field that the server does not know is refused instead of dropped.
        control_plane.api.request("POST", f"{collection}?dryRun=All&fieldValidation=Strict", obj)


@pytest.mark.parametrize("name", ["minimal", "claim"])
def test_pod_security(control_plane: ControlPlane, namespace: str, name: str) -> None:
    template = load(GOLDEN / f"{name}.out.yaml", namespace)[1]["spec"]["template"]
    pod = {"metadata": template["metadata"] | {"name": "p"}, "spec": template["spec"]}
    enforce = "pod-security.kubernetes.io/enforce"

    def refusal(level: str) -> str:
        labels = {"metadata": {"labels": {enforce: level}}}
        path = f"/api/v1/namespaces/{namespace}"
        control_plane.api.request("PATCH", path, labels, "application/merge-patch+json")
        try:
            control_plane.api.request("POST", f"{path}/pods?dryRun=All", pod)
        except ApiError as error:
            return str(error)
        return ""

    assert refusal("baseline") == ""
    restricted = refusal("restricted")
    assert "runAsNonRoot != true" in restricted, "vllm/vllm-openai runs as root"
    for met in ("allowPrivilegeEscalation", "unrestricted capabilities", "seccompProfile", "restricted volume types"):
        assert met not in restricted
