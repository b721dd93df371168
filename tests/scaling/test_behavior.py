"""Stabilization and pace follow autoscaling/v2's documented examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weir.api.modeldeployment import Behavior, ScalingPolicyRule, ScalingRules
from weir.scaling.behavior import Event, pace, stabilize


def down(**fields: object) -> Behavior:
    return Behavior(scale_down=ScalingRules.model_validate(fields))


@pytest.mark.parametrize(
    ("current", "wanted", "recommended", "expected"),
    [
        (5, 2, [], 2),
        (5, 2, [Event(90, 4)], 4),
        (5, 2, [Event(90, 9)], 5),
        (5, 2, [Event(-300, 9)], 2),
        (5, 8, [Event(90, 4)], 8),
    ],
)
def test_down_goes_to_the_highest_of_the_window(
    current: int, wanted: int, recommended: list[Event], expected: int
) -> None:
    assert stabilize(current, wanted, recommended, Behavior(), now=100) == expected


def test_up_goes_to_the_lowest_of_its_window() -> None:
    behavior = Behavior(scale_up=ScalingRules(stabilization_window_seconds=60))
    assert stabilize(2, 8, [Event(50, 3), Event(90, 6)], behavior, now=100) == 3


PODS4 = ScalingPolicyRule(type="Pods", value=4, period_seconds=60)
PERCENT10 = ScalingPolicyRule(type="Percent", value=10, period_seconds=60)


@pytest.mark.parametrize(
    ("select", "current", "changes", "expected"),
    [
        ("Max", 80, [], 72),  # 10 % of 80 is more than 4
        ("Max", 37, [], 33),  # from Kubernetes' documentation: 10 % of 37 rounds to 33, as 4 pods do
        ("Max", 10, [], 6),
        ("Min", 80, [], 76),
        ("Disabled", 80, [], 80),
        ("Max", 6, [Event(90, -4)], 6),  # the period's four are gone already
        ("Max", 6, [Event(30, -4)], 2),
    ],
)
def test_pace_down(select: str, current: int, changes: list[Event], expected: int) -> None:
    behavior = down(policies=[PODS4, PERCENT10], selectPolicy=select)
    assert pace(current, 0, changes, behavior, now=100) == expected


def test_pace_up_doubles_or_adds_four() -> None:
    rules = ScalingRules(policies=(ScalingPolicyRule(type="Percent", value=100, period_seconds=15), PODS4))
    assert pace(1, 99, [], Behavior(scale_up=rules), now=0) == 5
    assert pace(9, 99, [], Behavior(scale_up=rules), now=0) == 18


def test_no_policy_is_no_limit() -> None:
    assert pace(1, 99, [], Behavior(), now=0) == 99
    assert pace(99, 0, [], Behavior(), now=0) == 0


@given(
    current=st.integers(0, 50),
    wanted=st.integers(0, 50),
    changes=st.lists(st.builds(Event, st.floats(0, 100), st.integers(-40, 40).filter(bool)), max_size=6),
    rules=st.builds(
        ScalingRules,
        policies=st.lists(
            st.builds(
                ScalingPolicyRule,
                type=st.sampled_from(["Pods", "Percent"]),
                value=st.integers(1, 200),
                period_seconds=st.integers(1, 200),
            ),
            max_size=3,
        ).map(tuple),
        select_policy=st.sampled_from(["Max", "Min", "Disabled"]),
    ),
)
def test_the_pace_is_never_against_the_way(
    current: int, wanted: int, changes: list[Event], rules: ScalingRules
) -> None:
    paced = pace(current, wanted, changes, Behavior(scale_up=rules, scale_down=rules), now=100)
    assert min(current, wanted) <= paced <= max(current, wanted)
