"""The arithmetic of a budget that several gateways share: a book of slices, and each gateway's own purse.

Amounts are integer micro-dollars. The book is written by compare-and-swap, so every function here takes a book and gives
the next one. What holds at every moment: settled + sum of granted <= limit (unless the limit was cut), and a gateway never
has more reserved and spent than it was granted. A gateway that dies leaves its whole grant spent until the window ends:
the count can only be too high.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from weir.api.quantity import Usd
from weir.api.spendledger import Holder, SpendLedgerStatus


@dataclass(frozen=True)
class Slice:
    """One gateway's part of the window: `spent` (settled or reserved) is at most `granted`."""

    granted: int
    spent: int = 0
    sequence: int = 0


@dataclass(frozen=True)
class Book:
    """One window of one budget. `window` is the UTC day."""

    window: str = ""
    settled: int = 0
    """Spent by gateways that gave their slice back."""
    slices: Mapping[str, Slice] = field(default_factory=dict)

    @property
    def committed(self) -> int:
        """What may have been spent at most."""
        return self.settled + sum(s.granted for s in self.slices.values())

    @property
    def spent(self) -> int:
        """What is known to be spent or reserved."""
        return self.settled + sum(s.spent for s in self.slices.values())

    @classmethod
    def from_status(cls, status: SpendLedgerStatus) -> Self:
        """The book that a SpendLedger holds."""
        slices = {h.holder: Slice(h.granted_usd.micros, h.spent_usd.micros, h.sequence) for h in status.holders}
        return cls(status.window_start, status.settled_usd.micros, slices)

    def to_status(self, limit: int) -> SpendLedgerStatus:
        """The status to write."""
        return SpendLedgerStatus(
            window_start=self.window,
            budget_usd=Usd.from_micros(limit),
            spent_usd=Usd.from_micros(self.spent),
            leased_usd=Usd.from_micros(self.committed - self.spent),
            settled_usd=Usd.from_micros(self.settled),
            holders=tuple(
                Holder(
                    holder=name,
                    granted_usd=Usd.from_micros(s.granted),
                    spent_usd=Usd.from_micros(s.spent),
                    sequence=s.sequence,
                )
                for name, s in sorted(self.slices.items())
            ),
        )


def roll(book: Book, window: str) -> Book:
    """The book of `window`: the same, or an empty one where a later window has begun. A window never turns back."""
    return Book(window) if window > book.window else book


def slice_size(limit: int, committed: int, need: int) -> int:
    """How much to ask for: a twentieth of the budget at first, less as it runs out, never less than the request at hand.

    Of 50 dollars with 10 committed: min(2.50, 40 / 4) = 2.50; with 49 committed: 0.25.
    """
    return max(need, min(limit // 20, max(limit - committed, 0) // 4))


def grant(book: Book, holder: str, limit: int, need: int) -> Book | None:
    """The book after `holder` got at least `need` more, or None where less than that is left."""
    left = limit - book.committed
    if need > left:
        return None
    old = book.slices.get(holder, Slice(0))
    more = min(slice_size(limit, book.committed, need), left)
    return _with(book, holder, replace(old, granted=old.granted + more, sequence=old.sequence + 1))


def report(book: Book, holder: str, spent: int, granted: int) -> Book:
    """The book after `holder` said what it has spent and reserved, and that it keeps `granted` of its slice.

    A holder cannot keep more than it was granted, nor less than it spent.
    """
    old = book.slices.get(holder, Slice(0))
    kept = max(spent, min(granted, old.granted))
    return _with(book, holder, Slice(kept, spent, old.sequence + 1))


def close(book: Book, holder: str, spent: int) -> Book:
    """The book after `holder` gave its slice back, having spent `spent` of it."""
    slices = {name: s for name, s in book.slices.items() if name != holder}
    return replace(book, settled=book.settled + spent, slices=slices)


def _with(book: Book, holder: str, new: Slice) -> Book:
    return replace(book, slices={**book.slices, holder: new})


@dataclass(frozen=True)
class Purse:
    """What one gateway may spend of a window without asking again."""

    window: str = ""
    granted: int = 0
    reserved: int = 0
    settled: int = 0

    @property
    def spent(self) -> int:
        """Settled and reserved."""
        return self.settled + self.reserved

    @property
    def free(self) -> int:
        """What the next reservation may take."""
        return max(self.granted - self.spent, 0)

    def reserve(self, bound: int) -> Self | None:
        """The purse with `bound` set aside, or None where it does not hold that much."""
        return replace(self, reserved=self.reserved + bound) if bound <= self.free else None

    def settle(self, bound: int, actual: int) -> Self:
        """The purse after a reservation became an amount. Without a usage report `actual` is the whole bound."""
        return replace(self, reserved=self.reserved - bound, settled=self.settled + actual)
