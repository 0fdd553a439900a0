import asyncio

import pytest
from fixtures.http_edges import ADMIN_TOKEN, World, calling
from fixtures.memory_accounts import MemoryIdempotency
from fixtures.memory_store import MemoryClock

from sidecar.domain.errors import InvalidInput, NotFound, StoreUnavailable
from sidecar.services.idempotency import (
    IdempotencyClaim,
    KeyInProgress,
    KeyReused,
    WriteAnswer,
    check_key,
    derived_id,
    hash_fields,
    write_once,
)

GRANTS = "/api/v1/grants"


def grant(amount: str = "1") -> dict[str, object]:
    return {"customer_id": "cus_1", "amount": amount, "currency": "USD"}


def key(text: str = "key-1") -> dict[str, str]:
    return {"Idempotency-Key": text}


async def world_with_customer() -> World:
    world = World()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        body = {"id": "cus_1", "plan": "prepaid", "currency": "USD"}
        assert (await call("POST", "/api/v1/customers", json=body)).status == 201
    return world


async def test_a_repeated_grant_gives_credit_once_and_the_same_answer():
    world = await world_with_customer()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        first = await call("POST", GRANTS, json=grant(), headers=key())
        again = await call("POST", GRANTS, json=grant() | {"kind": "paid"}, headers=key())
        other = await call("POST", GRANTS, json=grant(), headers=key("key-2"))
        bare = await call("POST", GRANTS, json=grant())
    assert (first.status, again.status) == (201, 201)
    assert first.body == again.body
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len({first.body["id"], other.body["id"], bare.body["id"]}) == 3
    assert world.state.accounts["cus_1"].granted == 3_000_000_000


async def test_another_body_under_the_same_key_is_a_409_that_names_what_differs():
    world = await world_with_customer()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        await call("POST", GRANTS, json=grant(), headers=key())
        reply = await call("POST", GRANTS, json=grant("2"), headers=key())
    assert (reply.status, reply.body["code"]) == (409, "idempotency_key_reused")
    assert [error["field"] for error in reply.body["errors"]] == ["amount"]
    assert world.state.accounts["cus_1"].granted == 1_000_000_000


async def test_another_route_under_the_same_key_is_a_409():
    world = await world_with_customer()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        await call("POST", GRANTS, json=grant(), headers=key())
        put = await call(
            "PUT",
            "/api/v1/customers/cus_1/standing",
            json={"standing": "grace"},
            headers=key(),
        )
    assert (put.status, put.body["code"]) == (409, "idempotency_key_reused")
    assert "POST /api/v1/grants" in put.body["detail"]
    assert world.state.accounts["cus_1"].standing.standing == "good"


async def test_each_principal_has_keys_of_its_own_and_a_rotated_token_keeps_them():
    world = await world_with_customer()
    second = {"Authorization": "Bearer second-token-of-tests"}
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        await call("POST", GRANTS, json=grant(), headers=key())
        reply = await call("POST", GRANTS, json=grant(), headers=key() | second)
    assert reply.status == 201
    assert "Idempotency-Replayed" not in reply.headers
    assert {principal for principal, _ in world.keys.records} == {"admin", "ops"}


async def test_a_secret_is_neither_stored_nor_replayed():
    world = await world_with_customer()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        first = await call(
            "POST", "/api/v1/credentials", json={"customer_id": "cus_1"}, headers=key()
        )
        again = await call(
            "POST", "/api/v1/credentials", json={"customer_id": "cus_1"}, headers=key()
        )
    assert first.body["secret"].startswith("sk_secret_")
    assert again.status == 201
    assert again.body == first.body | {"secret": None}
    stored = next(iter(world.keys.records.values()))
    assert first.body["secret"].encode() not in stored.body
    assert len(world.record.credentials) == 1


async def test_a_refused_write_gives_its_key_back():
    world = World()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        refused = await call("POST", GRANTS, json=grant(), headers=key())
        body = {"id": "cus_1", "plan": "prepaid", "currency": "USD"}
        await call("POST", "/api/v1/customers", json=body)
        mended = await call("POST", GRANTS, json=grant("2"), headers=key())
    assert refused.status == 404
    assert mended.status == 201


async def test_a_grant_whose_first_attempt_died_after_its_effect_is_not_given_twice():
    world = await world_with_customer()

    async def die(*_: object, **__: object) -> None:
        raise StoreUnavailable("the answer could not be kept")

    finish, world.keys.finish = world.keys.finish, die
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        died = await call("POST", GRANTS, json=grant(), headers=key())
        world.keys.finish = finish
        early = await call("POST", GRANTS, json=grant(), headers=key())
        world.clock.advance(61)
        late = await call("POST", GRANTS, json=grant(), headers=key())
    assert died.status == 503
    assert (early.status, early.body["code"]) == (409, "idempotency_key_in_progress")
    assert early.headers["Retry-After"] == "1"
    assert late.status == 201
    assert world.state.accounts["cus_1"].granted == 1_000_000_000
    assert len(world.record.grants) == 1


