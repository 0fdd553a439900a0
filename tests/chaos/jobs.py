"""What workers do until they die: each job is one round of the real worker over real stores."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from chaos.parts import SHARDS, SHORT_SECONDS, STRIPE_KEY, policies_of
from chaos.points import Stores
from chaos.stripe_jobs import compare, finish_credit, onboard, open_pages, top_up
from fixtures.collecting_banks import PaystackBank
from fixtures.collecting_parts import RULES
from fixtures.live_store import SystemClock

from sidecar.domain.minor_units import PAYSTACK, STRIPE
from sidecar.domain.standing import StandingTerms
from sidecar.outbound.policy_files.holder import PolicyHolder
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.collections import PostgresCollections
from sidecar.outbound.postgres.fetched import PostgresFetched
from sidecar.outbound.postgres.inbox import PostgresInbox
from sidecar.outbound.postgres.invoice_book import PostgresInvoiceBook
from sidecar.outbound.postgres.invoices_due import PostgresInvoicesDue
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.outbound.postgres.payers import PostgresPayers
from sidecar.outbound.postgres.standings import PostgresStandings
from sidecar.outbound.redis.accounts import RedisLiveAccounts
from sidecar.outbound.redis.rate_cards import RedisRateCards
from sidecar.outbound.redis.stream import RedisUsageStream
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.outbound.stripe.objects import StripeObjects
from sidecar.outbound.stripe.reporter import StripeMeterReporter
from sidecar.services.collecting import CollectingWorker, CollectStores
from sidecar.services.credits import CreditService
from sidecar.services.inbox import InboxWorker
from sidecar.services.inbox_handlers import ObjectHandlers
from sidecar.services.invoice_making import CardShelf, InvoiceMaker
from sidecar.services.invoice_rounds import InvoicingOptions, InvoicingWorker
from sidecar.services.payments import PaymentHandler
from sidecar.services.reporting import Reporter
from sidecar.services.settlement import SettlementWorker
from sidecar.services.standing import PlanMap, StandingService, StandingTimer
from sidecar.services.withdrawals import WithdrawalService

BATCH_MAX = 20
LEASE_SECONDS = 600
GRACE = timedelta(days=20)
ENDED_PLAN = "fractions"
"""Of customers whose subscriptions have all ended."""
TRIES_MAX = 10_000
"""The dead count as tries, too, and here most die."""
COLLECT_ROUNDS = 2


async def settle(stores: Stores) -> None:
    reach = stores.points.reach
    worker = SettlementWorker(
        reach("stream", RedisUsageStream(stores.connection, stores.keyspace)),
        reach("ledger", PostgresLedger(stores.pool, accounts_come=True)),
        reach("rate_cards", RedisRateCards(stores.connection)),
        SystemClock(),
        owner=stores.task.owner,
        shards=range(SHARDS),
        batch_max=BATCH_MAX,
        lease_seconds=LEASE_SECONDS,
    )
    await worker.settle_once()
    await worker.release()


async def report(stores: Stores) -> None:
    reach = stores.points.reach
    provider = StripeMeterReporter(STRIPE_KEY, base_url=stores.task.stripe_url, timeout_seconds=1.0)
    reporter = Reporter(
        reach("outbox", PostgresOutbox(stores.pool)),
        reach("stripe", provider),
        SystemClock(),
        owner=stores.task.owner,
        concurrency_max=4,
        lease_seconds=LEASE_SECONDS,
    )
    try:
        await reporter.report_once(force=True)
    finally:
        await provider.close()


async def webhooks(stores: Stores) -> None:
    """Work the inbox off; what fails waits, and is due by the time of the next worker."""
    reach = stores.points.reach
    policies = await policies_of(stores)
    connection = StripeConnection(STRIPE_KEY, base_url=stores.task.stripe_url, timeout_seconds=1.0)
    accounts: Any = PostgresAccounts(stores.pool)
    live: Any = reach("live", RedisLiveAccounts(stores.connection, stores.keyspace))
    fetched: Any = reach("fetched", PostgresFetched(stores.pool))
    credit = CreditService(accounts=accounts, live=live, policies=policies, clock=stores.clock)
    payments = PaymentHandler(
        fetched,
        credit,
        WithdrawalService(accounts=accounts, live=live, credit=credit),
        stores.clock,
    )
    objects: Any = reach("stripe", StripeObjects(connection))
    handlers = ObjectHandlers(
        objects,
        fetched,
        payments,
        policies,
        plans=PlanMap(stores.task.plans, ended_plan=ENDED_PLAN),
        report_errors=None,
        clock=stores.clock,
    )
    worker = InboxWorker(
        reach("inbox", PostgresInbox(stores.pool, shard_of=stores.keyspace.shard_of)),
        {STRIPE: handlers},
        _standings(stores, policies),
        owner=stores.task.owner,
        concurrency_max=4,
        attempts_max=TRIES_MAX,
        interval_seconds=SHORT_SECONDS,
        retention_days=30,
    )
    try:
        while await worker.work_once():
            pass
    finally:
        await connection.close()


async def standing(stores: Stores) -> None:
    """Look at whoever's time has come."""
    standings = _standings(stores, await policies_of(stores))
    record: Any = stores.points.reach("timer", PostgresStandings(stores.pool))
    await StandingTimer(record, standings, stores.clock, interval_seconds=SHORT_SECONDS).look_once()


