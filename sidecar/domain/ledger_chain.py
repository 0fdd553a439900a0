"""
The hash chains over the ledger's transactions, and the roots that sign where they stand.

A shard has one chain. Its link number n holds

    content_hash = SHA-256(canonical content of a transaction)
    hash         = SHA-256(hash of link n - 1 || the same canonical content)

and link 0 is `genesis`. The content names no person: what may be erased of a customer is not in
it. Changing a field that is hashed, or how it is written, needs a new word at its front.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from sidecar.domain.ledger import Account, usage_entries
from sidecar.domain.periods import EPOCH

_TRANSACTION: Final = "sidecar-ledger-transaction-1"
_MOVING_TRANSACTION: Final = "sidecar-ledger-transaction-2"
"""Of a transaction that moves grants; the movements stand at the end of its content."""
_ROOT: Final = "sidecar-ledger-root-1"
_GENESIS: Final = "sidecar-ledger-chain-1"
_MICROSECOND: Final = timedelta(microseconds=1)
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


class PostedEvent(NamedTuple):
    """A usage event as its transaction posts it."""

    hold_id: str
    kind: str
    amount_nano: int
    overage_nano: int
    prepaid: bool
    owed_nano: int = 0
    """What of it is left to an invoice where credit pays first."""


class PostedMovement(NamedTuple):
    """What a transaction moves of a grant: into it (positive) or out of it."""

    grant_id: str
    amount_nano: int


class PostedEntry(NamedTuple):
    """An entry as it is stored; the account is text, for whatever may stand there."""

    account: str
    amount_nano: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainedTransaction:
    """All that a chain covers of a ledger transaction."""

    customer_id: str
    transaction_id: str
    kind: str
    currency: str
    shard: int
    first_entry_id: str
    last_entry_id: str
    event_count: int
    posted_at: datetime
    entries: tuple[PostedEntry, ...]
    events: tuple[PostedEvent, ...] = ()
    movements: tuple[PostedMovement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainHead:
    """Where a chain ends: `seq` is 0 and the hash `genesis` before its first link."""

    chain: int
    seq: int
    hash: bytes

    @classmethod
    def empty(cls, chain: int) -> "ChainHead":
        """Of a chain without links."""
        return cls(chain=chain, seq=0, hash=genesis(chain))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainLink:
    """One link: which transaction, and the two hashes."""

    chain: int
    seq: int
    customer_id: str
    transaction_id: str
    content_hash: bytes
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRoot:
    """
    Where all chains stood at an instant, signed.

    `previous` is the signature of the root before it (empty for the first), so that roots are a
    chain themselves. `daily` ones are made once a UTC day, others on demand.
    """

    number: int
    day: date
    daily: bool
    made_at: datetime
    heads: tuple[ChainHead, ...]
    previous: bytes
    key_id: str = ""
    signature: bytes = b""


class BreakKind(StrEnum):
    """What is wrong at the first broken link of a chain, or beside the chains."""

    GAP = "gap"
    """A sequence number is missing, or one stands twice."""
    MISSING = "transaction_missing"
    """The link's transaction is not there."""
    CONTENT = "content"
    """Transaction, entries or events are not what was hashed."""
    CONTENT_HASH = "content_hash"
    """Only the link's own content hash was changed."""
    LINK = "link"
    """The link does not continue the one before it."""
    UNBALANCED = "unbalanced"
    """The entries do not sum to zero."""
    MOVEMENTS = "movements"
    """The movements of grants do not sum up to the change of the customer's credit."""
    HEAD = "head"
    """The chain does not end where its shard says."""
    ROOT = "root"
    """A root is missing, not signed by us, or says something else than the chain."""
    UNCHAINED = "unchained"
    """A transaction that no link names."""
    STRAY_ENTRIES = "stray_entries"
    """Entries without a transaction."""
    STRAY_EVENTS = "stray_events"
    """Usage events that no transaction of the chain posted."""
    STRAY_MOVEMENTS = "stray_movements"
    """Movements of grants without a transaction."""
    REMAINING = "remaining"
    """What is left of a grant is not what its movements come to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerBreak:
    """Where the evidence and the ledger part."""

    kind: BreakKind
    detail: str
    chain: int | None = None
    seq: int | None = None
    customer_id: str = ""
    transaction_id: str = ""


def genesis(chain: int) -> bytes:
    """What the first link of a chain continues."""
    return hashlib.sha256(_canonical([_GENESIS, chain])).digest()


def canonical_content(transaction: ChainedTransaction) -> bytes:
    """
    A transaction as the bytes that are hashed: entries by account, events by hold and kind.

    One without movements is written as it was before there were any, so that older links hold.
    """
    return _canonical(
        [
            _MOVING_TRANSACTION if transaction.movements else _TRANSACTION,
            transaction.customer_id,
            transaction.transaction_id,
            transaction.kind,
            transaction.currency,
            transaction.shard,
            transaction.first_entry_id,
            transaction.last_entry_id,
            transaction.event_count,
            _microseconds(transaction.posted_at),
            sorted(transaction.entries),
            # One that owes nothing is written as it was before any could.
            sorted(event if event.owed_nano else event[:-1] for event in transaction.events),
            *([sorted(transaction.movements)] if transaction.movements else []),
        ]
    )


def extend(
    head: ChainHead, transactions: Iterable[ChainedTransaction]
) -> tuple[list[ChainLink], ChainHead]:
    """The links that transactions add, in order, and the new head."""
    links: list[ChainLink] = []
    seq, newest = head.seq, head.hash
    for transaction in transactions:
        content = canonical_content(transaction)
        seq, newest = seq + 1, hashlib.sha256(newest + content).digest()
        links.append(
            ChainLink(
                chain=head.chain,
                seq=seq,
                customer_id=transaction.customer_id,
                transaction_id=transaction.transaction_id,
                content_hash=hashlib.sha256(content).digest(),
                hash=newest,
            )
        )
    return links, replace(head, seq=seq, hash=newest)


def root_content(ledger_id: str, root: LedgerRoot) -> bytes:
    """What a root's signature covers; the ledger's id, so that none passes for another's."""
    return _canonical(
        [
            _ROOT,
            ledger_id,
            root.number,
            root.day.isoformat(),
            root.daily,
            _microseconds(root.made_at),
            root.previous.hex(),
            root.key_id,
            [(head.chain, head.seq, head.hash.hex()) for head in root.heads],
        ]
    )


