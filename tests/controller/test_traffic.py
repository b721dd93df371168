"""Shares and dollars from sums that only grow, by gateways that come and go."""

from __future__ import annotations

import pytest

from weir.api.load import ModelLoad
from weir.controller.traffic import Traffic

DAY = "2026-11-21"


def load(local: int, frontier: int = 0, refused: int = 0, micro_usd: int = 0) -> ModelLoad:
    requests = {
        "local": {"slot-free": local},
        "frontier": {"saturated": frontier},
        "refused": {"budget-exhausted": refused},
    }
    return ModelLoad(requests=requests, frontier_micro_usd=micro_usd)


def test_share_of_the_last_minute() -> None:
    traffic = Traffic()
    traffic.add("a", 0, load(1000, 500), 0, DAY)
    assert traffic.share == 0, "what came before the first answer is not of this minute"
    traffic.add("a", 0, load(1030, 510), 30, DAY)
    traffic.add("b", 0, load(0), 30, DAY)
    traffic.add("b", 0, load(60), 40, DAY)
    assert traffic.share == pytest.approx(10 / 100)
    for second in range(41, 102):
        traffic.add("a", 0, load(1030, 510), second, DAY)
        traffic.add("b", 0, load(60), second, DAY)
    assert traffic.share == 0


def test_a_gateway_that_restarts_begins_again() -> None:
    traffic = Traffic()
    traffic.add("a", 0, load(100, 100, micro_usd=500), 0, DAY)
    traffic.add("a", 0, load(110, 110, micro_usd=700), 1, DAY)
    traffic.add("a", 2, load(10, 0, micro_usd=50), 3, DAY)
    assert traffic.share == 0
    assert traffic.micro_usd_today == 200
    traffic.add("a", 2, load(10, 10, micro_usd=90), 4, DAY)
    assert traffic.share == 1
    assert traffic.micro_usd_today == 240


def test_dollars_begin_anew_with_the_day_and_gone_gateways_are_forgotten() -> None:
    traffic = Traffic()
    traffic.add("a", 0, load(0), 0, DAY)
    traffic.add("a", 0, load(5, 5, micro_usd=300), 1, DAY)
    assert traffic.micro_usd_today == 300
    traffic.add("a", 0, load(5, 5, micro_usd=310), 2, "2026-11-22")
    assert traffic.micro_usd_today == 10
    traffic.keep(set())
    assert traffic.share == 0


def test_out_of_budget() -> None:
    traffic = Traffic()
    traffic.add("a", 0, load(0, refused=3), 0, DAY)
    assert not traffic.out_of_budget
    traffic.add("a", 0, load(0, refused=4), 1, DAY)
    assert traffic.out_of_budget
