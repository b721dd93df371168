"""Conditions: transition times move with the status, and with nothing else."""

from weir.api.conditions import Condition, ConditionType, Status, find, merge


def condition(kind: ConditionType, status: Status, at: str, reason: str = "Why", generation: int = 1) -> Condition:
    return Condition(
        type=kind, status=status, last_transition_time=at, reason=reason, message="", observed_generation=generation
    )


OLD, NEW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def test_the_time_stays_while_the_status_stays() -> None:
    (merged,) = merge(
        [condition(ConditionType.READY, "False", OLD, "NoReplicas", 1)],
        [condition(ConditionType.READY, "False", NEW, "ImagePullFailed", 2)],
    )
    assert (merged.last_transition_time, merged.reason, merged.observed_generation) == (OLD, "ImagePullFailed", 2)


def test_the_time_moves_with_the_status() -> None:
    (merged,) = merge([condition(ConditionType.READY, "False", OLD)], [condition(ConditionType.READY, "True", NEW)])
    assert merged.last_transition_time == NEW


def test_what_is_not_stated_again_is_gone_and_what_is_new_is_there() -> None:
    merged = merge(
        [condition(ConditionType.STALLED, "True", OLD)],
        [condition(ConditionType.READY, "True", NEW), condition(ConditionType.OVERFLOWING, "False", NEW)],
    )
    assert [c.type for c in merged] == ["Overflowing", "Ready"]


def test_order_is_by_type_so_that_equal_conditions_are_equal_bytes() -> None:
    given = [condition(kind, "True", NEW) for kind in ConditionType]
    assert merge([], given) == merge([], list(reversed(given)))


def test_find() -> None:
    ready = condition(ConditionType.READY, "True", NEW)
    assert find([ready], ConditionType.READY) == ready
    assert find([ready], ConditionType.STALLED) is None


def test_on_the_wire_it_is_a_metav1_condition() -> None:
    assert condition(ConditionType.READY, "True", NEW).model_dump(mode="json", by_alias=True) == {
        "type": "Ready",
        "status": "True",
        "observedGeneration": 1,
        "lastTransitionTime": NEW,
        "reason": "Why",
        "message": "",
    }
