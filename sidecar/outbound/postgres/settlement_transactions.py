"""
Stream records as ledger transactions, checked against themselves: pure functions.

What a record says it moved of grants must be what its entries change of the customer's credit.
A prepaid record without movements is one of a version that did not say which grant paid; it is
refused unless no grant paid anything.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from sidecar.domain.errors import InvalidInput
from sidecar.domain.ledger import (
    Account,
    Entry,
    credit_change,
    expiry_entries,
    grant_entries,
    rollover_entries,
    usage_entries,
    withdrawal_entries,
)
from sidecar.domain.ledger_chain import (
    ChainedTransaction,
    PostedEntry,
    PostedEvent,
    PostedMovement,
)
from sidecar.domain.usage import EventKind
from sidecar.outbound.postgres.settlement_batch import Batch, summed
from sidecar.services.control_ports import StreamRecord

_ACCOUNTS: Final = tuple(Account)


class BalanceSums(NamedTuple):
    """What a transaction adds to the sums that a live balance is made of, in nano."""

    granted: int = 0
    used: int = 0
    used_prepaid: int = 0
    voided: int = 0
    expired: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerTransaction:
    """A balanced transaction of one customer and currency, and the stream entries it posts."""

    customer_id: str
    transaction_id: str
    kind: str
    currency: str
    first_entry_id: str
    last_entry_id: str
    event_count: int
    entries: tuple[Entry, ...]
    sums: BalanceSums
    events: tuple[PostedEvent, ...] = ()
    movements: Mapping[str, int] = field(default_factory=dict)
    """By grant; none of them zero."""

    def as_chained(self, shard: int, posted_at: datetime) -> ChainedTransaction:
        """What the shard's chain covers of it."""
        return ChainedTransaction(
            customer_id=self.customer_id,
            transaction_id=self.transaction_id,
            kind=self.kind,
            currency=self.currency,
            shard=shard,
            first_entry_id=self.first_entry_id,
            last_entry_id=self.last_entry_id,
            event_count=self.event_count,
            posted_at=posted_at,
            entries=tuple(
                PostedEntry(entry.account.value, entry.amount_nano) for entry in self.entries
            ),
            events=self.events,
            movements=tuple(PostedMovement(*movement) for movement in self.movements.items()),
        )


def usage_transactions(
    new: Iterable[StreamRecord], ids: Mapping[tuple[str, str], str]
) -> list[LedgerTransaction]:
    """
    One transaction per customer and currency, from the new records alone.

    Raises:
        InvalidInput: If a record's movements are not what it took of the customer's credit.
    """
    groups: dict[tuple[str, str], list[StreamRecord]] = {}
    for record in new:
        paid = record.amount_nano - record.overage_nano - record.owed_nano
        _check_moved(record, -paid if record.prepaid else 0)
        groups.setdefault((record.customer_id, record.currency), []).append(record)
    return [
        _usage_transaction(records, ids[customer_id, currency])
        for (customer_id, currency), records in sorted(groups.items())
    ]


def grant_transactions(new: Iterable[StreamRecord]) -> list[LedgerTransaction]:
    """
    One transaction per grant, named by the grant: posting it twice cannot succeed.

    Raises:
        InvalidInput: If a record contradicts itself.
    """
    return [_transaction(record, f"grant:{record.grant_id}") for record in new]


def change_transactions(new: Iterable[StreamRecord], batch: Batch) -> list[LedgerTransaction]:
    """
    One transaction per expiry, rollover or withdrawal, named by its place in the stream.

    Raises:
        InvalidInput: If a record contradicts itself.
    """
    return [_transaction(record, _change_id(record, batch)) for record in new]


def balance_rows(transactions: Iterable[LedgerTransaction]) -> list[tuple[Any, ...]]:
    """By customer and currency a column per account and then per sum, in key order."""
    accounts: dict[tuple[str, str], dict[Account, int]] = {}
    sums: dict[tuple[str, str], BalanceSums] = {}
    for transaction in transactions:
        key = transaction.customer_id, transaction.currency
        own = accounts.setdefault(key, {})
        for entry in transaction.entries:
            own[entry.account] = own.get(entry.account, 0) + entry.amount_nano
        before = sums.get(key, BalanceSums())
        sums[key] = BalanceSums(*map(sum, zip(before, transaction.sums, strict=True)))
    return [
        (*key, *(own.get(account, 0) for account in _ACCOUNTS), *sums[key])
        for key, own in sorted(accounts.items())
    ]


def movement_rows(transactions: Iterable[LedgerTransaction]) -> list[tuple[str, str, str, int]]:
    """Rows of `grant_movements`, in key order."""
    return sorted(
        (transaction.customer_id, transaction.transaction_id, grant_id, amount)
        for transaction in transactions
        for grant_id, amount in transaction.movements.items()
    )


