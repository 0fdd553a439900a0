"""The chain by itself: what is hashed, in which form, and what a walk tells."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sidecar.domain.ledger_chain import (
    BreakKind,
    ChainedTransaction,
    ChainHead,
    ChainWalk,
    PostedEntry,
    PostedEvent,
    PostedMovement,
    canonical_content,
    extend,
    genesis,
)

ONE = ChainedTransaction(
    customer_id="cus_a",
    transaction_id="usage:3:0:1-0",
    kind="usage",
    currency="USD",
    shard=3,
    first_entry_id="1-0",
    last_entry_id="2-0",
    event_count=2,
    posted_at=datetime(2026, 11, 20, 10, 30, 0, 1, tzinfo=UTC),
    entries=(
        PostedEntry("revenue", 9_007_199_254_740_993),
        PostedEntry("customer_receivable", -9_007_199_254_740_993),
    ),
    events=(
        PostedEvent("b" * 40, "capture", 9_007_199_254_740_990, 0, False),
        PostedEvent("a" * 40, "orphan", 3, 0, False),
    ),
)
WRITTEN = (
    '["sidecar-ledger-transaction-1","cus_a","usage:3:0:1-0","usage","USD",3,"1-0","2-0",2,'
    '1795170600000001,[["customer_receivable",-9007199254740993],["revenue",9007199254740993]],'
    f'[["{"a" * 40}","orphan",3,0,false],["{"b" * 40}","capture",9007199254740990,0,false]]]'
)
CHANGES = [
    {"customer_id": "cus_b"},
    {"transaction_id": "t"},
    {"kind": "grant"},
    {"currency": "EUR"},
    {"shard": 4},
    {"first_entry_id": "0-0"},
    {"last_entry_id": "3-0"},
    {"event_count": 3},
    {"posted_at": ONE.posted_at.replace(microsecond=2)},
    {"entries": ONE.entries[:1]},
    {"events": ONE.events[:1]},
    {"events": (ONE.events[0], ONE.events[1]._replace(amount_nano=4))},
    {"movements": (PostedMovement("g1", 1), PostedMovement("g2", -1))},
]


def test_the_form_of_the_content_is_fixed():
    """Links that exist were made from this form: a change of it needs a new first word."""
    assert canonical_content(ONE) == WRITTEN.encode()
    assert genesis(3) == hashlib.sha256(b'["sidecar-ledger-chain-1",3]').digest()
    (link,), head = extend(ChainHead.empty(3), [ONE])
    assert link.content_hash == hashlib.sha256(WRITTEN.encode()).digest()
    assert link.hash == hashlib.sha256(genesis(3) + WRITTEN.encode()).digest() == head.hash
    assert (link.seq, head.seq) == (1, 1)


def test_the_form_of_a_transaction_that_moves_grants_is_fixed():
    moving = replace(ONE, movements=(PostedMovement("g2", 7), PostedMovement("g1", -7)))
    written = WRITTEN.replace("transaction-1", "transaction-2", 1)[:-1]
    assert canonical_content(moving) == (written + ',[["g1",-7],["g2",7]]]').encode()


def test_movements_that_are_not_the_change_of_the_credit_break_a_chain_that_hashed_them():
    moving = replace(ONE, movements=(PostedMovement("g1", -7),))
    (link,), _ = extend(ChainHead.empty(3), [moving])
    found = ChainWalk(ChainHead.empty(3)).step(link, moving)
    assert found is not None
    assert found.kind is BreakKind.MOVEMENTS
    assert "moved by -7, the customer's credit by 0" in found.detail


def test_the_order_in_which_rows_are_read_does_not_matter():
    turned = replace(ONE, entries=ONE.entries[::-1], events=ONE.events[::-1])
    assert canonical_content(turned) == canonical_content(ONE)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_each_field_is_hashed(change: dict[str, object]):
    changed = replace(ONE, **change)
    (link,), _ = extend(ChainHead.empty(3), [ONE])
    found = ChainWalk(ChainHead.empty(3)).step(link, changed)
    assert found is not None
    assert (found.kind, found.chain, found.seq) == (BreakKind.CONTENT, 3, 1)


def test_links_in_another_chain_or_order_do_not_continue_it():
    other = replace(ONE, transaction_id="usage:3:0:5-0")
    (first, second), _ = extend(ChainHead.empty(3), [ONE, other])
    walk = ChainWalk(ChainHead.empty(3))
    found = walk.step(replace(second, seq=1), other)
    assert found is not None
    assert found.kind is BreakKind.LINK
    assert walk.step(first, ONE) is None
    assert walk.step(second, other) is None
    found = walk.step(replace(second, seq=4), other)
    assert found is not None
    assert (found.kind, walk.head.seq, walk.events) == (BreakKind.GAP, 2, 4)


def test_what_was_linked_unbalanced_is_told():
    lame = replace(ONE, entries=ONE.entries[:1])
    (link,), _ = extend(ChainHead.empty(3), [lame])
    found = ChainWalk(ChainHead.empty(3)).step(link, lame)
    assert found is not None
    assert found.kind is BreakKind.UNBALANCED
