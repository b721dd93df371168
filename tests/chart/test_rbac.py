"""Who may do what: the whole of it, as a table. A verb more or less in the chart fails here."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.chart.conftest import Helm, Rendered

Rights = dict[str, set[str]]
"""Resource (with its group, and the one name it is limited to) -> verbs."""

READ = {"get", "list", "watch"}
OPERATOR: Rights = {
    "weir.dev/modeldeployments": READ,
    "weir.dev/frontierproviders": READ,
    "weir.dev/modeldeployments/status": {"patch"},
    "weir.dev/frontierproviders/status": {"patch"},
    "weir.dev/spendledgers": READ | {"create"},
    "apps/replicasets": READ | {"create", "patch", "delete"},
    "/services": READ | {"create", "patch"},
    "/pods": {"list", "watch", "patch", "delete"},
    "/secrets": {"get"},
    "events.k8s.io/events": {"create", "patch"},
}
OPERATOR_EVERYWHERE: Rights = {"/nodes": {"list", "watch"}}
OPERATOR_AT_HOME: Rights = {
    "coordination.k8s.io/leases": {"create"},
    "coordination.k8s.io/leases=weir-operator": {"get", "update"},
    "/pods": {"list", "watch"},
}
GATEWAY: Rights = {
    "weir.dev/modeldeployments": READ,
    "weir.dev/frontierproviders": READ,
    "weir.dev/spendledgers": READ,
    "weir.dev/spendledgers/status": {"update"},
    "/pods": {"list", "watch"},
}
GATEWAY_AT_HOME: Rights = {"/pods": {"list", "watch"}, "/secrets": READ}
KEYS: Rights = {"/secrets": READ}


def rights(rendered: Rendered, account: str) -> dict[str, Rights]:
    """Namespace (`*`: all) -> what the ServiceAccount may do there, through every binding that names it."""
    roles = {
        (r["kind"], r["metadata"].get("namespace", "*"), r["metadata"]["name"]): r["rules"]
        for r in rendered
        if "rules" in r
    }
    allowed: dict[str, Rights] = defaultdict(lambda: defaultdict(set))
    for binding in rendered.of("RoleBinding") + rendered.of("ClusterRoleBinding"):
        if {"kind": "ServiceAccount", "name": account, "namespace": "weir-system"} not in binding["subjects"]:
            continue
        where = binding["metadata"].get("namespace", "*")
        for rule in roles[binding["roleRef"]["kind"], where, binding["roleRef"]["name"]]:
            assert rule.keys() <= {"apiGroups", "resources", "resourceNames", "verbs"}
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    for name in rule.get("resourceNames", [""]):
                        key = f"{group}/{resource}" + (f"={name}" if name else "")
                        allowed[where][key] |= set(rule["verbs"])
    return {where: dict(found) for where, found in allowed.items()}


def test_the_whole_cluster(helm: Helm) -> None:
    rendered = helm.render()
    assert rights(rendered, "weir-operator") == {"*": OPERATOR | OPERATOR_EVERYWHERE, "weir-system": OPERATOR_AT_HOME}
    assert rights(rendered, "weir-gateway") == {"*": GATEWAY, "weir-system": GATEWAY_AT_HOME}


def test_some_namespaces(helm: Helm) -> None:
    rendered = helm.render({"watchNamespaces": ["a", "b"], "gateway": {"secretNamespaces": ["b", "c"]}})
    assert rights(rendered, "weir-operator") == {
        "*": OPERATOR_EVERYWHERE,
        "weir-system": OPERATOR_AT_HOME,
        "a": OPERATOR,
        "b": OPERATOR,
    }
    assert rights(rendered, "weir-gateway") == {
        "weir-system": GATEWAY_AT_HOME,
        "a": GATEWAY,
        "b": GATEWAY | KEYS,
        "c": KEYS,
    }


def test_the_release_namespace_may_be_among_them(helm: Helm) -> None:
    rendered = helm.render({"watchNamespaces": ["weir-system"], "gateway": {"secretNamespaces": ["weir-system"]}})
    names = [(r["kind"], r["metadata"]["name"]) for r in rendered if r["metadata"].get("namespace") == "weir-system"]
    assert len(names) == len(set(names))
    assert rights(rendered, "weir-gateway") == {"weir-system": GATEWAY | GATEWAY_AT_HOME}


def test_nobody_is_given_a_wildcard(helm: Helm) -> None:
    for values in ({}, helm.everything):
        for role in helm.render(values):
            for rule in role.get("rules", ()):
                assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


def test_the_operator_writes_no_ledger_and_the_gateway_no_model(helm: Helm) -> None:
    rendered = helm.render()
    operator, gateway = rights(rendered, "weir-operator")["*"], rights(rendered, "weir-gateway")["*"]
    assert "weir.dev/spendledgers/status" not in operator
    assert not any(verbs - READ for resource, verbs in gateway.items() if resource != "weir.dev/spendledgers/status")
