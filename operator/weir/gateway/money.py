"""Spends budgets that all gateways share: slices are leased from SpendLedgers by compare-and-swap, then spent from memory.

Whatever happens, the books count too much, never too little: money is the gateway's own only after the write that grants it was
confirmed, is taken out of its purse before the write that returns it, and a gateway that dies leaves its slice spent. After
a write without an answer only a later one that did succeed says what is ours: until then the lost one could still arrive.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from weir.api.spendledger import SpendLedger
from weir.kube.client import KubeClient
from weir.kube.errors import ApiError, Conflict
from weir.kube.resources import SPENDLEDGERS, Json, Key
from weir.overflow.ledger import Book, Purse, Slice, close, grant, report, roll

log = structlog.get_logger(__name__)

FIELD_MANAGER = "weir-gateway"
ASK_SECONDS = 2.0
"""The longest a request waits for the API server before it counts as not funded."""
IDLE_SECONDS = 0.9
"""Money that nobody asked for during this time goes back at the next look, and they are a second apart: within two."""


@dataclass(frozen=True)
class Budget:
    """One budget as its owner's object states it now."""

    key: Key
    """Of its SpendLedger."""
    limit: int
    """Micro-dollars a window."""
    ledger_uid: str | None
    """Of the book that the operator opened for it. None: not opened yet."""


@dataclass(frozen=True)
class Reservation:
    """Money set aside for one request, in the window in which it was made."""

    account: Account
    window: str
    bound: int

    def settle(self, actual: int) -> None:
        """The request has cost `actual` micro-dollars."""
        self.account.settle(self, actual)


class Account:
    """This gateway's part of one budget."""

    def __init__(
        self, budget: Budget, holder: str, kube: KubeClient, find: Callable[[Key], SpendLedger | None]
    ) -> None:
        self.budget = budget
        self._holder = holder
        self._kube = kube
        self._find = find
        self._window = ""
        self._purse = Purse()
        self._lock = asyncio.Lock()
        self._written: SpendLedger | None = None  # what our own last write answered
        self._reported = 0
        self._asked_at = 0.0
        self._closed = False

    @property
    def window(self) -> str:
        """The present UTC day by the API server's clock, never early. Raises LookupError before its first answer.

        It never turns back, as that clock may when a server steps it or another server answers: the purse of the later day
        would be thrown away with all that it knows to be spent.
        """
        self._window = max(self._window, self._kube.server_now_at_least().date().isoformat())
        return self._window

    def left(self) -> int | None:
        """Micro-dollars that this gateway may still get, as far as is known here. None: there is no book."""
        ledger = self._ledger()
        if ledger is None:
            return None
        book = roll(Book.from_status(ledger.status), self.window)
        return max(0, self.budget.limit - book.committed + self._current().free)

    def may_cover(self, bound: int) -> bool:
        """Whether a reservation has a chance."""
        try:
            left = self.left()
        except LookupError:
            return False
        return left is not None and bound <= left and not self._closed

    async def reserve(self, bound: int) -> Reservation | None:
        """Sets `bound` micro-dollars aside. None where the budget does not hold them, or cannot be asked."""
        self._asked_at = asyncio.get_running_loop().time()
        try:
            if reservation := self._from_purse(bound):
                return reservation
            async with asyncio.timeout(ASK_SECONDS), self._lock:
                if reservation := self._from_purse(bound):  # what another request was granted may do
                    return reservation
                if self.may_cover(bound) and await self._write(lambda book: self._grant(book, bound)):
                    return self._from_purse(bound)
        except (ApiError, LookupError, TimeoutError) as error:
            log.warning("a budget cannot be asked, so nothing is spent", ledger=str(self.budget.key), error=str(error))
        return None

    def settle(self, reservation: Reservation, actual: int) -> None:
        """The reservation became an amount of micro-dollars. One of an earlier window was that window's money."""
        if reservation.window == self._purse.window:
            self._purse = self._purse.settle(reservation.bound, actual)

    async def tidy(self) -> None:
        """Give idle money back, and say what was spent. Called every second."""
        try:
            if self._purse.window != self.window or self._lock.locked():
                return
            idle = asyncio.get_running_loop().time() - self._asked_at >= IDLE_SECONDS
            if self._purse.spent == self._reported and not (idle and self._purse.free):
                return
            async with self._lock:
                if idle:
                    self._purse = replace(self._purse, granted=self._purse.spent)
                kept, spent = self._purse.granted, self._purse.spent
                if await self._write(lambda book: report(book, self._holder, spent, kept)):
                    self._reported = spent
        except (ApiError, LookupError) as error:
            log.warning("idle money could not be given back yet", ledger=str(self.budget.key), error=str(error))

    async def close(self) -> None:
        """Give back what is not spent. What is still reserved then counts as spent."""
        self._closed = True
        purse = self._purse
        try:
            if not purse.window or purse.window != self.window:
                return
            async with asyncio.timeout(ASK_SECONDS), self._lock:
                await self._write(lambda book: close(book, self._holder, self._purse.spent))
        except (ApiError, LookupError, TimeoutError) as error:
            log.warning("the slice stays spent until the window ends", ledger=str(self.budget.key), error=str(error))

    def _current(self) -> Purse:
        if self._purse.window != self.window:
            self._purse = Purse(self.window)
            self._reported = 0
        return self._purse

    def _from_purse(self, bound: int) -> Reservation | None:
        # Even of money in hand: the book may have gone, or the limit been cut below what is already given out.
        if not self.may_cover(bound):
            return None
        purse = self._current().reserve(bound)
        if purse is None:
            return None
        self._purse = purse
        return Reservation(self, purse.window, bound)

    def _grant(self, book: Book, bound: int) -> Book | None:
        # What the book says we hold can be more than the purse knows, after a write whose answer was lost.
        held = book.slices.get(self._holder, Slice(0)).granted
        missing = bound - (held - self._purse.spent)
        if missing <= 0:
            return report(book, self._holder, self._purse.spent, held)
        return grant(book, self._holder, self.budget.limit, missing)

    def _ledger(self) -> SpendLedger | None:
        """The book, if it is the one that the operator opened."""
        ledger = self._find(self.budget.key)
        return ledger if ledger is not None and ledger.metadata.uid == self.budget.ledger_uid else None

    async def _write(self, change: Callable[[Book], Book | None]) -> bool:
        """Compare-and-swap `change` into the book. False where it has no answer, or there is no book. Called with the lock."""
        ledger, fresh = self._written or self._ledger(), False
        while ledger is not None and ledger.metadata.uid == self.budget.ledger_uid:
            window = self.window
            book = roll(Book.from_status(ledger.status), window)
            changed = change(book) if book.window == window == self._purse.window else None
            if changed is not None:
                try:
                    answer = await self._kube.update(
                        SPENDLEDGERS,
                        _object(ledger, changed, self.budget.limit),
                        subresource="status",
                        field_manager=FIELD_MANAGER,
                        timeout=ASK_SECONDS,
                    )
                except Conflict:
                    pass
                except ApiError:
                    self._written = None
                    raise
                else:
                    self._written = SpendLedger.from_object(answer)
                    granted = changed.slices[self._holder].granted if self._holder in changed.slices else 0
                    self._purse = replace(self._purse, granted=granted)
                    return True
            elif fresh:
                return False
            ledger, fresh = await self._read(), True  # others have written, perhaps given money back
        return False

    async def _read(self) -> SpendLedger:
        key = self.budget.key
        return SpendLedger.from_object(await self._kube.get(SPENDLEDGERS, key.namespace, key.name, timeout=ASK_SECONDS))


