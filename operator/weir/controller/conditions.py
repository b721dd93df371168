"""From what was seen of a ModelDeployment to its conditions. Pure: each condition is an ordered list of cases, the first that fits wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from weir.api.conditions import Condition, ConditionType, Status
from weir.api.modeldeployment import ModelDeployment
from weir.controller.evidence import Evidence, replicas
from weir.controller.spill import Availability
from weir.scaling.policy import Limit, Reason


@dataclass(frozen=True)
class ScalingView:
    """What the autoscaler last decided and saw."""

    reason: Reason = Reason.ON_TARGET
    limit: Limit = Limit.NONE
    message: str = ""
    utilization: float | None = None
    """Demand as a share of the ready replicas' slots over a minute."""
    demand: float | None = None
    """Slots, over a minute."""
    in_flight: int = 0
    queued: int = 0
    spilling: int = 0
    share: float = 0.0
    """Of the last minute's requests, those that left."""
    micro_usd_today: int = 0
    gateways: int = 0
    answering: int = 0


@dataclass(frozen=True)
class Facts:
    """Everything that conditions and status are made of."""

    mdep: ModelDeployment
    revision: str
    desired: int
    replicas: int
    """Live pods of all revisions."""
    ready: int
    ready_now: int
    """Of the current revision."""
    rolled_out: bool
    stalled: Evidence | None = None
    """Why this pass could not do what the spec asks for."""
    waiting: Evidence | None = None
    """What this pass waits for."""
    trouble: Evidence | None = None
    """Why replicas of the current revision do not start."""
    secret: Evidence | None = None
    unscheduled: Evidence | None = None
    lost_names: tuple[tuple[str, str], ...] = ()
    """Served names, and the older ModelDeployments that they belong to."""
    scaling: ScalingView = field(default_factory=ScalingView)
    overflow: Availability = field(default_factory=lambda: Availability(False, "NotConfigured", ""))

    @property
    def manual(self) -> bool:
        """Whether somebody else says how many replicas."""
        return self.mdep.spec.scaling.policy == "Manual"

    @property
    def nameless(self) -> bool:
        """Whether no request can reach it through the gateway by a name of its own."""
        return len(self.lost_names) == len(self.mdep.served_names)


Verdict = tuple[Status, str, str]
"""Status, reason, message."""


def conditions(facts: Facts, now: str) -> tuple[Condition, ...]:
    """All conditions, with `now` (RFC 3339) as transition time; `api.conditions.merge` keeps older times."""
    return tuple(
        Condition(
            type=kind,
            status=status,
            reason=reason,
            message=message,
            observed_generation=facts.mdep.metadata.generation,
            last_transition_time=now,
        )
        for kind, rule in _RULES.items()
        for status, reason, message in [rule(facts)]
    )


def obstacle(facts: Facts) -> Evidence | None:
    """What a person has to do something about, if anything; most fundamental first."""
    if facts.stalled:
        return facts.stalled
    if facts.lost_names:
        words = ", ".join(f"{name} belongs to the older ModelDeployment {owner}" for name, owner in facts.lost_names)
        return Evidence("NameTaken", f"{words}; choose other spec.model.servedNames")
    # While replicas of this revision serve, one that does not start is no stall: the message of Ready names it.
    return (facts.secret or facts.trouble) if not facts.ready_now and facts.desired else None


def _ready(facts: Facts) -> Verdict:
    hindered = obstacle(facts)
    count = f"{facts.ready} of {facts.desired} replicas are Ready"
    if facts.nameless and hindered:
        return "False", hindered.reason, hindered.message
    if facts.ready:
        remark = hindered or facts.trouble or facts.unscheduled
        return "True", "Serving", f"{count}; {remark.message}" if remark else count
    if hindered:
        return "False", hindered.reason, hindered.message
    if not facts.desired:
        first = "spec.replicas is 0" if facts.manual else "the first request starts a replica"
        return "True", "ScaledToZero", f"no replica is wanted: {first}"
    if facts.unscheduled:
        return "False", facts.unscheduled.reason, facts.unscheduled.message
    return "False", "Starting", count


