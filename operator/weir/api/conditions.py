"""Status conditions by the Kubernetes API conventions: pure helpers and the reasons that Weir uses."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from pydantic import Field

from weir.api.base import ApiModel

Status = Literal["True", "False", "Unknown"]


class Condition(ApiModel):
    """One entry of `status.conditions` (metav1.Condition)."""

    type: str = Field(max_length=316)
    status: Status
    observed_generation: int = 0
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"})
    reason: str = Field(max_length=1024, min_length=1)
    message: str = Field(max_length=32768)


class ConditionType(StrEnum):
    """Ready summarizes; Ready, Reconciling and Stalled are what kstatus reads."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    SCALING_ACTIVE = "ScalingActive"
    SCALING_LIMITED = "ScalingLimited"
    METRICS_AVAILABLE = "MetricsAvailable"
    OVERFLOW_AVAILABLE = "OverflowAvailable"
    OVERFLOWING = "Overflowing"
    CAPACITY_AVAILABLE = "CapacityAvailable"
    BUDGET_AVAILABLE = "BudgetAvailable"
    PRICES_KNOWN = "PricesKnown"


def find(conditions: Sequence[Condition], condition_type: str) -> Condition | None:
    """The condition of that type, if there is one."""
    return next((c for c in conditions if c.type == condition_type), None)


def merge(old: Sequence[Condition], new: Sequence[Condition]) -> tuple[Condition, ...]:
    """`new` with the transition times of `old` where the status did not change.

    Conditions that are in `old` only are dropped: every pass of reconcile states all of them.
    """
    before = {c.type: c for c in old}
    kept = []
    for c in new:
        was = before.get(c.type)
        same = was is not None and was.status == c.status
        kept.append(c.model_copy(update={"last_transition_time": was.last_transition_time}) if was and same else c)
    return tuple(sorted(kept, key=lambda c: c.type))
