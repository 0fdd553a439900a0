import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sidecar.domain.errors import Conflict, InvalidInput, InvariantViolated, NotFound
from sidecar.domain.standing import Standing, StandingFact
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.idempotency import PostgresIdempotencyKeys
from sidecar.services.control_ports import Credential, Customer, Grant, GrantState
from sidecar.services.idempotency import IdempotencyRecord

CUSTOMER = Customer(customer_id="cus_a", plan="prepaid", currency="USD", labels={"region": "eu"})
CREDENTIAL = Credential(
    credential_id="crd_1", customer_id="cus_a", secret_hash="aa", user_id="u", name="laptop"
)
GRANT = Grant(grant_id="g1", customer_id="cus_a", amount_nano=10**18, currency="USD")


@pytest.fixture
async def accounts(postgres_pool):
    accounts = PostgresAccounts(postgres_pool)
    await accounts.create_customer(CUSTOMER)
    return accounts


async def test_a_customer_is_stored_and_found_as_it_was_given(accounts):
    stored = await accounts.read_customer("cus_a")
    assert replace(stored, created_at=None) == CUSTOMER
    assert stored.created_at.tzinfo is not None
    assert await accounts.read_customer("cus_b") is None


async def test_creating_the_same_customer_again_returns_the_first(accounts):
    first = await accounts.read_customer("cus_a")
    assert await accounts.create_customer(CUSTOMER) == first


@pytest.mark.parametrize(
    "change",
    [
        {"plan": "free"},
        {"currency": "EUR"},
        {"labels": {}},
        {"stripe_customer_id": "cus_stripe"},
    ],
)
async def test_a_customer_with_other_content_is_a_conflict(accounts, change):
    with pytest.raises(Conflict):
        await accounts.create_customer(replace(CUSTOMER, **change))
    assert replace(await accounts.read_customer("cus_a"), created_at=None) == CUSTOMER


@pytest.mark.parametrize("change", [{"currency": "usd"}, {"customer_id": ""}, {"plan": "nul\0"}])
async def test_a_customer_that_the_schema_refuses_is_invalid_input(accounts, change):
    with pytest.raises(InvalidInput):
        await accounts.create_customer(replace(CUSTOMER, **({"customer_id": "cus_x"} | change)))


async def test_customers_are_paged_by_id_byte_by_byte(accounts):
    for name in ("b", "B", "ä", "a-1"):
        await accounts.create_customer(replace(CUSTOMER, customer_id=name))
    first = await accounts.list_customers(after="", limit=3)
    second = await accounts.list_customers(after=first[-1].customer_id, limit=3)
    names = [customer.customer_id for customer in (*first, *second)]
    assert names == ["B", "a-1", "b", "cus_a", "ä"]


async def test_a_credential_is_stored_once_and_listed(accounts):
    stored = await accounts.create_credential(CREDENTIAL)
    assert await accounts.create_credential(CREDENTIAL) == stored
    await accounts.create_credential(replace(CREDENTIAL, credential_id="crd_2", secret_hash="bb"))
    page = await accounts.list_credentials("cus_a", after="crd_1", limit=10)
    assert [credential.credential_id for credential in page] == ["crd_2"]
    assert replace(stored, created_at=None) == CREDENTIAL


async def test_a_credential_of_an_unknown_customer_is_not_found(accounts):
    with pytest.raises(NotFound):
        await accounts.create_credential(replace(CREDENTIAL, customer_id="cus_nobody"))


async def test_one_secret_cannot_belong_to_two_credentials_of_any_customer(accounts):
    await accounts.create_customer(replace(CUSTOMER, customer_id="cus_b"))
    await accounts.create_credential(CREDENTIAL)
    with pytest.raises(Conflict):
        await accounts.create_credential(replace(CREDENTIAL, customer_id="cus_b"))
    with pytest.raises(Conflict):
        await accounts.create_credential(replace(CREDENTIAL, secret_hash="other"))
    assert await accounts.list_credentials("cus_b", after="", limit=10) == []


async def test_a_grant_is_an_intent_until_it_is_posted(accounts):
    stored = await accounts.create_grant(GRANT)
    assert stored.state is GrantState.INTENT
    assert await accounts.create_grant(GRANT) == stored
    assert await accounts.pending_grants(limit=10) == [stored]
    assert await accounts.list_grants("cus_a", after="", limit=10) == [stored]


