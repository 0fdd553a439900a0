"""The ledger of record and settlement's own state: the port `Ledger`."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from sidecar import telemetry
from sidecar.domain.errors import Conflict, NotFound
from sidecar.outbound.postgres.pool import (
    ACQUIRE_SECONDS_MAX,
    Connection,
    Pool,
    refuse_bad_data,
    translate_errors,
)
from sidecar.outbound.postgres.queries import query
from sidecar.outbound.postgres.settlement_batch import Batch, make_batch
from sidecar.outbound.postgres.settlement_steps import Posted, SettlementSteps
from sidecar.services.control_ports import AnyRecord, ShardLease


class PostgresLedger:
    """
    Posts stream records in batches; see README.md for what holds at each step.

    Leases run by Postgres' clock, and the fence is checked under the lock of the shard's row.
    """

    def __init__(self, pool: Pool, *, provider: str = "stripe") -> None:
        self._pool = pool
        self._provider = provider

    async def claim_shard(self, shard: int, owner: str, lease_seconds: int) -> ShardLease | None:
        """
        Take or renew the lease; None while another owner has it or settles.

        The fence grows with each change of owner, so whoever lost the lease cannot commit.
        """
        with translate_errors():
            await self._pool.execute(query("ensure_shard"), shard)
            row = await self._pool.fetchrow(
                query("claim_shard"), shard, owner, timedelta(seconds=lease_seconds)
            )
        if row is None:
            return None
        return ShardLease(shard=shard, owner=owner, fence=row["fence"], offset=row["stream_offset"])

    async def settle(
        self,
        lease: ShardLease,
        records: Sequence[AnyRecord],
        reported_meters: Mapping[str, frozenset[str]],
    ) -> int:
        """
        Post records and the new offset in one database transaction.

        Records at or below the committed offset are skipped, and those whose key is there
        already are counted as repeated, so a replay changes nothing.

        Returns:
            How many records were new.

        Raises:
            Conflict: The lease was lost; nothing was written.
            InvalidInput: Some record cannot be posted; nothing was written.
            StoreUnavailable: All of it or nothing was written; repeat it.
        """
        with translate_errors(), refuse_bad_data():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                batch = await _lock(connection, lease, records)
                if batch is None:
                    return 0
                steps = SettlementSteps(connection, batch, self._provider, reported_meters)
                posted = await steps.run()
        _count(batch, posted)
        return posted.events + posted.grants + posted.aside

    async def read_available(self, customer_id: str) -> int:
        """
        What the ledger says: granted - used, in nano and in the customer's currency.

        Raises:
            NotFound: Unknown customer.
        """
        with translate_errors():
            available = await self._pool.fetchval(query("read_available"), customer_id)
        if available is None:
            raise NotFound(f"there is no customer {customer_id!r}")
        return int(available)


async def _lock(
    connection: Connection, lease: ShardLease, records: Sequence[AnyRecord]
) -> Batch | None:
    """Lock the shard's row: from here to the commit nobody else settles it."""
    row = await connection.fetchrow(query("lock_shard"), lease.shard)
    if row is None or row["lease_owner"] != lease.owner or row["fence"] != lease.fence:
        raise Conflict(f"the lease on shard {lease.shard} was lost")
    return make_batch(records, shard=lease.shard, epoch=row["epoch"], offset=row["stream_offset"])


def _count(batch: Batch, posted: Posted) -> None:
    """After the commit, so that a batch that is rolled back and repeated counts once."""
    decided = len(batch.usage) + len(batch.grants)
    counts = {
        "posted": posted.events + posted.grants,
        "repeated": decided - posted.events - posted.grants,
        "quarantined": posted.aside,
    }
    for outcome, count in counts.items():
        if count:
            telemetry.SETTLED_EVENTS.labels(outcome).inc(count)