def _reconciling(facts: Facts) -> Verdict:
    if obstacle(facts):  # one of the two: kstatus looks at Reconciling first, and would wait for ever
        return "False", "Stalled", "see condition Stalled"
    if facts.waiting:
        return "True", facts.waiting.reason, facts.waiting.message
    if not facts.rolled_out:
        return (
            "True",
            "RollingOut",
            f"revision {facts.revision} has {facts.ready_now} of {facts.desired} replicas Ready",
        )
    if facts.ready < facts.desired:
        return "True", "Starting", f"{facts.ready} of {facts.desired} replicas are Ready"
    if facts.replicas > facts.desired:
        return "True", "ScalingDown", f"{replicas(facts.replicas - facts.desired)} too many"
    return "False", "Converged", "what there is is what is wanted"


def _stalled(facts: Facts) -> Verdict:
    hindered = obstacle(facts)
    return (
        ("True", hindered.reason, hindered.message) if hindered else ("False", "Progressing", "nothing is in the way")
    )


def _scaling_active(facts: Facts) -> Verdict:
    if facts.manual:
        return "False", "Manual", "spec.scaling.policy is Manual: spec.replicas says how many"
    if facts.scaling.reason == Reason.SIGNAL_MISSING:
        return "False", str(Reason.SIGNAL_MISSING), facts.scaling.message
    return "True", "Utilization", facts.scaling.message or "demand has not been measured yet"


def _scaling_limited(facts: Facts) -> Verdict:
    limit = Limit.NONE if facts.manual else facts.scaling.limit
    if limit == Limit.NONE:
        return "False", str(limit), "nothing keeps the count from what demand asks for"
    return "True", str(limit), facts.scaling.message


def _metrics_available(facts: Facts) -> Verdict:
    view = facts.scaling
    if facts.manual:
        return "Unknown", "Manual", "not needed with spec.scaling.policy Manual"
    if not view.gateways:
        return "False", "NoGateway", "no gateway pod was found: demand is unknown, and replicas are held"
    if not view.answering:
        return "False", "GatewaysSilent", f"none of {view.gateways} gateways answers on /load: replicas are held"
    if view.answering < view.gateways:
        silent = view.gateways - view.answering
        return (
            "True",
            "SomeGatewaysSilent",
            f"{silent} of {view.gateways} gateways do not answer: nothing is scaled down",
        )
    return "True", "GatewaysAnswer", "all gateways answer on /load"


def _overflow_available(facts: Facts) -> Verdict:
    view = facts.overflow
    return "True" if view.available else "False", view.reason, view.message


def _overflowing(facts: Facts) -> Verdict:
    if facts.scaling.spilling or facts.scaling.share:
        return "True", "Spilling", f"{facts.scaling.share:.0%} of the last minute's requests left the cluster"
    return "False", "NotSpilling", "no request left the cluster in the last minute"


def _capacity_available(facts: Facts) -> Verdict:
    if facts.unscheduled:
        return "False", facts.unscheduled.reason, facts.unscheduled.message
    return "True", "Scheduled", "every replica has a node"


_RULES: dict[ConditionType, Callable[[Facts], Verdict]] = {
    ConditionType.READY: _ready,
    ConditionType.RECONCILING: _reconciling,
    ConditionType.STALLED: _stalled,
    ConditionType.SCALING_ACTIVE: _scaling_active,
    ConditionType.SCALING_LIMITED: _scaling_limited,
    ConditionType.METRICS_AVAILABLE: _metrics_available,
    ConditionType.OVERFLOW_AVAILABLE: _overflow_available,
    ConditionType.OVERFLOWING: _overflowing,
    ConditionType.CAPACITY_AVAILABLE: _capacity_available,
}


def changed(old: Sequence[Condition], new: Sequence[Condition]) -> list[Condition]:
    """Those of `new` whose status or reason differs from `old`: what an Event tells of."""
    before = {c.type: (c.status, c.reason) for c in old}
    return [c for c in new if before.get(c.type) != (c.status, c.reason)]
