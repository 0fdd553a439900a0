"""How a customer's holds ended: implements `OrphanCounts`."""

from datetime import datetime

from sidecar.domain.orphans import COUNTED_MAX, OrphanCount
from sidecar.outbound.postgres.pool import Pool, translate_errors
from sidecar.outbound.postgres.queries import query


class PostgresOrphanCounts:
    """Implements OrphanCounts over settled events."""

    def __init__(self, pool: Pool) -> None:
        """Wire it."""
        self._pool = pool

    async def count_orphans(self, customer_id: str, since: datetime) -> OrphanCount:
        """A customer's settled holds since an instant, of the newest events."""
        with translate_errors():
            # One more than the largest limit, so that it can be passed.
            row = await self._pool.fetchrow(
                query("count_orphans"), customer_id, since, COUNTED_MAX + 1
            )
        assert row is not None
        return OrphanCount(orphans=row["orphans"], holds=row["holds"])
