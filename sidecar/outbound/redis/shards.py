"""Lives of the shards: whether they are there, and their making anew; implements `LiveShards`."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.holds import DEDUPE_BUCKET_SECONDS, dedupe_bucket, make_hold_id
from sidecar.domain.periods import to_epoch_ms
from sidecar.domain.rebuilding import LiveState, RecordedCredential, RecordedUsage
from sidecar.outbound.redis import scripts
from sidecar.outbound.redis.connection import Argument, RedisConnection
from sidecar.outbound.redis.granting import grant_arguments, grants_record
from sidecar.outbound.redis.keys import (
    META,
    OPENED_FIELD,
    PUSH_CHANNEL,
    Keyspace,
    credential_key,
    loss_key,
)
from sidecar.outbound.redis.push_messages import ShardPush, encode_push
from sidecar.outbound.redis.shard_homes import Place
from sidecar.outbound.redis.total_steps import split_record, taken_record
from sidecar.services.control_ports import Grant
from sidecar.services.rebuild_ports import FoundShard, LiveCustomer

_COMMANDS_MAX = 2_000
"""Commands of one round trip while a store is filled."""
_GIVEN_FROM = 2
"""Of the grant script's ARGV: what is given, after who gives it to whom."""
_SEALED = (
    *("overdraft", "granted", "used", "held", "avail", "voided", "expired", "deficit", "uncov"),
)
_REMEMBERED_SECONDS = 180_000
"""An id's marker is kept 48 h; two more are for clocks that differ."""
_AHEAD_SECONDS = 7_200
"""As far as the clock that made an id may be ahead."""
V = TypeVar("V")
_MARKERS_MAX = 500
"""Markers of one script, so that no other call waits long for it."""