async def test_of_two_at_once_one_writes_and_the_other_is_told_to_wait():
    world = await world_with_customer()
    reached, gate = asyncio.Event(), asyncio.Event()
    create = world.credits.create_grant

    async def slow(*args: object) -> object:
        reached.set()
        await gate.wait()
        return await create(*args)

    world.credits.create_grant = slow
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        first = asyncio.create_task(call("POST", GRANTS, json=grant(), headers=key()))
        await reached.wait()
        second = await call("POST", GRANTS, json=grant(), headers=key())
        gate.set()
        assert (await first).status == 201
    assert (second.status, second.body["code"]) == (409, "idempotency_key_in_progress")
    assert world.state.accounts["cus_1"].granted == 1_000_000_000


async def test_a_client_that_goes_away_does_not_stop_a_write():
    world = await world_with_customer()
    reached, gate = asyncio.Event(), asyncio.Event()
    create = world.credits.create_grant

    async def slow(*args: object) -> object:
        reached.set()
        await gate.wait()
        return await create(*args)

    world.credits.create_grant = slow
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        first = asyncio.create_task(call("POST", GRANTS, json=grant(), headers=key()))
        await reached.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.sleep(0.05)  # Time for the server to notice.
        gate.set()
        for _ in range(200):
            if next(iter(world.keys.records.values())).status is not None:
                break
            await asyncio.sleep(0.01)
        again = await call("POST", GRANTS, json=grant(), headers=key())
    assert again.headers["Idempotency-Replayed"] == "true"
    assert world.state.accounts["cus_1"].granted == 1_000_000_000


@pytest.mark.parametrize("text", ["x" * 256, "a b", "a\tb", "ü"])
async def test_what_is_no_key_is_a_400(text: str):
    async with calling(World().admin(), token=ADMIN_TOKEN) as call:
        reply = await call("POST", GRANTS, json=grant(), headers=key(text))
    assert (reply.status, reply.body["errors"][0]["field"]) == (400, "idempotency-key")


def test_an_empty_key_is_none():
    with pytest.raises(InvalidInput):
        check_key("")


def claim(**body: object) -> IdempotencyClaim:
    return IdempotencyClaim(
        principal="admin", key="k", route="POST /x", body_hash=hash_fields(body)
    )


async def answer() -> WriteAnswer:
    return WriteAnswer(status=201, body=b'{"s":"secret"}', stored_body=b'{"s":null}')


async def test_a_record_holds_the_stored_body_only():
    store = MemoryIdempotency(MemoryClock())
    first = await write_once(store, claim(a=1), answer)
    second = await write_once(store, claim(a=1), answer)
    assert (first.body, first.replayed) == (b'{"s":"secret"}', False)
    assert (second.status, second.body, second.replayed) == (201, b'{"s":null}', True)


async def test_all_differing_fields_are_named_absent_ones_too():
    store = MemoryIdempotency(MemoryClock())
    await write_once(store, claim(a=1, b={"x": 1, "y": 2}, c=3), answer)
    with pytest.raises(KeyReused) as caught:
        await write_once(store, claim(a=2, b={"y": 2, "x": 1}, d=4), answer)
    assert list(caught.value.fields) == ["a", "c", "d"]


async def test_a_differing_body_is_named_even_while_the_first_is_under_way():
    store = MemoryIdempotency(MemoryClock())
    await store.begin("admin", "k", route="POST /x", body_hash=claim(a=1).body_hash)
    with pytest.raises(KeyReused):
        await write_once(store, claim(a=2), answer)
    with pytest.raises(KeyInProgress):
        await write_once(store, claim(a=1), answer)


async def test_the_refusal_is_told_even_if_the_key_cannot_be_given_back():
    store = MemoryIdempotency(MemoryClock())

    async def away(*_: object) -> None:
        raise StoreUnavailable("away")

    async def refused() -> WriteAnswer:
        raise NotFound("nobody")

    store.abandon = away
    with pytest.raises(NotFound):
        await write_once(store, claim(a=1), refused)


def test_a_derived_id_depends_on_principal_key_and_route_only():
    base = claim(a=1)
    assert derived_id("grt", base) == derived_id("grt", claim(a=2))
    assert derived_id("grt", base).startswith("grt_")
    others = [
        IdempotencyClaim(principal="ops", key="k", route="POST /x", body_hash=""),
        IdempotencyClaim(principal="admin", key="j", route="POST /x", body_hash=""),
        IdempotencyClaim(principal="admin", key="k", route="POST /y", body_hash=""),
    ]
    assert len({derived_id("grt", item) for item in [base, *others]}) == 4


def test_a_body_hash_shows_no_content():
    text = hash_fields({"name": "Ada", "amount": "5"})
    assert text.startswith("amount:")
    assert "Ada" not in text
