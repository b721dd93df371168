"""The demo's verdict: a promise that was not kept is named, whichever it is."""

from dataclasses import replace

import pytest

from demo.client import Outcome, Record
from demo.summary import Summary, broken_promises, summarize
from weir.economics.pricing import Price
from weir.simulate.report import Moment

PRICE = Price(3_000_000, 300_000, 15_000_000)
ANSWERED = Record("chat", 1.0, 2.0, Outcome.ANSWER, 200, "local", "slot-free", "", 100, 10)
SPILLED = replace(ANSWERED, at=3.25, backend="frontier", reason="saturated")
NO_MONEY = replace(
    ANSWERED, outcome=Outcome.REJECTED, status=429, backend="", reason="budget-exhausted", code="budget_exhausted"
)
LOST = replace(ANSWERED, outcome=Outcome.LOST, status=0, backend="", reason="")


def moment(at: float, replicas: int, utilization: float) -> Moment:
    return Moment(at, 10, 32 * replicas, replicas, replicas, utilization, 0, 0, 0, at / 100, 0.5)


def summary(*records: Record, counts: tuple[int, ...] = (1, 3, 1)) -> Summary:
    moments = [moment(10.0 * (i + 1), count, 0.6) for i, count in enumerate(counts)]
    return summarize(
        records,
        moments,
        minimum=1,
        price=PRICE,
        frontier_micros=500_000,
        trace="t",
        load_ended=25.0,
        duration=30.0,
    )


GOOD = [ANSWERED] * 1990 + [SPILLED] * 10 + [NO_MONEY]


def broken(result: Summary, billed: int = 400_000, spent: int = 5) -> list[str]:
    return broken_promises(result, minimum=1, billed_micros=billed, budgets={"small": (spent, 10)})


def test_the_counts_are_those_of_the_clients() -> None:
    result = summary(*GOOD)
    assert (result.requests, result.succeeded, result.rejected, result.lost) == (2001, 2000, 1, 0)
    assert (result.local, result.frontier) == (1990, 10)
    assert result.reasons == {"slot-free": 1990, "saturated": 10, "budget-exhausted": 1}
    assert result.replicas == {"min": 1, "max": 3, "final": 1}
    assert result.usd["all_frontier"] == pytest.approx(2000 * 450 / 1e6)
    assert result.usd["saved"] == pytest.approx(0.9 - 0.3 - 0.5)
    assert (result.reaction_seconds.first_spill, result.reaction_seconds.scale_up_decision) == (3.25, 20.0)


@pytest.mark.parametrize(
    ("result", "billed", "spent", "words"),
    [
        (summary(*GOOD[1:], counts=(1, 2, 1)), 0, 0, "2 replicas at the peak"),
        (summary(*GOOD, counts=(1, 3, 2)), 0, 0, "2 replicas at the end"),
        (summary(*GOOD[-1500:]), 0, 0, "1500 requests"),
        (summary(*GOOD, LOST), 0, 0, "1 requests were lost"),
        (summary(*GOOD, *[replace(LOST, outcome=Outcome.FAILED)] * 40), 0, 0, "promised 99%"),
        (summary(*[ANSWERED] * 2000, NO_MONEY), 0, 0, "nothing spilled"),
        (summary(*GOOD[:-1]), 0, 0, "no request was refused for its budget"),
        (summary(*GOOD), 500_001, 0, "billed 500001"),
        (summary(*GOOD), 0, 11, "of small's budget of 10"),
    ],
)
def test_a_broken_promise_is_named(result: Summary, billed: int, spent: int, words: str) -> None:
    (sentence,) = [s for s in broken(result, billed, spent) if words in s]
    assert sentence


def test_kept_promises_are_not() -> None:
    assert broken(summary(*GOOD)) == []
