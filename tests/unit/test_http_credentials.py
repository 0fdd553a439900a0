"""API keys over their life: issued, listed, rotated with an overlap, revoked."""

import pytest
from fixtures.http_edges import ADMIN_TOKEN, World, calling

from sidecar.domain.errors import StoreUnavailable

CREDENTIALS = "/api/v1/credentials"
CHAT = {"method": "POST", "path": "/ai/chat"}
CUSTOMER = {"id": "cus_1", "plan": "prepaid", "currency": "USD"}


async def works(world: World, key: str) -> bool:
    """Whether a check with this key is allowed."""
    async with calling(world.gateway()) as call:
        reply = await call("POST", "/v1/check", json=CHAT | {"headers": {"x-api-key": key}})
    assert reply.body["code"] in (None, "unknown_credential")
    return bool(reply.body["allow"])


async def listed(world: World) -> dict[str, dict[str, object]]:
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        page = await call("GET", CREDENTIALS, params={"customer_id": "cus_1"})
    return {item["id"]: item for item in page.body["items"]}


async def post(world: World, path: str, **options: object):
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        return await call("POST", f"{CREDENTIALS}{path}", **options)


async def first_key(world: World) -> tuple[str, str]:
    """Id and secret of the key of a customer with credit."""
    secret = await world.customer()
    (credential_id,) = await listed(world)
    return credential_id, secret


async def test_a_credential_belongs_to_team_and_user_and_may_have_an_end():
    world = World()
    await world.customer()
    body = {
        "customer_id": "cus_1",
        "team_id": "search",
        "user_id": "u-1",
        "name": "laptop",
        "expires_at": "2026-02-01T00:00:00Z",
    }
    made = await post(world, "", json=body)
    assert made.status == 201
    assert made.body == body | {
        "id": made.body["id"],
        "created_at": "2026-01-31T12:00:00Z",
        "secret": made.body["secret"],
    }
    found = (await listed(world))[made.body["id"]]
    assert (found["team_id"], found["user_id"], found["state"]) == ("search", "u-1", "expiring")
    assert "secret" not in found
    assert not any("hash" in name for name in found)
    assert await works(world, made.body["secret"])
    world.clock.advance(12 * 3_600)
    assert not await works(world, made.body["secret"])
    assert (await listed(world))[made.body["id"]]["state"] == "revoked"


async def test_an_end_that_has_come_is_refused():
    world = World()
    await world.customer()
    body = {"customer_id": "cus_1", "expires_at": "2026-01-31T12:00:00Z"}
    reply = await post(world, "", json=body)
    assert (reply.status, reply.body["errors"][0]["field"]) == (400, "expires_at")


async def test_a_rotated_key_works_beside_the_new_one_until_the_overlap_ends():
    world = World()
    old_id, old = await first_key(world)
    made = await post(world, f"/{old_id}/rotate", json={"overlap": "24h"})
    assert made.status == 201
    assert made.body["id"] != old_id
    new = made.body["secret"]
    assert await works(world, old)
    assert await works(world, new)
    retired = (await listed(world))[old_id]
    assert (retired["state"], retired["expires_at"]) == ("expiring", "2026-02-01T12:00:00Z")
    assert retired["replaced_by"] == made.body["id"]
    world.clock.advance(24 * 3_600)
    assert not await works(world, old)
    assert await works(world, new)
    after = await listed(world)
    assert [after[one]["state"] for one in (old_id, made.body["id"])] == ["revoked", "active"]


async def test_without_an_overlap_the_old_key_ends_at_once():
    world = World()
    old_id, old = await first_key(world)
    made = await post(world, f"/{old_id}/rotate", json={"overlap": "0"})
    assert not await works(world, old)
    assert await works(world, made.body["secret"])
    assert (await listed(world))[old_id]["revoked_at"] == "2026-01-31T12:00:00Z"


async def test_the_new_key_has_the_owner_name_and_end_of_the_old():
    world = World()
    await world.customer()
    owner = {"customer_id": "cus_1", "team_id": "t", "user_id": "u", "name": "n"}
    body = owner | {"expires_at": "2026-01-31T18:00:00Z"}
    old = await post(world, "", json=body)
    new = await post(world, f"/{old.body['id']}/rotate", json={})
    assert {name: new.body[name] for name in body} == body
    # Its own end comes before the overlap's.
    assert (await listed(world))[old.body["id"]]["expires_at"] == "2026-01-31T18:00:00Z"


