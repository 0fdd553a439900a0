"""Answers of writes that carried an Idempotency-Key, kept so that a repeat gets the same one."""

from datetime import timedelta
from typing import Final

from sidecar.domain.errors import StoreUnavailable
from sidecar.outbound.postgres.pool import Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.idempotency import IdempotencyRecord

RETENTION: Final = timedelta(hours=24)
"""How long an answer is kept at least."""
IN_PROGRESS_MAX: Final = timedelta(seconds=60)
"""A first use without an answer for this long has lost its process; a repeat takes it over."""


class PostgresIdempotencyKeys:
    """
    Implements IdempotencyStore: remembers answers by (principal, key).

    Only an answer that is final is stored: after an error that a repeat may mend, `abandon`.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def begin(
        self, principal: str, key: str, *, route: str, body_hash: str
    ) -> IdempotencyRecord | None:
        """
        Take the key, or find the record that stands.

        Raises:
            StoreUnavailable: Also where the key was given back at this very moment: repeat it.
        """
        with translate_errors():
            taken = await self._pool.fetchval(
                query("begin_idempotent"), principal, key, route, body_hash, IN_PROGRESS_MAX
            )
            if taken is not None:
                return None
            row = await self._pool.fetchrow(query("read_idempotent"), principal, key)
        if row is None:
            raise StoreUnavailable("the idempotency key was given back meanwhile; repeat it")
        return IdempotencyRecord(
            route=row["route"],
            body_hash=row["body_hash"],
            status=row["status"],
            body=row["response"] or b"",
        )

    async def finish(self, principal: str, key: str, *, status: int, body: bytes) -> None:
        """Store the answer; the first one stays."""
        with translate_errors():
            await self._pool.execute(query("finish_idempotent"), principal, key, status, body)

    async def abandon(self, principal: str, key: str) -> None:
        """Give the key back, so that a repeat is a first use again."""
        with translate_errors():
            await self._pool.execute(query("abandon_idempotent"), principal, key)

    async def sweep(self, *, limit: int = 10_000) -> int:
        """Drop keys older than RETENTION, at most `limit`; returns how many."""
        with translate_errors():
            tag = await self._pool.execute(query("sweep_idempotent"), RETENTION, limit)
        return int(tag.rpartition(" ")[2])
