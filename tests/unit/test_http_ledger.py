"""The admin API's comparison of balances with the ledger, its record, and the ledger's roots."""

from dataclasses import replace
from datetime import UTC, datetime

from fixtures.http_edges import ADMIN_TOKEN, World, calling
from fixtures.memory_books import book_of
from fixtures.use_cases import Grown

from sidecar.domain.credit_replay import Credit
from sidecar.domain.ledger_chain import ChainHead, LedgerRoot

RECONCILE = "/api/v1/reconcile"
ROOTS = "/api/v1/ledger/roots"
EXACT = 9_007_199_254_740_993


def world_of(nano: int = EXACT) -> World:
    """The ledger has one more than `nano` granted, and Redis was edited by hand."""
    world = World()
    world.books.books["cus_1"] = book_of("g_1", nano, sealed=False)
    world.books.credit["cus_1"] = Credit(granted_nano=EXACT, remaining={"g_1": EXACT})
    return world


async def test_a_customer_whose_books_agree_has_no_differences():
    async with calling(world_of().admin(), token=ADMIN_TOKEN) as call:
        reply = await call("POST", RECONCILE, json={"customer_id": "cus_1"})
    assert (reply.status, reply.body["customers"], reply.body["differences"]) == (200, 1, [])


async def test_an_edit_by_hand_is_told_exactly_and_mended_only_if_asked():
    world = world_of(EXACT - 1)
    body = {"customer_id": "cus_1"}
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        seen = (await call("POST", RECONCILE, json=body)).body
        again = (await call("POST", RECONCILE, json=body)).body
        mended = (await call("POST", RECONCILE, json=body | {"fix": True})).body
        after = (await call("POST", RECONCILE, json=body)).body
    assert seen == again
    assert seen["counts"] == {"manual_edit": 3}
    assert seen["nano"] == {"manual_edit": "3"}
    assert {
        "customer_id": "cus_1",
        "kind": "manual_edit",
        "what": "granted",
        "expected_nano": EXACT,
        "found_nano": EXACT - 1,
        "remedy": "mend",
    } in seen["differences"]
    assert [(one["wrong"], one["mended"]) for one in (seen, mended, after)] == [
        (3, 0),
        (3, 1),
        (0, 0),
    ]


async def test_what_nothing_mends_is_left_to_people():
    world = world_of()
    world.books.books["cus_1"] = replace(world.books.books["cus_1"], grants=())
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        reply = await call("POST", RECONCILE, json={"customer_id": "cus_1", "fix": True})
    assert (reply.body["mended"], reply.body["unmended"]) == (0, 1)


async def test_a_book_that_cannot_be_read_is_unread():
    world = world_of()
    world.books.unreadable.add("cus_1")
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        reply = await call("POST", RECONCILE, json={"customer_id": "cus_1"})
    assert (reply.body["customers"], reply.body["unread"]) == (0, ["cus_1"])


async def test_a_comparison_is_of_a_known_customer_and_for_administrators():
    async with calling(world_of().admin(), token=ADMIN_TOKEN) as call:
        assert (await call("POST", RECONCILE, json={"customer_id": "cus_x"})).status == 404
        for body in ({}, {"customer_id": None}, {"customer_id": "cus_1", "fix": "yes"}):
            assert (await call("POST", RECONCILE, json=body)).status == 400
    async with calling(world_of().admin()) as call:
        for method, path in (("POST", RECONCILE), ("GET", RECONCILE), ("GET", ROOTS)):
            assert (await call(method, path)).status == 401


async def test_one_customers_comparison_leaves_the_metrics_of_all_as_they_are():
    world = world_of(EXACT - 1)
    found = Grown("sidecar_reconcile_differences", kind="manual_edit")
    await world.reconciler.run_once(customer_id="cus_1")
    assert found.by == 0


async def test_runs_are_listed_newest_first():
    world = world_of(EXACT - 1)
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        assert (await call("GET", RECONCILE)).body == {"items": [], "more": False}
        for fix in (True, False):
            await world.reconcile_runs.keep(await world.reconciler.run_once(fix=fix))
        listed = (await call("GET", RECONCILE)).body
        newest = (await call("GET", f"{RECONCILE}?limit=1")).body
    assert [(one["number"], one["wrong"]) for one in listed["items"]] == [(2, 0), (1, 3)]
    assert listed["items"][1]["nano"] == {"manual_edit": "3"}
    assert (newest["items"], newest["more"]) == (listed["items"][:1], True)


async def test_roots_come_in_pages_by_number():
    world = World()
    world.roots.roots = [
        LedgerRoot(
            number=number,
            day=datetime(2026, 1, 1, tzinfo=UTC).date(),
            daily=True,
            made_at=datetime(2026, 1, 1, tzinfo=UTC),
            heads=(ChainHead(chain=3, seq=number, hash=b"\x01" * 32),),
            previous=b"",
            key_id="k1",
            signature=b"\x02" * 32,
        )
        for number in range(1, 13)
    ]
    found, query = [], "?limit=5"
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        while True:
            page = (await call("GET", f"{ROOTS}{query}")).body
            found += page["items"]
            if page["next"] is None:
                break
            query = f"?limit=5&after={page['next']}"
        for after in ("cus_1", "0", "-1", "9" * 19):
            assert (await call("GET", f"{ROOTS}?after={after}")).status == 400
    assert [one["number"] for one in found] == list(range(1, 13))
    assert found[0]["heads"] == [{"chain": 3, "seq": 1, "hash": "01" * 32}]
    assert (found[0]["day"], found[0]["signature"]) == ("2026-01-01", "02" * 32)
