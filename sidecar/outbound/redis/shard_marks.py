"""How far each shard is, for the gateway's journal: implements `ShardMarks`."""

from collections.abc import Sequence
from typing import Any

from sidecar.domain.errors import StoreUnavailable
from sidecar.outbound.redis.connection import Argument, RedisConnection
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.outbound.redis.keys import Keyspace
from sidecar.outbound.redis.shard_watch import Position
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

        A shard that has lost something, as far as this process can tell, has no epoch here: what it
        says is settled may be about other captures than those that it lost.

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
        watch = self._connection.watch
        asked = {shard: watch.known(self._keyspace.shard(shard)) for shard in shards}
        replies = await self._connection.commands(commands)
        marks = [
            _mark(shard, *replies[number * _COMMANDS_EACH : (number + 1) * _COMMANDS_EACH])
            for number, shard in enumerate(shards)
        ]
        return [self._believed(mark, asked[mark.shard]) for mark in marks]

    def _believed(self, mark: ShardMark, asked: Position) -> ShardMark:
        """The mark, or none where the store behind it is not what it was."""
        try:
            key = self._keyspace.shard(mark.shard)
            self._connection.watch.take(key, asked, (mark.epoch, mark.seq))
        except StoreUnavailable:
            return ShardMark(
                shard=mark.shard, epoch=0, seq=0, settled_epoch=0, settled_seq=0, empty=False
            )
        return mark


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
