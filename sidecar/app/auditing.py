"""Verifying and signing the ledger from the command line, beside whatever runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidecar.app.keys import load_secrets
from sidecar.app.parts import SystemClock
from sidecar.app.running import with_running_stores
from sidecar.domain.errors import ConfigError
from sidecar.domain.ledger_chain import LedgerRoot
from sidecar.outbound.embedded import default_data_dir
from sidecar.outbound.keyed_hashes import LedgerRootKeys
from sidecar.outbound.postgres.ledger_audit import PostgresLedgerAudit
from sidecar.outbound.postgres.ledger_roots import PostgresLedgerRoots
from sidecar.outbound.postgres.pool import Pool, open_pool
from sidecar.services.ledger_roots import LedgerVerdict
from sidecar.settings import Settings

_STATEMENT_SECONDS_MAX = 600.0


async def verify_ledger(settings: Settings, *, chain: int | None, from_root: bool) -> LedgerVerdict:
    """
    Verify the ledger of the settings; see `PostgresLedgerAudit.verify`.

    Raises:
        ConfigError: No database, no secret keys, or a schema without chains.
    """
    async with _opened(settings) as (pool, keys):
        return await PostgresLedgerAudit(pool, keys).verify(chain=chain, from_root=from_root)


async def write_root(settings: Settings) -> LedgerRoot | None:
    """Sign where the chains stand now; None while there is nothing to sign."""
    async with _opened(settings) as (pool, keys):
        return await PostgresLedgerRoots(pool, keys).write(SystemClock().now(), daily=False)


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Pool, LedgerRootKeys]]:
    dsn = with_running_stores(settings).postgres_dsn
    if not dsn:
        raise ConfigError(
            "SIDECAR_POSTGRES_DSN is not set, and no `sidecar serve` runs an embedded Postgres in "
            "the data directory"
        )
    ring = load_secrets(settings, settings.data_dir or default_data_dir()).ring
    pool = await open_pool(
        dsn,
        size_max=1,
        command_timeout_seconds=_STATEMENT_SECONDS_MAX,
        application_name="sidecar-ledger",
    )
    try:
        yield pool, LedgerRootKeys(ring)
    finally:
        await pool.close()
