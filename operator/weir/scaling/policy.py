"""How many replicas a model should have: an ordered chain of small steps, each with its reason.

    desired = ceil(demand / (target x slots of a replica))

then tolerance, guard on the way down, behavior, panic, minimum and maximum, and what the cluster can schedule. Replicas that
are still starting count as supply, because demand is counted in slots and not in shares of what happens to be ready: a
model that loads for minutes does not get asked for twice, four and eight times as much.
"""

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum

from weir.api.modeldeployment import Behavior, ModelDeploymentSpec
from weir.scaling import behavior as rules
from weir.scaling.behavior import Event
from weir.scaling.demand import STABLE_WINDOW, Demand

TOLERANCE = 0.1
"""No change while demand is within a tenth of the target, as in the HorizontalPodAutoscaler."""
PANIC_FACTOR = 2.0
"""Demand of twice what the ready replicas should carry is a panic, as in knative's autoscaler."""
SURGE_FACTOR = 1.75
"""So is demand that grew by this much against its own minute. After a step to three times the demand d the six-second mean
is d(1 + t/3) and the minute's d(1 + t/30): their ratio passes 1.75 after 2.8 s, so the step is acted on within 5 s."""


class Reason(StrEnum):
    """Why the count is what it is; CamelCase, because conditions show it."""

    ON_TARGET = "OnTarget"
    DEMAND_ROSE = "DemandRose"
    DEMAND_FELL = "DemandFell"
    PANIC = "Panic"
    STABILIZING = "Stabilizing"
    PACED = "Paced"
    FIRST_REQUEST = "FirstRequest"
    IDLE = "Idle"
    MANUAL = "Manual"
    SIGNAL_MISSING = "SignalMissing"


class Limit(StrEnum):
    """What kept the count from being what demand asks for."""

    NONE = "DesiredWithinRange"
    MAXIMUM = "TooManyReplicas"
    MINIMUM = "TooFewReplicas"
    CAPACITY = "CapacityExhausted"


@dataclass(frozen=True)
class ScalingTarget:
    """What the owner of the model wrote."""

    minimum: int
    maximum: int
    target: float
    """Share of the slots that demand should fill, 0 to 1."""
    slots: int
    """Of one replica."""
    idle_seconds: float
    max_pending: int
    behavior: Behavior = field(default_factory=Behavior)

    @classmethod
    def from_spec(cls, spec: ModelDeploymentSpec) -> "ScalingTarget":
        """The target of a ModelDeployment with policy Utilization."""
        scaling = spec.scaling
        return cls(
            minimum=scaling.min_replicas,
            maximum=scaling.max_replicas,
            target=scaling.target_utilization / 100,
            slots=spec.engine.max_concurrency,
            idle_seconds=scaling.idle_seconds,
            max_pending=scaling.max_pending,
            behavior=scaling.behavior,
        )


@dataclass(frozen=True)
class Observation:
    """The moment a decision is made on. Times in seconds of one clock."""

    now: float
    current: int
    """Replicas asked for."""
    ready: int
    scheduled: int
    """Replicas on a node, ready or not."""
    demand: Demand | None
    """None: nobody could be asked."""
    idle: float
    """Seconds since the latest request, or since anybody looked."""

    def utilization(self, slots: int) -> float | None:
        """Demand as a share of the ready replicas' slots; above 1 when demand is; None where either is missing."""
        if self.demand is None or not self.ready:
            return None
        return self.demand.stable / (self.ready * slots)


@dataclass(frozen=True)
class History:
    """What earlier decisions must be remembered for."""

    recommended: tuple[Event, ...] = ()
    changes: tuple[Event, ...] = ()
    panic_at: float | None = None

    @classmethod
    def begin(cls, now: float, current: int) -> "History":
        """After a start: as if the present count had just been recommended, so that nothing goes before a full window was seen."""
        return cls(recommended=(Event(now, current),))


@dataclass(frozen=True)
class Recommendation:
    """How many, and why."""

    desired: int
    reason: Reason
    limit: Limit
    message: str
    history: History


def recommend(target: ScalingTarget, seen: Observation, history: History) -> Recommendation:
    """The count of replicas to ask for now."""
    if seen.demand is None:
        kept = min(max(seen.current, target.minimum), target.maximum)
        message = "no gateway answers: replicas are held until demand is known again"
        return Recommendation(
            kept, Reason.SIGNAL_MISSING, Limit.NONE, message, _remember(history, seen, kept, kept, target)
        )
    panic_at = seen.now if _is_panic(target, seen, seen.demand) else history.panic_at
    in_panic = panic_at is not None and seen.now - panic_at < STABLE_WINDOW
    demand = max(seen.demand.stable, seen.demand.panic) if in_panic else seen.demand.stable

    needed = math.ceil(demand / (target.target * target.slots) - 1e-9)
    wanted = _tolerate(target, seen, needed, demand)
    if not seen.demand.complete:
        wanted = max(wanted, seen.current)  # a gateway that is silent may be busy
    if in_panic:
        wanted = max(wanted, seen.current)
    asked, reason = _settle(target, seen, history, wanted, in_panic=in_panic)
    asked, reason = _around_zero(target, seen, seen.demand, asked, reason)
    desired, limit = _bound(target, seen, asked)
    if desired == seen.current and reason in (Reason.DEMAND_ROSE, Reason.DEMAND_FELL, Reason.PANIC):
        reason = Reason.ON_TARGET  # a bound took back what demand asked for; `limit` says which
    message = _message(target, seen, demand, desired, limit)
    remembered = _remember(replace(history, panic_at=panic_at), seen, wanted, desired, target)
    return Recommendation(desired, reason, limit, message, remembered)


