"""Who a credential belongs to: implements `Directory`, with a bounded cache in the process."""

import json
import math
import time
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final, TypeAlias

import msgspec

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.remembering import Remembered
from sidecar.outbound.redis.compact_map import CompactMap
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.outbound.redis.keys import META, OPENED_FIELD, Keyspace, credential_key

CUSTOMER_FIELDS = ("currency", "plan", "labels", "rev")
_CREDENTIAL_FIELDS = ("customer_id", "credential_id", "team_id", "user_id", "generation")
_NEGATIVE_SECONDS = 1.0
_NOT_OPENED = "redis: the store has lost its data or was not opened yet, so nobody is known"
_NEGATIVE_ENTRIES_MAX = 10_000
_OVERTAKEN_MAX: Final = 10_000
_REVISION: Final = Struct("<q")
_encode: Final = msgspec.msgpack.Encoder().encode


class _Credential(msgspec.Struct, array_like=True, frozen=True, gc=False):
    customer_id: str
    credential_id: str
    team_id: str
    user_id: str
    generation: int


class _Plan(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What many customers have in common; `labels` is never changed."""

    currency: str
    plan: str
    labels: dict[str, str]


_Known: TypeAlias = tuple[_Plan, int]
"""What is known of a customer: what others may have in common, and the revision."""
_decode_credential: Final = msgspec.msgpack.Decoder(_Credential).decode
_decode_plan: Final = msgspec.msgpack.Decoder(_Plan).decode


class RedisDirectory:
    """
    Implements Directory.

    What it knows may be old: the place script compares revision and generation, so a copy that
    has been overtaken is noticed by the call that would have used it, and then forgotten. The
    drop_ methods are for those who hear of a change.

    Packed: as objects, a customer with a key took 1.1 KB. What is made of it lives for a check.
    """

    def __init__(
        self,
        connection: RedisConnection,
        keyspace: Keyspace,
        *,
        entries_max: int = 100_000,
        seconds: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Wire it.

        Args:
            connection, keyspace: Where to read.
            entries_max: Most credentials, and most customers, that are remembered.
            seconds: How long; that somebody is unknown is remembered 1 s.
            monotonic: Seconds of a clock that never runs backwards.
        """
        self._connection = connection
        self._keyspace = keyspace
        self._credentials = CompactMap(entries_max, seconds, monotonic)
        """By hash of the secret; packed."""
        self._customers = CompactMap(entries_max, seconds, monotonic)
        """By id: the revision, and then what others may have in common with them; packed."""
        self._plans: Remembered[_Plan] = Remembered()
        # Apart from the known, so that a flood of guesses pushes nobody out.
        self._unknown = CompactMap(
            min(entries_max, _NEGATIVE_ENTRIES_MAX), _NEGATIVE_SECONDS, monotonic
        )
        self._overtaken: set[str] = set()
        """Ids of credentials of which nothing that is remembered may be used again."""
        # Whoever reads while something is dropped may have read what was before the change.
        self._drops = 0

    async def find_credential(self, secret_hashes: Sequence[str]) -> CustomerFacts | None:
        """The customer behind a presented credential; at most two calls, none if remembered."""
        for secret_hash in secret_hashes:
            known = self._remembered_credential(secret_hash)
            if known is not None:
                customer = self._remembered_customer(known.customer_id)
                if customer is not None:
                    return _join(known.customer_id, customer, known)
                return await self._facts(known)
        asked = [h for h in secret_hashes if self._unknown.get(h) is None]
        if not asked:
            return None
        drops = self._drops
        opened, *replies = await self._connection.commands(
            [
                ("HEXISTS", META, OPENED_FIELD),
                *(
                    command
                    for key in map(credential_key, asked)
                    for command in (("HMGET", key, *_CREDENTIAL_FIELDS), ("PTTL", key))
                ),
            ]
        )
        found: _Credential | None = None
        for secret_hash, reply, left_ms in zip(asked, replies[::2], replies[1::2], strict=True):
            credential = _read_credential(reply)
            if credential is None and not opened:
                raise StoreUnavailable(_NOT_OPENED)
            found = found or credential
            if drops != self._drops:
                continue
            if credential is None:
                self._unknown.put(secret_hash, b"")
                continue
            # Never beyond its end, by the store's clock.
            seconds_max = left_ms / 1_000 if left_ms >= 0 else math.inf
            self._credentials.put(secret_hash, _encode(credential), seconds_max)
            self._overtaken.discard(credential.credential_id)
        return None if found is None else await self._facts(found)

    async def read_customer(self, customer_id: str) -> CustomerFacts | None:
        """A customer named by a trusted sender; at most one call, none if remembered."""
        known = await self._read_known(customer_id)
        return None if known is None else _join(customer_id, known, None)

    def forget(self, customer: CustomerFacts) -> None:
        """Drop what is remembered of a customer and of the credential that led to them."""
        self._customers.drop(customer.customer_id)
        if not customer.credential_id:
            return
        if len(self._overtaken) >= _OVERTAKEN_MAX:
            # Marks stay where nobody asked again. No map from ids to secrets is kept for them.
            self._credentials.clear()
            self._overtaken.clear()
        self._overtaken.add(customer.credential_id)

    def drop_customer(self, customer_id: str) -> None:
        """Forget a customer's facts."""
        self._drops += 1
        self._customers.drop(customer_id)

    def drop_credential(self, secret_hash: str) -> None:
        """Forget where a credential leads, or that it leads nowhere."""
        self._drops += 1
        self._credentials.drop(secret_hash)
        self._unknown.drop(secret_hash)

    def drop_all(self) -> None:
        """Forget everything."""
        self._drops += 1
        self._credentials.clear()
        self._customers.clear()
        self._unknown.clear()
        self._overtaken.clear()

    def _remembered_credential(self, secret_hash: str) -> _Credential | None:
        packed = self._credentials.get(secret_hash)
        if packed is None:
            return None
        known = _decode_credential(packed)
        if known.credential_id in self._overtaken:
            self._overtaken.discard(known.credential_id)
            self._credentials.drop(secret_hash)
            return None
        return known

    def _remembered_customer(self, customer_id: str) -> _Known | None:
        packed = self._customers.get(customer_id)
        if packed is None:
            return None
        (revision,) = _REVISION.unpack_from(packed)
        rest = packed[_REVISION.size :]
        plan = self._plans.get(rest) or self._plans.put(rest, _decode_plan(rest))
        return plan, revision

    async def _facts(self, credential: _Credential) -> CustomerFacts | None:
        known = await self._read_known(credential.customer_id)
        return None if known is None else _join(credential.customer_id, known, credential)

    async def _read_known(self, customer_id: str) -> _Known | None:
        remembered = self._remembered_customer(customer_id)
        if remembered is not None:
            return remembered
        key = self._keyspace.customer(customer_id)
        drops = self._drops
        shard = self._keyspace.shard(self._keyspace.shard_of(customer_id))
        facts, epoch = await self._connection.commands(
            [("HMGET", key, *CUSTOMER_FIELDS), ("HGET", shard, "epoch")]
        )
        known = _read_known(facts)
        if known is None and epoch is None:
            raise StoreUnavailable(_NOT_OPENED)
        if known is not None and drops == self._drops:
            plan, revision = known
            self._customers.put(customer_id, _REVISION.pack(revision) + _encode(plan))
        return known


def _join(customer_id: str, known: _Known, credential: _Credential | None) -> CustomerFacts:
    plan, revision = known
    return CustomerFacts(
        customer_id=customer_id,
        plan=plan.plan,
        currency=plan.currency,
        revision=revision,
        labels=plan.labels,
        team_id=credential.team_id if credential else "",
        user_id=credential.user_id if credential else "",
        credential_id=credential.credential_id if credential else "",
        generation=credential.generation if credential else 0,
    )


def _read_credential(reply: Sequence[bytes | None]) -> _Credential | None:
    customer_id, credential_id, team_id, user_id, generation = reply
    if customer_id is None:
        return None
    try:
        return _Credential(
            customer_id=customer_id.decode(),
            credential_id=(credential_id or b"").decode(),
            team_id=(team_id or b"").decode(),
            user_id=(user_id or b"").decode(),
            generation=_whole(generation),
        )
    except ValueError as error:
        raise StoreDamaged("redis: a credential's entry cannot be read") from error


def _read_known(reply: Sequence[bytes | None]) -> _Known | None:
    currency, plan, labels, revision = reply
    if revision is None:
        return None
    try:
        parsed = json.loads(labels or b"{}")
        if not isinstance(parsed, dict):
            raise TypeError("labels are no object")  # noqa: TRY301  One place words all of it.
        named = {str(name): str(value) for name, value in parsed.items()}
        plan_read = _Plan(
            currency=(currency or b"").decode(), plan=(plan or b"").decode(), labels=named
        )
        return plan_read, _whole(revision)
    except (ValueError, TypeError) as error:
        raise StoreDamaged("redis: a customer's facts cannot be read") from error


def _whole(text: bytes | None) -> int:
    """A number as the store counts; raises ValueError for any other."""
    number = int(text or b"")
    if not -(2**63) <= number < 2**63:
        raise ValueError("beyond what the store counts")
    return number
