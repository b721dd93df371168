"""Every pod of the chart: its security posture, its patience, its command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from weir import cli

if TYPE_CHECKING:
    from tests.chart.conftest import Helm, Json

VALUES: dict[str, dict[str, Any] | None] = {"defaults": {}, "everything": None}


@pytest.fixture(params=VALUES)
def deployments(request: pytest.FixtureRequest, helm: Helm) -> list[Json]:
    return helm.render(helm.everything if request.param == "everything" else VALUES[request.param]).of("Deployment")


def containers(deployments: list[Json]) -> list[Json]:
    found = []
    for deployment in deployments:
        spec = deployment["spec"]["template"]["spec"]
        found += [*spec["containers"], *spec.get("initContainers", ())]
    return found


def test_two_programs(deployments: list[Json]) -> None:
    assert [d["metadata"]["name"] for d in deployments] == ["weir-gateway", "weir-operator"]


def test_containers_may_do_nothing(deployments: list[Json]) -> None:
    for container in containers(deployments):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_pods_are_nobody_and_share_nothing_with_their_node(deployments: list[Json]) -> None:
    for deployment in deployments:
        spec = deployment["spec"]["template"]["spec"]
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "hostUsers"}
        assert spec["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]
        assert spec["enableServiceLinks"] is False
        for container in spec["containers"]:
            assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - of the container
            assert not [port for port in container["ports"] if "hostPort" in port]


def test_every_container_is_probed_bounded_and_knows_its_name(deployments: list[Json]) -> None:
    for container in containers(deployments):
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "admin"}
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        fields = {e["name"]: e["valueFrom"]["fieldRef"]["fieldPath"] for e in container["env"]}
        assert fields == {
            "POD_NAME": "metadata.name",
            "POD_UID": "metadata.uid",
            "POD_NAMESPACE": "metadata.namespace",
        }


def test_selectors_select_their_pods_and_no_others(deployments: list[Json]) -> None:
    for deployment in deployments:
        selector = deployment["spec"]["selector"]["matchLabels"]
        mine = [d for d in deployments if selector.items() <= d["spec"]["template"]["metadata"]["labels"].items()]
        assert mine == [deployment]


def test_ports_are_found_by_the_names_that_the_programs_look_for(helm: Helm) -> None:
    gateway = helm.render().one("Deployment", "weir-gateway")
    labels = gateway["spec"]["template"]["metadata"]["labels"]
    assert labels.items() >= {"app.kubernetes.io/name": "weir", "app.kubernetes.io/component": "gateway"}.items()
    (container,) = containers([gateway])
    assert {p["name"]: p["containerPort"] for p in container["ports"]} == {"http": 8080, "admin": 8081}


def test_the_kubelet_waits_for_the_drain(helm: Helm) -> None:
    for values, drain in (({}, 300), ({"gateway": {"drainSeconds": 60}}, 60)):
        spec = helm.render(values).one("Deployment", "weir-gateway")["spec"]["template"]["spec"]
        sleep = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert spec["terminationGracePeriodSeconds"] == drain + sleep + 10
        assert f"--drain-seconds={drain}" in spec["containers"][0]["args"]


def test_values_of_one_program_reach_its_pod(helm: Helm) -> None:
    deployments = helm.render(helm.everything)
    gateway = deployments.one("Deployment", "weir-gateway")["spec"]["template"]
    operator = deployments.one("Deployment", "weir-operator")["spec"]["template"]
    assert gateway["metadata"]["annotations"].items() >= {"a": "b"}.items()
    assert gateway["metadata"]["labels"].items() >= {"c": "d"}.items()
    assert gateway["spec"]["nodeSelector"] == {"e": "f"}
    assert gateway["spec"]["tolerations"] == [{"operator": "Exists"}]
    assert gateway["spec"]["affinity"] == {"nodeAffinity": {}}
    assert gateway["spec"]["topologySpreadConstraints"][0]["topologyKey"] == "zone"
    assert "nodeSelector" not in operator["spec"]
    assert operator["spec"]["topologySpreadConstraints"][0]["topologyKey"] == "kubernetes.io/hostname"
    for pod in (gateway, operator):
        assert pod["spec"]["priorityClassName"] == "high"
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
        assert pod["spec"]["containers"][0]["image"] == "weir.dev/weir:1.2.3"


def test_the_programs_take_their_command_lines(deployments: list[Json]) -> None:
    """Parsed by the real command line, and not run."""
    for container in containers(deployments):
        name, *args = container["args"]
        command = cli.main.commands[name]
        context = command.make_context(name, list(args))
        assert context.params["admin_port"] == 8081


def test_the_operator_knows_what_the_gateways_may_do(helm: Helm) -> None:
    """With the defaults nothing leaves, and the conditions of models are to say so."""
    (container,) = containers([helm.render().one("Deployment", "weir-operator")])
    assert {"--no-anonymous-overflow", "--secret-namespace=weir-system"} <= set(container["args"])


def test_the_command_lines_say_what_the_values_say(helm: Helm) -> None:
    rendered = helm.render(helm.everything)
    operator, gateway = (
        set(containers([rendered.one("Deployment", f"weir-{name}")])[0]["args"]) for name in ("operator", "gateway")
    )
    assert operator == {
        "operator",
        "--namespace=team-a",
        "--namespace=team-b",
        "--lease-namespace=weir-system",
        "--gateway-namespace=weir-system",
        "--default-engine-image=vllm:x",
        "--secret-namespace=weir-system",
        "--secret-namespace=team-a",
        "--allow-host-paths",
        "--admin-port=8081",
        "--log-level=info",
    }
    assert gateway == {
        "gateway",
        "--port=8080",
        "--default-namespace=default",
        "--namespace=team-a",
        "--namespace=team-b",
        "--secret-namespace=weir-system",
        "--secret-namespace=team-a",
        "--anonymous-overflow",
        "--allow-private-providers",
        "--max-body-bytes=33554432",
        "--drain-seconds=60",
        "--admin-port=8081",
        "--log-level=info",
        "--stale-seconds=30",
    }
