"""Delays grow, stay bounded, and differ between clients."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from weir.kube.backoff import Backoff


@given(failures=st.integers(0, 100))
def test_delays_double_up_to_the_cap(failures: int) -> None:
    backoff = Backoff(base=0.25, cap=8.0)
    for _ in range(failures):
        backoff.next()
    middle = min(8.0, 0.25 * 2**failures)
    assert 0.5 * middle <= backoff.next() <= 1.5 * middle


def test_success_starts_it_over() -> None:
    backoff = Backoff(base=1.0, cap=100.0)
    for _ in range(6):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 1.5


def test_what_the_server_asks_for_is_honoured_up_to_the_cap() -> None:
    assert 5.0 <= Backoff(base=0.1, cap=8.0).next(at_least=5.0) < 5.1
    assert Backoff(base=0.1, cap=8.0).next(at_least=3600.0) == 8.0


def test_two_clients_do_not_come_back_together() -> None:
    assert len({Backoff(base=1.0, cap=8.0).next() for _ in range(20)}) > 1
