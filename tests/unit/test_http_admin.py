import pytest
from fixtures.http_edges import ADMIN_TOKEN, METER_TOKEN, World, calling

CUSTOMERS = "/api/v1/customers"


def customer(number: int = 1, **changes: object) -> dict[str, object]:
    return {"id": f"cus_{number}", "plan": "prepaid", "currency": "USD"} | changes


def grant(amount: object = "12.50", **changes: object) -> dict[str, object]:
    return {"customer_id": "cus_1", "amount": amount, "currency": "USD"} | changes


async def test_a_customer_is_created_read_and_created_again():
    world = World()
    body = customer(labels={"region": "eu"}, stripe_customer_id="cus_Stripe1")
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        made = await call("POST", CUSTOMERS, json=body)
        again = await call("POST", CUSTOMERS, json=body)
        other = await call("POST", CUSTOMERS, json=body | {"labels": {}})
        read = await call("GET", f"{CUSTOMERS}/cus_1")
    assert made.status == again.status == 201
    assert made.headers["Location"] == "/api/v1/customers/cus_1"
    added = {"overdraft": "0.00", "overdraft_nano": 0, "created_at": "2026-01-31T12:00:00Z"}
    assert made.body == again.body == read.body == body | added
    assert (other.status, other.body["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": "-x"}, "id"),
        ({"id": "a/b"}, "id"),
        ({"id": "a\n"}, "id"),
        ({"id": "x" * 65}, "id"),
        ({"id": 5}, "id"),
        ({"plan": "gold"}, "plan"),
        ({"plan": ""}, "plan"),
        ({"currency": "EUR"}, "currency"),
        ({"currency": "usd"}, "currency"),
        ({"labels": {f"l{n}": "" for n in range(33)}}, "labels"),
        ({"labels": {"a": 1}}, "labels.a"),
        ({"labels": {"a": "x" * 257}}, "labels.a"),
        ({"labels": {"a": "\u0000"}}, "labels.a"),
        ({"labels": {"a b": "x"}}, "labels.a b.[key]"),
        ({"labels": None}, "labels"),
        ({"stripe_customer_id": ""}, "stripe_customer_id"),
        ({"lables": {}}, "lables"),
    ],
)
async def test_a_customer_that_cannot_be_is_a_400_that_names_the_field(
    changes: dict[str, object], field: str
):
    world = World()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        reply = await call("POST", CUSTOMERS, json=customer() | changes)
    assert (reply.status, reply.body["code"]) == (400, "invalid_request")
    assert [error["field"] for error in reply.body["errors"]] == [field]
    assert world.record.customers == {}


async def test_an_unknown_field_is_answered_with_the_nearest_and_the_allowed():
    async with calling(World().admin(), token=ADMIN_TOKEN) as call:
        reply = await call("POST", CUSTOMERS, json=customer(curency="USD"))
    message = reply.body["errors"][0]["message"]
    assert message == (
        "is not a known field; allowed: id, plan, currency, labels, stripe_customer_id, overdraft; "
        "did you mean currency?"
    )


async def test_money_is_a_decimal_string_and_the_same_integer():
    world = World()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        await call("POST", CUSTOMERS, json=customer())
        made = await call("POST", "/api/v1/grants", json=grant("12.500000001"))
        balance = await call("GET", f"{CUSTOMERS}/cus_1/balance")
    assert made.status == 201
    assert made.body == {
        "id": made.body["id"],
        "customer_id": "cus_1",
        "amount": "12.500000001",
        "amount_nano": 12_500_000_001,
        "remaining": "0.00",
        "remaining_nano": 0,
        "currency": "USD",
        "kind": "paid",
        "priority": 50,
        "effective_at": None,
        "expires_at": None,
        "meters": [],
        "rollover": None,
        "schedule_id": None,
        "state": "intent",
        "refusal": None,
        "created_at": "2026-01-31T12:00:00Z",
    }
    assert balance.body == {
        "currency": "USD",
        "granted": "12.500000001",
        "voided": "0.00",
        "expired": "0.00",
        "used": "0.00",
        "held": "0.00",
        "overdraft": "0.00",
        "deficit": "0.00",
        "available": "12.500000001",
        "granted_nano": 12_500_000_001,
        "voided_nano": 0,
        "expired_nano": 0,
        "used_nano": 0,
        "held_nano": 0,
        "overdraft_nano": 0,
        "deficit_nano": 0,
        "available_nano": 12_500_000_001,
        "as_of": "2026-01-31T12:00:00Z",
    }


