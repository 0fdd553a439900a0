"""Live balances against stream and ledger, on real Redis and Postgres."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.live_store import CUSTOMER, LiveStore, SystemClock, event_of, hold_id_of, hold_of

from sidecar.app.reconciling import make_reconciler
from sidecar.domain.errors import NotFound
from sidecar.domain.grants import GrantKind, WithdrawalKind
from sidecar.domain.reconciliation import DifferenceKind, Remedy
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.reconcile_runs import PostgresReconcileRuns
from sidecar.services.control_ports import Customer, Grant, Withdrawal
from sidecar.services.reconcile_runs import RUNS_KEPT_MAX
from sidecar.services.reconciling import Reconciler, ReconcileReport
from sidecar.services.settlement import SettlementWorker

BIG = 9_007_199_254_740_993


@dataclass(slots=True)
class Books:
    """Both stores, with one customer, and what compares them."""

    store: LiveStore
    pool: object
    reconciler: Reconciler
    record: PostgresAccounts

    async def add_customer(self, customer_id: str = CUSTOMER, **fields: object) -> None:
        customer = Customer(customer_id=customer_id, plan="prepaid", currency="USD", **fields)
        await self.store.accounts.put_customer(await self.record.create_customer(customer))

    async def grant(self, grant_id: str, amount: int, **fields: object) -> None:
        grant = Grant(
            grant_id=grant_id,
            customer_id=CUSTOMER,
            amount_nano=amount,
            currency="USD",
            **fields,
        )
        stored = await self.record.create_grant(grant)
        await self.store.accounts.apply_grant(stored)
        await self.record.note_applied(stored)

    async def settle(self) -> None:
        worker = SettlementWorker(
            self.store.stream,
            PostgresLedger(self.pool),
            self.store.cards,
            SystemClock(),
            owner="worker",
            shards=range(self.store.keyspace.shards),
        )
        await worker.settle_once()
        await worker.release()

    async def use(self, number: int, held: int, used: int | None = None) -> None:
        """Hold, and capture if something is used."""
        hold = hold_of(await self.store.facts(), number, held)
        await self.store.balances.place_hold(hold)
        if used is not None:
            await self.store.balances.capture_hold(event_of(hold, used), (), prepaid=True)

    async def compare(self, **options: object) -> ReconcileReport:
        return await self.reconciler.run_once(**options)


@pytest.fixture
async def books(redis_url, postgres_pool):
    store = await LiveStore.open(redis_url)
    made = Books(
        store=store,
        pool=postgres_pool,
        reconciler=make_reconciler(store.connection, store.keyspace, postgres_pool, SystemClock()),
        record=PostgresAccounts(postgres_pool),
    )
    await made.add_customer()
    yield made
    await store.connection.aclose()


def passing(report: ReconcileReport) -> dict[tuple[DifferenceKind, str], int]:
    return {(one.kind, one.what): one.found_nano for one in report.differences}


async def test_the_newest_runs_of_all_customers_are_kept(books):
    await books.grant("g1", BIG)
    runs = PostgresReconcileRuns(books.pool)
    for _ in range(RUNS_KEPT_MAX + 2):
        await runs.keep(await books.compare())
    kept = await runs.list(limit=1_000)
    numbers = [run.number for run in kept]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == RUNS_KEPT_MAX
    assert (kept[0].customers, kept[0].wrong, kept[0].unread) == (1, 0, 0)
    assert (kept[0].counts, kept[0].nano) == ({"in_flight": 1}, {"in_flight": BIG})


async def test_settled_books_do_not_differ(books):
    await books.grant("g1", BIG)
    await books.grant("g2", 50, kind=GrantKind.PROMOTIONAL, priority=1)
    await books.use(1, 70, 60)
    await books.settle()
    report = await books.compare()
    assert (report.customers, report.differences, report.unread) == (1, [], [])


async def test_what_is_under_way_is_told_and_is_not_wrong(books):
    await books.grant("g1", 100)
    await books.settle()
    await books.use(1, 30)
    await books.use(2, 20, 15)
    await books.store.balances.capture_hold(
        event_of(hold_of(await books.store.facts(), 3, 0), 5), (), prepaid=True
    )
    report = await books.compare()
    assert passing(report) == {
        (DifferenceKind.IN_FLIGHT, "open holds"): 30,
        (DifferenceKind.IN_FLIGHT, "not settled yet"): 15,
        (DifferenceKind.LATE, "not settled yet"): 5,
    }
    assert report.wrong == 0


async def test_an_expired_hold_is_an_orphan_until_the_sweep_has_been(books):
    await books.grant("g1", 100)
    await books.use(1, 30)
    await books.settle()
    ahead = datetime.now(UTC) + timedelta(hours=1)
    await books.store.set_clock(int(ahead.timestamp() * 1_000))
    assert passing(await books.compare()) == {(DifferenceKind.ORPHAN, "expired holds"): 30}
    await books.store.expire(hold_id_of(1))
    await books.settle()
    assert (await books.compare()).differences == []


@pytest.mark.parametrize(
    ("field", "value"), [("granted", "1000"), ("used", "7"), ("avail", "99"), ("deficit", "-5")]
)
async def test_a_number_that_was_changed_by_hand_is_seen_and_mended(books, field, value):
    await books.grant("g1", 100)
    await books.use(1, 30)
    await books.settle()
    before = await books.store.fields()
    await books.store.set_field(field, value)
    report = await books.compare()
    assert report.counts[DifferenceKind.MANUAL_EDIT] == report.wrong == 1
    assert report.differences[-1].what == field
    assert (await books.compare(fix=True)).mended == 1
    assert await books.store.fields() == before
    assert (await books.compare(fix=True)).mended == 0


async def test_grants_that_were_taken_out_by_hand_come_back_with_their_terms(books):
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    await books.grant("later", 40, priority=90, meters=("output",))
    await books.grant("first", 60, priority=1, expires_at=ends, kind=GrantKind.PROMOTIONAL)
    await books.grant("ahead", 70, effective_at=ends)
    await books.use(1, 25)
    await books.settle()
    wanted = await books.store.accounts.list_live_grants(CUSTOMER)
    record = (await books.store.fields())[b"grants"].decode().splitlines(keepends=True)
    await books.store.set_field("grants", "1\n" + "".join(record[-10:]))
    report = await books.compare(fix=True)
    assert report.counts[DifferenceKind.MANUAL_EDIT] > 0
    assert report.mended == 1
    mended = await books.store.accounts.list_live_grants(CUSTOMER)
    at = {one.grant_id: one.effective_at for one in wanted}
    assert [replace(one, effective_at=at[one.grant_id]) for one in mended] == wanted
    assert (await books.compare()).wrong == 0


async def test_a_grant_that_was_put_in_by_hand_goes_where_nothing_else_is_left(books):
    await books.grant("g1", 100)
    await books.settle()
    record = (await books.store.fields())[b"grants"].decode()
    await books.use(1, 100, 100)
    await books.settle()
    await books.store.set_field("grants", record)
    assert (await books.compare(fix=True)).mended == 1
    assert await books.store.accounts.list_live_grants(CUSTOMER) == []
    assert (await books.compare()).wrong == 0


async def test_a_book_that_a_script_left_wrong_is_unknown_and_alarms(books):
    await books.grant("g1", 100)
    await books.settle()
    # The seal of the numbers as they are, as a script with a bug would leave it.
    await books.store.set_field("granted", "130")
    await books.store.set_field("avail", "130")
    book = await books.reconciler._books.read_book(CUSTOMER)
    await books.store.set_field("seal", book.seal)
    report = await books.compare()
    assert set(report.counts) == {DifferenceKind.UNKNOWN}
    assert {(one.what, one.expected_nano, one.found_nano) for one in report.differences} == {
        ("granted", 100, 130),
        ("avail", 100, 130),
    }
    await books.compare(fix=True)
    assert (await books.compare()).wrong == 0


async def test_a_projection_of_the_ledger_is_summed_up_anew(books):
    await books.grant("g1", 100)
    await books.use(1, 30, 25)
    await books.settle()
    await books.pool.execute("UPDATE grants SET remaining_nano = 80")
    await books.pool.execute(
        "UPDATE account_balances SET revenue_nano = 26, customer_credit_nano = 74,"
        " used_prepaid_nano = 26, used_nano = 26"
    )
    report = await books.compare()
    assert {one.what for one in report.differences if one.remedy is Remedy.RESUM} == {
        "account customer_credit",
        "account revenue",
        "left of grant g1",
    }
    await books.compare(fix=True)
    assert (await books.compare()).differences == []


async def test_a_hold_whose_usage_is_settled_is_given_back(books):
    """As after a store that went back to before the capture."""
    await books.grant("g1", 100)
    await books.use(1, 30)
    fields = await books.store.fields()
    hold = hold_of(await books.store.facts(), 1, 30)
    await books.store.balances.capture_hold(event_of(hold, 20), (), prepaid=True)
    await books.settle()
    book = {name: value for name, value in fields.items() if name != b"h:" + b""}
    keys = books.store.keyspace
    shard = keys.shard_of(CUSTOMER)
    flat = [part for pair in book.items() for part in pair]
    await books.store.connection.commands(
        [
            ("HSET", keys.customer(CUSTOMER), *flat),
            ("HDEL", keys.done(shard, hold_id_of(1)), hold_id_of(1)),
            ("HSET", keys.open(shard), hold_id_of(1), CUSTOMER),
            ("ZADD", keys.expiry(shard), 9_999_999_999_999, hold_id_of(1)),
        ]
    )
    first = await books.compare(fix=True)
    assert Remedy.RELEASE in {one.remedy for one in first.differences}
    await books.compare(fix=True)
    assert (await books.compare()).differences == []
    assert await books.store.numbers() == (100, 20, 0, 80)


async def test_what_is_settled_between_two_looks_is_not_mended_away(books):
    """A record that is trimmed after the ledger was read is in neither account: look again."""
    await books.grant("g1", 100)
    await books.settle()
    reads, ledger = [], books.reconciler._ledger

    class SettledMeanwhile:
        async def read_credit(self, *asked):
            found = await ledger.read_credit(*asked)
            if len(reads) < 2:
                reads.append(await books.settle())
            return found

        def __getattr__(self, name):
            return getattr(ledger, name)

    live = books.reconciler._books

    class UsedMeanwhile:
        async def read_book(self, customer_id):
            await books.use(len(reads) + 1, 10, 10)
            return await live.read_book(customer_id)

        def __getattr__(self, name):
            return getattr(live, name)

    books.reconciler._ledger, books.reconciler._books = SettledMeanwhile(), UsedMeanwhile()
    report = await books.compare(fix=True)
    assert (report.wrong, report.mended) == (0, 0)
    granted, used, _, available = await books.store.numbers()
    assert (granted, available) == (100, 100 - used)
    assert used >= 10 * len(reads)


async def test_mending_is_refused_where_something_has_changed_since_the_look(books):
    await books.grant("g1", 100)
    await books.settle()
    live = books.reconciler._books
    book = await live.read_book(CUSTOMER)
    await books.use(1, 30)
    assert await live.mend_book(CUSTOMER, book, book.numbers, book.grants) is False
    assert await books.store.numbers() == (100, 0, 30, 70)


class BusyBooks:
    """Live books of a customer of whom something is decided before each of so many mendings."""

    def __init__(self, books: Books, times: int) -> None:
        self.live, self.books, self.left = books.reconciler._books, books, times
        self.shard_of, self.read_book = self.live.shard_of, self.live.read_book

    async def mend_book(self, *arguments: object) -> bool:
        if self.left:
            self.left -= 1
            await self.books.use(self.left, 1)
        return await self.live.mend_book(*arguments)


async def test_a_busy_customer_is_mended_between_two_decisions(books):
    await books.grant("g1", 100)
    await books.settle()
    await books.store.set_field("avail", "130")
    books.reconciler._books = BusyBooks(books, times=9)
    report = await books.compare(fix=True)
    assert (report.mended, report.unmended, report.unread) == (1, 0, [])
    assert await books.store.numbers() == (100, 0, 9, 91)
    assert (await books.compare()).wrong == 0


async def test_a_customer_too_busy_to_mend_is_told_with_what_is_wrong(books):
    await books.grant("g1", 500)
    await books.settle()
    await books.store.set_field("used", "30")
    books.reconciler._books = BusyBooks(books, times=1_000)
    report = await books.compare(fix=True)
    assert (report.mended, report.unmended, report.unread) == (0, 1, [])
    assert {(one.what, one.found_nano) for one in report.differences} == {("used", 30)}


async def test_withdrawals_expiry_and_debt_do_not_differ_once_they_are_settled(books):
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    await books.grant("g1", 100)
    await books.grant("g2", 40, expires_at=soon)
    await books.use(1, 30, 20)
    await books.settle()
    for kind, amount in ((WithdrawalKind.REFUND, 10), (WithdrawalKind.DISPUTE, 90)):
        withdrawal = Withdrawal(
            withdrawal_id=f"w-{kind}",
            customer_id=CUSTOMER,
            grant_id="g1",
            kind=kind,
            amount_nano=amount,
        )
        await books.store.accounts.apply_withdrawal(
            await books.record.create_withdrawal(withdrawal)
        )
    await books.store.set_clock(int(soon.timestamp() * 1_000) + 1)
    await books.grant("g3", 3)
    report = await books.compare()
    assert report.wrong == 0
    await books.settle()
    assert (await books.compare()).differences == []


async def test_one_customer_is_compared_alone_and_must_be_known(books):
    await books.add_customer("cus_other")
    assert (await books.compare(customer_id="cus_other")).customers == 1
    with pytest.raises(NotFound):
        await books.compare(customer_id="cus_nobody")


async def test_a_customer_that_the_live_store_has_lost_is_told_as_unread(books):
    await books.store.connection.command("DEL", books.store.keyspace.customer(CUSTOMER))
    report = await books.compare()
    assert report.unread == [CUSTOMER]
