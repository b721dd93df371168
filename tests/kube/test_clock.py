"""The server's clock is known as well as its answers allow, and never worse than one of them allows."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weir.kube.clock import ServerClock


def date(unix: float) -> str:
    return formatdate(int(unix), usegmt=True)


def test_nothing_is_known_before_an_answer() -> None:
    with pytest.raises(LookupError):
        ServerClock().unix(0.0)


def test_the_worked_example_of_the_module() -> None:
    clock = ServerClock()
    clock.observe(date(100), sent=7.2, received=7.3)
    assert [clock.unix(0.0), clock.uncertainty] == pytest.approx([93.25, 0.55])
    clock.observe(date(103), sent=9.9, received=10.0)
    assert [clock.unix(0.0), clock.uncertainty] == pytest.approx([93.4, 0.4])


seconds = st.floats(0.0, 1000.0)


@given(
    offset=st.floats(1.7e9, 1.8e9),
    exchanges=st.lists(st.tuples(seconds, st.floats(0.0, 2.0), st.floats(0.0, 1.0)), min_size=1, max_size=30),
)
def test_the_estimate_is_within_its_own_uncertainty(offset: float, exchanges: list[tuple[float, float, float]]) -> None:
    """Whatever the delays: the server stamps its answer at any moment between our sending and our receiving."""
    clock = ServerClock()
    for sent, took, part in exchanges:
        clock.observe(date(offset + sent + took * part), sent=sent, received=sent + took)
        assert abs(clock.unix(0.0) - offset) <= clock.uncertainty + 1e-4
        assert clock.uncertainty <= (1.0 + took) / 2 + 1e-4


def test_a_stepped_clock_is_believed_at_once() -> None:
    clock = ServerClock()
    clock.observe(date(1000), sent=0.0, received=0.0)
    clock.observe(date(5000), sent=1.0, received=1.0)
    assert clock.unix(1.0) == pytest.approx(5000.5)


def test_a_header_that_is_no_date_is_refused() -> None:
    with pytest.raises(ValueError, match="date"):
        ServerClock().observe("yesterday", sent=0.0, received=0.0)


def test_the_earliest_time_is_never_ahead_of_the_server() -> None:
    clock = ServerClock()
    with pytest.raises(LookupError):
        clock.earliest(0.0)
    truth = 1_000.0 - 7.0  # offset of the server's clock to ours
    for sent, received in ((7.25, 9.75), (12.4, 12.5), (31.9, 32.0)):  # the first one took long
        clock.observe(formatdate(int(truth + received), usegmt=True), sent, received)
        assert truth + received - 1.0 - 2.5 <= clock.earliest(received) <= truth + received
