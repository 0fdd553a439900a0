"""How far each shard is, for the gateway's journal: implements `ShardMarks`."""

from collections.abc import Sequence
from typing import Any

from sidecar.outbound.redis.connection import Argument, RedisConnection
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.outbound.redis.keys import Keyspace
from sidecar.services.journal_ports import ShardMark

_FIELDS = ("epoch", "seq", "settled_ep", "settled_seq")
_COMMANDS_EACH = 2


class RedisShardMarks:
    """Implements ShardMarks; reads only, with commands that a gateway may give."""

    def __init__(self, connection: RedisConnection, keyspace: Keyspace) -> None:
        """Wire it."""
        self._connection = connection
        self._keyspace = keyspace

    async def read(self, shards: Sequence[int]) -> Sequence[ShardMark]:
        """
        One mark for each shard, in one round trip.

        Settlement trims what it has committed, so an empty stream holds nothing that is not. In
        a cluster, length and numbers may be answered in any order.

        Raises:
            StoreDamaged: What stands there is no number.
        """
        if not shards:
            return ()
        commands: list[tuple[Argument, ...]] = []
        for shard in shards:
            commands += (
                ("HMGET", self._keyspace.shard(shard), *_FIELDS),
                ("XLEN", self._keyspace.usage(shard)),
            )
        replies = await self._connection.commands(commands)
        return [
            _mark(shard, *replies[number * _COMMANDS_EACH : (number + 1) * _COMMANDS_EACH])
            for number, shard in enumerate(shards)
        ]


def _mark(shard: int, fields: list[Any], length: int) -> ShardMark:
    try:
        epoch, seq, settled_epoch, settled_seq = (int(value or b"0") for value in fields)
    except ValueError as error:
        raise StoreDamaged("redis: a shard's mark is no number") from error
    return ShardMark(
        shard=shard,
        epoch=epoch,
        seq=seq,
        settled_epoch=settled_epoch,
        settled_seq=settled_seq,
        empty=length == 0,
    )
