"""Where the ledger's word on claimed usage goes: implements `ClaimedHolds`."""

from sidecar.domain.rebuilding import RecordedUsage
from sidecar.outbound.redis import scripts
from sidecar.outbound.redis.connection import Argument, RedisConnection
from sidecar.outbound.redis.keys import Keyspace
from sidecar.outbound.redis.total_steps import split_record, taken_record


class RedisClaimedHolds:
    """Implements ClaimedHolds."""

    def __init__(self, connection: RedisConnection, keyspace: Keyspace) -> None:
        """Wire it."""
        self._connection = connection
        self._keyspace = keyspace

    async def answer(self, customer_id: str, hold_id: str, charged: RecordedUsage | None) -> None:
        """
        Say what was charged for a hold; only a claim that is still open takes it in.

        Raises:
            StoreUnavailable: Repeat it.
        """
        told: tuple[Argument, ...] = ("free", 0, 0, 0, "", 0, taken_record(()), "")
        if charged is not None:
            told = (
                "captured",
                charged.amount_nano,
                charged.overage_nano,
                int(charged.estimated),
                charged.digest,
                charged.corrections,
                taken_record(charged.taken),
                split_record(charged),
            )
        keys = self._keyspace.hold_keys(customer_id, hold_id)
        await self._connection.run(scripts.CLAIM, keys, (hold_id, customer_id, *told))
