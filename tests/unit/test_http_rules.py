"""The admin API's reload of rules and list of thresholds."""

from dataclasses import replace
from datetime import UTC, datetime

from fixtures.http_edges import ADMIN_TOKEN, World, calling

from sidecar.services.thresholds import ThresholdReached

RELOAD = "/api/v1/rules/reload"


async def test_a_reload_reads_the_files_and_tells_the_gateways():
    world = World()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        reply = await call("POST", RELOAD)
        assert reply.status == 200
        assert reply.body == {"policy_version": "policy-1", "rules": 1}
    assert (world.files.reloads, world.notices.told) == (1, 1)


async def test_files_that_cannot_be_used_are_told_place_by_place():
    world = World()
    world.files.problems = ("a.yaml:3:5: unknown key 'whne'", "the folder is gone")
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        reply = await call("POST", RELOAD)
        body = reply.body
    assert (reply.status, body["code"]) == (422, "policy_refused")
    assert body["errors"] == [
        {"field": "a.yaml:3:5", "message": "unknown key 'whne'"},
        {"field": "", "message": "the folder is gone"},
    ]
    assert "policy-1 stays in force" in body["detail"]


async def test_a_reload_stands_where_nobody_can_be_told():
    world = World()
    world.notices.away = True
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        assert (await call("POST", RELOAD)).status == 200


async def test_a_reload_is_for_administrators():
    world = World()
    async with calling(world.admin()) as call:
        assert (await call("POST", RELOAD)).status == 401
    assert world.files.reloads == 0


async def test_thresholds_of_a_customer_are_listed_newest_first():
    world = World()
    await world.customer()
    one = ThresholdReached(
        customer_id="cus_1",
        quota="tokens",
        subject="user=ada",
        period_start=datetime(2026, 1, 1, tzinfo=UTC),
        percent=80,
        used=2**70,
        limit=2**70,
    )
    await world.thresholds.record([one, replace(one, percent=100)])
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        reply = await call("GET", "/api/v1/customers/cus_1/thresholds", params={"limit": "1"})
        body = reply.body
        unknown = await call("GET", "/api/v1/customers/cus_2/thresholds")
    assert body["more"]
    assert body["items"] == [
        {
            "quota": "tokens",
            "subject": "user=ada",
            "period_start": "2026-01-01T00:00:00Z",
            "percent": 100,
            "used": str(2**70),
            "limit": str(2**70),
        }
    ]
    assert unknown.status == 404
