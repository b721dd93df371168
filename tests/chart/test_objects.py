"""What else is installed: CRDs, services, budgets, policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from weir.api.crd import generate

if TYPE_CHECKING:
    from tests.chart.conftest import Helm


def test_the_charts_crds_are_the_generated_ones_byte_for_byte(helm: Helm) -> None:
    assert {f.name: f.read_text() for f in (helm.chart / "files" / "crds").iterdir()} == generate(), (
        "run `make generate`"
    )


def test_crds_are_installed_as_they_are_and_kept(helm: Helm) -> None:
    rendered = {crd["metadata"]["name"]: crd for crd in helm.render().of("CustomResourceDefinition")}
    generated = {crd["metadata"]["name"]: crd for crd in map(yaml.safe_load, generate().values())}
    assert {n: crd["spec"] for n, crd in rendered.items()} == {n: crd["spec"] for n, crd in generated.items()}
    for crd in rendered.values():
        assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_crds_can_be_left_out_or_let_go(helm: Helm) -> None:
    assert helm.render({"crds": {"install": False}}).of("CustomResourceDefinition") == []
    for crd in helm.render({"crds": {"keep": False}}).of("CustomResourceDefinition"):
        assert "annotations" not in crd["metadata"]


def test_the_service_leads_to_the_gateways(helm: Helm) -> None:
    rendered = helm.render()
    service = rendered.one("Service", "weir-gateway")["spec"]
    pod = rendered.one("Deployment", "weir-gateway")["spec"]["template"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["ports"] == [{"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"}]


def test_gateways_go_one_at_a_time(helm: Helm) -> None:
    budget = helm.render().one("PodDisruptionBudget", "weir-gateway")["spec"]
    assert budget["maxUnavailable"] == 1
    disabled = helm.render({"gateway": {"podDisruptionBudget": {"enabled": False}}})
    assert disabled.of("PodDisruptionBudget") == []


def test_nothing_is_restricted_or_monitored_unasked(helm: Helm) -> None:
    assert not {o["kind"] for o in helm.render()} & {"NetworkPolicy", "ServiceMonitor", "PrometheusRule"}


def test_network_policies_let_in_clients_scrapers_and_each_other(helm: Helm) -> None:
    rendered = helm.render(helm.everything)
    (admin,) = rendered.one("NetworkPolicy", "weir")["spec"]["ingress"]
    assert admin["ports"] == [{"port": "admin"}]
    assert [list(peer) for peer in admin["from"]] == [["podSelector"], ["namespaceSelector"]]
    (http,) = rendered.one("NetworkPolicy", "weir-gateway")["spec"]["ingress"]
    assert http == {"ports": [{"port": "http"}], "from": helm.everything["networkPolicy"]["clients"]}
    (anyone,) = helm.render({"networkPolicy": {"enabled": True}}).one("NetworkPolicy", "weir-gateway")["spec"][
        "ingress"
    ]
    assert "from" not in anyone


def test_series_keep_the_namespace_of_their_model(helm: Helm) -> None:
    (endpoint,) = helm.render(helm.everything).one("ServiceMonitor", "weir")["spec"]["endpoints"]
    assert endpoint == {"port": "admin", "path": "/metrics", "honorLabels": True, "interval": "15s"}


def test_the_service_monitor_finds_a_service_that_names_both_programs(helm: Helm) -> None:
    rendered = helm.render(helm.everything)
    monitor = rendered.one("ServiceMonitor", "weir")["spec"]
    service = rendered.one("Service", "weir-metrics")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    others = [o for o in rendered.of("Service") if o is not service]
    assert all(not monitor["selector"]["matchLabels"].items() <= o["metadata"]["labels"].items() for o in others)
    assert [port["name"] for port in service["spec"]["ports"]] == [
        endpoint["port"] for endpoint in monitor["endpoints"]
    ]
    for deployment in rendered.of("Deployment"):
        template = deployment["spec"]["template"]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        ports = [port["name"] for container in template["spec"]["containers"] for port in container["ports"]]
        assert service["spec"]["ports"][0]["targetPort"] in ports


def test_all_objects_say_whose_they_are(helm: Helm) -> None:
    for obj in helm.render(helm.everything):
        assert obj["metadata"]["labels"]["app.kubernetes.io/name"] == "weir"
        assert obj["metadata"]["labels"]["app.kubernetes.io/instance"] == "weir"
