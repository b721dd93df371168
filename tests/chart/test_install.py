"""The chart on a real control plane of its own: admitted, allowed what it needs and no more, upgraded, uninstalled."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.chart.conftest import Helm, Json

    from controlplane import ControlPlane

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(120)]

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/modeldeployments.weir.dev"
HOME = "/api/v1/namespaces/weir-system"


@pytest.fixture(scope="module")
def installed(plane: ControlPlane, helm: Helm) -> None:
    helm.run("install", "weir", str(helm.chart), values={}, kubeconfig=plane.kubeconfig)


def eventually(holds: Callable[[], object], within: float = 30) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"not within {within:g} s"
        time.sleep(0.05)


def test_restricted_pods_are_admitted(plane: ControlPlane, installed: None) -> None:
    def pods() -> list[str]:
        return sorted(p["metadata"]["labels"]["app.kubernetes.io/component"] for p in items(plane, f"{HOME}/pods"))

    eventually(lambda: pods() == ["gateway", "gateway", "operator"])


@pytest.mark.parametrize(
    ("account", "verb", "group", "resource", "namespace", "allowed"),
    [
        ("operator", "list", "weir.dev", "modeldeployments", "", True),
        ("operator", "patch", "weir.dev", "modeldeployments/status", "team-a", True),
        ("operator", "update", "weir.dev", "modeldeployments", "team-a", False),
        ("operator", "update", "weir.dev", "spendledgers/status", "team-a", False),
        ("operator", "patch", "weir.dev", "spendledgers/status", "team-a", False),
        ("operator", "list", "", "nodes", "", True),
        ("operator", "list", "", "secrets", "team-a", False),
        ("operator", "create", "", "pods", "team-a", False),
        ("operator", "update", "coordination.k8s.io", "leases", "team-a", False),
        ("gateway", "watch", "", "pods", "", True),
        ("gateway", "update", "weir.dev", "spendledgers/status", "team-a", True),
        ("gateway", "list", "", "secrets", "weir-system", True),
        ("gateway", "get", "", "secrets", "team-a", False),
        ("gateway", "delete", "", "pods", "team-a", False),
        ("gateway", "patch", "weir.dev", "modeldeployments/status", "team-a", False),
    ],
)
def test_the_authorizer_agrees(
    plane: ControlPlane,
    installed: None,
    account: str,
    verb: str,
    group: str,
    resource: str,
    namespace: str,
    allowed: bool,
) -> None:
    name, _, subresource = resource.partition("/")
    attributes = {"verb": verb, "group": group, "resource": name, "subresource": subresource, "namespace": namespace}
    review = {"user": f"system:serviceaccount:weir-system:weir-{account}", "resourceAttributes": attributes}
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    assert plane.api.request("POST", path, {"spec": review})["status"].get("allowed", False) is allowed


def test_everything_at_once_is_accepted(plane: ControlPlane, helm: Helm, installed: None) -> None:
    """All but what needs the Prometheus operator's CRDs; a dry run on the server, beside the release that is there."""
    values = helm.everything | {"monitoring": {}, "crds": {"install": False}}
    command = ("install", "other", str(helm.chart), "--dry-run=server")
    assert "kind: NetworkPolicy" in helm.run(*command, values=values, kubeconfig=plane.kubeconfig)
    for obj in helm.render(values, "other"):
        plane.api.request("POST", f"{collection(obj)}?dryRun=All&fieldValidation=Strict", obj)


def test_an_upgrade_brings_new_crds_and_an_uninstall_keeps_them(
    plane: ControlPlane, helm: Helm, installed: None, tmp_path: Path
) -> None:
    older = replace(helm, chart=tmp_path / "weir")
    shutil.copytree(helm.chart, older.chart)
    file = older.chart / "files" / "crds" / "weir.dev_modeldeployments.yaml"
    text = file.read_text()
    file.write_text(text.replace("name: UTIL\n", "name: USE\n"))
    assert file.read_text() != text

    def columns() -> list[str]:
        version = plane.api.request("GET", CRD)["spec"]["versions"][0]
        return [column["name"] for column in version["additionalPrinterColumns"]]

    helm.run("upgrade", "weir", str(older.chart), values={}, kubeconfig=plane.kubeconfig)
    assert "USE" in columns()
    helm.run("upgrade", "weir", str(helm.chart), values={}, kubeconfig=plane.kubeconfig)
    assert "UTIL" in columns()
    assert "USE" not in columns()

    helm.run("uninstall", "weir", kubeconfig=plane.kubeconfig)
    assert plane.api.exists(CRD)
    assert items(plane, "/apis/apps/v1/namespaces/weir-system/deployments") == []
    helm.run(
        "install", "weir", str(helm.chart), values={}, kubeconfig=plane.kubeconfig
    )  # and they can be taken up again


def items(plane: ControlPlane, path: str) -> list[Json]:
    found: list[Json] = plane.api.request("GET", path)["items"]
    return found


def collection(obj: Json) -> str:
    """The path that such an object is posted to."""
    group = obj["apiVersion"]
    root = f"/apis/{group}" if "/" in group else f"/api/{group}"
    namespace = obj["metadata"].get("namespace")
    plural = obj["kind"].lower() + "s"
    plural = plural.replace("policys", "policies")
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"
