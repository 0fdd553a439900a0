"""The shards' streams, as settlement reads them: implements `UsageStream`."""

from collections.abc import Collection, Sequence

from sidecar.outbound.redis import scripts
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.entries import read_entry
from sidecar.outbound.redis.keys import Keyspace
from sidecar.services.control_ports import CLAIM, AnyRecord, StreamRecord
from sidecar.services.entry_ids import entry_order, next_entry_id

_LOOK_BACK = 100
"""Entries that are no decisions, and stand last before an offset, are few."""


class RedisUsageStream:
    """Implements UsageStream."""

    def __init__(self, connection: RedisConnection, keyspace: Keyspace) -> None:
        """Wire it."""
        self._connection = connection
        self._keyspace = keyspace

    async def waiting(self, shards: Collection[int]) -> Collection[int]:
        """
        Those of some shards whose streams have entries, in one round trip to each node.

        Asked for by length, which is cheap to ask and to answer, and names no offset.
        """
        if not shards:
            return []
        lengths = await self._connection.commands(
            [("XLEN", self._keyspace.usage(shard)) for shard in shards]
        )
        return [shard for shard, length in zip(shards, lengths, strict=True) if length]

    async def read(self, shard: int, after: str, limit: int) -> Sequence[AnyRecord]:
        """Records after an entry id ("0-0" for the start), in order; reading removes nothing."""
        entry_order(after)
        entries = await self._connection.command(
            "XRANGE", self._keyspace.usage(shard), f"({after}", "+", "COUNT", limit
        )
        return [read_entry(entry_id, flat) for entry_id, flat in entries]

    async def trim(self, shard: int, below: str) -> None:
        """
        Drop entries at or below a committed offset, and no other: never by length.

        A crash before it costs nothing: the next trim drops these too.
        """
        await self._connection.command(
            "XTRIM", self._keyspace.usage(shard), "MINID", "=", next_entry_id(below)
        )

    async def tell_settled(self, shard: int, epoch: int, seq: int) -> None:
        """Raise the shard's settled watermark; a lower one changes nothing."""
        await self._connection.run(scripts.SETTLED, (self._keyspace.shard(shard),), (epoch, seq))

    async def standing_at(self, shard: int, offset: str) -> tuple[int, int] | None:
        """
        (epoch, seq) of the last decision at or before a committed offset.

        Returns:
            None if that has been trimmed: whoever trimmed it has told before. None beside a
            claim, whose own capture may not be settled yet.
        """
        entry_order(offset)
        entries = await self._connection.command(
            "XREVRANGE", self._keyspace.usage(shard), offset, "-", "COUNT", _LOOK_BACK
        )
        read = [read_entry(entry_id, flat) for entry_id, flat in entries]
        decisions = [record for record in read if isinstance(record, StreamRecord)]
        if not decisions or any(record.kind == CLAIM for record in decisions):
            return None
        return decisions[0].epoch, decisions[0].seq