async def test_the_largest_amounts_are_exact():
    world = World()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        await call("POST", CUSTOMERS, json=customer())
        reply = await call("POST", "/api/v1/grants", json=grant("3999999999.999999999"))
    assert reply.body["amount_nano"] == 3_999_999_999_999_999_999
    assert b'"amount_nano":3999999999999999999' in reply.raw


@pytest.mark.parametrize(
    "amount",
    [
        "0",
        "0.00",
        "-1",
        "+1",
        "1e3",
        "1.",
        ".5",
        "1.0000000001",
        "4000000000.01",
        "1 ",
        "NaN",
        "",
        12,
        12.5,
        None,
        True,
    ],
)
async def test_an_amount_that_is_none_is_a_400(amount: object):
    world = World()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        await call("POST", CUSTOMERS, json=customer())
        reply = await call("POST", "/api/v1/grants", json=grant(amount))
    assert (reply.status, reply.body["errors"][0]["field"]) == (400, "amount")
    assert world.record.grants == {}


async def test_a_grant_to_nobody_or_in_another_currency_is_refused():
    async with calling(World().admin(), token=ADMIN_TOKEN) as call:
        nobody = await call("POST", "/api/v1/grants", json=grant())
        await call("POST", CUSTOMERS, json=customer())
        other = await call("POST", "/api/v1/grants", json=grant(currency="EUR"))
    assert (nobody.status, nobody.body["code"]) == (404, "not_found")
    assert (other.status, other.body["code"]) == (409, "conflict")


async def test_a_credentials_secret_is_shown_once_and_works():
    world = World()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        await call("POST", CUSTOMERS, json=customer())
        body = {"customer_id": "cus_1", "user_id": "u-1", "name": "laptop"}
        made = await call("POST", "/api/v1/credentials", json=body)
        listed = await call("GET", "/api/v1/credentials", params={"customer_id": "cus_1"})
    secret = made.body["secret"]
    assert made.status == 201
    assert listed.body["next"] is None
    assert listed.body["items"][0]["id"] == made.body["id"]
    assert "secret" not in listed.body["items"][0]
    assert secret.encode() not in listed.raw
    assert world.state.credentials[world.accounts._digests.credential_hashes(secret)[0]]


async def test_a_standing_is_set_and_read():
    world = World()
    path = f"{CUSTOMERS}/cus_1/standing"
    fact = {"standing": "delinquent", "reason": "in_1 is overdue", "until": "2026-02-01T01:00:00Z"}
    unknown = {
        "overdue_since": None,
        "overdue_amount": None,
        "overdue_amount_nano": None,
        "disputed": False,
    }
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        await call("POST", CUSTOMERS, json=customer())
        before = await call("GET", path)
        put = await call("PUT", path, json=fact | {"until": "2026-02-01T02:00:00+01:00"})
        after = await call("GET", path)
        bad = await call("PUT", path, json={"standing": "bad"})
        nobody = await call("PUT", f"{CUSTOMERS}/cus_2/standing", json=fact)
    by_invoices = unknown | {"source": "invoices", "derived": "good"}
    assert before.body == {"standing": "good", "reason": "", "until": None} | by_invoices
    assert put.status == 200
    assert put.body == after.body == fact | unknown | {"source": "operator", "derived": "good"}
    assert world.state.accounts["cus_1"].standing.standing == "delinquent"
    assert bad.body["errors"][0]["field"] == "standing"
    assert nobody.status == 404


