"""Settling and closing at once, on connections of their own, also while these are killed."""

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.invoice_parts import NOVEMBER, Invoicing, Rater
from fixtures.ledger_parts import verify

from sidecar.domain.errors import SidecarError, StoreUnavailable
from sidecar.domain.invoices import PRICE_MONTH
from sidecar.outbound.postgres.invoice_book import PostgresInvoiceBook
from sidecar.outbound.postgres.pool import open_pool
from sidecar.services.invoicing_ports import Draft

START = datetime(2026, 11, 1, tzinfo=UTC)
CUSTOMERS = 6
KILLS = 25
KILL = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = $1 AND pid <> pg_backend_pid() AND state <> 'idle'
"""
# A line of an event is in as many places as it has rows here.
PLACES = """
SELECT l.customer_id, l.hold_id, l.meter, count(p.line_number) AS places, sum(l.amount_nano) AS nano
FROM usage_events e
JOIN usage_lines l USING (customer_id, day, hold_id, kind)
LEFT JOIN late_usage u USING (customer_id, day, hold_id, kind)
LEFT JOIN invoices i ON i.customer_id = e.customer_id AND (
    i.invoice_id = u.invoice_id OR (u.hold_id IS NULL AND e.occurred_at >= i.period_start
        AND e.occurred_at < i.period_end))
LEFT JOIN invoice_parts p ON p.customer_id = i.customer_id AND p.invoice_id = i.invoice_id
    AND p.late = (u.hold_id IS NOT NULL) AND p.meter = l.meter
    AND p.month = date_trunc('month', e.occurred_at, 'UTC')
GROUP BY l.customer_id, l.hold_id, l.meter
"""


async def opened(dsn: str, name: str):
    return await open_pool(dsn, application_name=name)


async def check(invoicing: Invoicing, events: int) -> int:
    """Everything is invoiced once; returns how much of it was late."""
    rows = await invoicing.pool.fetch(PLACES)
    assert len({(row["customer_id"], row["hold_id"]) for row in rows}) == events
    assert {row["places"] for row in rows} == {1}
    invoices = await invoicing.invoices()
    for number in range(CUSTOMERS):
        name = f"cus_{number}"
        own = [one for one in invoices if one.customer_id == name]
        assert [one.number for one in own] == list(range(1, len(own) + 1))
        owed = -(await invoicing.balance(name))["customer_receivable_nano"]
        assert sum(one.total_nano for one in own) == owed
    assert (await verify(invoicing.pool)).intact
    return await invoicing.pool.fetchval("SELECT count(*) FROM late_usage")


async def finish(invoicing: Invoicing) -> None:
    for months in range(3):
        await invoicing.round_at(datetime(2027, 6, 1, tzinfo=UTC) + timedelta(days=31 * months))


def batches(rater: Rater, dice: random.Random, count: int) -> list[list]:
    """Usage of four months, posted up to forty days late."""
    records = []
    for number in range(count):
        at = START + timedelta(days=dice.randrange(120))
        record = rater.capture(
            number,
            {"input-tokens": dice.randrange(1, 50), "output-tokens": dice.randrange(1, 9)},
            at,
            customer_id=f"cus_{dice.randrange(CUSTOMERS)}",
        )
        records.append((at + timedelta(days=dice.randrange(40)), record))
    ordered = [record for _, record in sorted(records, key=lambda one: one[0])]
    return [ordered[start : start + 8] for start in range(0, count, 8)]


async def test_settling_and_closing_at_once_lose_nothing_and_double_nothing(postgres_dsn):
    dice = random.Random(5)
    pools = [await opened(postgres_dsn, name) for name in ("settling", "closing", "closing")]
    settling, *closing = (Invoicing(pool) for pool in pools)
    for number in range(CUSTOMERS):
        await settling.add_customer(f"cus_{number}")
    rater = Rater(settling.cards[0])
    todo = batches(rater, dice, 240)
    done = asyncio.Event()

    async def settle() -> None:
        for batch in todo:
            await settling.settle(*batch)
        done.set()

    async def close(invoicing: Invoicing) -> None:
        days = 0
        while not done.is_set():
            days = min(days + 6, 130)
            await invoicing.round_at(START + timedelta(days=days), grace=timedelta(0))

    await asyncio.gather(settle(), *(close(one) for one in closing))
    await finish(settling)
    assert await check(settling, 240) > 0
    for pool in pools:
        await pool.close()


@pytest.mark.parametrize("seed", [1, 2])
async def test_connections_killed_at_any_step_leave_every_event_invoiced_once(
    postgres_dsn, postgres_pool, seed
):
    dice = random.Random(seed)
    pool = await opened(postgres_dsn, "victim")
    invoicing = Invoicing(pool)
    for number in range(CUSTOMERS):
        await Invoicing(postgres_pool).add_customer(f"cus_{number}")
    todo = batches(Rater(invoicing.cards[0]), dice, 120)
    killed, done = 0, asyncio.Event()

    async def kill() -> None:
        nonlocal killed
        while not done.is_set():
            await asyncio.sleep(dice.random() * 0.02)
            if killed < KILLS:
                killed += await postgres_pool.fetchval(KILL, "victim")

    async def work() -> None:
        days = 0
        while todo or days < 400:
            days += 10
            with suppress(SidecarError):
                await invoicing.round_at(START + timedelta(days=days), grace=timedelta(0))
            if todo:
                numbered = [invoicing.numbered(record) for record in todo[0]]
                while True:  # The same entries again, as the stream would tell them.
                    with suppress(SidecarError):
                        await invoicing.ledger.settle(await invoicing.lease(), numbered, {})
                        break
                del todo[0]
        done.set()

    await asyncio.gather(kill(), work())
    assert killed >= KILLS // 2
    calm = Invoicing(postgres_pool)
    await finish(calm)
    assert await check(calm, 120) > 0
    await pool.close()


async def test_a_sum_may_take_longer_than_other_statements(postgres_pool, postgres_dsn):
    invoicing = Invoicing(postgres_pool)
    await invoicing.add_customer()
    await invoicing.settle(Rater(invoicing.cards[0]).capture(1, {"input-tokens": 3}, NOVEMBER))
    impatient = await open_pool(postgres_dsn, command_timeout_seconds=2.0)
    draft = Draft(
        invoice_id=None,
        customer_id="cus_a",
        currency="USD",
        plan="plan",
        provider="webhook",
        sequence=0,
        period=PRICE_MONTH.at(NOVEMBER),
    )
    try:
        async with postgres_pool.acquire() as other:
            held = other.transaction()
            await held.start()
            await other.execute("LOCK TABLE late_usage IN ACCESS EXCLUSIVE MODE")
            summing = asyncio.create_task(PostgresInvoiceBook(impatient).sum_usage([draft]))
            with pytest.raises(StoreUnavailable):
                await PostgresInvoiceBook(impatient, sum_seconds_max=0.5).sum_usage([draft])
            with pytest.raises(TimeoutError):
                await impatient.fetch("SELECT FROM late_usage")
            await asyncio.sleep(1.5)  # The server gives other statements up after a second more.
            assert not summing.done()
            await held.rollback()
            ((part,),) = await summing
    finally:
        await impatient.close()
    assert part.quantity == 3
