"""Open holds of all shards, in the order in which they expire: implements `OpenHolds`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from sidecar.domain.holds import HoldState
from sidecar.outbound.redis import scripts
from sidecar.outbound.redis.balances import read_stored_hold
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.keys import Keyspace
from sidecar.services.open_holds import HoldPage, HoldPosition
from sidecar.services.ports import StoredHold

BATCH: Final = 500
LOOKED_AT_MAX: Final = 10_000
"""Holds that one page looks at; of a customer with few among many, pages are short."""

_Found = tuple[HoldPosition, StoredHold]


class RedisOpenHolds:
    """Implements OpenHolds over the shards' expiry sets; writes nothing."""

    def __init__(self, connection: RedisConnection, keyspace: Keyspace) -> None:
        """Wire it."""
        self._connection = connection
        self._keyspace = keyspace

    async def page(
        self, *, limit: int, after: HoldPosition | None = None, customer_id: str = ""
    ) -> HoldPage:
        """Open holds behind a position; see the port."""
        found: list[_Found] = []
        looked_at = 0
        async for batch in self._batches(after, customer_id):
            found += await self._open(batch, customer_id)
            looked_at += len(batch)
            if len(found) > limit:
                page = found[:limit]
                return HoldPage(holds=[hold for _, hold in page], next=page[-1][0])
            if looked_at >= LOOKED_AT_MAX:
                return HoldPage(holds=[hold for _, hold in found], next=batch[-1])
        return HoldPage(holds=[hold for _, hold in found])

    async def _batches(
        self, after: HoldPosition | None, customer_id: str
    ) -> AsyncIterator[Sequence[HoldPosition]]:
        """All positions behind one, some at a time; of the customer's shard alone if named."""
        keys = self._keyspace
        shards = [keys.shard_of(customer_id)] if customer_id else range(keys.shards)
        sizes = await self._connection.commands([("ZCARD", keys.expiry(shard)) for shard in shards])
        for shard, size in zip(shards, sizes, strict=True):
            if not size or (after is not None and shard < after.shard):
                continue
            start = after if after is not None and after.shard == shard else None
            offset = 0
            while True:
                flat = await self._connection.command(
                    *("ZRANGEBYSCORE", keys.expiry(shard)),
                    *(start.expires_at_ms if start else "-inf", "+inf"),
                    *("WITHSCORES", "LIMIT", offset, BATCH),
                )
                batch = [
                    HoldPosition(
                        shard=shard, hold_id=flat[at].decode(), expires_at_ms=int(flat[at + 1])
                    )
                    for at in range(0, len(flat), 2)
                ]
                behind = [one for one in batch if start is None or _is_behind(one, start)]
                if behind:
                    yield behind
                if len(batch) < BATCH:
                    break
                # From the last one on, so that nothing is left out where others have ended;
                # by the offset only where one instant fills a whole batch.
                offset = 0 if behind else offset + BATCH
                start = behind[-1] if behind else start

    async def _open(self, batch: Sequence[HoldPosition], customer_id: str) -> list[_Found]:
        """Those that are open, of the customer if named, with their terms."""
        keys, shard = self._keyspace, batch[0].shard
        owners = await self._connection.command(
            "HMGET", keys.open(shard), *(position.hold_id for position in batch)
        )
        wanted = [
            (position, owner.decode())
            for position, owner in zip(batch, owners, strict=True)
            if owner is not None and customer_id in ("", owner.decode())
        ]
        replies = await asyncio.gather(
            *(
                self._connection.run(
                    scripts.READ, keys.hold_keys(owner, position.hold_id), (position.hold_id,)
                )
                for position, owner in wanted
            )
        )
        found = []
        for (position, _), reply in zip(wanted, replies, strict=True):
            stored = read_stored_hold(reply)
            if stored is not None and stored.state is HoldState.OPEN:
                found.append((position, stored))
        return found


def _is_behind(one: HoldPosition, other: HoldPosition) -> bool:
    return (one.expires_at_ms, one.hold_id) > (other.expires_at_ms, other.hold_id)
