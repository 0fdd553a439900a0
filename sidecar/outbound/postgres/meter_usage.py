"""Settled usage by meter: the port `MeterUsage`."""

import json
from collections.abc import Sequence
from typing import Final

from sidecar.outbound.postgres.pool import Pool, translate_errors
from sidecar.outbound.postgres.queries import query as statement
from sidecar.services.meter_queries import SUBJECT, MeterQuery, StoredUsage

QUERY_SECONDS_MAX: Final = 10.0
"""Longest query; it must not keep settlement's connections busy."""


class PostgresMeterUsage:
    """Reads lines by the instant that their requests were decided at."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def query(
        self, query: MeterQuery, groups: Sequence[str], *, groups_max: int, limit: int
    ) -> Sequence[StoredUsage]:
        """At most `limit` rows. Raises StoreUnavailable, also if it takes too long."""
        with translate_errors():
            rows = await self._pool.fetch(
                statement("query_meter"),
                query.meter,
                query.start,
                query.end,
                query.window_size.value.lower() if query.window_size else "",
                query.time_zone,
                list(query.subjects) or None,
                SUBJECT in query.group_by or bool(query.subjects),
                list(groups),
                json.dumps({name: list(values) for name, values in query.filters.items()}),
                groups_max,
                limit,
                timeout=QUERY_SECONDS_MAX,
            )
        return [
            StoredUsage(
                subject=row["subject"],
                window_start=row["window_start"],
                groups=tuple(row["wanted"]),
                total=int(row["total"]),
                largest=row["largest"],
                distinct=row["distinct_values"],
                newest=row["newest"],
            )
            for row in rows
        ]
