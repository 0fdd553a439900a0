"""What captures have used of windows, and which they moved: implements `UsedCounters`."""

from collections.abc import Collection, Sequence

from sidecar.outbound.redis.connection import Argument, RedisConnection
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.outbound.redis.keys import Keyspace
from sidecar.services.thresholds import UsedCounter

MISSED = b"*"
"""Stands in the set where it was full: some counters that were moved are not in it."""
_SLICE = ","


class RedisUsedCounters:
    """
    Implements UsedCounters.

    The set of touched counters is set aside before it is read, so that what captures touch
    meanwhile is not taken for looked at. What a crash leaves aside is read first.
    """

    def __init__(self, connection: RedisConnection, keyspace: Keyspace) -> None:
        """Wire it."""
        self._connection = connection
        self._keyspace = keyspace

    async def stirred(self, shards: Collection[int]) -> Collection[int]:
        """Those of some shards that have a set, aside or not; one round trip to each node."""
        keys = self._keyspace
        counts = await self._connection.commands(
            [("EXISTS", keys.touched_aside(shard), keys.touched(shard)) for shard in shards]
        )
        return [shard for shard, count in zip(shards, counts, strict=True) if count]

    async def touched(self, shard: int, limit: int) -> tuple[Sequence[UsedCounter], bool]:
        """Counters that were moved, at most `limit`, and whether some are missing."""
        keys = self._keyspace
        aside, current = keys.touched_aside(shard), keys.touched(shard)
        members = await self._read(aside, limit)
        if not members and await self._connection.command("EXISTS", current):
            await self._connection.command("RENAMENX", current, aside)
            members = await self._read(aside, limit)
        missed = MISSED in members
        if missed:
            await self._connection.command("SREM", aside, MISSED)
        return [_parse(member) for member in members if member != MISSED], missed

    async def used(self, counters: Sequence[UsedCounter]) -> Sequence[int]:
        """What captures alone have used of each; of a rolling window, all its slices."""
        if not counters:
            return []
        fields = [[_captured(one.field)] for one in counters]
        rolling = [n for n, one in enumerate(counters) if one.field.startswith("v:")]
        if rolling:
            indexes = await self._connection.commands(
                [("HGET", self._key(counters[n]), "i:" + _name(counters[n].field)) for n in rolling]
            )
            for n, index in zip(rolling, indexes, strict=True):
                fields[n] = _slices(counters[n].field, index or b"")
        replies = await self._connection.commands(
            [("HMGET", self._key(one), *names) for one, names in zip(counters, fields, strict=True)]
        )
        return [_sum(reply) for reply in replies]

    async def forget(self, shard: int, counters: Sequence[UsedCounter]) -> None:
        """These have been looked at."""
        members: list[Argument] = [f"{one.customer_id}\n{one.field}" for one in counters]
        await self._connection.command("SREM", self._keyspace.touched_aside(shard), *members)

    async def _read(self, key: str, limit: int) -> list[bytes]:
        return list(await self._connection.command("SRANDMEMBER", key, limit))

    def _key(self, counter: UsedCounter) -> str:
        return self._keyspace.customer(counter.customer_id)


def _parse(member: bytes) -> UsedCounter:
    customer_id, _, field = member.decode().partition("\n")
    return UsedCounter(customer_id=customer_id, field=field)


def _name(field: str) -> str:
    """The name inside a window's or slice's field."""
    return field[2:].rpartition(":")[0]


def _captured(field: str) -> str:
    return "u:" + field[2:]


def _slices(field: str, index: bytes) -> list[str]:
    """Fields of all slices that count, by the scripts' index: ",start=leaves,..."."""
    starts = [part.partition("=")[0] for part in index.decode().split(_SLICE) if part]
    return [f"u:{_name(field)}:{start}" for start in starts] or [_captured(field)]


def _sum(counts: Sequence[bytes | None]) -> int:
    try:
        return sum(int(count) for count in counts if count is not None)
    except ValueError as error:
        raise StoreDamaged("redis: a counter of captured usage is no number") from error
