"""What makes lost shards anew and settles claims of captures, over the database of record."""

import asyncio
from collections.abc import Awaitable, Callable

from sidecar.app.data_plane import DataPlane
from sidecar.app.recovery import Recovery
from sidecar.outbound.postgres.counter_totals import forget_counted
from sidecar.outbound.postgres.ended_holds import PostgresClaims
from sidecar.outbound.postgres.pool import Pool
from sidecar.outbound.postgres.rebuilding import PostgresRebuildRecord
from sidecar.outbound.redis.claimed_holds import RedisClaimedHolds
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.keys import Keyspace
from sidecar.outbound.redis.rate_cards import RedisRateCards
from sidecar.outbound.redis.stream import RedisUsageStream
from sidecar.services.claim_settling import Claims
from sidecar.services.metering import MeteringService
from sidecar.services.rebuilding import Rebuilder
from sidecar.services.rounds import run_rounds
from sidecar.settings import Rebuild

_FORGET_SECONDS = 3_600.0


def look_for_lost_shards(
    recovery: Recovery,
    plane: DataPlane,
    pool: Pool,
    settle: Callable[[int], Awaitable[int]] | None,
) -> None:
    """
    Have recovery look for lost shards.

    Args:
        recovery: Of this process.
        plane: Whose policies and cards windows and totals are counted by.
        pool: The database of record.
        settle: Settles a shard; without it nothing is made anew by itself.
    """
    settings = plane.settings

    async def forget(stop: asyncio.Event) -> None:
        await run_rounds(
            stop,
            lambda: forget_counted(pool),
            name="counter_totals",
            pause_seconds=_FORGET_SECONDS,
        )

    recovery.use_rebuilder(
        Rebuilder(
            record=PostgresRebuildRecord(pool),
            live=recovery.live,
            stream=RedisUsageStream(plane.redis, plane.keyspace),
            settle=settle or _settle_nothing,
            policies=plane.policies,
            rate_cards=plane.rate_cards,
            automatic=settle is not None and settings.rebuild is Rebuild.AUTO,
            drain_seconds_max=2.0 * settings.lease_seconds,
        ),
        forget,
    )


def make_claims(
    pool: Pool, redis: RedisConnection, keyspace: Keyspace, metering: MeteringService
) -> Claims:
    """What settlement settles claims with."""
    return Claims(
        charged=PostgresClaims(pool),
        holds=RedisClaimedHolds(redis, keyspace),
        metering=metering,
        rate_cards=RedisRateCards(redis),
    )


async def _settle_nothing(_: int) -> int:
    return 0