class ChainWalk:
    """Follows one chain from a head that is known; stops to be of use at the first break."""

    def __init__(self, start: ChainHead) -> None:
        """Begin after `start`."""
        self.head = start
        self.transactions = 0
        self.events = 0

    def step(self, link: ChainLink, transaction: ChainedTransaction | None) -> LedgerBreak | None:
        """Compare the next link with its transaction as it is stored, None if it is not there."""
        wanted = self.head.seq + 1
        if link.seq != wanted:
            return _broken(link, BreakKind.GAP, f"link {wanted} is missing; {link.seq} follows")
        if transaction is None:
            return _broken(link, BreakKind.MISSING, "its transaction is not in the ledger")
        (made,), head = extend(self.head, [transaction])
        if made.hash != link.hash:
            if made.content_hash == link.content_hash:
                detail = f"it does not continue link {wanted - 1}" + _hashes(made.hash, link.hash)
                return _broken(link, BreakKind.LINK, detail)
            return _broken(link, BreakKind.CONTENT, _differences(transaction, made, link))
        if made.content_hash != link.content_hash:
            detail = "its content hash was changed" + _hashes(made.content_hash, link.content_hash)
            return _broken(link, BreakKind.CONTENT_HASH, detail)
        if total := sum(entry.amount_nano for entry in transaction.entries):
            detail = f"its entries come to {total} {transaction.currency} nano, not to zero"
            return _broken(link, BreakKind.UNBALANCED, detail)
        if transaction.movements and (detail := _unmoved(transaction)):
            return _broken(link, BreakKind.MOVEMENTS, detail)
        self.head = head
        self.transactions += 1
        self.events += len(transaction.events)
        return None


def _differences(transaction: ChainedTransaction, made: ChainLink, link: ChainLink) -> str:
    """What can be told of a transaction whose content is another than the one that was hashed."""
    found: list[str] = []
    entries = {entry.account: entry.amount_nano for entry in transaction.entries}
    if total := sum(entries.values()):
        found.append(f"its entries come to {total} {transaction.currency} nano, not to zero")
    if transaction.movements and (detail := _unmoved(transaction)):
        found.append(detail)
    if transaction.kind == "usage":
        if len(transaction.events) != transaction.event_count:
            there = len(transaction.events)
            found.append(f"it counts {transaction.event_count} events and {there} are there")
        elif (worth := _entries_of(transaction.events)) != entries:
            found.append(f"its events come to {_worded(worth)}, its entries are {_worded(entries)}")
    if not found:
        found.append(
            "its amounts agree with each other: an id, kind, currency, count or time is new"
        )
    return "; ".join(found) + _hashes(made.content_hash, link.content_hash)


def _unmoved(transaction: ChainedTransaction) -> str:
    """How movements and the entry of the customer's credit differ; "" if they do not."""
    moved = sum(movement.amount_nano for movement in transaction.movements)
    credit = sum(
        entry.amount_nano
        for entry in transaction.entries
        if entry.account == Account.CUSTOMER_CREDIT
    )
    if moved == credit:
        return ""
    return f"its grants are moved by {moved}, the customer's credit by {credit}"


def _entries_of(events: Iterable[PostedEvent]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for event in events:
        for entry in usage_entries(
            event.amount_nano,
            overage_nano=event.overage_nano,
            prepaid=event.prepaid,
            owed_nano=event.owed_nano,
        ):
            sums[entry.account.value] = sums.get(entry.account.value, 0) + entry.amount_nano
    return {account: amount for account, amount in sums.items() if amount}


def _worded(entries: Mapping[str, int]) -> str:
    return ", ".join(f"{account} {amount}" for account, amount in sorted(entries.items())) or "none"


def _hashes(made: bytes, stored: bytes) -> str:
    return f" (computed {made.hex()}, stored {stored.hex()})"


def _broken(link: ChainLink, kind: BreakKind, detail: str) -> LedgerBreak:
    return LedgerBreak(
        kind=kind,
        detail=detail,
        chain=link.chain,
        seq=link.seq,
        customer_id=link.customer_id,
        transaction_id=link.transaction_id,
    )


def _canonical(value: object) -> bytes:
    return _ENCODER.encode(value).encode("ascii")


def _microseconds(instant: datetime) -> int:
    return (instant - EPOCH) // _MICROSECOND
