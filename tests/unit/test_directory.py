"""What the directory remembers, packed, before a store that is a table of replies."""

import json

import pytest

from sidecar.domain.customers import CustomerFacts
from sidecar.outbound.redis.directory import _OVERTAKEN_MAX, RedisDirectory
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.outbound.redis.keys import META, Keyspace, credential_key

ADA = {"currency": "USD", "plan": "prepaid", "labels": {"tier": "gold"}, "rev": 3}
KEY = {
    "customer_id": "cus_ada",
    "credential_id": "crd_1",
    "team_id": "t1",
    "user_id": "ü1",
    "generation": 2,
}
FACTS = CustomerFacts(
    customer_id="cus_ada",
    plan="prepaid",
    currency="USD",
    revision=3,
    labels={"tier": "gold"},
    team_id="t1",
    user_id="ü1",
    credential_id="crd_1",
    generation=2,
)


class Store:
    """Answers as a connection would, and counts the calls."""

    def __init__(self) -> None:
        self.keyspace = Keyspace(4)
        self.rows: dict[str, dict[str, object]] = {}
        self.calls = 0
        self.meanwhile = lambda: None
        self.put_customer("cus_ada", ADA)
        self.put_credential("ab", KEY)
        self.directory = RedisDirectory(self, self.keyspace, monotonic=lambda: 0.0)

    def put_customer(self, customer_id: str, row: dict[str, object]) -> None:
        self.rows[self.keyspace.customer(customer_id)] = row

    def put_credential(self, secret_hash: str, row: dict[str, object]) -> None:
        self.rows[credential_key(secret_hash)] = row

    async def commands(self, commands):
        self.calls += 1
        replies = [self._reply(*command) for command in commands]
        self.meanwhile()
        return replies

    def _reply(self, name: str, key: str, *fields: str):
        match name:
            case "HEXISTS":
                assert key == META
                return 1
            case "PTTL":
                return -1
            case "HGET":
                return b"1"
            case "HMGET":
                row = self.rows.get(key, {})
                return [_bytes(row[field]) if field in row else None for field in fields]
        raise AssertionError(name)

    async def calls_to_find(self, *hashes: str) -> int:
        before = self.calls
        await self.directory.find_credential(hashes)
        return self.calls - before


def _bytes(value: object) -> bytes:
    return (json.dumps(value) if isinstance(value, dict) else str(value)).encode()


@pytest.fixture
def store() -> Store:
    return Store()


async def test_what_is_remembered_is_what_was_read(store: Store):
    read = await store.directory.find_credential(["ab"])
    remembered = await store.directory.find_credential(["ab"])
    assert read == remembered == FACTS
    assert store.calls == 2
    by_name = await store.directory.read_customer("cus_ada")
    assert (by_name.revision, by_name.labels, by_name.credential_id) == (3, {"tier": "gold"}, "")
    assert store.calls == 2


@pytest.mark.parametrize("generation", [0, 1, 2**63 - 1, -(2**63)])
async def test_any_number_that_a_store_counts_to_is_remembered(store: Store, generation: int):
    store.put_credential("ab", KEY | {"generation": generation, "team_id": "", "user_id": "a\0b"})
    store.put_customer("cus_ada", ADA | {"rev": generation, "labels": {}, "plan": "\0"})
    for _ in range(2):
        facts = await store.directory.find_credential(["ab"])
        assert (facts.generation, facts.revision) == (generation, generation)
        assert (facts.team_id, facts.user_id, facts.plan, facts.labels) == ("", "a\0b", "\0", {})
    assert store.calls == 2


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
async def test_a_number_that_no_store_counts_to_is_damage(store: Store, number: int):
    store.put_credential("cd", KEY | {"generation": number})
    with pytest.raises(StoreDamaged):
        await store.directory.find_credential(["cd"])
    store.put_customer("cus_ada", ADA | {"rev": number})
    with pytest.raises(StoreDamaged):
        await store.directory.read_customer("cus_ada")


async def test_customers_alike_share_what_they_have_in_common(store: Store):
    for number in range(3):
        store.put_customer(f"cus_{number}", ADA | {"rev": number})
    for _ in range(2):
        facts = [await store.directory.read_customer(f"cus_{number}") for number in range(3)]
    assert [one.revision for one in facts] == [0, 1, 2]
    assert len({id(one.labels) for one in facts}) == 1


async def test_who_was_overtaken_is_read_again_by_each_of_its_secrets_once(store: Store):
    store.put_credential("newer", KEY | {"generation": 3})
    assert [await store.calls_to_find(one) for one in ("ab", "newer", "ab", "newer")] == [
        *(2, 1, 0, 0)
    ]
    store.directory.forget(await store.directory.find_credential(["ab"]))
    # The customer as well, and the credential by whichever secret comes first.
    assert await store.calls_to_find("ab") == 2
    assert await store.calls_to_find("ab") == 0
    assert await store.calls_to_find("newer") == 0


async def test_forgetting_a_customer_who_was_named_forgets_no_credential(store: Store):
    await store.directory.find_credential(["ab"])
    store.directory.forget(await store.directory.read_customer("cus_ada"))
    assert await store.calls_to_find("ab") == 1


async def test_marks_of_the_overtaken_are_bounded_and_nobody_is_believed_again(store: Store):
    facts = await store.directory.find_credential(["ab"])
    store.directory.forget(facts)
    for number in range(_OVERTAKEN_MAX + 10):
        gone = CustomerFacts(
            customer_id="x", plan="", currency="", revision=0, credential_id=f"gone_{number}"
        )
        store.directory.forget(gone)
        assert len(store.directory._overtaken) <= _OVERTAKEN_MAX
    assert await store.calls_to_find("ab") == 2


async def test_what_was_read_while_something_was_dropped_is_not_remembered(store: Store):
    for drop in (
        lambda: store.directory.drop_customer("another"),
        lambda: store.directory.drop_credential("another"),
        store.directory.drop_all,
    ):
        store.meanwhile = drop
        assert [await store.calls_to_find("ab") for _ in range(2)] == [2, 2]
    store.meanwhile = lambda: None
    assert [await store.calls_to_find("ab") for _ in range(2)] == [2, 0]


async def test_what_is_heard_of_is_read_again(store: Store):
    await store.directory.find_credential(["ab"])
    store.directory.drop_customer("cus_ada")
    assert await store.calls_to_find("ab") == 1
    store.directory.drop_credential("ab")
    assert await store.calls_to_find("ab") == 1
    assert [await store.calls_to_find("nobody's") for _ in range(2)] == [1, 0]
    store.directory.drop_credential("nobody's")
    assert await store.calls_to_find("nobody's") == 1
    store.directory.drop_all()
    assert await store.calls_to_find("ab") == 2
