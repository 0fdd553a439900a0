"""Who a credential belongs to: implements `Directory`, with a bounded cache in the process."""

import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.errors import StoreUnavailable
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.outbound.redis.keys import META, OPENED_FIELD, Keyspace, credential_key

CUSTOMER_FIELDS = ("currency", "plan", "labels", "rev")
_CREDENTIAL_FIELDS = ("customer_id", "credential_id", "team_id", "user_id", "generation")
_NEGATIVE_SECONDS = 1.0
_NOT_OPENED = "redis: the store has lost its data or was not opened yet, so nobody is known"
_NEGATIVE_ENTRIES_MAX = 10_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Expiring(Generic[K, V]):
    """A map that forgets what is old, and the least recently used of what is too many."""

    def __init__(self, entries_max: int, seconds: float, monotonic: Callable[[], float]) -> None:
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._entries_max = entries_max
        self._seconds = seconds
        self._monotonic = monotonic

    def get(self, key: K) -> V | None:
        found = self._entries.get(key)
        if found is None:
            return None
        if found[0] <= self._monotonic():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return found[1]

    def put(self, key: K, value: V, seconds_max: float = math.inf) -> None:
        self._entries[key] = (self._monotonic() + min(self._seconds, seconds_max), value)
        self._entries.move_to_end(key)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def drop(self, key: K) -> None:
        self._entries.pop(key, None)

    def clear(self) -> None:
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Credential:
    customer_id: str
    credential_id: str
    team_id: str
    user_id: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    currency: str
    plan: str
    labels: Mapping[str, str]
    revision: int


class RedisDirectory:
    """
    Implements Directory.

    What it knows may be old: the place script compares revision and generation, so a copy that
    has been overtaken is noticed by the call that would have used it, and then forgotten. The
    drop_ methods are for those who hear of a change.
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
        self._credentials: _Expiring[str, _Credential] = _Expiring(entries_max, seconds, monotonic)
        self._customers: _Expiring[str, _Known] = _Expiring(entries_max, seconds, monotonic)
        self._hashes: _Expiring[str, str] = _Expiring(entries_max, seconds, monotonic)
        # Apart from the known, so that a flood of guesses pushes nobody out.
        self._unknown: _Expiring[str, bool] = _Expiring(
            min(entries_max, _NEGATIVE_ENTRIES_MAX), _NEGATIVE_SECONDS, monotonic
        )
        # Whoever reads while something is dropped may have read what was before the change.
        self._drops = 0

    async def find_credential(self, secret_hashes: Sequence[str]) -> CustomerFacts | None:
        """The customer behind a presented credential; at most two calls, none if remembered."""
        for secret_hash in secret_hashes:
            known = self._credentials.get(secret_hash)
            if known is not None:
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
                self._unknown.put(secret_hash, True)
                continue
            # Never beyond its end, by the store's clock.
            seconds_max = left_ms / 1_000 if left_ms >= 0 else math.inf
            self._credentials.put(secret_hash, credential, seconds_max)
            self._hashes.put(credential.credential_id, secret_hash)
        return None if found is None else await self._facts(found)

    async def read_customer(self, customer_id: str) -> CustomerFacts | None:
        """A customer named by a trusted sender; at most one call, none if remembered."""
        known = await self._read_known(customer_id)
        return None if known is None else _join(customer_id, known, None)

    def forget(self, customer: CustomerFacts) -> None:
        """Drop what is remembered of a customer and of the credential that led to them."""
        self._customers.drop(customer.customer_id)
        secret_hash = self._hashes.get(customer.credential_id)
        if secret_hash is not None:
            self._credentials.drop(secret_hash)
            self._hashes.drop(customer.credential_id)

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
        self._hashes.clear()
        self._unknown.clear()

    async def _facts(self, credential: _Credential) -> CustomerFacts | None:
        known = await self._read_known(credential.customer_id)
        return None if known is None else _join(credential.customer_id, known, credential)

    async def _read_known(self, customer_id: str) -> _Known | None:
        known = self._customers.get(customer_id)
        if known is None:
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
                self._customers.put(customer_id, known)
        return known


def _join(customer_id: str, known: _Known, credential: _Credential | None) -> CustomerFacts:
    return CustomerFacts(
        customer_id=customer_id,
        plan=known.plan,
        currency=known.currency,
        revision=known.revision,
        labels=known.labels,
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
            generation=int(generation or b""),
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
        return _Known(
            currency=(currency or b"").decode(),
            plan=(plan or b"").decode(),
            labels={str(name): str(value) for name, value in parsed.items()},
            revision=int(revision),
        )
    except (ValueError, TypeError) as error:
        raise StoreDamaged("redis: a customer's facts cannot be read") from error
