"""The summary counts what clients and watcher saw; each promise that a run breaks is a sentence, and an exit code of 1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from demo.client import Outcome, Record
from demo.summary import Reaction, Summary, broken_promises, summarize
from weir.economics.pricing import Price
from weir.simulate.report import Moment

PRICE = Price(input=3_000_000, cached_input=300_000, output=15_000_000)


def record(**fields: Any) -> Record:
    """An answer of a local replica, unless told otherwise."""
    known: dict[str, Any] = {"model": "m", "at": 1.0, "ended": 2.0, "prompt_tokens": 1000, "completion_tokens": 100}
    answer = {"outcome": Outcome.ANSWER, "status": 200, "backend": "local", "reason": "slot-free", "code": ""}
    return Record(**known | answer | fields)


def moment(at: float, replicas: int, ready: int, utilization: float | None = 0.5, gpu: float = 0.0) -> Moment:
    return Moment(at, 10.0, ready * 32, replicas, ready, utilization, 0, 0, 0, gpu, 0.0)


def summary(records: list[Record], moments: list[Moment], **fields: Any) -> Summary:
    known: dict[str, Any] = {"frontier_micros": 20_000, "load_ended": 10.0, "duration": 30.04}
    return summarize(records, moments, minimum=1, price=PRICE, trace="t", **known | fields)


def test_requests_are_counted_by_what_became_of_them() -> None:
    refused = {"outcome": Outcome.REJECTED, "status": 429, "backend": ""}
    made = summary(
        [
            record(),
            record(),
            record(backend="frontier", reason="saturated", at=4.0),
            record(backend="frontier", reason="cold-start", at=3.126),
            record(**refused, reason="budget-exhausted", code="budget_exhausted"),
            record(**refused, reason="wait-exceeded", code="wait_exceeded"),
            record(outcome=Outcome.FAILED, backend="frontier", reason="saturated", code="stream_broken"),
            record(outcome=Outcome.LOST, status=0, backend="", reason="", code="ServerDisconnectedError"),
        ],
        [moment(0, 1, 1)],
    )
    assert (made.requests, made.succeeded, made.lost) == (8, 4, 1)
    assert (made.rejected, made.rejected_by_budget) == (2, 1)
    assert made.failures == {"200 stream_broken": 1, "0 ServerDisconnectedError": 1}
    assert (made.local, made.frontier) == (2, 2), "a stream that broke is nobody's answer"
    assert sum(made.reasons.values()) == 7
    assert made.reasons["saturated"] == 2
    assert made.reaction_seconds.first_spill == 1.0


def test_replicas_and_reactions_are_the_watchers() -> None:
    made = summary([record()], [moment(0, 1, 1), moment(5, 3, 1), moment(9, 4, 2), moment(29, 1, 1)])
    assert made.replicas == {"min": 1, "max": 4, "final": 1}
    assert made.reaction_seconds == Reaction(None, 5, 9)
    assert made.duration_seconds == 30.0


def test_utilization_is_that_of_the_time_under_load_with_replicas() -> None:
    moments = [moment(at, 1, 1, 0.01 * at) for at in range(1, 11)] + [moment(5, 1, 0, None), moment(11, 1, 1, 9.0)]
    assert summary([record()], moments).utilization == {"target": 0.7, "mean": 0.055, "p95": 0.09}


def test_dollars_saved_are_those_of_all_tokens_at_the_frontier_without_what_was_paid() -> None:
    answers = [record(), record(backend="frontier")]  # each 1000 x 3 + 100 x 15 = 4500 micro-dollars
    lost = record(outcome=Outcome.LOST)
    made = summary([*answers, lost], [moment(0, 1, 1, gpu=0.001)], frontier_micros=4500)
    assert made.usd == {"gpu": 0.001, "frontier": 0.0045, "all_frontier": 0.009, "saved": 0.0035}


def test_the_file_has_the_keys_that_others_rely_on() -> None:
    written = summary([record()], [moment(0, 1, 1)]).to_json()
    assert {"requests", "succeeded", "lost", "rejected", "local", "frontier", "reasons", "trace"} < written.keys()
    assert set(written["replicas"]) == {"min", "max", "final"}
    assert set(written["utilization"]) == {"target", "mean", "p95"}
    assert set(written["usd"]) == {"gpu", "frontier", "all_frontier", "saved"}
    assert set(written["reaction_seconds"]) == {"first_spill", "scale_up_decision", "scale_up_ready"}


GOOD = Summary(
    requests=2000,
    succeeded=1950,
    lost=0,
    rejected=45,
    rejected_by_budget=35,
    failures={"502 e": 5},
    local=1500,
    frontier=450,
    reasons={},
    replicas={"min": 1, "max": 3, "final": 1},
    utilization={"target": 0.7, "mean": 0.6, "p95": 0.9},
    usd={"gpu": 0.1, "frontier": 1.5, "all_frontier": 3.0, "saved": 1.4},
    reaction_seconds=Reaction(1.0, 4.0, 12.0),
    duration_seconds=150.0,
    trace="t",
)
"""Just good enough: 1,950 of the 1,965 that no budget refused are 99.2 %."""
KEPT: dict[str, Any] = {"minimum": 1, "billed_micros": 1_500_000, "budgets": {"small": (100_000, 100_000)}}


def test_a_run_that_keeps_its_promises_breaks_none() -> None:
    assert broken_promises(GOOD, **KEPT) == []


@pytest.mark.parametrize(
    ("change", "outside", "sentence"),
    [
        ({"requests": 1999}, {}, "1999 requests, promised at least 2000"),
        ({"lost": 1}, {}, "1 requests were lost, promised none"),
        ({"succeeded": 1945}, {}, "98.98% of what no budget refused succeeded, promised 99%"),
        ({"replicas": {"min": 1, "max": 2, "final": 1}}, {}, "2 replicas at the peak, promised 3"),
        ({"replicas": {"min": 1, "max": 3, "final": 2}}, {}, "2 replicas at the end, promised 1"),
        ({"frontier": 0}, {}, "nothing spilled"),
        ({"rejected_by_budget": 0, "succeeded": 1990}, {}, "no request was refused for its budget"),
        ({}, {"billed_micros": 1_500_001}, "the provider billed 1500001 micro-dollars, Weir counted 1500000"),
        ({}, {"budgets": {"small": (100_001, 100_000)}}, "100001 micro-dollars were spent of small's budget of 100000"),
    ],
)
def test_a_broken_promise_is_a_sentence(change: dict[str, Any], outside: dict[str, Any], sentence: str) -> None:
    assert broken_promises(replace(GOOD, **change), **KEPT | outside) == [sentence]


def test_a_run_without_any_request_breaks_promises_and_nothing_else() -> None:
    nothing = summary([], [moment(0, 1, 1, None)], frontier_micros=0)
    broken = broken_promises(nothing, minimum=1, billed_micros=0, budgets={})
    assert "0 requests, promised at least 2000" in broken
    assert "nothing spilled" in broken
