"""The `behavior` of autoscaling/v2: stabilization windows and limits of pace, for both directions.

Source: the HorizontalPodAutoscaler's documented algorithm (kubernetes.io, "Configurable scaling behavior").
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from weir.api.modeldeployment import Behavior, ScalingRules

DEFAULT_DOWN_WINDOW = 300
DEFAULT_UP_WINDOW = 0
LONGEST_WINDOW = 3600
"""Seconds; no rule looks further back."""


@dataclass(frozen=True)
class Event:
    """At `at` (seconds), `count` replicas were recommended, or the count changed by `count`."""

    at: float
    count: int


def down_window(behavior: Behavior) -> int:
    """Seconds over which the highest recommendation wins on the way down."""
    window = behavior.scale_down.stabilization_window_seconds
    return DEFAULT_DOWN_WINDOW if window is None else window


def stabilize(current: int, wanted: int, recommended: Sequence[Event], behavior: Behavior, now: float) -> int:
    """Up by no more than the least recommendation of the up window, down by no more than the greatest of the down window."""
    up_window = behavior.scale_up.stabilization_window_seconds or DEFAULT_UP_WINDOW
    least = min([wanted, *(e.count for e in recommended if e.at > now - up_window)])
    greatest = max([wanted, *(e.count for e in recommended if e.at > now - down_window(behavior))])
    if current < least:
        return least
    return greatest if current > greatest else current


def pace(current: int, wanted: int, changes: Sequence[Event], behavior: Behavior, now: float) -> int:
    """What of the way from `current` to `wanted` the policies allow now, given the changes of their periods.

    Never against the way: where the period has changed more than the policies allow by now, the count stays.
    """
    if wanted > current:
        return max(current, min(wanted, _limit(current, changes, behavior.scale_up, now, up=True)))
    if wanted < current:
        return min(current, max(wanted, _limit(current, changes, behavior.scale_down, now, up=False)))
    return current


def _limit(current: int, changes: Sequence[Event], rules: ScalingRules, now: float, *, up: bool) -> int:
    """The furthest count that the rules of one direction allow.

    Up by 100 % or 4 pods a minute from 3, none changed yet: max(6, 7) = 7 with selectPolicy Max.
    """
    if rules.select_policy == "Disabled":
        return current
    if not rules.policies:
        return 10**9 if up else 0
    limits = []
    for policy in rules.policies:
        recent = sum(e.count for e in changes if e.at > now - policy.period_seconds and (e.count > 0) is up)
        start = current - recent
        if policy.type == "Pods":
            limits.append(start + policy.value if up else start - policy.value)
        else:
            share = policy.value / 100
            limits.append(math.ceil(start * (1 + share)) if up else math.floor(start * (1 - share)))
    widest = (rules.select_policy == "Max") is up
    return max(limits) if widest else min(limits)
