"""The ledger of record and settlement's own state: the port `Ledger`."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import asyncpg

from sidecar import telemetry
from sidecar.domain.errors import Conflict, NotFound
from sidecar.outbound.postgres.pool import (
    ACQUIRE_SECONDS_MAX,
    Connection,
    Pool,
    refuse_bad_data,
    translate_errors,
)
from sidecar.outbound.postgres.posting import begin_chain, head_of
from sidecar.outbound.postgres.queries import query
from sidecar.outbound.postgres.settlement_batch import Batch, make_batch
from sidecar.outbound.postgres.settlement_steps import Posted, RepeatedEventsError, SettlementSteps
from sidecar.services.control_ports import AnyRecord, ShardLease


class PostgresLedger:
    """
    Posts stream records in batches; see README.md for what holds at each step.

    Leases run by Postgres' clock, and the fence is checked under the lock of the shard's row.
    """

    def __init__(
        self, pool: Pool, *, provider: str = "stripe", accounts_come: bool = False
    ) -> None:
        """
        Wire it.

        Args:
            pool: The database of record.
            provider: Whom quantities are reported to.
            accounts_come: Whether customers without an account there get one by themselves, so
                that their usage waits for it.
        """
        self._pool = pool
        self._provider = provider
        self._accounts_come = accounts_come

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
        return ShardLease(
            shard=shard,
            owner=owner,
            fence=row["fence"],
            offset=row["stream_offset"],
            epoch=row["epoch"],
        )

    async def lease_left(self, shard: int, owner: str) -> float:
        """Seconds for which another owner than this has the shard; 0 if nobody has."""
        with translate_errors():
            seconds = await self._pool.fetchval(query("lease_left"), shard, owner)
        return float(seconds or 0)

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
        done: tuple[Batch | None, Posted] | None = None
        may_repeat = False
        while done is None:
            try:
                with translate_errors(), refuse_bad_data():
                    async with (
                        self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                        connection.transaction(),
                    ):
                        done = await self._settle_locked(
                            connection, lease, records, reported_meters, may_repeat=may_repeat
                        )
            except RepeatedEventsError:
                # Rolled back, and posted again in the way that leaves out what is there.
                may_repeat = True
        batch, posted = done
        if batch is not None:
            _count(batch, posted)
        return posted.decided + posted.aside

    async def _settle_locked(
        self,
        connection: Connection,
        lease: ShardLease,
        records: Sequence[AnyRecord],
        reported_meters: Mapping[str, frozenset[str]],
        *,
        may_repeat: bool,
    ) -> tuple[Batch | None, Posted] | None:
        """What was posted; None if the chain has to take in more of what was there before it."""
        row = await _lock(connection, lease)
        batch = make_batch(
            records, shard=lease.shard, epoch=row["epoch"], offset=row["stream_offset"]
        )
        if batch is None:
            return None, Posted(events=0, grants=0, changes=0, aside=0)
        head = head_of(lease.shard, row)
        if not row["chain_began"]:
            head, began = await begin_chain(connection, head)
            if not began:
                return None
        steps = SettlementSteps(
            connection,
            batch,
            provider=self._provider,
            accounts_come=self._accounts_come,
            reported_meters=reported_meters,
            head=head,
            posted_at=row["posted_at"],
            may_repeat=may_repeat,
        )
        return batch, await steps.run()

    async def read_available(self, customer_id: str) -> int:
        """
        What the ledger says: granted - voided - expired - used.

        In nano and in the customer's currency.

        Raises:
            NotFound: Unknown customer.
        """
        with translate_errors():
            available = await self._pool.fetchval(query("read_available"), customer_id)
        if available is None:
            raise NotFound(f"there is no customer {customer_id!r}")
        return int(available)


async def _lock(connection: Connection, lease: ShardLease) -> asyncpg.Record:
    """Lock the shard's row: from here to the commit nobody else settles it or links its chain."""
    row = await connection.fetchrow(query("lock_shard"), lease.shard)
    if row is None or row["lease_owner"] != lease.owner or row["fence"] != lease.fence:
        raise Conflict(f"the lease on shard {lease.shard} was lost")
    if row["epoch"] != lease.epoch:
        raise Conflict(f"shard {lease.shard} was made anew since its lease was taken")
    return row


def _count(batch: Batch, posted: Posted) -> None:
    """After the commit, so that a batch that is rolled back and repeated counts once."""
    decided = len(batch.usage) + len(batch.grants) + len(batch.changes)
    counts = {
        "posted": posted.decided,
        "repeated": decided - posted.decided,
        "quarantined": posted.aside,
    }
    for outcome, count in counts.items():
        if count:
            telemetry.SETTLED_EVENTS.labels(outcome).inc(count)
