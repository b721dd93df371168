"""Where a request goes: the order of the design as a table, and what must hold for every view there can be."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weir.api.modeldeployment import ModelDeploymentSpec
from weir.overflow.policy import (
    Decision,
    LocalView,
    OverflowPolicy,
    Reason,
    RequestFacts,
    Route,
    TargetView,
    Wish,
    decide,
)

ALL = frozenset({Reason.SATURATED, Reason.COLD_START, Reason.REPLICA_FAILURE})
POLICY = OverflowPolicy(max_queue=10, max_wait=30, cold_start_wait=600, hold=0.5, causes=ALL)
OPEN = (TargetView("openai", "gpt"),)
FAILED = LocalView(fits=False, ready=0, failed=1)
FREE, FULL, COLD = LocalView(fits=True, ready=2), LocalView(fits=False, ready=2), LocalView(fits=False, ready=0)
ASK = RequestFacts()


def blocked(reason: Reason) -> tuple[TargetView, ...]:
    return (TargetView("openai", "gpt", reason),)


@pytest.mark.parametrize(
    ("why", "request_", "local", "targets", "route", "reason"),
    [
        ("a free slot is taken", ASK, FREE, OPEN, Route.LOCAL, Reason.SLOT_FREE),
        ("nobody overtakes", ASK, replace(FREE, ahead=1), OPEN, Route.HOLD, Reason.SATURATED),
        ("full: hold first", ASK, FULL, OPEN, Route.HOLD, Reason.SATURATED),
        ("then spill", RequestFacts(waited=0.5), FULL, OPEN, Route.SPILL, Reason.SATURATED),
        ("a full queue spills at once", ASK, replace(FULL, ahead=10), OPEN, Route.SPILL, Reason.SATURATED),
        ("a cold model spills at once", ASK, COLD, OPEN, Route.SPILL, Reason.COLD_START),
        ("one failure: the other replica", RequestFacts(local_failures=1), FREE, OPEN, Route.LOCAL, Reason.SLOT_FREE),
        ("no other: spill", RequestFacts(local_failures=1), COLD, OPEN, Route.SPILL, Reason.REPLICA_FAILURE),
        ("two failures: spill", RequestFacts(local_failures=2), FREE, OPEN, Route.SPILL, Reason.REPLICA_FAILURE),
        ("two and nowhere to go", RequestFacts(local_failures=2), FREE, (), Route.REFUSE, Reason.REPLICA_FAILURE),
        ("forced", RequestFacts(wish=Wish.ONLY), FREE, OPEN, Route.SPILL, Reason.FORCED),
        ("forced and forbidden", RequestFacts(wish=Wish.ONLY), FREE, (), Route.REFUSE, Reason.FORCED),
        ("client forbids: wait", RequestFacts(wish=Wish.NEVER, waited=5), FULL, OPEN, Route.HOLD, Reason.SATURATED),
        ("wait has an end", RequestFacts(waited=30), FULL, (), Route.REFUSE, Reason.WAIT_EXCEEDED),
        ("the only replica failed it", RequestFacts(local_failures=1), FAILED, (), Route.HOLD, Reason.REPLICA_FAILURE),
        ("a failure is no cold start", RequestFacts(waited=30, local_failures=1), FAILED, (), Route.REFUSE, Reason.WAIT_EXCEEDED),
        ("a cold start may take longer", RequestFacts(waited=30), COLD, (), Route.HOLD, Reason.COLD_START),
        ("but not for ever", RequestFacts(waited=600), COLD, (), Route.REFUSE, Reason.WAIT_EXCEEDED),
        ("its own deadline is sooner", RequestFacts(waited=2, deadline=2), FULL, (), Route.REFUSE, Reason.WAIT_EXCEEDED),
        ("queue full", ASK, replace(FULL, ahead=10), (), Route.REFUSE, Reason.QUEUE_FULL),
        ("budget spent: wait", ASK, FULL, blocked(Reason.BUDGET_EXHAUSTED), Route.HOLD, Reason.SATURATED),
    ],
)  # fmt: skip
def test_route(
    why: str,
    request_: RequestFacts,
    local: LocalView,
    targets: tuple[TargetView, ...],
    route: Route,
    reason: Reason,
) -> None:
    decision = decide(request_, local, targets, POLICY)
    assert (decision.route, decision.reason) == (route, reason), why


def refused(decision: Decision) -> tuple[int, int | None, Reason | None]:
    assert decision.route is Route.REFUSE
    return decision.status, decision.retry_after, decision.not_spilled


def test_a_refusal_says_what_would_help() -> None:
    late = RequestFacts(waited=700)
    spent = blocked(Reason.BUDGET_EXHAUSTED)
    assert refused(decide(late, FULL, spent, POLICY)) == (429, 1, Reason.BUDGET_EXHAUSTED)
    assert refused(decide(late, COLD, spent, POLICY)) == (503, 1, Reason.BUDGET_EXHAUSTED)
    assert refused(decide(late, replace(FULL, ahead=10), (), POLICY)) == (429, 1, Reason.NO_TARGET)
    only = replace(late, wish=Wish.ONLY)
    assert refused(decide(only, FULL, spent, POLICY)) == (429, None, Reason.BUDGET_EXHAUSTED), "a retry cannot help"
    assert refused(decide(only, FULL, blocked(Reason.PROVIDER_BUSY), POLICY)) == (429, 1, Reason.PROVIDER_BUSY)


def test_targets_are_tried_in_order() -> None:
    targets = (TargetView("a", "x", Reason.PROVIDER_UNAVAILABLE), TargetView("b", "y"))
    decision = decide(RequestFacts(waited=1), FULL, targets, POLICY)
    assert decision.target == targets[1]


def test_a_cause_that_is_not_enabled_stays() -> None:
    policy = replace(POLICY, causes=frozenset({Reason.COLD_START}))
    decision = decide(RequestFacts(waited=1), FULL, OPEN, policy)
    assert (decision.route, decision.not_spilled) == (Route.HOLD, Reason.CAUSE_NOT_ENABLED)
    assert decide(ASK, COLD, OPEN, policy).route is Route.SPILL


def test_the_policy_of_a_spec() -> None:
    spec = ModelDeploymentSpec.model_validate(
        {
            "model": {"source": "hf://a/b"},
            "queue": {"maxWait": "5s"},
            "overflow": {
                "targets": [{"providerRef": {"name": "p"}, "model": "m"}],
                "holdTime": "250ms",
                "causes": ["Saturated"],
            },
        }
    )
    assert OverflowPolicy.from_spec(spec) == OverflowPolicy(1000, 5, 600, 0.25, frozenset({Reason.SATURATED}), "Allow")


requests = st.builds(
    RequestFacts,
    wish=st.sampled_from(Wish),
    unspillable=st.sampled_from([None, Reason.PARAMETER_NOT_SUPPORTED]),
    waited=st.floats(0, 700),
    deadline=st.none() | st.floats(0, 700),
    local_failures=st.integers(0, 3),
)
locals_ = st.builds(LocalView, fits=st.booleans(), ready=st.integers(0, 3), ahead=st.integers(0, 12))
targets_ = st.lists(
    st.builds(
        TargetView,
        provider=st.just("p"),
        model=st.just("m"),
        blocked=st.sampled_from([None, Reason.BUDGET_EXHAUSTED, Reason.PROVIDER_BUSY]),
    ),
    max_size=3,
)
policies = st.builds(
    OverflowPolicy,
    max_queue=st.integers(0, 10),
    max_wait=st.floats(0, 60),
    cold_start_wait=st.floats(0, 600),
    hold=st.floats(0, 5),
    causes=st.frozensets(st.sampled_from(sorted(ALL))),
    data_policy=st.sampled_from(["Allow", "LocalOnly", "RequireHeader"]),
)


@given(requests, locals_, targets_, policies, st.booleans())
def test_what_may_not_leave_never_does(
    request_: RequestFacts, local: LocalView, targets: list[TargetView], policy: OverflowPolicy, stale: bool
) -> None:
    decision = decide(request_, local, targets, policy, stale=stale)
    if decision.route is Route.SPILL:
        assert not stale
        assert policy.data_policy != "LocalOnly"
        assert policy.data_policy == "Allow" or request_.wish in (Wish.ALLOW, Wish.ONLY)
        assert request_.wish is not Wish.NEVER
        assert request_.unspillable is None
        assert decision.target is not None
        assert decision.target.blocked is None
        assert decision.reason in policy.causes or request_.wish is Wish.ONLY
    if decision.route is Route.LOCAL:
        assert local.fits
        assert request_.wish is not Wish.ONLY
    if decision.route is Route.HOLD:
        assert request_.waited < decision.until, "a wait has an end ahead of it, or deciding would spin"
        assert request_.deadline is None or decision.until <= request_.deadline
    if decision.route is Route.REFUSE:
        assert decision.status in (429, 503)


@given(requests, locals_, targets_, policies)
def test_waiting_always_ends(
    request_: RequestFacts, local: LocalView, targets: list[TargetView], policy: OverflowPolicy
) -> None:
    """When nothing changes but time, a request is held at most twice before it goes somewhere or is refused."""
    for _ in range(3):
        decision = decide(request_, local, targets, policy)
        if decision.route is not Route.HOLD:
            return
        request_ = replace(request_, waited=decision.until)
    pytest.fail("held for ever")