async def test_a_standing_that_was_set_is_taken_back():
    world = World()
    path = f"{CUSTOMERS}/cus_1/standing"
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        await call("POST", CUSTOMERS, json=customer())
        await call("PUT", path, json={"standing": "delinquent", "reason": "asked to"})
        cleared = await call("DELETE", path)
        nobody = await call("DELETE", f"{CUSTOMERS}/cus_2/standing")
    shown = {name: cleared.body[name] for name in ("standing", "source", "reason")}
    assert shown == {"standing": "good", "source": "invoices", "reason": ""}
    assert world.state.accounts["cus_1"].standing.standing == "good"
    assert nobody.status == 404


async def test_a_standing_carries_what_invoices_say():
    world = World()
    path = f"{CUSTOMERS}/cus_1/standing"
    body = {
        "standing": "grace",
        "overdue_since": "2026-01-01T01:00:00+01:00",
        "overdue_amount": "12.5",
        "disputed": True,
    }
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        await call("POST", CUSTOMERS, json=customer())
        put = await call("PUT", path, json=body)
        refused = [
            await call("PUT", path, json=body | change)
            for change in (
                {"overdue_amount": "-1"},
                {"overdue_amount": 12.5},
                {"overdue_amount": "9999999999"},
                {"overdue_since": "yesterday"},
                {"disputed": "yes"},
            )
        ]
    assert put.body == {
        "standing": "grace",
        "source": "operator",
        "derived": "good",
        "reason": "",
        "until": None,
        "overdue_since": "2026-01-01T00:00:00Z",
        "overdue_amount": "12.50",
        "overdue_amount_nano": 12_500_000_000,
        "disputed": True,
    }
    live = world.state.accounts["cus_1"].standing
    assert (live.overdue_nano, live.disputed) == (12_500_000_000, True)
    assert {reply.status for reply in refused} == {400}
    fields = [reply.body["errors"][0]["field"] for reply in refused]
    assert fields == ["overdue_amount"] * 3 + ["overdue_since", "disputed"]


async def test_a_customer_is_changed_and_what_is_left_out_is_empty():
    world = World()
    path = f"{CUSTOMERS}/cus_1"
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        made = await call("POST", CUSTOMERS, json=customer(labels={"a": "1"}))
        changed = await call(
            "PUT", path, json={"plan": "postpaid", "stripe_customer_id": "cus_S", "currency": "USD"}
        )
        read = await call("GET", path)
    assert changed.status == 200
    expected = {"plan": "postpaid", "labels": {}, "stripe_customer_id": "cus_S"}
    assert changed.body == read.body == made.body | expected
    assert world.state.accounts["cus_1"].customer.plan == "postpaid"
    assert world.state.accounts["cus_1"].revision == 2


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"plan": "prepaid", "currency": "EUR"}, 409, "the currency is USD and cannot change"),
        ({"plan": "gold"}, 400, "it has postpaid, prepaid"),
        ({"plan": "prepaid", "labels": {f"l{n}": "" for n in range(33)}}, 400, "labels"),
        ({"plan": "prepaid", "id": "cus_2"}, 400, "allowed: plan, labels, stripe_customer_id"),
        ({"labels": {}}, 400, "plan: is required"),
    ],
)
async def test_a_change_that_cannot_be_says_why_and_changes_nothing(
    body: dict[str, object], status: int, words: str
):
    world = World()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        made = await call("POST", CUSTOMERS, json=customer())
        reply = await call("PUT", f"{CUSTOMERS}/cus_1", json=body)
        nobody = await call("PUT", f"{CUSTOMERS}/cus_9", json={"plan": "prepaid"})
        after = await call("GET", f"{CUSTOMERS}/cus_1")
    assert (reply.status, nobody.status) == (status, 404)
    assert words in reply.body["detail"]
    assert after.body == made.body