async def invoice(stores: Stores) -> None:
    """One round: enroll, cut, count, close; what is late goes on the next invoice."""
    reach = stores.points.reach
    book: Any = reach("book", PostgresInvoiceBook(stores.pool))
    cards: Any = reach("rate_cards", RedisRateCards(stores.connection))
    worker = InvoicingWorker(
        book=book,
        stream=reach("stream", RedisUsageStream(stores.connection, stores.keyspace)),
        maker=InvoiceMaker(
            record=book, cards=CardShelf(book, cards), policies=await policies_of(stores)
        ),
        clock=stores.clock,
        shard_of=stores.keyspace.shard_of,
        options=InvoicingOptions(batch_max=4, rounds_max=200),
    )
    await worker.run_once()


async def collect(stores: Stores) -> None:
    """Some rounds for those who pay through Paystack."""
    reach = stores.points.reach
    collector, close = PaystackBank.make(stores.task.paystack_url)
    worker = CollectingWorker(
        CollectStores(
            record=reach(
                "collections",
                PostgresCollections(stores.pool, shard_of=stores.keyspace.shard_of),
            ),
            invoices=reach("invoices_due", PostgresInvoicesDue(stores.pool)),
            customers=reach("payers", PostgresPayers(stores.pool)),
        ),
        {PAYSTACK: reach("paystack", collector)},
        rules=RULES,
        concurrency_max=2,
        lease=timedelta(seconds=LEASE_SECONDS),
    )
    try:
        for _ in range(COLLECT_ROUNDS):
            await worker.collect_once()
    finally:
        await close()


def _standings(stores: Stores, policies: PolicyHolder) -> StandingService:
    reach = stores.points.reach
    return StandingService(
        record=reach("standings", PostgresStandings(stores.pool)),
        accounts=reach("accounts", PostgresAccounts(stores.pool)),
        live=reach("live", RedisLiveAccounts(stores.connection, stores.keyspace)),
        policies=policies,
        clock=stores.clock,
        terms=StandingTerms(grace=GRACE),
        plans=PlanMap(stores.task.plans, ended_plan=ENDED_PLAN),
    )


JOBS: dict[str, Callable[[Stores], Awaitable[None]]] = {
    "settle": settle,
    "report": report,
    "webhooks": webhooks,
    "standing": standing,
    "invoice": invoice,
    "collect": collect,
    "onboard": onboard,
    "compare": compare,
    "top_up": top_up,
    "open_pages": open_pages,
    "finish_credit": finish_credit,
}
WEIGHTS = {"settle": 3, "report": 3, "webhooks": 4, "standing": 1, "invoice": 3, "collect": 2}
WEIGHTS |= {"onboard": 2, "compare": 3, "top_up": 3, "open_pages": 2, "finish_credit": 1}
"""How often each is done."""
GUARDS = [
    ("settle", "before ledger.settle"),
    ("report", "before outbox.finish"),
    ("webhooks", "before inbox.finish"),
    ("standing", "before standings.settle"),
    ("invoice", "before book.close"),
    ("collect", "before collections.finish"),
    ("onboard", "before newcomers.map"),
    ("compare", "before comparisons.put"),
    ("top_up", "before top_ups.note_state"),
]
"""Where a worker is about to write what it may have no right to any more."""