def _is_panic(target: ScalingTarget, seen: Observation, demand: Demand) -> bool:
    """More is needed than was asked for, and either twice what is ready can carry or a sudden rise."""
    per_replica = target.target * target.slots
    if demand.panic <= seen.current * per_replica * (1 + TOLERANCE):
        return False
    return demand.panic >= PANIC_FACTOR * seen.ready * per_replica or demand.panic >= SURGE_FACTOR * demand.stable


def _tolerate(target: ScalingTarget, seen: Observation, needed: int, demand: float) -> int:
    """`needed`, unless demand is within the tolerance of the target, or would exceed it with one replica less.

    Four replicas of 10 slots at 70 % carry 28; at a demand of 20 three are needed (6.7 of 10 each, 67 %): fine. At 20.9 three
    would stand at 69.7 %, so near the target that the next request turns it round: they stay four.
    """
    if not seen.current:
        return needed
    ratio = demand / (seen.current * target.slots * target.target)
    if abs(ratio - 1) <= TOLERANCE:
        return seen.current
    if needed < seen.current:
        # Each replica fewer must leave room for the tolerance, or it comes back at the next wave.
        guarded = math.ceil(demand * (1 + TOLERANCE / 2) / (target.target * target.slots) - 1e-9)
        return min(seen.current, guarded)
    return needed


def _settle(
    target: ScalingTarget, seen: Observation, history: History, wanted: int, *, in_panic: bool
) -> tuple[int, Reason]:
    """`wanted` after stabilization and pace."""
    stable = rules.stabilize(seen.current, wanted, history.recommended, target.behavior, seen.now)
    paced = rules.pace(seen.current, stable, history.changes, target.behavior, seen.now)
    if paced != stable:
        return paced, Reason.PACED
    if stable != wanted:
        return paced, Reason.STABILIZING
    if paced > seen.current:
        return paced, Reason.PANIC if in_panic else Reason.DEMAND_ROSE
    return paced, Reason.DEMAND_FELL if paced < seen.current else Reason.ON_TARGET


def _around_zero(
    target: ScalingTarget, seen: Observation, demand: Demand, asked: int, reason: Reason
) -> tuple[int, Reason]:
    """The last replica goes after the idle time and comes back with the first request; demand alone decides neither.

    Not even what is left of the minute's mean: an idle time of ten seconds means ten seconds.
    """
    busy = demand.now > 0 or demand.panic > 0
    if seen.current == 0:
        return (max(asked, 1), Reason.FIRST_REQUEST) if busy else (0, Reason.IDLE)
    if asked > 1:
        return asked, reason
    may_go = target.minimum == 0 and target.behavior.scale_down.select_policy != "Disabled"
    idle = may_go and not busy and demand.complete and seen.idle >= target.idle_seconds
    return (0, Reason.IDLE) if idle else (1, reason)


def _bound(target: ScalingTarget, seen: Observation, asked: int) -> tuple[int, Limit]:
    """`asked` between minimum and maximum, and no more new ones than `max_pending` beyond what is on a node.

    Where there is room a pod is on its node within the second, so this asks for `max_pending` more every second; where there
    is none, that many wait: enough to wake a node autoscaler.
    """
    if asked > target.maximum:
        bounded, limit = target.maximum, Limit.MAXIMUM
    elif asked < target.minimum:
        bounded, limit = target.minimum, Limit.MINIMUM
    else:
        bounded, limit = asked, Limit.NONE
    # Replicas already asked for stay: a node that is lost for a moment must not shrink the fleet behind it. Those that wait
    # are let go only where demand no longer asks for them.
    schedulable = max(seen.scheduled + target.max_pending, min(seen.current, bounded))
    return (schedulable, Limit.CAPACITY) if bounded > schedulable else (bounded, limit)


def _message(target: ScalingTarget, seen: Observation, demand: float, desired: int, limit: Limit) -> str:
    """Rounded to whole slots, so that it does not change with every request."""
    text = f"demand of about {demand:.0f} slots at {target.target:.0%} of {target.slots} each: {desired} replicas"
    match limit:
        case Limit.MAXIMUM:
            return f"{text}, the maximum; raise spec.scaling.maxReplicas to serve more here"
        case Limit.MINIMUM:
            return f"{text}, the minimum"
        case Limit.CAPACITY:
            return f"{text}: {seen.scheduled} are on nodes and at most {target.max_pending} may wait for one"
    return text


def _remember(history: History, seen: Observation, wanted: int, desired: int, target: ScalingTarget) -> History:
    """The history with this decision, without what no rule looks at any more."""
    window = max(rules.down_window(target.behavior), target.behavior.scale_up.stabilization_window_seconds or 0)
    recommended = tuple(e for e in history.recommended if e.at > seen.now - window)
    if not recommended or recommended[-1].count != wanted or seen.now - recommended[-1].at >= 1:
        recommended = (*recommended, Event(seen.now, wanted))
    changes = tuple(e for e in history.changes if e.at > seen.now - rules.LONGEST_WINDOW)
    if desired != seen.current:
        changes = (*changes, Event(seen.now, desired - seen.current))
    return replace(history, recommended=recommended, changes=changes)