async def test_the_oldest_pending_grant_comes_first(accounts):
    for name in ("z", "a", "m"):
        await accounts.create_grant(replace(GRANT, grant_id=name))
    pending = await accounts.pending_grants(limit=2)
    assert [grant.grant_id for grant in pending] == ["z", "a"]


async def test_grants_that_contradict_the_record_are_refused(accounts):
    await accounts.create_grant(GRANT)
    with pytest.raises(Conflict, match="currency"):
        await accounts.create_grant(replace(GRANT, grant_id="g2", currency="EUR"))
    with pytest.raises(Conflict, match="other content"):
        await accounts.create_grant(replace(GRANT, amount_nano=1))
    with pytest.raises(NotFound):
        await accounts.create_grant(replace(GRANT, customer_id="cus_nobody"))
    with pytest.raises(InvalidInput):
        await accounts.create_grant(replace(GRANT, grant_id="g3", amount_nano=0))


async def test_a_standing_is_good_until_it_is_set_and_the_last_one_counts(accounts):
    assert await accounts.read_standing("cus_a") == StandingFact(standing=Standing.GOOD)
    until = datetime(2026, 12, 1, tzinfo=UTC)
    for fact in (
        StandingFact(standing=Standing.GRACE, reason="invoice", until=until),
        StandingFact(standing=Standing.DELINQUENT, reason="invoice"),
    ):
        await accounts.put_standing("cus_a", fact)
        assert await accounts.read_standing("cus_a") == fact
    with pytest.raises(NotFound):
        await accounts.put_standing("cus_nobody", StandingFact(standing=Standing.GOOD))


async def test_a_repeated_write_gets_the_first_answer(postgres_pool):
    keys = PostgresIdempotencyKeys(postgres_pool)
    use = {"route": "POST /grants", "body_hash": "h"}
    assert await keys.begin("admin", "k", **use) is None
    assert await keys.begin("admin", "k", **use) == IdempotencyRecord(**use)
    await keys.finish("admin", "k", status=201, body=b"{}")
    await keys.finish("admin", "k", status=500, body=b"later")
    assert await keys.begin("admin", "k", **use) == IdempotencyRecord(**use, status=201, body=b"{}")
    assert await keys.begin("other", "k", **use) is None


@pytest.mark.parametrize("other", [{"route": "POST /x"}, {"body_hash": "other"}])
async def test_a_key_for_another_request_shows_the_record_that_stands(postgres_pool, other):
    keys = PostgresIdempotencyKeys(postgres_pool)
    use = {"route": "POST /grants", "body_hash": "h"}
    await keys.begin("admin", "k", **use)
    assert await keys.begin("admin", "k", **(use | other)) == IdempotencyRecord(**use)


async def test_of_many_first_uses_one_goes_ahead(postgres_pool):
    keys = PostgresIdempotencyKeys(postgres_pool)
    results = await asyncio.gather(
        *(keys.begin("admin", "k", route="r", body_hash="h") for _ in range(8))
    )
    assert results.count(None) == 1
    assert results.count(IdempotencyRecord(route="r", body_hash="h")) == 7


async def test_a_key_whose_process_died_is_taken_over_and_old_keys_are_swept(postgres_pool):
    keys = PostgresIdempotencyKeys(postgres_pool)
    await keys.begin("admin", "dead", route="r", body_hash="h")
    await age(postgres_pool, timedelta(seconds=61))
    assert await keys.begin("admin", "dead", route="r", body_hash="h") is None
    await keys.abandon("admin", "dead")
    assert await keys.begin("admin", "dead", route="other", body_hash="h") is None
    await age(postgres_pool, timedelta(hours=25))
    await keys.begin("admin", "young", route="r", body_hash="h")
    assert await keys.sweep() == 1
    assert await keys.begin("admin", "young", route="r", body_hash="h") is not None


async def age(pool, by: timedelta) -> None:
    await pool.execute("UPDATE idempotency_keys SET created_at = created_at - $1::interval", by)


async def test_a_customer_is_changed_but_for_its_currency(accounts):
    wanted = replace(CUSTOMER, plan="free", labels={}, stripe_customer_id="cus_s")
    stored = await accounts.update_customer(replace(wanted, currency="EUR"))
    assert replace(stored, created_at=None) == wanted
    assert await accounts.read_customer("cus_a") == stored
    assert await accounts.update_customer(replace(wanted, customer_id="cus_b")) is None
    with pytest.raises(InvalidInput):
        await accounts.update_customer(replace(wanted, stripe_customer_id=""))


