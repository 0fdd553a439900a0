"""Recorded decisions over the admin API."""

from itertools import islice

from fixtures.http_edges import ADMIN_TOKEN, calling
from fixtures.memory_accounts import MemoryIdempotency
from fixtures.memory_decisions import MemoryDecisions
from fixtures.memory_store import MemoryClock
from fixtures.replay_world import SECRET, World

from sidecar.domain.decision_records import DecisionRecord, encode_record
from sidecar.inbound.http.apps import admin_app
from sidecar.inbound.http.edge import AdminUseCases
from sidecar.inbound.principals import parse_admin_tokens
from sidecar.services.decision_ports import StreamedDecision

DECISIONS = "/api/v1/decisions"


async def filled(count: int = 40):
    """The admin application over so many decisions, and the decisions."""
    events = World(2).events(count * 2)
    records = list(islice((e for e in events if isinstance(e, DecisionRecord)), count))
    table = MemoryDecisions()
    await table.insert(
        [
            StreamedDecision(shard=0, entry_id="1-1", record=one, payload=encode_record(one))
            for one in records
        ]
    )
    app = admin_app(
        listen="127.0.0.1:0",
        use_cases=AdminUseCases(
            accounts=None,
            decisions=table,
            explanations=None,
            meters=None,
            reloads=None,
            thresholds=None,
        ),
        idempotency=MemoryIdempotency(MemoryClock()),
        tokens=parse_admin_tokens(ADMIN_TOKEN),
        ready=list,
        new_id=lambda prefix: f"{prefix}_1",
    )
    return app, records


async def test_decisions_are_listed_by_time_in_pages():
    app, records = await filled()
    seen, query = [], {"limit": "15"}
    async with calling(app, token=ADMIN_TOKEN) as call:
        while True:
            reply = await call("GET", DECISIONS, params=query)
            assert reply.status == 200
            seen += [item["id"] for item in reply.body["items"]]
            if reply.body["next"] is None:
                break
            query = {"limit": "15", "after": reply.body["next"]}
    assert sorted(seen) == sorted(record.decision_id for record in records)


async def test_decisions_of_one_customer_and_of_a_time_are_found():
    app, records = await filled()
    wanted = records[5]
    async with calling(app, token=ADMIN_TOKEN) as call:
        mine = await call("GET", DECISIONS, params={"customer_id": "cus_3"})
        none = await call("GET", DECISIONS, params={"since": "2027-01-01T00:00:00Z"})
        one = await call("GET", f"{DECISIONS}/{wanted.decision_id}")
    assert {item["customer_id"] for item in mine.body["items"]} <= {"cus_3"}
    assert none.body == {"items": [], "next": None}
    assert one.body["id"] == wanted.decision_id
    assert (one.body["allow"], one.body["code"]) == (wanted.allow, wanted.code)
    assert one.body["record"]["available_nano"] == wanted.available_nano
    assert wanted.hold_id.encode() not in one.raw
    assert SECRET.encode() not in one.raw


async def test_what_is_no_decision_is_told():
    app, _ = await filled(1)
    async with calling(app, token=ADMIN_TOKEN) as call:
        unknown = await call("GET", f"{DECISIONS}/dec_{'0' * 32}")
        malformed = await call("GET", f"{DECISIONS}/dec_1")
        cursor = await call("GET", DECISIONS, params={"after": "nonsense"})
        instant = await call("GET", DECISIONS, params={"since": "yesterday"})
    assert (unknown.status, unknown.body["code"]) == (404, "not_found")
    assert malformed.status == 404
    assert cursor.status == instant.status == 400


async def test_decisions_are_for_administrators():
    app, _ = await filled(1)
    async with calling(app) as call:
        assert (await call("GET", DECISIONS)).status == 401
