"""Notices and deliveries on a real Postgres: one row for a fact, one worker at a time, one id."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web
from fixtures.memory_notices import MemoryNotices
from fixtures.notice_parts import REFUSED, RETRY, Clock, Received, Way, delivery, notice, receiver

from sidecar.domain.errors import InvalidInput, NotFound
from sidecar.domain.notices import Channel, NoticeKind
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.notices import PostgresNotices, insert_notices
from sidecar.services.control_ports import Customer
from sidecar.services.notice_ports import DeliveryState, SendOutcome, SendVerdict
from sidecar.services.notice_routes import NoticeRoutes
from sidecar.services.noticing import (
    NoticeList,
    NoticeRouter,
    NoticeSender,
    SendLimits,
    retry_seconds,
)

ROOT = Path(__file__).parents[2]
ALL = NoticeRoutes(channels=frozenset(Channel), operators=("ops@example.com", "two@example.com"))
WEBHOOK = NoticeRoutes(channels=frozenset({Channel.WEBHOOK}))
LIMITS = SendLimits(retry_seconds_first=0.001, retry_seconds_max=0.001, tries_max=3)


@pytest.fixture(params=["postgres", "memory"])
async def record(request, postgres_pool):
    """The port on both: the memory one serves other tests, so it keeps the same contract."""
    if request.param == "memory":
        memory = MemoryNotices(Clock())
        memory.emails["cus_a"] = "a@example.com"
        return memory
    await add_customer(postgres_pool)
    return PostgresNotices(postgres_pool)


async def add_customer(pool, customer_id: str = "cus_a", email: str = "a@example.com") -> None:
    labels = {"email": email} if email else {}
    await PostgresAccounts(pool).create_customer(
        Customer(customer_id=customer_id, plan="plan", currency="USD", labels=labels)
    )


def router(record, routes: NoticeRoutes = ALL) -> NoticeRouter:
    return NoticeRouter(record=record, routes=routes, retention_days=1, poll_seconds=0.01)


def sender(
    record,
    way: Way,
    channel: Channel = Channel.WEBHOOK,
    *,
    owner: str = "one",
    limits: SendLimits = LIMITS,
    routes: NoticeRoutes = ALL,
) -> NoticeSender:
    return NoticeSender(channel, way, record=record, routes=routes, owner=owner, limits=limits)


async def states(record) -> Counter:
    listed = await record.list(before=None, limit=200)
    return Counter(fact.state.value for one in listed for fact in one.deliveries)


async def test_a_fact_is_one_notice_however_often_and_by_however_many_it_is_put(record):
    for round_number in range(10):
        pair = [notice(n, customer_id=f"cus_{round_number}") for n in (1, 2)]
        assert sum(await asyncio.gather(*(record.put(*pair) for _ in range(8)))) == 2
    assert await record.put(notice(1), notice(2)) == 2
    assert await record.put(notice(2), notice(3)) == 1
    other_kind = notice(1, kind=NoticeKind.CREDIT_EXHAUSTED)
    assert await record.put(other_kind, notice(1, customer_id="")) == 2
    listed = await record.list(before=None, limit=100)
    assert len(listed) == len({one.notice_id for one in listed}) == 25
    assert [one.number for one in listed] == sorted((one.number for one in listed), reverse=True)


async def test_a_notice_comes_back_as_it_was_put(record):
    told = notice(1, facts={"quota": "ü \"'<&>"}, amounts={"available": -(4 * 10**18)})
    await record.put(told)
    (stored,) = await record.list(before=None, limit=10)
    assert stored.notice == told
    assert not stored.routed


async def test_a_notice_is_routed_once_to_each_addressee(record):
    await record.put(notice(1), notice(2, customer_id=""))
    both = [router(record).route_once() for _ in range(4)]
    await asyncio.gather(*both)
    assert await router(record).route_once() == 0
    about_nobody, about_customer = await record.list(before=None, limit=10)
    emails = [fact.to.target for fact in about_customer.deliveries if fact.to.channel == "email"]
    assert (len(about_customer.deliveries), len(emails)) == (5, 3)
    assert "customer" in emails
    assert "customer" not in {fact.to.target for fact in about_nobody.deliveries}


async def test_what_goes_to_nobody_is_routed_all_the_same_and_stays_listed(record):
    await record.put(notice(1))
    assert await router(record, NoticeRoutes()).route_once() == 1
    assert await router(record).route_once() == 0
    (stored,) = await record.list(before=None, limit=10)
    assert (stored.routed, stored.deliveries) == (True, ())


async def test_two_workers_never_send_one_delivery_at_a_time_and_each_is_sent_once(record):
    await record.put(*(notice(number) for number in range(40)))
    await router(record).route_once()
    way = Way(pause=0.002)

    async def work(owner: str) -> None:
        while await sender(record, way, owner=owner).send_once():
            pass

    await asyncio.gather(*(work(f"worker-{number}") for number in range(4)))
    assert len(way.sent) == len(set(way.sent)) == 40
    assert way.clashes == 0


async def test_a_failed_attempt_is_made_again_and_after_so_many_it_is_left_to_people(record):
    await record.put(notice(1), notice(2), notice(3))
    await router(record, WEBHOOK).route_once()
    way = Way(outcomes={"fact-1": [RETRY], "fact-2": [RETRY] * 9, "fact-3": [REFUSED] * 9})
    for _ in range(8):
        await sender(record, way).send_once()
        await asyncio.sleep(0.002)
    assert await states(record) == {"sent": 1, "failed": 2}
    facts = {
        one.notice.fact_key: one.deliveries[0] for one in await record.list(before=None, limit=9)
    }
    assert [facts[f"fact-{number}"].attempts for number in (1, 2, 3)] == [2, 3, 1]
    assert facts["fact-3"].detail == "never"
    assert len(await record.list(before=None, limit=9, state=DeliveryState.FAILED)) == 2


async def test_a_retry_gives_failed_deliveries_all_their_tries_again_and_leaves_sent_ones(record):
    await record.put(notice(1))
    await router(record, WEBHOOK).route_once()
    way = Way(outcomes={"fact-1": [REFUSED]})
    await sender(record, way).send_once()
    (stored,) = await record.list(before=None, limit=9)
    assert stored.deliveries[0].state is DeliveryState.FAILED
    again = await NoticeList(record).retry(stored.notice_id)
    assert (again.deliveries[0].state, again.deliveries[0].attempts) == (DeliveryState.PENDING, 0)
    assert await sender(record, way).send_once() == 1
    await NoticeList(record).retry(stored.notice_id)
    assert await sender(record, way).send_once() == 0
    assert await states(record) == {"sent": 1}
    with pytest.raises(NotFound):
        await NoticeList(record).retry("ntc_" + "f" * 32)


class BrokenWay(Way):
    """A channel with a fault: it raises what nobody expects."""

    async def send(self, delivery, address: str) -> SendOutcome:
        raise ValueError("a fault")


async def test_a_message_that_breaks_the_channel_ends_as_failed_and_stops_no_other(record):
    await record.put(notice(1))
    await router(record, WEBHOOK).route_once()
    for _ in range(4):
        await sender(record, BrokenWay()).send_once()
        await asyncio.sleep(0.002)
    (stored,) = await record.list(before=None, limit=9)
    assert stored.deliveries[0].state is DeliveryState.FAILED
    assert stored.deliveries[0].detail == "a fault of ours (ValueError)"


async def test_pages_show_each_notice_once(record):
    await record.put(*(notice(number) for number in range(7)), notice(1, customer_id="cus_b"))
    seen, before = [], None
    while page := await record.list(before=before, limit=3, customer_id="cus_a"):
        seen += [one.notice.fact_key for one in page]
        before = page[-1].number
    assert sorted(seen) == [f"fact-{number}" for number in range(7)]


async def test_a_worker_whose_lease_ran_out_undoes_nothing_that_its_successor_found(record):
    await record.put(notice(1))
    await router(record, WEBHOOK).route_once()
    claim = {"email_label": "email", "limit": 9, "lease_seconds": 0.0}
    (late,) = await record.claim("late", Channel.WEBHOOK, **claim)
    (newer,) = await record.claim("newer", Channel.WEBHOOK, **claim)
    for state in (DeliveryState.FAILED, DeliveryState.PENDING):
        await record.finish("late", late, state=state, detail="", retry_seconds=3600)
    assert await states(record) == {"pending": 1}
    await record.finish("newer", newer, state=DeliveryState.FAILED, detail="", retry_seconds=0)
    # It was sent, whoever says so.
    await record.finish("late", late, state=DeliveryState.SENT, detail="", retry_seconds=0)
    assert await states(record) == {"sent": 1}


async def test_a_lease_keeps_others_away_until_it_ends(record):
    await record.put(notice(1))
    await router(record, WEBHOOK).route_once()
    claim = {"email_label": "email", "limit": 9}
    assert len(await record.claim("one", Channel.WEBHOOK, lease_seconds=60.0, **claim)) == 1
    assert await record.claim("two", Channel.WEBHOOK, lease_seconds=60.0, **claim) == []


async def test_an_address_is_the_one_of_now_and_none_is_told_where_it_is_gone(
    postgres_pool,
):
    await add_customer(postgres_pool)
    record, way = PostgresNotices(postgres_pool), Way()
    await record.put(notice(1))
    await router(record).route_once()
    await postgres_pool.execute('UPDATE customers SET labels = \'{"email": "new@example.com"}\'')
    assert await sender(record, way, Channel.EMAIL).send_once() == 3
    addresses = sorted(address for _, address in way.sent)
    assert addresses == ["new@example.com", "ops@example.com", "two@example.com"]
    await record.put(notice(2))
    await router(record).route_once()
    await postgres_pool.execute('UPDATE customers SET labels = \'{"email": "x@y, z@w"}\'')
    one_left = NoticeRoutes(channels=frozenset(Channel), operators=("ops@example.com",))
    assert await sender(record, way, Channel.EMAIL, routes=one_left).send_once() == 3
    assert [address for _, address in way.sent[3:]] == ["ops@example.com"]
    details = await postgres_pool.fetch(
        "SELECT last_detail FROM notice_deliveries WHERE state = 'failed'"
    )
    assert [row["last_detail"] for row in details] == ["there is no valid address to send to"] * 2


async def test_an_erased_customer_leaves_no_fact_and_nothing_is_sent(postgres_pool):
    await add_customer(postgres_pool)
    record, way = PostgresNotices(postgres_pool), Way()
    await record.put(notice(1, facts={"subject": "user=ada"}, amounts={"available": 5}))
    await router(record).route_once()
    await record.put(notice(2, facts={"subject": "user=ada"}))
    await PostgresAccounts(postgres_pool).erase_customer("cus_a")
    assert await router(record).route_once() == 0
    for channel in Channel:
        assert await sender(record, way, channel).send_once() == 0
    assert {one.notice.facts.get("subject") for one in await record.list(before=None, limit=9)} == {
        None
    }
    # The key stays, so that the fact is not told anew.
    assert await record.put(notice(1), notice(2)) == 0


async def test_old_notices_are_forgotten_with_their_deliveries(postgres_pool):
    await add_customer(postgres_pool)
    record = PostgresNotices(postgres_pool)
    await record.put(notice(1), notice(2))
    await router(record).route_once()
    await postgres_pool.execute(
        "UPDATE notices SET created_at = now() - interval '2 days' WHERE fact_key = 'fact-1'"
    )
    assert await record.forget(older_than_days=1, limit=10) == 1
    assert await record.forget(older_than_days=1, limit=10) == 0
    left = await postgres_pool.fetchval("SELECT count(DISTINCT notice_id) FROM notice_deliveries")
    assert left == 1


async def test_a_notice_that_is_put_in_a_transaction_stands_or_falls_with_it(postgres_pool):
    record = PostgresNotices(postgres_pool)
    async with postgres_pool.acquire() as connection:
        undone = connection.transaction()
        await undone.start()
        assert await insert_notices(connection, [notice(1)]) == [NoticeKind.THRESHOLD_REACHED]
        await undone.rollback()
    assert await record.list(before=None, limit=9) == []
    async with postgres_pool.acquire() as connection, connection.transaction():
        await insert_notices(connection, [notice(1)])
    assert len(await record.list(before=None, limit=9)) == 1


async def test_an_id_is_the_facts_own_in_one_ledger_and_another_in_the_next(postgres_pool):
    record = PostgresNotices(postgres_pool)
    await record.put(notice(1))
    (first,) = await record.list(before=None, limit=9)
    await postgres_pool.execute("DELETE FROM notices")
    await record.put(notice(1))
    (again,) = await record.list(before=None, limit=9)
    assert again.notice_id == first.notice_id
    await postgres_pool.execute("DELETE FROM notices")
    await postgres_pool.execute("UPDATE ledger_identity SET ledger_id = gen_random_uuid()")
    await record.put(notice(1))
    (other,) = await record.list(before=None, limit=9)
    assert other.notice_id != first.notice_id


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE notice_deliveries SET state = 'sent'",
        "UPDATE notice_deliveries SET next_attempt_at = NULL",
        "UPDATE notice_deliveries SET lease_owner = 'x', lease_until = NULL",
        "UPDATE notice_deliveries SET channel = 'pager'",
        "UPDATE notices SET notice_id = 'ntc_1'",
        "UPDATE notices SET facts = '[]'",
        "UPDATE notices SET kind = 'Threshold'",
    ],
)
async def test_the_database_holds_what_it_can(postgres_pool, statement):
    record = PostgresNotices(postgres_pool)
    await record.put(notice(1))
    await router(record, WEBHOOK).route_once()
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await postgres_pool.execute(statement)


@pytest.mark.parametrize(
    "changes",
    [
        {"fact_key": ""},
        {"fact_key": "x" * 501},
        {"fact_key": "a\0b"},
        {"occurred_at": notice().occurred_at.replace(tzinfo=None)},
        {"facts": {"Quota": "x"}},
        {"facts": {"quota": "x" * 501}},
        {"facts": {"quota": "\0"}},
        {"facts": {f"f{'a' * number}": "" for number in range(33)}},
        {"amounts": {"available": 5 * 10**18}},
    ],
)
def test_a_notice_that_could_not_be_stored_is_refused_before(changes):
    with pytest.raises(InvalidInput):
        notice(1, **changes)


def test_waits_double_up_to_a_cap_and_the_other_side_may_ask_for_more():
    limits = SendLimits(retry_seconds_first=10, retry_seconds_max=1_000)
    first = delivery()
    waits = [
        retry_seconds(replace(first, attempts=attempts), RETRY, limits) for attempts in range(1, 12)
    ]
    assert all(
        0.75 * min(1_000, 10 * 2**n) <= wait <= min(1_000, 10 * 2**n)
        for n, wait in enumerate(waits)
    )
    asked = SendOutcome(verdict=SendVerdict.RETRY, retry_after_seconds=500)
    assert retry_seconds(first, asked, limits) == 500
    too_long = SendOutcome(verdict=SendVerdict.RETRY, retry_after_seconds=10**6)
    assert retry_seconds(first, too_long, limits) == 1_000


@pytest.mark.timeout(120)
async def test_a_sender_that_is_killed_after_it_sent_sends_the_same_again_under_the_same_id(
    postgres_pool, postgres_dsn
):
    """The receiver kills the sender while it waits for the answer: sent, and not recorded."""
    record, kills, total = PostgresNotices(postgres_pool), 5, 12
    await record.put(*(notice(number) for number in range(total)))
    await router(record, WEBHOOK).route_once()
    processes: list[subprocess.Popen[bytes]] = []
    killed: dict[int, str] = {}

    async def answer(received: Received) -> web.Response:
        victim = processes[-1]
        if len(processes) <= kills and victim.pid not in killed:
            killed[victim.pid] = received.message_id
            victim.kill()
        return web.Response(status=200)

    async with receiver(answer) as (url, received):
        try:
            for number in range(kills):
                processes.append(start_process(postgres_dsn, url, f"owner-{number}", lease="1.0"))
                while processes[-1].poll() is None:  # noqa: ASYNC110  A process sets no event.
                    await asyncio.sleep(0.02)
            processes.append(start_process(postgres_dsn, url, "last", lease="1.0"))
            while (await states(record)).get("sent") != total:
                assert processes[-1].poll() is None
                await asyncio.sleep(0.05)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    assert await states(record) == {"sent": total}
    assert len(killed) == kills
    ids = Counter(one.message_id for one in received)
    assert len(ids) == total
    # Some were sent more than once, or the kills missed what they are for.
    assert len(received) > total
    assert set(killed.values()) <= set(ids)
    for message_id in ids:
        same = {one.body for one in received if one.message_id == message_id}
        assert len(same) == 1
    assert all(one.is_signed() for one in received)


def start_process(dsn: str, url: str, owner: str, *, lease: str) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    script = ROOT / "tests" / "fixtures" / "notice_process.py"
    return subprocess.Popen(
        [sys.executable, script, dsn, url, owner, lease], env=os.environ | {"PYTHONPATH": path}
    )
