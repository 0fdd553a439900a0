"""
Reconcile: live balances against ledger and stream, customer by customer, and their remedies.

Reading one customer takes three looks, of which the ledger's comes last. If it has settled more
by then than the live look knew, the customer is looked at again. Every remedy may be repeated,
and mending is refused by the store if anything has changed since the look.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidecar import telemetry
from sidecar.domain.credit_replay import Credit
from sidecar.domain.errors import InvalidInput, NotFound
from sidecar.domain.reconciliation import (
    Comparison,
    Difference,
    DifferenceKind,
    GrantLine,
    LiveBook,
    PendingRecord,
    Remedy,
    compare,
    mended_grants,
    mended_numbers,
)
from sidecar.services.control_ports import CLAIM, StreamRecord, UsageStream
from sidecar.services.entry_ids import entry_order
from sidecar.services.ports import Balances
from sidecar.services.rounds import run_rounds

LOOKS_MAX = 5
"""Of one customer; who is settled faster than he is looked at is told as unread."""
LOOKS_TO_MEND_MAX = 100
"""Of a customer to be mended: mending must fall between two decisions on a busy one."""
DIFFERENCES_MAX = 1_000
"""Kept of one run for people; all are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerCredit:
    """
    A customer's credit as posted up to a shard's offset.

    `grants` are as they were given, by id: those with anything left, and those that the live
    store has been given and that have not begun. `settled_holds` are those of the holds asked
    for whose capture is posted.
    """

    customer_id: str
    credit: Credit
    offset: str
    grants: Mapping[str, GrantLine] = field(default_factory=dict)
    settled_holds: tuple[str, ...] = ()


class LiveBooks(Protocol):
    """Live balances, looked at whole; may raise StoreUnavailable."""

    def shard_of(self, customer_id: str) -> int:
        """Where the customer's stream is."""

    async def read_book(self, customer_id: str) -> LiveBook | None:
        """
        The book and its open holds at one moment; None for an unknown customer.

        Raises:
            InvalidInput: Too many open holds, or what is stored is no book.
        """

    async def mend_book(
        self,
        customer_id: str,
        book: LiveBook,
        numbers: Mapping[str, int],
        grants: Sequence[GrantLine],
    ) -> bool:
        """Make a book what it ought to be; False if it has changed since it was read."""


class LedgerCredits(Protocol):
    """The ledger's side; may raise StoreUnavailable."""

    async def list_customer_ids(self, *, after: str, limit: int) -> Sequence[str]:
        """Customers by id, those after `after`."""

    async def read_credit(
        self, customer_id: str, shard: int, hold_ids: Sequence[str]
    ) -> LedgerCredit | None:
        """What is posted of a customer and of these holds, and up to which offset: one look."""

    async def unsummed(self, *, limit: int) -> Sequence[Difference]:
        """Projections that are not the sum of their entries."""

    async def resum(self, customer_id: str) -> None:
        """Sum the customer's projections up from the entries anew."""


@dataclass(slots=True)
class ReconcileReport:
    """What one run found: counts by kind, the nano that each stands for, and the first ones."""

    customers: int = 0
    unread: list[str] = field(default_factory=list)
    counts: Counter[DifferenceKind] = field(default_factory=Counter)
    nano: Counter[DifferenceKind] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    mended: int = 0
    unmended: int = 0
    """Customers that a run was asked to mend and did not: by itself nothing does, or too busy."""

    def compared(self, differences: Sequence[Difference]) -> None:
        """Count a customer with what differs."""
        self.customers += 1
        for difference in differences:
            self.add(difference)

    def add(self, difference: Difference) -> None:
        """Count a difference, and keep it if there is room."""
        self.counts[difference.kind] += 1
        self.nano[difference.kind] += abs(difference.found_nano - difference.expected_nano)
        # What is wrong must not be crowded out by what passes by.
        room = DIFFERENCES_MAX if difference.kind.wrong else DIFFERENCES_MAX // 2
        if len(self.differences) < room:
            self.differences.append(difference)

    @property
    def wrong(self) -> int:
        """Differences that nothing passing explains; 0 is what a run should say."""
        return sum(count for kind, count in self.counts.items() if kind.wrong)


