"""The shards' streams of decision records: implements `DecisionStream`."""

from collections.abc import Mapping, Sequence

from sidecar.domain.decision_records import decode_record
from sidecar.domain.errors import InvalidInput
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.keys import Keyspace
from sidecar.services.decision_ports import EncodedDecision, StreamedDecision
from sidecar.services.entry_ids import next_entry_id

NOBODY_SHARD = 0
"""Where denials go that belong to no customer."""
_FIELD = b"r"


class RedisDecisionStream:
    """
    Implements DecisionStream.

    A shard keeps about `length_max` records: where nobody takes them off, the oldest go. They
    are foresight, not money, and must not fill the store that holds money.
    """

    def __init__(self, connection: RedisConnection, keyspace: Keyspace, *, length_max: int) -> None:
        """Wire it."""
        self._connection = connection
        self._keyspace = keyspace
        self._length_max = length_max

    async def append(self, decisions: Sequence[EncodedDecision]) -> None:
        """Append all in one round trip. Raises StoreUnavailable: some may have been appended."""
        if not decisions:
            return
        await self._connection.commands(
            [
                (
                    "XADD",
                    self._keyspace.decisions(self._shard_of(decision.customer_id)),
                    "MAXLEN",
                    "~",
                    self._length_max,
                    "*",
                    _FIELD,
                    decision.payload,
                )
                for decision in decisions
            ]
        )

    async def read(self, limit: int) -> Sequence[Sequence[StreamedDecision]]:
        """The oldest entries of each shard, at most `limit` each, in one round trip."""
        shards = range(self._keyspace.shards)
        replies = await self._connection.commands(
            [
                ("XRANGE", self._keyspace.decisions(shard), "-", "+", "COUNT", limit)
                for shard in shards
            ]
        )
        return [
            [_read_entry(shard, entry_id, flat) for entry_id, flat in reply]
            for shard, reply in zip(shards, replies, strict=True)
        ]

    async def trim(self, committed: Mapping[int, str]) -> None:
        """Drop each shard's entries up to and with the given one; safe to repeat."""
        if not committed:
            return
        await self._connection.commands(
            [
                ("XTRIM", self._keyspace.decisions(shard), "MINID", "=", next_entry_id(entry_id))
                for shard, entry_id in committed.items()
            ]
        )

    def _shard_of(self, customer_id: str) -> int:
        return self._keyspace.shard_of(customer_id) if customer_id else NOBODY_SHARD


def _read_entry(shard: int, entry_id: bytes, flat: Sequence[bytes]) -> StreamedDecision:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    payload = fields.get(_FIELD, b"")
    try:
        record = decode_record(payload)
    except InvalidInput:
        record = None
    return StreamedDecision(shard=shard, entry_id=entry_id.decode(), record=record, payload=payload)
