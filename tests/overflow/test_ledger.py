"""A budget shared by gateways that race, crash and come back is never exceeded, and never forgotten."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from weir.overflow.ledger import Book, Purse, close, grant, report, roll, slice_size

DAY, NEXT = "2026-11-21", "2026-11-22"


def test_slices_shrink_as_the_budget_runs_out() -> None:
    usd = 1_000_000
    assert slice_size(50 * usd, 10 * usd, need=1) == 2_500_000
    assert slice_size(50 * usd, 49 * usd, need=1) == 250_000
    assert slice_size(50 * usd, 0, need=9 * usd) == 9 * usd


def test_the_last_request_gets_all_that_is_left_and_the_next_nothing() -> None:
    book = grant(Book(DAY), "a", limit=100, need=100)
    assert book is not None
    assert book.committed == 100
    assert grant(book, "b", limit=100, need=1) is None


def test_a_crashed_holder_stays_spent_until_the_window_turns() -> None:
    book = grant(Book(DAY), "crashed", limit=1000, need=900)
    assert book is not None
    assert grant(book, "b", limit=1000, need=101) is None
    assert roll(book, DAY) == book
    assert roll(book, NEXT) == Book(NEXT)
    assert roll(Book(NEXT), DAY) == Book(NEXT), "a window never turns back"


def test_a_given_back_slice_is_there_for_others() -> None:
    book = grant(Book(DAY), "a", limit=1000, need=900)
    assert book is not None
    book = close(book, "a", spent=10)
    assert (book.settled, book.committed, book.spent) == (10, 10, 10)


def test_the_book_survives_the_api() -> None:
    book = grant(Book(DAY, settled=5), "a", limit=2_950_000, need=7)
    assert book is not None
    book = report(book, "a", spent=3, granted=100)
    assert Book.from_status(book.to_status(2_950_000)) == book


class Gateways(RuleBasedStateMachine):
    """Several purses against one book; reservations are settled for anything up to their bound, or never."""

    LIMIT = 10_000

    def __init__(self) -> None:
        super().__init__()
        self.book = Book(DAY)
        self.purses: dict[str, Purse] = {}
        self.truth = 0  # what providers would bill

    reservations = Bundle("reservations")

    @rule(target=reservations, name=st.sampled_from("abc"), bound=st.integers(1, 3000))
    def spill(self, name: str, bound: int) -> tuple[str, int, int]:
        purse = self.purses.get(name, Purse(DAY))
        if purse.reserve(bound) is None:
            granted = grant(self.book, name, self.LIMIT, bound - purse.free)
            if granted is None:
                return name, 0, 0
            self.book = granted
            purse = Purse(DAY, granted.slices[name].granted, purse.reserved, purse.settled)
        reserved = purse.reserve(bound)
        assert reserved is not None
        self.purses[name] = reserved
        return name, bound, id(reserved)

    @rule(reservation=reservations, share=st.floats(0, 1))
    def settle(self, reservation: tuple[str, int, int], share: float) -> None:
        name, bound, _ = reservation
        purse = self.purses.get(name)
        if purse and 0 < bound <= purse.reserved:
            actual = int(bound * share)
            self.truth += actual
            self.purses[name] = purse.settle(bound, actual)

    @rule(name=st.sampled_from("abc"))
    def give_back(self, name: str) -> None:
        purse = self.purses.get(name)
        if purse:
            self.book = report(self.book, name, purse.spent, purse.spent)
            self.purses[name] = Purse(DAY, purse.spent, purse.reserved, purse.settled)

    @rule(name=st.sampled_from("abc"))
    def shut_down(self, name: str) -> None:
        purse = self.purses.pop(name, None)
        if purse:
            self.book = close(self.book, name, purse.spent)

    @rule(name=st.sampled_from("abc"))
    def crash(self, name: str) -> None:
        """The purse is lost and its slice stays; a successor has a name of its own, as a pod has a uid of its own."""
        if name in self.purses:
            del self.purses[name]
            slices = dict(self.book.slices)
            slices[f"dead-{len(slices)}-{name}"] = slices.pop(name)
            self.book = Book(self.book.window, self.book.settled, slices)

    @invariant()
    def never_over(self) -> None:
        assert self.book.committed <= self.LIMIT
        assert self.truth <= self.book.committed
        assert sum(p.spent for p in self.purses.values()) <= self.book.committed


Gateways.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestGateways = Gateways.TestCase
