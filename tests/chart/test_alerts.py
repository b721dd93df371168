"""Alerts: they parse, read metrics that exist by labels that exist, and each has its page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY

from weir.observability import gateway_metrics, metrics, operator_metrics

if TYPE_CHECKING:
    from tests.chart.conftest import Helm

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((ROOT / "charts/weir/files/alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
}
MODULES = (metrics, operator_metrics, gateway_metrics)
LABELS: dict[str, set[str]] = {
    name: set(getattr(metric, "_labelnames", ()))
    for name, metric in REGISTRY._names_to_collectors.items()
    if name.startswith("weir_")
}
"""Series name -> its labels, of every metric that those modules define."""


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []
    promql_parser.walk(
        promql_parser.parse(expression),
        pre_visit=lambda node: found.append(node) if isinstance(node, promql_parser.VectorSelector) else None,
    )
    return found


@pytest.mark.parametrize("rule", ALERTS.values(), ids=ALERTS)
def test_it_reads_what_the_programs_say(rule: dict[str, Any]) -> None:
    read = selectors(rule["expr"])
    assert read
    grouped = {label for by in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in by.split(", ")}
    for selector in read:
        assert selector.name in LABELS, f"no program has a metric {selector.name}"
        assert {m.name for m in selector.matchers.matchers} <= LABELS[selector.name]
        assert grouped <= LABELS[selector.name]
    told = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert told <= grouped, "an annotation names a label that the expression drops"


@pytest.mark.parametrize("rule", ALERTS.values(), ids=ALERTS)
def test_it_says_what_is_wrong_and_how_bad(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description"}
    assert not rule.keys() - {"alert", "expr", "for", "labels", "annotations"}


@pytest.mark.parametrize("name", ALERTS)
def test_it_has_a_page_that_helps(name: str) -> None:
    page = (RUNBOOKS / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == ["What it means", "How to look", "What to do"]


def test_every_page_has_its_alert() -> None:
    assert {page.stem for page in RUNBOOKS.glob("Weir*.md")} == set(ALERTS)


def test_the_chart_ships_them_with_links_to_their_pages(helm: Helm) -> None:
    (group,) = helm.render(helm.everything).one("PrometheusRule", "weir")["spec"]["groups"]
    assert {rule["alert"]: rule["expr"] for rule in group["rules"]} == {n: r["expr"] for n, r in ALERTS.items()}
    for rule in group["rules"]:
        assert rule["annotations"]["runbook"] == f"docs/runbooks/{rule['alert']}.md"
        assert rule["annotations"]["runbook_url"] == f"https://example.com/runbooks/{rule['alert']}.md"
    (unlinked,) = helm.render({"monitoring": {"rules": {"enabled": True}}}).one("PrometheusRule", "weir")["spec"][
        "groups"
    ]
    assert "runbook_url" not in unlinked["rules"][0]["annotations"]
