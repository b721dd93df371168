"""Where does this request go: a free slot here, a bounded wait, a provider, or a clear refusal.

The decision is made on the view of the moment and made again before every attempt and whenever a wait ends. It knows no
clock: how long the request has waited comes in, how long it may go on waiting comes out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from weir.api.modeldeployment import ModelDeploymentSpec, Overflow

MAX_LOCAL_FAILURES = 2
"""A request whose replica failed before the first token is tried on one other replica, then elsewhere."""
MAX_RETRY_AFTER_SECONDS = 120
"""The OpenAI SDKs ignore a longer Retry-After."""


class Route(StrEnum):
    """What to do with the request now."""

    LOCAL = "local"
    HOLD = "hold"
    SPILL = "spill"
    REFUSE = "refuse"


class Reason(StrEnum):
    """Why; the same words in the `x-weir-reason` header, metrics, log and status."""

    SLOT_FREE = "slot-free"
    # why it does not run here
    SATURATED = "saturated"
    COLD_START = "cold-start"
    REPLICA_FAILURE = "replica-failure"
    FORCED = "forced"
    # why it is refused, beside the above
    QUEUE_FULL = "queue-full"
    WAIT_EXCEEDED = "wait-exceeded"
    # why it may not leave
    NO_TARGET = "no-target"
    NOT_AUTHORIZED = "not-authorized"
    DATA_POLICY = "data-policy"
    CLIENT_FORBIDS = "client-forbids"
    ROUTE_NOT_SPILLABLE = "route-not-spillable"
    PARAMETER_NOT_SUPPORTED = "parameter-not-supported"
    UNBOUNDED_COST = "unbounded-cost"
    CAUSE_NOT_ENABLED = "cause-not-enabled"
    STALE_VIEW = "stale-view"
    PROVIDER_MISSING = "provider-missing"
    PROVIDER_UNAVAILABLE = "provider-unavailable"
    PROVIDER_BUSY = "provider-busy"
    PROVIDER_TRIED = "provider-tried"
    UNKNOWN_PRICE = "unknown-price"
    CONTEXT_TOO_LONG = "context-too-long"
    BUDGET_EXHAUSTED = "budget-exhausted"


PERMANENT = frozenset(
    {
        Reason.NO_TARGET,
        Reason.NOT_AUTHORIZED,
        Reason.DATA_POLICY,
        Reason.CLIENT_FORBIDS,
        Reason.ROUTE_NOT_SPILLABLE,
        Reason.PARAMETER_NOT_SUPPORTED,
        Reason.UNBOUNDED_COST,
        Reason.PROVIDER_MISSING,
        Reason.UNKNOWN_PRICE,
        Reason.CONTEXT_TOO_LONG,
        Reason.BUDGET_EXHAUSTED,
    }
)
"""Sending the same request to the provider again within minutes cannot help."""


class Wish(StrEnum):
    """The client's `x-weir-overflow`; UNSAID where there is no such header."""

    NEVER = "never"
    ALLOW = "allow"
    ONLY = "only"
    UNSAID = ""


@dataclass(frozen=True)
class OverflowPolicy:
    """What the owner of the model wrote; times in seconds."""

    max_queue: int
    max_wait: float
    cold_start_wait: float
    hold: float = 0.0
    causes: frozenset[Reason] = frozenset()
    data_policy: str = "Allow"

    @classmethod
    def from_spec(cls, spec: ModelDeploymentSpec) -> Self:
        """The policy of a ModelDeployment."""
        queue = spec.queue
        waits = (queue.max_length, queue.max_wait.seconds, queue.cold_start_wait.seconds)
        if spec.overflow is None:
            return cls(*waits)
        overflow: Overflow = spec.overflow
        causes = frozenset(_CAUSES[cause] for cause in overflow.causes)
        return cls(*waits, overflow.hold_time.seconds, causes, overflow.data_policy)


_CAUSES = {
    "Saturated": Reason.SATURATED,
    "ColdStart": Reason.COLD_START,
    "ReplicaFailure": Reason.REPLICA_FAILURE,
}


@dataclass(frozen=True)
class RequestFacts:
    """What the decision looks at of a request."""

    wish: Wish = Wish.UNSAID
    unspillable: Reason | None = None
    """Why this very request may go to no provider at all: its route, its parameters, its caller."""
    waited: float = 0.0
    """Seconds since it arrived."""
    deadline: float | None = None
    """Seconds after its arrival at which its client gives up, if it said so."""
    local_failures: int = 0
    """Replicas that failed it before its first token."""