async def test_open_holds_are_listed_up_to_a_limit_that_says_so():
    world = World()
    key = await world.customer()
    async with calling(world.gateway()) as call:
        for _ in range(3):
            body = {"method": "POST", "path": "/ai/chat", "headers": {"x-api-key": key}}
            await call("POST", "/v1/check", json=body)
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        path = f"{CUSTOMERS}/cus_1/holds"
        some = await call("GET", path, params={"limit": "2"})
        every = await call("GET", path)
    assert (len(some.body["items"]), some.body["more"]) == (2, True)
    assert (len(every.body["items"]), every.body["more"]) == (3, False)
    hold = every.body["items"][0]
    assert (hold["amount"], hold["amount_nano"], hold["state"]) == ("0.0001", 100_000, "open")
    assert (hold["decided_at"], hold["expires_at"]) == (
        "2026-01-31T12:00:00Z",
        "2026-01-31T12:02:00Z",
    )


async def test_all_open_holds_are_paged_with_their_age():
    world = World()
    keys = [await world.customer(name) for name in ("cus_1", "cus_2")]
    async with calling(world.gateway()) as call:
        for number in range(5):
            body = {"method": "POST", "path": "/ai/chat"}
            body["headers"] = {"x-api-key": keys[number % 2]}
            await call("POST", "/v1/check", json=body)
            world.clock.advance(7)
    found, after = [], None
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        for _ in range(3):
            params = {"limit": "2"} | ({"after": after} if after else {})
            page = (await call("GET", "/api/v1/holds", params=params)).body
            found += page["items"]
            after = page["next"]
        one = await call("GET", "/api/v1/holds", params={"customer_id": "cus_2"})
        nobody = await call("GET", "/api/v1/holds", params={"customer_id": "cus_9"})
        bad = await call("GET", "/api/v1/holds", params={"after": "YWJj"})
        many = await call("GET", "/api/v1/holds", params={"limit": "201"})
    assert after is None
    assert [hold["age_seconds"] for hold in found] == [35, 28, 21, 14, 7]
    assert [hold["customer_id"] for hold in found] == ["cus_1", "cus_2", "cus_1", "cus_2", "cus_1"]
    first = found[0]
    assert (first["amount"], first["bound"], first["due"], first["served"]) == (
        "0.0001",
        "estimated",
        False,
        False,
    )
    assert [hold["customer_id"] for hold in one.body["items"]] == ["cus_2", "cus_2"]
    assert (nobody.status, bad.status, many.status) == (404, 400, 400)


async def test_lists_are_paged_to_their_end_without_gap_or_repeat():
    world = World()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        for number in range(1, 6):
            await call("POST", CUSTOMERS, json=customer(number))
        found, pages, after = [], 0, None
        while pages == 0 or after is not None:
            params = {"limit": "2"} | ({"after": after} if after else {})
            page = (await call("GET", CUSTOMERS, params=params)).body
            found += [item["id"] for item in page["items"]]
            pages, after = pages + 1, page["next"]
    assert found == [f"cus_{number}" for number in range(1, 6)]
    assert pages == 3


@pytest.mark.parametrize("kind", ["credentials", "grants"])
async def test_a_customers_things_are_paged_too(kind: str):
    world = World()
    await world.customer()  # Has one of each.
    body = {"customer_id": "cus_1"} if kind == "credentials" else grant()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        for _ in range(2):
            assert (await call("POST", f"/api/v1/{kind}", json=body)).status == 201
        params = {"customer_id": "cus_1", "limit": "2"}
        first = (await call("GET", f"/api/v1/{kind}", params=params)).body
        rest = (await call("GET", f"/api/v1/{kind}", params=params | {"after": first["next"]})).body
    ids = [item["id"] for item in [*first["items"], *rest["items"]]]
    assert (len(first["items"]), len(rest["items"]), rest["next"]) == (2, 1, None)
    assert len(set(ids)) == 3


