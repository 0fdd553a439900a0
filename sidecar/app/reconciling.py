"""Comparing live balances with the ledger, from the command line or beside settlement."""

from sidecar.app.parts import SystemClock
from sidecar.app.running import with_running_stores
from sidecar.domain.errors import ConfigError
from sidecar.outbound.postgres.pool import Pool, open_pool
from sidecar.outbound.postgres.reconciling import PostgresCredits
from sidecar.outbound.redis.auditing import RedisLiveBooks
from sidecar.outbound.redis.balances import RedisBalances
from sidecar.outbound.redis.connection import RedisConnection, fix_shards
from sidecar.outbound.redis.keys import Keyspace
from sidecar.outbound.redis.stream import RedisUsageStream
from sidecar.services.ports import Clock
from sidecar.services.reconciling import Reconciler, ReconcileReport
from sidecar.settings import Settings

_STATEMENT_SECONDS_MAX = 600.0


def make_reconciler(
    redis: RedisConnection, keyspace: Keyspace, pool: Pool, clock: Clock
) -> Reconciler:
    """Wire it over stores that are open."""
    return Reconciler(
        books=RedisLiveBooks(redis, keyspace),
        ledger=PostgresCredits(pool),
        stream=RedisUsageStream(redis, keyspace),
        balances=RedisBalances(redis, keyspace, clock),
    )


async def reconcile(settings: Settings, *, customer_id: str | None, fix: bool) -> ReconcileReport:
    """
    Compare all customers of the settings' stores, or one; see `Reconciler.run_once`.

    Raises:
        ConfigError: A store is not named, and none runs in the data directory.
        StoreUnavailable: A store is away.
    """
    settings = with_running_stores(settings)
    if not (settings.redis_url and settings.postgres_dsn):
        raise ConfigError(
            "SIDECAR_REDIS_URL and SIDECAR_POSTGRES_DSN are not both set, and no `sidecar serve` "
            "runs embedded stores in the data directory"
        )
    redis = RedisConnection.from_url(settings.redis_url)
    try:
        keyspace = await fix_shards(redis, settings.shards)
        pool = await open_pool(
            settings.postgres_dsn,
            command_timeout_seconds=_STATEMENT_SECONDS_MAX,
            application_name="sidecar-reconcile",
        )
        try:
            reconciler = make_reconciler(redis, keyspace, pool, SystemClock())
            return await reconciler.run_once(customer_id=customer_id, fix=fix)
        finally:
            await pool.close()
    finally:
        await redis.aclose()
