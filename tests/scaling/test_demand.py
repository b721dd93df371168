"""Demand is exact over a window whatever the polling does, and never invents what it did not see."""

import pytest

from weir.api.load import ModelLoad
from weir.scaling.demand import STALE_AFTER, DemandMeter


def steady(slots: float, at: float, started: float = 0.0) -> ModelLoad:
    return ModelLoad(local_slot_seconds=slots * (at - started), in_flight={"a": round(slots)}, last_request_at=at)


def test_a_steady_load_is_its_count_in_both_windows() -> None:
    meter = DemandMeter()
    for t in range(100, 200):
        meter.add("gw", 0.0, t, steady(12, t), now=t)
    demand = meter.demand(["gw"], now=199)
    assert demand is not None
    assert demand.stable == pytest.approx(12)
    assert demand.panic == pytest.approx(12)
    assert demand.complete


def test_what_happened_between_two_polls_is_seen() -> None:
    """A burst of 30 slots for one second between two polls six seconds apart is five slots on average."""
    meter = DemandMeter()
    for t in (100.0, 106.0, 112.0):
        meter.add("gw", 0.0, t, ModelLoad(local_slot_seconds=30.0 * (t > 106)), now=t)
    demand = meter.demand(["gw"], now=112)
    assert demand is not None
    assert demand.panic == pytest.approx(5)


def test_queued_and_spilled_work_is_demand() -> None:
    meter = DemandMeter()
    for t in range(61):
        meter.add(
            "gw",
            0.0,
            t,
            ModelLoad(local_slot_seconds=2 * t, queued_slot_seconds=3 * t, spilled_work_seconds=5 * t),
            now=t,
        )
    demand = meter.demand(["gw"], now=60)
    assert demand is not None
    assert demand.stable == pytest.approx(10)


def test_a_young_gateway_is_measured_from_its_first_second() -> None:
    meter = DemandMeter()
    meter.add("gw", 100.0, 102.0, steady(4, 102, 100), now=102)
    demand = meter.demand(["gw"], now=102)
    assert demand is not None
    assert demand.stable == pytest.approx(4)


def test_the_first_answer_of_an_old_gateway_counts_what_it_holds_now() -> None:
    meter = DemandMeter()
    meter.add("gw", 0.0, 5000.0, ModelLoad(local_slot_seconds=99999.0, in_flight={"a": 3}, queued=2), now=0)
    demand = meter.demand(["gw"], now=0)
    assert demand is not None
    assert demand.stable == 5


def test_a_restarted_gateway_does_not_count_backwards() -> None:
    meter = DemandMeter()
    for t in range(100, 161):
        meter.add("gw", 0.0, t, steady(10, t), now=t)
    for t in range(161, 170):
        meter.add("gw", 160.0, t, steady(10, t, 160), now=t)
    demand = meter.demand(["gw"], now=169)
    assert demand is not None
    assert demand.stable == pytest.approx(10)


def test_gateways_add_up_and_the_gone_are_forgotten() -> None:
    meter = DemandMeter()
    for t in range(100, 170):
        meter.add("a", 0.0, t, steady(3, t), now=t)
        meter.add("b", 0.0, t, steady(4, t), now=t)
    both, one = meter.demand(["a", "b"], now=169), meter.demand(["a"], now=169)
    assert both is not None
    assert both.stable == pytest.approx(7)
    assert one is not None
    assert one.stable == pytest.approx(3)


def test_silence_is_incomplete_and_then_unknown() -> None:
    meter = DemandMeter()
    meter.add("a", 0.0, 0.0, steady(3, 0), now=0)
    meter.add("b", 0.0, 0.0, steady(4, 0), now=5)
    assert meter.demand(["a", "b", "never-answered"], now=5).complete is False  # type: ignore[union-attr]
    assert meter.demand(["a", "b"], now=STALE_AFTER + 1).complete is False  # type: ignore[union-attr]
    assert meter.demand(["a", "b"], now=100) is None
