"""ModelDeployment: what a short one means, what is kept as written, what newer servers may add."""

from typing import Any

import pytest
from pydantic import ValidationError

from weir.api.modeldeployment import ModelDeployment


def mdep(spec: dict[str, Any] | None = None, **metadata: Any) -> ModelDeployment:
    return ModelDeployment.from_object(
        {
            "apiVersion": "weir.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "qwen", "namespace": "ml", **metadata},
            "spec": {"model": {"source": "hf://Qwen/Qwen3-8B"}} | (spec or {}),
        }
    )


def test_the_shortest_one() -> None:
    deployment = mdep()
    assert deployment.key == "ml/qwen"
    assert deployment.served_names == ("qwen",)
    assert deployment.spec.scaling.target_utilization == 70
    assert (deployment.spec.scaling.min_replicas, deployment.spec.scaling.max_replicas) == (1, 1)
    assert deployment.spec.engine.max_concurrency == 64
    assert deployment.spec.queue.max_wait.seconds == 30
    assert deployment.spec.accelerator is None
    assert deployment.spec.overflow is None


def test_served_names_replace_the_object_name() -> None:
    assert mdep({"model": {"source": "hf://a/b", "servedNames": ["x", "y"]}}).served_names == ("x", "y")


def test_idle_timeout_is_ten_minutes_unless_said() -> None:
    assert mdep().spec.scaling.idle_seconds == 600
    assert mdep({"scaling": {"minReplicas": 0, "idleTimeout": "90s"}}).spec.scaling.idle_seconds == 90


def test_dollar_fields_are_spelled_as_in_the_schema() -> None:
    deployment = mdep(
        {
            "accelerator": {"hourlyCostUSD": "2.95"},
            "overflow": {"targets": [{"providerRef": {"name": "p"}, "model": "m"}], "budget": {"usdPerDay": "50"}},
        }
    )
    assert deployment.spec.accelerator is not None
    assert deployment.spec.accelerator.hourly_cost_usd is not None
    assert deployment.spec.accelerator.hourly_cost_usd.micros == 2_950_000
    assert deployment.spec.overflow is not None
    assert deployment.spec.overflow.budget is not None
    assert deployment.spec.overflow.budget.usd_per_day.micros == 50_000_000


def test_pieces_of_a_pod_are_passed_on_as_they_are() -> None:
    toleration = {"key": "gpu", "operator": "Exists", "invented": {"later": [1]}}
    assert mdep({"template": {"tolerations": [toleration]}}).spec.template.tolerations == (toleration,)


def test_fields_of_a_newer_server_are_ignored() -> None:
    assert mdep({"inventedLater": 1, "scaling": {"alsoInvented": {}}}, managedFields=[]).spec == mdep().spec


def test_values_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        mdep().spec.scaling.max_replicas = 9  # type: ignore[misc]


def test_a_stored_object_that_does_not_fit_names_the_field() -> None:
    with pytest.raises(ValidationError, match=r"scaling\.policy"):
        mdep({"scaling": {"policy": "Astrology"}})
