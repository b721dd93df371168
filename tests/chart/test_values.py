"""Values: what is refused and in which words, and that the README's table is true."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from tests.chart.conftest import Helm

ROW = re.compile(r"^\| `(?P<key>[^`]+)` \| `(?P<default>[^`]*)` \| (?P<text>.+) \|$", re.MULTILINE)


def test_lint_finds_nothing(helm: Helm) -> None:
    done = subprocess.run([helm.program, "lint", "--strict", helm.chart], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"gatway": {}}, "additional properties 'gatway' not allowed"),
        ({"gateway": {"replica": 3}}, "at '/gateway': additional properties 'replica' not allowed"),
        ({"gateway": {"replicas": 0}}, "at '/gateway/replicas': minimum: got 0, want 1"),
        ({"gateway": {"drainSeconds": "5m"}}, "at '/gateway/drainSeconds': got string, want integer"),
        ({"gateway": {"secretNamespaces": ["a", "a"]}}, "at '/gateway/secretNamespaces': items at 0 and 1 are equal"),
        ({"gateway": {"extraArgs": ["drain"]}}, "at '/gateway/extraArgs/0': 'drain' does not match pattern '^--'"),
        (
            {"gateway": {"podLabels": {"app.kubernetes.io/name": "x"}}},
            "at '/gateway/podLabels/app.kubernetes.io~1name'",
        ),
        ({"gateway": {"service": {"port": 70000}}}, "at '/gateway/service/port': maximum: got 70,000, want 65,535"),
        ({"gateway": {"podDisruptionBudget": {"maxUnavailable": 0}}}, "minimum: got 0, want 1"),
        ({"watchNamespaces": "team-a"}, "at '/watchNamespaces': got string, want array"),
        ({"watchNamespaces": ["Team_A"]}, "at '/watchNamespaces/0': 'Team_A' does not match pattern"),
        ({"runAsUser": 0}, "at '/runAsUser': minimum: got 0, want 1"),
        ({"operator": {"logLevel": "loud"}}, "at '/operator/logLevel': value must be one of 'debug', 'info'"),
        ({"monitoring": {"rules": {"runbookBaseURL": "wiki"}}}, "at '/monitoring/rules/runbookBaseURL'"),
    ],
    ids=json.dumps,
)
def test_a_bad_value_is_refused_and_named(helm: Helm, values: dict[str, Any], words: str) -> None:
    with pytest.raises(helm.refused) as refused:
        helm.render(values)
    assert words in str(refused.value)


def test_what_is_left_out_by_null_is_left_out(helm: Helm) -> None:
    assert helm.render({"gateway": {"secretNamespaces": None}}) == helm.render()
    for deployment in helm.render({"runAsUser": None}).of("Deployment"):
        context = deployment["spec"]["template"]["spec"]["securityContext"]
        assert "runAsUser" not in context
        assert context["runAsNonRoot"] is True


def test_everything_can_be_set_at_once(helm: Helm) -> None:
    assert {obj["kind"] for obj in helm.render(helm.everything)} > {"ServiceMonitor", "PrometheusRule", "NetworkPolicy"}


def test_names_hold_for_any_release(helm: Helm) -> None:
    for values, release, name in (
        ({}, "weir", "weir-gateway"),
        ({}, "prod", "prod-weir-gateway"),
        ({"fullnameOverride": "dam"}, "prod", "dam-gateway"),
        ({}, "x" * 53, "x" * 47 + "-weir-gateway"),
    ):
        service = helm.render(values, release).of("Service")[0]
        assert service["metadata"]["name"] == name
        assert len(name) <= 63


def test_the_readme_lists_every_value_with_its_default(helm: Helm) -> None:
    stated = {row["key"]: row["default"] for row in ROW.finditer((helm.chart / "README.md").read_text())}
    assert stated == dict(leaves(yaml.safe_load((helm.chart / "values.yaml").read_text())))


def test_the_schema_knows_every_value(helm: Helm) -> None:
    schema = json.loads((helm.chart / "values.schema.json").read_text())
    for key, _ in leaves(yaml.safe_load((helm.chart / "values.yaml").read_text())):
        node = schema
        for part in key.split("."):
            node = node.get("properties", {}).get(part, {})
            node = schema["definitions"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        assert node, key


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`gateway.replicas` -> its default as JSON. `resources` is one value: it is replaced or merged as a whole."""
    for name, value in values.items():
        if isinstance(value, dict) and value and name != "resources":
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, json.dumps(value)