async def test_a_standing_keeps_what_invoices_say(accounts):
    since = datetime(2026, 1, 1, tzinfo=UTC)
    fact = StandingFact(
        standing=Standing.GRACE, overdue_since=since, overdue_nano=4 * 10**18, disputed=True
    )
    await accounts.put_standing("cus_a", fact)
    assert await accounts.read_standing("cus_a") == fact
    with pytest.raises(InvalidInput):
        await accounts.put_standing("cus_a", replace(fact, overdue_nano=-1))


LATER = datetime(2040, 1, 1, tzinfo=UTC)
SUCCESSOR = replace(CREDENTIAL, credential_id="crd_2", secret_hash="bb")


async def test_a_credential_keeps_team_and_end_and_is_found_by_its_id_alone(accounts):
    wanted = replace(CREDENTIAL, team_id="t", expires_at=LATER)
    stored = await accounts.create_credential(wanted)
    assert replace(stored, created_at=None) == wanted
    assert await accounts.find_credential("crd_1") == stored
    assert await accounts.find_credential("crd_9") is None
    with pytest.raises(Conflict):
        await accounts.create_credential(replace(wanted, team_id="other"))


async def test_an_id_that_two_customers_have_is_nobodys(accounts):
    await accounts.create_customer(replace(CUSTOMER, customer_id="cus_b"))
    await accounts.create_credential(CREDENTIAL)
    await accounts.create_credential(replace(CREDENTIAL, customer_id="cus_b", secret_hash="cc"))
    with pytest.raises(InvariantViolated):
        await accounts.find_credential("crd_1")


async def test_a_rotation_stores_the_successor_and_the_end_together(accounts):
    old = await accounts.create_credential(CREDENTIAL)
    rotation = await accounts.rotate_credential(old, SUCCESSOR, ends_at=LATER)
    assert (rotation.retired.expires_at, rotation.retired.replaced_by) == (LATER, "crd_2")
    assert rotation.retired.revoked_at is None
    assert await accounts.find_credential("crd_2") == rotation.successor
    other = replace(SUCCESSOR, credential_id="crd_3", secret_hash="cc")
    with pytest.raises(Conflict, match="crd_2"):
        await accounts.rotate_credential(old, other, ends_at=LATER)
    assert await accounts.find_credential("crd_3") is None


async def test_a_rotation_that_is_repeated_moves_no_end_and_replaces_the_unseen_secret(accounts):
    old = await accounts.create_credential(CREDENTIAL)
    await accounts.rotate_credential(old, SUCCESSOR, ends_at=LATER)
    again = replace(SUCCESSOR, secret_hash="cc")
    rotation = await accounts.rotate_credential(old, again, ends_at=LATER + timedelta(days=1))
    assert rotation.retired.expires_at == LATER
    assert (rotation.successor.secret_hash, rotation.successor.generation) == ("cc", 2)


async def test_an_earlier_end_of_its_own_stays_and_no_overlap_revokes(accounts):
    earlier = LATER - timedelta(days=1)
    old = await accounts.create_credential(replace(CREDENTIAL, expires_at=earlier))
    rotation = await accounts.rotate_credential(old, SUCCESSOR, ends_at=LATER)
    assert rotation.retired.expires_at == earlier
    last = replace(CREDENTIAL, credential_id="crd_3", secret_hash="cc")
    at_once = await accounts.rotate_credential(rotation.successor, last, ends_at=None)
    assert at_once.retired.revoked_at is not None


async def test_what_has_ended_is_not_rotated_and_is_revoked_once(accounts):
    past = datetime(2020, 1, 1, tzinfo=UTC)
    ended = await accounts.create_credential(replace(CREDENTIAL, expires_at=past))
    with pytest.raises(Conflict, match="ended"):
        await accounts.rotate_credential(ended, SUCCESSOR, ends_at=LATER)
    first = await accounts.revoke_credential(ended)
    assert await accounts.revoke_credential(ended) == first
    with pytest.raises(NotFound):
        await accounts.revoke_credential(replace(CREDENTIAL, credential_id="crd_9"))


async def test_of_many_rotations_at_once_one_goes_ahead(accounts):
    old = await accounts.create_credential(CREDENTIAL)
    results = await asyncio.gather(
        *(
            accounts.rotate_credential(
                old,
                replace(CREDENTIAL, credential_id=f"crd_n{number}", secret_hash=f"n{number}"),
                ends_at=LATER,
            )
            for number in range(5)
        ),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["Conflict"] * 4 + ["Rotation"]
    assert len(await accounts.list_credentials("cus_a", after="", limit=10)) == 2