@dataclass(frozen=True)
class LocalView:
    """What this gateway sees of the model's replicas, without those that already failed this request."""

    fits: bool
    """Some ready replica has the slots this request needs."""
    ready: int
    """Replicas that take requests."""
    ahead: int = 0
    """Requests that wait for a slot and came before this one."""
    failed: int = 0
    """Replicas that take requests and already failed this one."""


@dataclass(frozen=True)
class TargetView:
    """One provider's model, in the order of preference."""

    provider: str
    model: str
    blocked: Reason | None = None
    """Why it cannot take this request now."""


@dataclass(frozen=True)
class Decision:
    """Where to, and why. For HOLD `until` is the `waited` at which to decide again, unless a slot comes free before."""

    route: Route
    reason: Reason
    target: TargetView | None = None
    until: float = 0.0
    not_spilled: Reason | None = None
    """Why it did not leave, where leaving would have been the answer."""
    status: int = 200
    retry_after: int | None = None
    """Seconds, for a refusal that a retry can help."""


def decide(
    request: RequestFacts,
    local: LocalView,
    targets: Sequence[TargetView],
    policy: OverflowPolicy,
    *,
    stale: bool = False,
) -> Decision:
    """The route of a request, in the order of the steps below. `stale`: the view is too old to send anything out on it."""
    blocked = _may_leave(request, targets, policy, stale)
    target = next((t for t in targets if t.blocked is None), None)
    if request.wish is Wish.ONLY:
        if target and not blocked:
            return Decision(Route.SPILL, Reason.FORCED, target)
        return _refusal(Reason.FORCED, local, blocked, request)
    if local.fits and local.ahead == 0 and request.local_failures < MAX_LOCAL_FAILURES:
        return Decision(Route.LOCAL, Reason.SLOT_FREE)

    cause = _cause(request, local)
    if not blocked and cause not in policy.causes:
        blocked = Reason.CAUSE_NOT_ENABLED
    room = local.ahead < policy.max_queue and request.local_failures < MAX_LOCAL_FAILURES
    if target and not blocked:
        # A wait can end in a free slot only where a replica is up: a cold model spills at once.
        hold = _cap(policy.hold, request.deadline)
        if cause is Reason.SATURATED and room and request.waited < hold:
            return Decision(Route.HOLD, cause, until=hold)
        return Decision(Route.SPILL, cause, target)

    cold = not local.ready and not local.failed
    wait = _cap(max(policy.max_wait, policy.cold_start_wait) if cold else policy.max_wait, request.deadline)
    if room and request.waited < wait:
        return Decision(Route.HOLD, cause, until=wait, not_spilled=blocked)
    if request.local_failures >= MAX_LOCAL_FAILURES:
        return _refusal(Reason.REPLICA_FAILURE, local, blocked, request)
    return _refusal(Reason.WAIT_EXCEEDED if room else Reason.QUEUE_FULL, local, blocked, request)


def _may_leave(
    request: RequestFacts, targets: Sequence[TargetView], policy: OverflowPolicy, stale: bool
) -> Reason | None:
    """Why the request may not leave the cluster now, or None. What is forbidden comes before what is merely not possible."""
    if not targets:
        return Reason.NO_TARGET
    asked = request.wish in (Wish.ALLOW, Wish.ONLY)
    if policy.data_policy == "LocalOnly" or (policy.data_policy == "RequireHeader" and not asked):
        return Reason.DATA_POLICY
    if request.wish is Wish.NEVER:
        return Reason.CLIENT_FORBIDS
    if request.unspillable:
        return request.unspillable
    if stale:
        return Reason.STALE_VIEW
    if all(t.blocked for t in targets):
        return targets[0].blocked
    return None


def _cause(request: RequestFacts, local: LocalView) -> Reason:
    """Why the request does not run here now."""
    if request.local_failures:
        return Reason.REPLICA_FAILURE
    return Reason.SATURATED if local.ready else Reason.COLD_START


def _cap(wait: float, deadline: float | None) -> float:
    return wait if deadline is None else min(wait, deadline)


def _refusal(reason: Reason, local: LocalView, blocked: Reason | None, request: RequestFacts) -> Decision:
    """429 where a slot may come free, 503 where nothing is behind the model at all; no Retry-After where a retry cannot help."""
    hopeless = request.wish is Wish.ONLY and blocked in PERMANENT
    status = 429 if local.ready or request.wish is Wish.ONLY else 503
    # Seconds after which a slot is likely free; one more for every hundred that wait, so that they do not all return at once.
    retry_after = None if hopeless else min(1 + local.ahead // 100, MAX_RETRY_AFTER_SECONDS)
    return Decision(Route.REFUSE, reason, not_spilled=blocked, status=status, retry_after=retry_after)
