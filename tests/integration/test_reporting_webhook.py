"""Settled quantities by webhook, from the ledger to somebody's own billing system."""

from datetime import UTC, datetime, timedelta

from fixtures.provider_parts import WebhookMeters
from fixtures.stream_records import REPORTED, usage_record

from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.services.control_ports import Customer
from sidecar.services.reporting import Reporter
from sidecar.standins.stripe_faults import Fault


class PastClock:
    """Behind Postgres' own clock, so that whatever must wait is due at once."""

    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(hours=1)


async def test_every_customer_is_told_by_our_id_once_whatever_gets_lost(postgres_pool):
    accounts = PostgresAccounts(postgres_pool)
    for name, stripe in (("cus_a", None), ("cus_b", "cus_stripe_b"), ("cus_c", None)):
        await accounts.create_customer(
            Customer(customer_id=name, plan="plan", currency="USD", stripe_customer_id=stripe)
        )
    ledger = PostgresLedger(postgres_pool, provider="webhook")
    lease = await ledger.claim_shard(0, "worker", 60)
    used = {"cus_a": 30, "cus_b": 12}
    now = datetime.now(UTC)
    records = [
        usage_record(number, customer_id=name, at=now, quantities={"input-tokens": quantity})
        for number, (name, quantity) in enumerate(used.items(), start=1)
    ]
    # Paid from credit: it must not be billed a second time.
    burned = {"prepaid": True, "overage_nano": 2_500, "quantities": {"input-tokens": 5}}
    records.append(usage_record(9, customer_id="cus_c", at=now, **burned))
    assert await ledger.settle(lease, records, REPORTED) == len(records)
    meters = WebhookMeters()
    lost = (Fault.DROP_AFTER_COMMIT, Fault.ERROR_BEFORE_COMMIT, Fault.RATE_LIMIT)
    meters.faults.add(*lost)
    async with meters.serving() as url:
        provider, end = meters.make(url)
        reporter = Reporter(
            PostgresOutbox(postgres_pool, provider="webhook"), provider, PastClock(), owner="w"
        )
        delivered = 0
        for _ in range(len(lost) + 1):
            delivered += await reporter.report_once(force=True)
        await end()
    assert delivered == len(used)
    told = {one["customer_id"]: int(one["quantity"]) for one in meters.receiver.messages.values()}
    assert told == used
    assert len(meters.receiver.messages) == len(used)
    # Stripe's outbox has nothing of it, also of the customer who has an id there.
    assert await PostgresOutbox(postgres_pool).claim("w", limit=9, lease_seconds=1) == []