def _object(ledger: SpendLedger, book: Book, limit: int) -> Json:
    meta = ledger.metadata
    return {
        "metadata": {
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
        },
        "spec": ledger.spec.model_dump(mode="json", by_alias=True),
        "status": book.to_status(limit).model_dump(mode="json", by_alias=True),
    }


class Till:
    """All accounts of this gateway."""

    def __init__(self, kube: KubeClient, uid: str, find: Callable[[Key], SpendLedger | None]) -> None:
        self._kube = kube
        self._find = find
        # A container that starts again in the same pod is another holder: what the one before it held stays spent.
        self._holder = f"{uid[:64]}.{uuid.uuid4().hex[:8]}"
        self.accounts: dict[Key, Account] = {}

    def account(self, budget: Budget) -> Account:
        """The account of a budget, with the budget's present terms."""
        account = self.accounts.get(budget.key)
        if account is None:
            account = self.accounts[budget.key] = Account(budget, self._holder, self._kube, self._find)
        account.budget = budget
        return account

    async def run(self) -> None:
        """Gives idle money back, until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            await asyncio.gather(*(account.tidy() for account in self.accounts.values()))

    async def close(self) -> None:
        """Give back all that is not spent."""
        await asyncio.gather(*(account.close() for account in self.accounts.values()))


async def reserve_all(accounts: list[Account], bound: int) -> list[Reservation] | None:
    """Sets `bound` aside in every account, or in none: None."""
    made: list[Reservation] = []
    for account in accounts:
        reservation: Reservation | None = None
        try:
            reservation = await account.reserve(bound)
        finally:
            if reservation is None:
                for other in made:
                    other.settle(0)
        if reservation is None:
            return None
        made.append(reservation)
    return made
