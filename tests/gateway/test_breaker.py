"""When a provider is left alone, and when it is asked again."""

import pytest

from weir.gateway.breaker import Breaker, State


def call(breaker: Breaker, now: float, outcome: str) -> None:
    """One call, begun and ended."""
    assert breaker.allows(now)
    probe = breaker.begin()
    if outcome == "ok":
        breaker.succeed(now, probe=probe)
    elif outcome == "fail":
        breaker.fail(now, probe=probe)
    elif outcome == "full":
        breaker.full(now, 2.0, probe=probe)
    else:
        breaker.cancel(probe=probe)


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        (["fail"] * 4, State.CLOSED),
        (["fail"] * 5, State.OPEN),
        (["fail"] * 4 + ["ok"] + ["fail"] * 4, State.CLOSED),  # too few to judge, and not in a row
        (["fail"] * 4 + ["ok"] * 2 + ["fail"] * 4, State.OPEN),
        (["fail", "ok"] * 4, State.CLOSED),
        (["ok", "fail"] * 5, State.OPEN),
        (["ok", "ok", "fail"] * 10, State.CLOSED),
        (["full"] * 20, State.CLOSED),
        (["gone"] * 20, State.CLOSED),
    ],
)
def test_what_opens_it(outcomes: list[str], state: State) -> None:
    breaker = Breaker()
    for number, outcome in enumerate(outcomes):
        call(breaker, number * 0.1, outcome)
    assert breaker.state(1.0) is state


def test_old_failures_are_forgotten() -> None:
    breaker = Breaker()
    for number in range(20):
        call(breaker, number * 31.0, "fail" if number % 4 else "ok")
    assert breaker.state(620.0) is State.CLOSED


def test_one_probe_at_a_time_decides() -> None:
    breaker = Breaker()
    for _ in range(5):
        call(breaker, 0.0, "fail")
    assert not breaker.allows(4.9)
    assert (breaker.allows(5.0), breaker.state(5.0)) == (True, State.HALF_OPEN)
    assert breaker.begin()
    assert not breaker.allows(5.0), "one probe"
    breaker.cancel(probe=True)
    assert breaker.allows(5.1), "a client that left has proved nothing"
    call(breaker, 5.1, "fail")
    assert not breaker.allows(15.0), "the pause doubles"
    call(breaker, 15.2, "ok")
    assert breaker.state(15.2) is State.CLOSED


def test_a_late_success_of_an_old_call_does_not_close_it() -> None:
    breaker = Breaker()
    old = breaker.begin()
    for _ in range(5):
        call(breaker, 0.0, "fail")
    breaker.succeed(0.1, probe=old)
    assert breaker.state(0.1) is State.OPEN


def test_full_is_no_failure_and_passes() -> None:
    breaker = Breaker()
    call(breaker, 1.0, "full")
    assert breaker.full_for(1.5) == pytest.approx(1.5)
    assert breaker.full_for(3.1) == 0.0
    assert breaker.allows(1.5)