class Reconciler:
    """Compares all customers or one, and mends what is wrong if asked to."""

    def __init__(
        self,
        *,
        books: LiveBooks,
        ledger: LedgerCredits,
        stream: UsageStream,
        balances: Balances,
        page_max: int = 200,
        pending_max: int = 10_000,
        concurrency_max: int = 8,
    ) -> None:
        """
        Wire the ports.

        Args:
            books, ledger, stream, balances: Ports.
            page_max: Customers read at a time.
            pending_max: Unsettled records of a shard that are looked through; a customer behind
                more of them is told as unread: settle first.
            concurrency_max: Customers looked at side by side.
        """
        self._books = books
        self._ledger = ledger
        self._stream = stream
        self._balances = balances
        self._page_max = page_max
        self._pending_max = pending_max
        self._concurrency_max = concurrency_max

    async def run_once(
        self, *, customer_id: str | None = None, fix: bool = False
    ) -> ReconcileReport:
        """
        Compare, and with `fix` apply the remedies of what is wrong.

        Raises:
            NotFound: The one customer is unknown to the ledger.
            StoreUnavailable: Run it again; nothing is half-done.
        """
        report = ReconcileReport()
        if customer_id is not None:
            # The metrics are about all customers, so one alone leaves them as they are.
            await self._customer(customer_id, report, fix=fix, must_be_known=True)
            return report
        for difference in await self._ledger.unsummed(limit=DIFFERENCES_MAX):
            report.add(difference)
            if fix:
                await self._ledger.resum(difference.customer_id)
                report.mended += 1
        gate = asyncio.Semaphore(self._concurrency_max)

        async def gated(one: str) -> None:
            async with gate:
                await self._customer(one, report, fix=fix)

        after = ""
        while page := await self._ledger.list_customer_ids(after=after, limit=self._page_max):
            await asyncio.gather(*(gated(one) for one in page))
            after = page[-1]
        return self._told(report)

    async def run(
        self,
        stop: asyncio.Event,
        *,
        interval_seconds: float,
        keep: Callable[[ReconcileReport], Awaitable[None]],
    ) -> None:
        """
        Compare again and again until stopped; what is wrong is an alarm, mended by people.

        Args:
            stop: Ends it.
            interval_seconds: Pause before each comparison.
            keep: Told of each.
        """

        async def compare() -> None:
            await keep(await self.run_once())

        await run_rounds(
            stop, compare, name="reconcile", pause_seconds=interval_seconds, pause_first=True
        )

    async def _customer(
        self, customer_id: str, report: ReconcileReport, *, fix: bool, must_be_known: bool = False
    ) -> None:
        seen_wrong = False
        overtaken: list[Difference] = []
        for _ in range(LOOKS_TO_MEND_MAX if fix else LOOKS_MAX):
            looked = await self._look(customer_id)
            if looked is None:
                continue
            book, ledger, comparison = looked
            if ledger is None:
                if must_be_known:
                    raise NotFound(f"there is no customer {customer_id!r}")
                return
            if book is None or comparison is None:
                break
            wrong = [one for one in comparison.differences if one.kind.wrong]
            if wrong and not seen_wrong:
                # Book and ledger are read one after the other: what is wrong is so twice.
                seen_wrong = True
                continue
            if fix and wrong and not await self._fix(customer_id, book, ledger, comparison, report):
                overtaken = wrong
                continue
            report.compared(comparison.differences)
            return
        if overtaken:  # Decisions came in between each look and its mending.
            report.compared(overtaken)
            report.unmended += 1
        else:
            report.unread.append(customer_id)

    async def _look(
        self, customer_id: str
    ) -> tuple[LiveBook | None, LedgerCredit | None, Comparison | None] | None:
        """Book, ledger and what comes of them; None if the ledger went on in between."""
        shard = self._books.shard_of(customer_id)
        try:
            book = await self._books.read_book(customer_id)
        except InvalidInput as error:
            telemetry.get_logger().error(
                "book_unreadable", customer_id=customer_id, error=str(error)
            )
            book = None
        hold_ids = [hold.hold_id for hold in book.holds] if book else []
        ledger = await self._ledger.read_credit(customer_id, shard, hold_ids)
        if book is None or ledger is None:
            return book, ledger, None
        if entry_order(ledger.offset) > entry_order(book.position):
            return None
        records = []
        if entry_order(ledger.offset) < entry_order(book.position):
            records = list(await self._stream.read(shard, ledger.offset, self._pending_max))
            if len(records) == self._pending_max:
                return book, ledger, None
        pending = [
            PendingRecord(record=record, late=record.late)
            for record in records
            if isinstance(record, StreamRecord)
            and record.customer_id == customer_id
            and record.kind != CLAIM
            and entry_order(record.entry_id) <= entry_order(book.position)
        ]
        comparison = compare(
            customer_id,
            ledger.credit,
            pending,
            book,
            settled_holds=ledger.settled_holds,
            grants=ledger.grants,
        )
        if any(one.kind.wrong for one in comparison.differences):
            # What was settled since the ledger was read may be trimmed: then it is in neither.
            again = await self._ledger.read_credit(customer_id, shard, hold_ids)
            if again is None or again.offset != ledger.offset:
                return None
        return book, ledger, comparison

    async def _fix(
        self,
        customer_id: str,
        book: LiveBook,
        ledger: LedgerCredit,
        comparison: Comparison,
        report: ReconcileReport,
    ) -> bool:
        """Apply remedies; False if the customer has moved on and must be looked at again."""
        remedies = {one.remedy for one in comparison.differences if one.kind.wrong}
        if Remedy.RELEASE in remedies:
            for hold_id in ledger.settled_holds:
                await self._balances.release_hold(customer_id, hold_id)
                report.mended += 1
            return True
        if Remedy.MEND not in remedies or comparison.expected is None:
            report.unmended += 1
            return True
        try:
            grants = mended_grants(comparison.expected, book, comparison.pending, ledger.grants)
        except InvalidInput as error:
            telemetry.get_logger().error(
                "reconcile_cannot_mend", customer_id=customer_id, error=str(error)
            )
            report.unmended += 1
            return True
        numbers = mended_numbers(comparison.expected, book)
        if not await self._books.mend_book(customer_id, book, numbers, grants):
            return False
        report.mended += 1
        telemetry.get_logger().warning("balance_mended", customer_id=customer_id)
        return True

    @staticmethod
    def _told(report: ReconcileReport) -> ReconcileReport:
        """Tell what was found where machines and people look."""
        for kind in DifferenceKind:
            telemetry.RECONCILE_DIFFERENCES.labels(kind.value).set(report.counts[kind])
        telemetry.RECONCILE_UNREAD.set(len(report.unread))
        if report.wrong:
            telemetry.get_logger().error(
                "balances_differ",
                **{kind.value: report.counts[kind] for kind in DifferenceKind},
            )
        return report
