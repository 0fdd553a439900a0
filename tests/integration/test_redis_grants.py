"""Grants on the real scripts: cases in which a number once went wrong."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from fixtures.live_store import CUSTOMER, LiveStore, SystemClock, event_of, hold_of

from sidecar.domain.grants import Movement, Rollover
from sidecar.domain.periods import from_epoch_ms, to_epoch_ms
from sidecar.domain.usage import RatedLine, UsageEvent
from sidecar.services.control_ports import Grant
from sidecar.services.ports import CaptureOutcome


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    yield store
    await store.connection.aclose()


@pytest.fixture
def start(store: LiveStore) -> datetime:
    """An instant ahead of real time, at which a test lets the shard's clock stand still."""
    return from_epoch_ms(to_epoch_ms(SystemClock().now() + timedelta(hours=1)))


async def give(store: LiveStore, grant_id: str, amount: int, **fields: object) -> None:
    await store.accounts.apply_grant(
        Grant(grant_id=grant_id, customer_id=CUSTOMER, amount_nano=amount, currency="USD", **fields)
    )


async def at(store: LiveStore, instant: datetime) -> None:
    await store.set_clock(to_epoch_ms(instant))


async def capture(store: LiveStore, event: UsageEvent, *, prepaid: bool = True) -> CaptureOutcome:
    return await store.balances.capture_hold(event, (), prepaid=prepaid)


def moved(**amounts: int) -> tuple[Movement, ...]:
    return tuple(Movement(grant_id=name, amount_nano=nano) for name, nano in amounts.items())


async def test_a_grant_that_only_pays_a_debt_moves_nothing(store):
    facts = await store.add_customer()
    await capture(store, event_of(hold_of(facts, 1, 10), 10))
    await give(store, "small", 4)
    record = (await store.records())[-1]
    assert (record.kind, record.amount_nano, record.overage_nano) == ("grant", 4, -4)
    assert record.movements == ()