class RedisLiveShards:
    """Implements LiveShards, and the reports of `ShardWatch`."""

    def __init__(self, connection: RedisConnection, keyspace: Keyspace) -> None:
        """Wire it."""
        self._connection = connection
        self._keyspace = keyspace
        self._filled: dict[int, str] = {}
        """By shard that is being filled, the node that it began on."""

    @property
    def is_one_server(self) -> bool:
        """Whether all shards are on one server, so that they are lost together."""
        return not self._connection.is_cluster

    def shard_of(self, customer_id: str) -> int:
        """The customer's shard."""
        return self._keyspace.shard_of(customer_id)

    async def look(self) -> Sequence[FoundShard]:
        """What every shard says of its life, in order."""
        shards = range(self._keyspace.shards)
        lives = await self._connection.homes.look([self._keyspace.shard(n) for n in shards])
        losses = await self._connection.commands([("GET", loss_key(n)) for n in shards])
        return [
            FoundShard(
                shard=shard,
                epoch=_number(life.epoch),
                seq=_number(life.seq),
                lost_epoch=_number(loss),
                is_taken_over=place is Place.TAKEN_OVER,
                is_unsure=place is Place.UNSURE,
            )
            for shard, (life, place), loss in zip(shards, lives, losses, strict=True)
        ]

    async def report(self, shard: int, epoch: int) -> None:
        """Say that the shard went back in this epoch; whoever rebuilds looks for it."""
        await self._connection.command("SET", loss_key(shard), epoch)

    async def is_opened(self) -> bool:
        """Whether the control plane has opened this store."""
        return bool(await self._connection.command("HEXISTS", META, OPENED_FIELD))

    async def close(self, shards: Mapping[int, int]) -> None:
        """Take these epochs away, where they still are what is said: no script changes them."""
        for shard, epoch in shards.items():
            await self._connection.run(scripts.CLOSE, (self._keyspace.shard(shard),), (epoch,))

    async def clear(self, epochs: Mapping[int, int]) -> None:
        """
        Begin to fill these shards for their new epochs: what was there is dropped.

        So is how ids ended: a marker of a decision that the stream has lost would answer a repeat
        as if that had been kept.
        """
        keys = self._keyspace
        ids = _bucket_ids(await self.now_ms() // 1_000)
        # Before the first write: who takes over after this has not heard of all that follows.
        lives = await self._connection.homes.look([keys.shard(shard) for shard in epochs])
        for shard, (life, _) in zip(epochs, lives, strict=True):
            self._filled[shard] = life.node
        await self._send(
            command
            for shard, epoch in epochs.items()
            for command in (
                ("HSET", keys.shard(shard), "building", epoch),
                ("HDEL", keys.shard(shard), "epoch"),
                *(
                    ("DEL", key)
                    for key in (
                        keys.usage(shard),
                        keys.expiry(shard),
                        keys.open(shard),
                        keys.windows(shard),
                        keys.touched(shard),
                        keys.touched_aside(shard),
                        *(keys.done(shard, hold_id) for hold_id in ids),
                    )
                ),
            )
        )

    async def now_ms(self) -> int:
        """The store's own time, epoch milliseconds."""
        seconds, microseconds = await self._connection.command("TIME")
        return int(seconds) * 1_000 + int(microseconds) // 1_000

    async def fill(self, customers: Sequence[LiveCustomer]) -> None:
        """Write customers whole, in place of whatever was there."""
        await self._send(
            command for customer in customers for command in self._customer_commands(customer)
        )

    async def index(self, customer_id: str, credentials: Sequence[RecordedCredential]) -> None:
        """Make secrets lead to their customer, whose own state is left alone."""
        await self._send(
            command
            for credential in credentials
            for command in credential_commands(customer_id, credential)
        )

    async def remember(self, shard: int, epoch: int, ended: Sequence[RecordedUsage]) -> None:
        """
        Put back how ids ended.

        Raises:
            StoreUnavailable: Somebody else fills the shard by now, or no answer.
        """
        buckets: dict[int, list[RecordedUsage]] = {}
        for one in ended:
            buckets.setdefault(dedupe_bucket(one.hold_id), []).append(one)
        for bucket in buckets.values():
            for part in _parts(bucket, _MARKERS_MAX):
                keys = (
                    self._keyspace.shard(shard),
                    self._keyspace.done(shard, part[0].hold_id),
                )
                arguments = [argument for one in part for argument in _marker_arguments(one)]
                await self._run(scripts.MARKERS, keys, (epoch, *arguments))

    async def open(
        self,
        shard: int,
        epoch: int,
        *,
        clock_ms: int = 0,
        claims: bool = False,
        settled: tuple[int, int] = (0, 0),
    ) -> None:
        """
        Give a filled shard its epoch, and tell the gateways.

        Args:
            shard, epoch: As `clear` began them.
            clock_ms: The shard's decisions come no earlier.
            claims: Whether usage of holds from before now has to be claimed.
            settled: Epoch and seq of the last decision that the ledger has.

        Raises:
            StoreUnavailable: Somebody else fills the shard by now, another node has it, or no
                answer.
        """
        arguments = (epoch, clock_ms, int(claims), *settled, self._filled.pop(shard, ""))
        await self._run(scripts.OPEN, (self._keyspace.shard(shard),), arguments)
        push = encode_push(ShardPush(shard=shard, epoch=epoch))
        await self._connection.commands([("DEL", loss_key(shard)), ("PUBLISH", PUSH_CHANNEL, push)])

    async def open_new(self, epochs: Mapping[int, int]) -> None:
        """Open shards of a store that has no customers yet, and say that all are open."""
        await self.clear(epochs)
        for shard, epoch in epochs.items():
            await self.open(shard, epoch)
        await self.set_opened()

    async def set_opened(self) -> None:
        """Note that every shard has been opened, for which gateways wait."""
        await self._connection.command("HSET", META, OPENED_FIELD, 1)

    async def _run(
        self, script: scripts.Script, keys: Sequence[str], arguments: Sequence[Argument]
    ) -> None:
        if await self._connection.run(script, keys, arguments) == b"superseded":
            raise StoreUnavailable("this shard is rebuilt by another process, or on another node")

    async def _send(self, commands: Iterable[Sequence[Argument]]) -> None:
        for part in _parts(commands, _COMMANDS_MAX):
            await self._connection.commands(part)

    def _customer_commands(self, customer: LiveCustomer) -> list[tuple[Argument, ...]]:
        key = self._keyspace.customer(customer.customer_id)
        state = customer.state
        fields = {**state.fields, **book_fields(customer.customer_id, state)}
        commands: list[tuple[Argument, ...]] = [
            ("DEL", key),
            ("HSET", key, *(part for pair in fields.items() for part in pair)),
        ]
        for head, look_at_ms in state.look_at.items():
            windows = self._keyspace.windows(self.shard_of(customer.customer_id))
            commands.append(("ZADD", windows, look_at_ms, f"{customer.customer_id}\n{head}"))
        for credential in customer.credentials:
            commands += credential_commands(customer.customer_id, credential)
        return commands


def book_fields(customer_id: str, state: LiveState) -> dict[str, str]:
    """The grants as `book.lua` writes them, digests of what was given, and the book's seal."""
    fields = {}
    for terms in state.given:
        given = Grant(
            grant_id=terms.grant_id,
            customer_id=customer_id,
            amount_nano=terms.amount_nano,
            currency=state.fields["currency"],
            kind=terms.kind,
            priority=terms.priority,
            effective_at=terms.effective_at,
            expires_at=terms.expires_at,
            meters=terms.meters,
            rollover=terms.rollover,
        )
        arguments = grant_arguments(given)[_GIVEN_FROM:]
        fields[f"g:{terms.grant_id}"] = "\n".join(str(argument) for argument in arguments)
    record = grants_record(state.grants)
    if record:
        fields["grants"] = record
    sealed = "\n".join((*(state.fields[name] for name in _SEALED), record))
    fields["seal"] = hashlib.sha1(sealed.encode(), usedforsecurity=False).hexdigest()
    return fields


def credential_commands(
    customer_id: str, credential: RecordedCredential
) -> list[tuple[Argument, ...]]:
    """Commands that make a presented secret lead to its customer until its end, or nowhere."""
    key = credential_key(credential.secret_hash)
    if credential.revoked:
        return [("DEL", key)]
    commands: list[tuple[Argument, ...]] = [
        (
            *("HSET", key),
            *("customer_id", customer_id),
            *("credential_id", credential.credential_id),
            *("team_id", credential.team_id),
            *("user_id", credential.user_id),
            *("generation", credential.generation),
        )
    ]
    if credential.ends_at is not None:
        commands.append(("PEXPIREAT", key, to_epoch_ms(credential.ends_at)))
    return commands


def _bucket_ids(now: int) -> list[str]:
    """An id for each bucket that may remember any, at an instant in epoch seconds."""
    first, last = max(0, now - _REMEMBERED_SECONDS), now + _AHEAD_SECONDS
    return [make_hold_id(second, bytes(16)) for second in range(first, last, DEDUPE_BUCKET_SECONDS)]


def _marker_arguments(one: RecordedUsage) -> tuple[Argument, ...]:
    return (
        one.hold_id,
        "captured" if one.captured else "orphaned",
        one.customer_id,
        one.amount_nano,
        one.overage_nano,
        int(one.estimated),
        one.digest,
        one.corrections,
        to_epoch_ms(one.decided_at),
        taken_record(one.taken),
        split_record(one),
    )


def _number(reply: Any) -> int:
    """A stored number, 0 where there is none; what is no number is as good as lost."""
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else ""
    return int(text) if text.isdecimal() else 0


def _parts(items: Iterable[V], size: int) -> Iterator[tuple[V, ...]]:
    """The items in tuples of at most `size`."""
    rest = iter(items)
    while part := tuple(islice(rest, size)):
        yield part
