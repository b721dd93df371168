"""The chain from demand to a count, step by step, and what must hold for every demand there can be."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weir.api.modeldeployment import Behavior, ScalingRules
from weir.scaling.demand import Demand
from weir.scaling.policy import History, Limit, Observation, Reason, ScalingTarget, recommend

TARGET = ScalingTarget(minimum=1, maximum=20, target=0.7, slots=10, idle_seconds=600, max_pending=20)


def demand(slots: float, panic: float | None = None, *, complete: bool = True) -> Demand:
    return Demand(slots, slots if panic is None else panic, round(slots), 0.0, complete)


def seen(wanted: Demand | None, current: int, ready: int | None = None, **fields: Any) -> Observation:
    ready = current if ready is None else ready
    return replace(Observation(1000.0, current, ready, current, wanted, 0.0), **fields)


def desired(wanted: Demand | None, current: int, target: ScalingTarget = TARGET, **fields: Any) -> int:
    """The count without any history, so that nothing is stabilized."""
    return recommend(target, seen(wanted, current, **fields), History()).desired


@pytest.mark.parametrize(
    ("slots", "current", "expected", "why"),
    [
        (7, 1, 1, "exactly on target"),
        (7.6, 1, 1, "within the tolerance above"),
        (8, 1, 2, "beyond it"),
        (28, 2, 4, "ceil(28 / 7)"),
        (28.1, 2, 5, "one request more needs one replica more"),
        (20, 4, 3, "two thirds of three"),
        (20.9, 4, 4, "three would stand at 69.7 %: guarded"),
        (6.9, 2, 2, "one would stand at 69 %: guarded"),
        (6.5, 2, 1, "one has room"),
        (0, 3, 1, "the minimum, not zero"),
        (1000, 5, 20, "the maximum"),
    ],
)
def test_count(slots: float, current: int, expected: int, why: str) -> None:
    assert desired(demand(slots), current) == expected, why


def test_pending_replicas_are_supply() -> None:
    """No 2-4-8-16 while replicas load: what is asked for follows demand, not what is ready."""
    assert desired(demand(40), 6, ready=1) == 6


def test_a_step_to_three_times_the_demand_is_acted_on_within_five_seconds() -> None:
    """At every level where three times the demand is more than the replicas can run."""
    for level in (3.5, 5.0, 7.0, 14.0, 35.0):
        current = desired(demand(level), 1)
        assert level * 3 > current * TARGET.slots
        t = 4.0  # one second for the poll
        now = demand(level * (1 + t / 30), level * (1 + t / 3))
        assert desired(now, current) > current, level


def test_panic_does_not_let_go_before_a_quiet_window() -> None:
    first = recommend(TARGET, seen(demand(7, 30), 1), History())
    assert (first.desired, first.reason) == (5, Reason.PANIC)
    calm = replace(TARGET, behavior=Behavior(scale_down=ScalingRules(stabilization_window_seconds=0)))
    soon = recommend(calm, seen(demand(7), 5, now=1030.0), first.history)
    later = recommend(calm, seen(demand(6), 5, now=1061.0), soon.history)
    assert soon.desired == 5
    assert later.desired == 1


def test_missing_demand_holds_and_says_so() -> None:
    held = recommend(TARGET, seen(None, 4), History())
    assert (held.desired, held.reason) == (4, Reason.SIGNAL_MISSING)
    assert desired(None, 0) == 1, "the minimum needs no signal"


def test_a_silent_gateway_stops_the_way_down_only() -> None:
    assert desired(demand(0, complete=False), 4) == 4
    assert desired(demand(60, complete=False), 4) == 9


def test_after_a_restart_nothing_goes_before_a_full_window() -> None:
    history = History.begin(1000.0, 8)
    early = recommend(TARGET, seen(demand(6), 8, now=1299.0), history)
    late = recommend(TARGET, seen(demand(6), 8, now=1301.0), History.begin(1000.0, 8))
    assert (early.desired, early.reason) == (8, Reason.STABILIZING)
    assert late.desired == 1


ZERO = replace(TARGET, minimum=0, idle_seconds=60)


def test_to_zero_only_after_the_idle_time() -> None:
    assert desired(demand(0), 1, ZERO, idle=59.0) == 1
    assert desired(demand(0), 1, ZERO, idle=60.0) == 0
    assert desired(demand(0, complete=False), 1, ZERO, idle=60.0) == 1
    assert desired(demand(1), 1, ZERO, idle=60.0) == 1
    assert desired(demand(0), 1, idle=60.0) == 1, "a minimum above zero stays"


def test_a_short_idle_time_does_not_wait_for_the_minutes_mean_to_be_zero() -> None:
    short = replace(ZERO, idle_seconds=10)
    assert desired(demand(1, panic=0), 1, short, idle=10.0) == 1, "a request is in flight"
    idle = Demand(0.5, 0.0, 0, 0.0, complete=True)
    assert desired(idle, 1, short, idle=9.0) == 1
    assert desired(idle, 1, short, idle=10.0) == 0
    busier = Demand(20.0, 0.0, 0, 0.0, complete=True)
    assert desired(busier, 3, short, idle=10.0) == 3, "three replicas go as behavior says; only the last goes at once"


def test_from_zero_with_the_first_request() -> None:
    first = recommend(ZERO, seen(demand(0, 0.2), 0), History())
    assert (first.desired, first.reason) == (1, Reason.FIRST_REQUEST)
    assert desired(demand(0), 0, ZERO) == 0


def test_no_more_than_max_pending_beyond_what_is_on_nodes() -> None:
    target = replace(TARGET, max_pending=2)
    bounded = recommend(target, seen(demand(100), 5, scheduled=3), History())
    assert (bounded.desired, bounded.limit) == (5, Limit.CAPACITY)


def test_a_node_that_is_lost_does_not_shrink_the_fleet() -> None:
    target = replace(TARGET, max_pending=4)
    assert desired(demand(70), 10, target, ready=0, scheduled=0) == 10


def test_way_down_disabled_is_disabled_to_zero_too() -> None:
    disabled = Behavior(scale_down=ScalingRules(select_policy="Disabled"))
    assert desired(demand(0), 1, replace(ZERO, behavior=disabled), idle=999.0) == 1


def test_limits_are_named() -> None:
    assert recommend(TARGET, seen(demand(1000), 5), History()).limit is Limit.MAXIMUM
    assert recommend(replace(TARGET, minimum=3), seen(demand(1), 3), History()).limit is Limit.MINIMUM
    assert recommend(TARGET, seen(demand(14), 2), History()).limit is Limit.NONE


@given(slots=st.floats(0, 500), current=st.integers(0, 20))
def test_bounds_hold_and_the_result_is_a_fixed_point(slots: float, current: int) -> None:
    """Whatever the demand: within bounds, and the same demand at the count it asked for changes nothing (no 2-1-2-1)."""
    first = desired(demand(slots), current)
    assert TARGET.minimum <= first <= TARGET.maximum
    again = desired(demand(slots), first)
    assert again == first or (current > first and again >= first), (first, again)
    assert desired(demand(slots), again) == again


@given(low=st.floats(0, 140), more=st.floats(0, 60), current=st.integers(1, 20))
def test_more_demand_never_asks_for_fewer(low: float, more: float, current: int) -> None:
    assert desired(demand(low + more), current) >= desired(demand(low), current)


@given(slots=st.floats(1, 130), current=st.integers(1, 20))
def test_the_target_holds_within_the_tolerance(slots: float, current: int) -> None:
    """With n replicas utilization is at most target + 10 %, unless the maximum forbids it."""
    n = desired(demand(slots), current)
    assert n == TARGET.maximum or slots / (n * TARGET.slots) <= TARGET.target * 1.1 + 1e-6