async def test_a_key_is_rotated_once_and_the_refusal_says_which_took_its_place():
    world = World()
    old_id, _ = await first_key(world)
    made = await post(world, f"/{old_id}/rotate", json={"overlap": "1h"})
    again = await post(world, f"/{old_id}/rotate", json={"overlap": "1h"})
    assert (again.status, again.body["code"]) == (409, "conflict")
    assert made.body["id"] in again.body["detail"]
    assert len(await listed(world)) == 2


@pytest.mark.parametrize(
    "overlap", ["-1h", "24", "1w", "", "31d", "721h", "1 h", "1.5h", 24, None, "00", "99999999s"]
)
async def test_an_overlap_that_cannot_be_is_a_400_that_says_what_is_allowed(overlap: object):
    world = World()
    old_id, _ = await first_key(world)
    reply = await post(world, f"/{old_id}/rotate", json={"overlap": overlap})
    assert (reply.status, reply.body["errors"][0]["field"]) == (400, "overlap")
    assert "at most 30d" in reply.body["detail"]
    assert len(await listed(world)) == 1


async def test_a_revoked_key_is_refused_at_the_next_check_and_revoking_again_changes_nothing():
    world = World()
    key_id, key = await first_key(world)
    assert await works(world, key)
    first = await post(world, f"/{key_id}/revoke")
    world.clock.advance(60)
    again = await post(world, f"/{key_id}/revoke", json={})
    assert (first.status, first.body["state"]) == (200, "revoked")
    assert first.body == again.body
    assert not await works(world, key)
    rotated = await post(world, f"/{key_id}/rotate", json={})
    assert (rotated.status, rotated.body["code"]) == (409, "conflict")


@pytest.mark.parametrize("verb", ["rotate", "revoke"])
async def test_an_unknown_key_is_404_and_an_impossible_one_400(verb: str):
    world = World()
    nobody = await post(world, f"/crd_9/{verb}", json={})
    impossible = await post(world, f"/a%2Fb/{verb}", json={})
    assert (nobody.status, nobody.body["code"]) == (404, "not_found")
    assert (impossible.status, impossible.body["errors"][0]["field"]) == (400, "credential_id")


@pytest.mark.parametrize("verb", ["rotate", "revoke"])
async def test_a_repeat_under_its_idempotency_key_gets_the_first_answer(verb: str):
    world = World()
    key_id, _ = await first_key(world)
    options = {"json": {}} if verb == "rotate" else {}
    key = {"Idempotency-Key": "k-1"}
    first = await post(world, f"/{key_id}/{verb}", headers=key, **options)
    again = await post(world, f"/{key_id}/{verb}", headers=key, **options)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.status == first.status
    secret = {"secret": None} if verb == "rotate" else {}
    assert again.body == first.body | secret
    assert len(await listed(world)) == (2 if verb == "rotate" else 1)


async def test_a_rotation_whose_first_attempt_died_is_finished_with_a_secret_that_works():
    world = World()
    old_id, old = await first_key(world)
    key = {"Idempotency-Key": "k-1"}

    async def die(*_: object, **__: object) -> None:
        raise StoreUnavailable("the answer could not be kept")

    finish, world.keys.finish = world.keys.finish, die
    died = await post(world, f"/{old_id}/rotate", json={"overlap": "1h"}, headers=key)
    assert died.status == 503
    world.keys.finish = finish
    world.clock.advance(61)
    made = await post(world, f"/{old_id}/rotate", json={"overlap": "1h"}, headers=key)
    assert made.status == 201
    assert await works(world, made.body["secret"])
    after = await listed(world)
    assert set(after) == {old_id, made.body["id"]}
    assert after[old_id]["expires_at"] == "2026-01-31T13:00:00Z", "the first attempt's end"
    world.clock.advance(3_600)
    assert not await works(world, old)


async def test_a_rotation_that_never_reached_the_live_store_is_mended_by_its_repeat():
    world = World()
    old_id, old = await first_key(world)
    world.state.away = True
    assert (await post(world, f"/{old_id}/rotate", json={"overlap": "0"})).status == 503
    world.state.away = False
    assert await works(world, old), "it is on record only"
    assert (await post(world, f"/{old_id}/rotate", json={"overlap": "0"})).status == 409
    assert not await works(world, old)
