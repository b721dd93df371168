"""The status of a ModelDeployment, and whether it is worth a write. Pure."""

from __future__ import annotations

from weir.api.base import API_VERSION
from weir.api.conditions import Condition, merge
from weir.api.modeldeployment import (
    Display,
    EconomicsStatus,
    ModelDeployment,
    ModelDeploymentStatus,
    OverflowStatus,
    ServingStatus,
)
from weir.api.quantity import Usd
from weir.controller.conditions import Facts, changed, conditions
from weir.kube.resources import Json
from weir.workload.names import pod_selector, selector_text, service_url

QUIET_SECONDS = 30.0
"""Numbers alone are written at most this often."""
JUMP = 5
"""Unless a percentage moved by this many points."""


def build(
    facts: Facts, ledger_uid: str | None, ledger_lost_on: str, spent: int | None, now: str
) -> ModelDeploymentStatus:
    """The status that `facts` make. `spent`: micro-dollars of its own budget, None without one; `now` is RFC 3339."""
    mdep, view = facts.mdep, facts.scaling
    percent = None if view.utilization is None else round(view.utilization * 100)
    share = round(view.share * 100)
    return ModelDeploymentStatus(
        observed_generation=mdep.metadata.generation,
        replicas=facts.replicas,
        ready_replicas=facts.ready,
        desired_replicas=facts.desired,
        selector=selector_text(pod_selector(mdep)),
        revision=facts.revision,
        url=service_url(mdep),
        display=Display(
            ready=f"{facts.ready}/{facts.desired}",
            utilization="" if percent is None else f"{percent}%",
            overflow=f"{share}%" if mdep.spec.overflow else "",
        ),
        serving=ServingStatus(
            utilization_percent=percent,
            in_flight=view.in_flight,
            queued=view.queued,
            capacity_per_replica=mdep.spec.engine.max_concurrency,
            signal="gateways" if view.answering else "none",
        ),
        overflow=OverflowStatus(
            in_flight=view.spilling,
            share_percent=share,
            usd_today=_cents(view.micro_usd_today if spent is None else spent),
            ledger_uid=ledger_uid,
            ledger_lost_on=ledger_lost_on,
        ),
        economics=economics(mdep, facts.replicas),
        conditions=merge(mdep.status.conditions, conditions(facts, now)),
    )


def economics(mdep: ModelDeployment, replicas: int) -> EconomicsStatus:
    """What the replicas cost, where the accelerator's price is known."""
    accelerator = mdep.spec.accelerator
    if accelerator is None or accelerator.hourly_cost_usd is None:
        return EconomicsStatus()
    each = accelerator.hourly_cost_usd.micros * accelerator.count
    return EconomicsStatus(replica_usd_per_hour=Usd.from_micros(each), usd_per_hour=Usd.from_micros(each * replicas))


def urgent(old: ModelDeploymentStatus, new: ModelDeploymentStatus) -> bool:
    """Whether the difference must be written now, rather than with the next numbers."""
    return bool(
        _counts(old) != _counts(new)
        or changed(old.conditions, new.conditions)
        or _generations(old.conditions) != _generations(new.conditions)
        or abs((old.serving.utilization_percent or 0) - (new.serving.utilization_percent or 0)) >= JUMP
        or abs(old.overflow.share_percent - new.overflow.share_percent) >= JUMP
    )


def to_apply(mdep: ModelDeployment, status: ModelDeploymentStatus) -> Json:
    """For server-side apply to the status of that very object."""
    return {
        "apiVersion": API_VERSION,
        "kind": mdep.kind_name,
        "metadata": {"namespace": mdep.metadata.namespace, "name": mdep.metadata.name, "uid": mdep.metadata.uid},
        "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def _counts(status: ModelDeploymentStatus) -> tuple[object, ...]:
    return (
        status.observed_generation,
        status.replicas,
        status.ready_replicas,
        status.desired_replicas,
        status.selector,
        status.revision,
        status.url,
        status.serving.capacity_per_replica,
        status.serving.signal,
        status.overflow.ledger_uid,
        status.overflow.ledger_lost_on,
    )


def _generations(conditions: tuple[Condition, ...]) -> set[tuple[str, int]]:
    return {(c.type, c.observed_generation) for c in conditions}


def _cents(micros: int) -> Usd:
    return Usd.from_micros(micros // 10_000 * 10_000)