def _usage_transaction(records: Sequence[StreamRecord], transaction_id: str) -> LedgerTransaction:
    first = records[0]
    events = tuple(
        [
            PostedEvent(
                record.hold_id,
                record.kind,
                record.amount_nano,
                record.overage_nano,
                record.prepaid,
                record.owed_nano,
            )
            for record in records
        ]
    )
    by_credit = [event for event in events if event.prepaid]
    return LedgerTransaction(
        customer_id=first.customer_id,
        transaction_id=transaction_id,
        kind="usage",
        currency=first.currency,
        first_entry_id=first.entry_id,
        last_entry_id=records[-1].entry_id,
        event_count=len(records),
        entries=_usage_entries(by_credit, [event for event in events if not event.prepaid]),
        sums=BalanceSums(
            used=sum([event.amount_nano for event in events]),
            used_prepaid=sum([event.amount_nano - event.owed_nano for event in by_credit]),
        ),
        events=events,
        movements=_movements(records),
    )


def _usage_entries(*sorts: Sequence[PostedEvent]) -> tuple[Entry, ...]:
    """Of prepaid events and others; entries are linear, so those of sums are the sums of those."""
    made: list[tuple[Entry, ...]] = []
    for events in sorts:
        amount = sum([event.amount_nano for event in events])
        overage = sum([event.overage_nano for event in events])
        owed = sum([event.owed_nano for event in events])
        if amount or overage or owed:
            prepaid = events[0].prepaid
            made.append(
                usage_entries(amount, overage_nano=overage, prepaid=prepaid, owed_nano=owed)
            )
    if len(made) == 1:
        return made[0]
    entries = summed((entry.account, entry.amount_nano) for sort in made for entry in sort)
    return tuple(
        Entry(account=account, amount_nano=amount) for account, amount in entries.items() if amount
    )


def _transaction(record: StreamRecord, transaction_id: str) -> LedgerTransaction:
    """Of a record about one grant."""
    entries, sums = _worth(record)
    _check_moved(record, credit_change(entries))
    touched = {movement.grant_id for movement in record.movements}
    if record.kind != EventKind.ROLLOVER and not touched <= {record.grant_id}:
        raise InvalidInput(f"entry {record.entry_id}: it moves another grant than its own")
    return LedgerTransaction(
        customer_id=record.customer_id,
        transaction_id=transaction_id,
        kind=record.kind,
        currency=record.currency,
        first_entry_id=record.entry_id,
        last_entry_id=record.entry_id,
        event_count=1,
        entries=entries,
        sums=sums,
        movements=_movements([record]),
    )


def _worth(record: StreamRecord) -> tuple[tuple[Entry, ...], BalanceSums]:
    amount, overage, kind = record.amount_nano, record.overage_nano, record.grant_kind
    if record.kind == EventKind.GRANT:
        _check(record, sound=0 <= -overage <= amount)
        entries = grant_entries(amount, repaid_nano=-overage, kind=kind)
        return entries, BalanceSums(granted=amount)
    if record.kind == EventKind.EXPIRE:
        _check(record, sound=amount >= 0 >= overage)
        entries = expiry_entries(amount, repaid_nano=-overage, kind=kind)
        return entries, BalanceSums(expired=amount)
    if record.kind == EventKind.ROLLOVER:
        _check(record, sound=amount >= 0 == overage)
        return rollover_entries(amount), BalanceSums(granted=amount)
    _check(record, sound=0 <= overage <= amount)
    entries = withdrawal_entries(amount, overage_nano=overage, kind=kind)
    return entries, BalanceSums(voided=amount)


def _check(record: StreamRecord, *, sound: bool) -> None:
    if not sound:
        raise InvalidInput(
            f"entry {record.entry_id}: {record.kind} of {record.amount_nano} with "
            f"{record.overage_nano} of overage is none"
        )


def _check_moved(record: StreamRecord, wanted: int) -> None:
    moved = sum([movement.amount_nano for movement in record.movements])
    if moved != wanted:
        raise InvalidInput(
            f"entry {record.entry_id}: it changes the customer's credit by {wanted} nano and "
            + (f"its grants by {moved}" if record.movements else "does not say of which grants")
        )


def _movements(records: Iterable[StreamRecord]) -> dict[str, int]:
    moved = summed(
        [
            (movement.grant_id, movement.amount_nano)
            for record in records
            for movement in record.movements
        ]
    )
    return {grant_id: amount for grant_id, amount in moved.items() if amount}


def _change_id(record: StreamRecord, batch: Batch) -> str:
    """By the record's own epoch: an old life of the store may come back with what is posted."""
    return f"{record.kind}:{batch.shard}:{record.epoch or batch.epoch}:{record.entry_id}"