async def test_a_full_last_page_has_no_next():
    world = World()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        await call("POST", CUSTOMERS, json=customer(1))
        await call("POST", CUSTOMERS, json=customer(2))
        page = await call("GET", CUSTOMERS, params={"limit": "2"})
    assert (len(page.body["items"]), page.body["next"]) == (2, None)


@pytest.mark.parametrize("kind", ["credentials", "grants"])
async def test_a_customers_things_are_listed_for_a_known_customer_only(kind: str):
    world = World()
    await world.customer("cus_1")
    await world.customer("cus_2")
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        listed = await call("GET", f"/api/v1/{kind}", params={"customer_id": "cus_2"})
        nobody = await call("GET", f"/api/v1/{kind}", params={"customer_id": "cus_3"})
        none = await call("GET", f"/api/v1/{kind}")
    assert [item["customer_id"] for item in listed.body["items"]] == ["cus_2"]
    assert nobody.status == 404
    assert (none.status, none.body["errors"][0]["field"]) == (400, "customer_id")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.0", "limit"),
        ("limit=1_0", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("after=", "after"),
        ("after=%2A", "after"),
        ("after=a", "after"),
        ("after=IA", "after"),
        ("limits=5", "limits"),
    ],
)
async def test_a_bad_query_is_a_400_that_names_the_parameter(query: str, field: str):
    async with calling(World().admin(), token=ADMIN_TOKEN) as call:
        reply = await call("GET", f"{CUSTOMERS}?{query}")
    assert (reply.status, reply.body["errors"][0]["field"]) == (400, field)


@pytest.mark.parametrize("part", ["", "/balance", "/standing", "/holds"])
async def test_an_unknown_customer_is_404_and_an_impossible_one_400(part: str):
    async with calling(World().admin(), token=ADMIN_TOKEN) as call:
        nobody = await call("GET", f"{CUSTOMERS}/cus_9{part}")
        impossible = await call("GET", f"{CUSTOMERS}/a%2Fb{part}")
    assert (nobody.status, nobody.body["code"]) == (404, "not_found")
    assert (impossible.status, impossible.body["errors"][0]["field"]) == (400, "customer_id")


async def test_every_admin_resource_needs_an_admin_token():
    world = World()
    paths = [
        ("GET", CUSTOMERS),
        ("POST", CUSTOMERS),
        ("GET", f"{CUSTOMERS}/cus_1/balance"),
        ("POST", "/api/v1/grants"),
        ("PUT", f"{CUSTOMERS}/cus_1"),
        ("POST", "/api/v1/credentials/crd_1/rotate"),
        ("POST", "/api/v1/credentials/crd_1/revoke"),
        ("GET", "/api/v1/openapi.json"),
    ]
    async with calling(world.admin()) as call:
        for method, path in paths:
            for headers in ({}, {"Authorization": f"Bearer {METER_TOKEN}"}):
                reply = await call(method, path, headers=headers)
                assert (reply.status, reply.body["code"]) == (401, "unauthenticated"), path
                assert "WWW-Authenticate" in reply.headers
        twice = {"Authorization": f"Bearer {ADMIN_TOKEN}", "x-sidecar-token": ADMIN_TOKEN}
        assert (await call("GET", CUSTOMERS, headers=twice)).status == 401
        assert (await call("GET", CUSTOMERS, headers={"Authorization": "Basic eDp5"})).status == 401
        rotated = {"x-sidecar-token": "second-token-of-tests"}
        assert (await call("GET", CUSTOMERS, headers=rotated)).status == 200


@pytest.mark.parametrize("which", ["record", "live"])
async def test_a_store_that_is_away_is_a_503_that_names_no_host(which: str):
    world = World()
    await world.customer()
    world.record.away = which == "record"
    world.state.away = which == "live"
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        reply = await call("POST", "/api/v1/grants", json=grant())
    assert (reply.status, reply.body["code"]) == (503, "store_unavailable")
    assert reply.headers["Retry-After"] == "1"
    assert b"10.0.0" not in reply.raw
