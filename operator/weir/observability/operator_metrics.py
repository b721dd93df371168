"""What the operator says of models and budgets to Prometheus. Definitions, and one function that forgets what is gone.

The series below carry the `namespace` and `model` of the ModelDeployment (not of the operator's pod), so scrape with
`honorLabels: true`, as for kube-state-metrics. Alerts and dashboards read:

    weir_model_utilization_ratio{namespace,model}         demand / ready capacity over 60 s; absent without a signal or a replica
    weir_model_target_utilization_ratio{namespace,model}  spec.scaling.targetUtilization / 100
    weir_model_demand_slots{namespace,model}              demand over 60 s, in requests at once; absent without a signal
    weir_model_capacity_slots{namespace,model}            ready replicas x spec.engine.maxConcurrency
    weir_model_replicas{namespace,model,state}            pods by state: ready, starting, unschedulable, failing, terminating
    weir_model_desired_replicas{namespace,model}          what the operator wants
    weir_model_min_replicas{namespace,model}, weir_model_max_replicas{namespace,model}
    weir_model_overflow_share_ratio{namespace,model}      of the last minute's requests, the share that left the cluster
    weir_model_signal_available{namespace,model}          1 while demand is known and fresh, else 0; absent with policy Manual
    weir_model_usd_per_hour{namespace,model}              price of the pods there are; absent without accelerator.hourlyCostUSD
    weir_model_condition{namespace,model,type}            1 True, 0 False or Unknown: Ready, Stalled, CapacityAvailable ...
    weir_scale_decisions_total{namespace,model,direction,reason}   direction up or down
    weir_provider_condition{namespace,provider,type}      1 True, 0 False or Unknown: Ready, BudgetAvailable
    weir_budget_limit_usd{namespace,kind,name}            of the current UTC day; kind and name are the budget's owner
    weir_budget_spent_usd{namespace,kind,name}            spent for certain
    weir_budget_leased_usd{namespace,kind,name}           granted to gateways beyond that: spent at most
    weir_gateways{state}                                  gateway pods: answering, silent
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge
from prometheus_client.metrics import MetricWrapperBase

_MODEL = ["namespace", "model"]
_BUDGET = ["namespace", "kind", "name"]

UTILIZATION = Gauge(
    "weir_model_utilization_ratio",
    "Demand as a share of the ready replicas' slots, over 60 s; above 1 is saturated.",
    _MODEL,
)
TARGET = Gauge("weir_model_target_utilization_ratio", "The utilization that the model is held at.", _MODEL)
DEMAND = Gauge(
    "weir_model_demand_slots",
    "Mean requests at once over 60 s: running, queued, and what left for want of room.",
    _MODEL,
)
CAPACITY = Gauge("weir_model_capacity_slots", "Requests that the ready replicas run at once.", _MODEL)
REPLICAS = Gauge(
    "weir_model_replicas", "Pods by state: ready, starting, unschedulable, failing, terminating.", [*_MODEL, "state"]
)
DESIRED = Gauge("weir_model_desired_replicas", "Replicas that the operator wants.", _MODEL)
MIN_REPLICAS = Gauge("weir_model_min_replicas", "spec.scaling.minReplicas.", _MODEL)
MAX_REPLICAS = Gauge("weir_model_max_replicas", "spec.scaling.maxReplicas.", _MODEL)
OVERFLOW_SHARE = Gauge(
    "weir_model_overflow_share_ratio", "Share of the last minute's requests that left the cluster.", _MODEL
)
SIGNAL_AVAILABLE = Gauge("weir_model_signal_available", "1 while demand is known and fresh.", _MODEL)
USD_PER_HOUR = Gauge("weir_model_usd_per_hour", "Price of the model's pods at accelerator.hourlyCostUSD.", _MODEL)
MODEL_CONDITION = Gauge("weir_model_condition", "1 where the condition is True.", [*_MODEL, "type"])

DECISIONS = Counter(
    "weir_scale_decisions_total", "Changes of desired replicas, by direction (up, down) and why.", [*_MODEL, "direction", "reason"]
)  # fmt: skip

PROVIDER_CONDITION = Gauge(
    "weir_provider_condition", "1 where the condition is True.", ["namespace", "provider", "type"]
)

BUDGET_LIMIT = Gauge("weir_budget_limit_usd", "What may be spent in the current UTC day.", _BUDGET)
BUDGET_SPENT = Gauge("weir_budget_spent_usd", "Spent for certain in the current UTC day.", _BUDGET)
BUDGET_LEASED = Gauge("weir_budget_leased_usd", "Granted to gateways and not reported spent.", _BUDGET)

GATEWAYS = Gauge("weir_gateways", "Gateway pods by state: answering, silent.", ["state"])

REPLICA_STATES = ("ready", "starting", "unschedulable", "failing", "terminating")

_OF_MODEL: tuple[MetricWrapperBase, ...] = (
    UTILIZATION, TARGET, DEMAND, CAPACITY, REPLICAS, DESIRED, MIN_REPLICAS, MAX_REPLICAS, OVERFLOW_SHARE,
    SIGNAL_AVAILABLE, USD_PER_HOUR, MODEL_CONDITION, DECISIONS,
)  # fmt: skip


def forget_model(namespace: str, model: str) -> None:
    """Drop every series of a ModelDeployment that is gone, or alerts would go on about it for ever."""
    for metric in _OF_MODEL:
        metric.remove_by_labels({"namespace": namespace, "model": model})


def forget_provider(namespace: str, provider: str) -> None:
    """Drop every series of a FrontierProvider that is gone."""
    PROVIDER_CONDITION.remove_by_labels({"namespace": namespace, "provider": provider})


def forget_budget(namespace: str, kind: str, name: str) -> None:
    """Drop the series of a budget that is gone."""
    for metric in (BUDGET_LIMIT, BUDGET_SPENT, BUDGET_LEASED):
        metric.remove_by_labels({"namespace": namespace, "kind": kind, "name": name})
