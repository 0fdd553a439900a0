"""Answers of writes that carried an Idempotency-Key, kept so that a repeat gets the same one."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sidecar.domain.errors import Conflict
from sidecar.outbound.postgres.pool import Pool, translate_errors
from sidecar.outbound.postgres.queries import query

RETENTION: Final = timedelta(hours=24)
"""How long an answer is kept at least."""
IN_PROGRESS_MAX: Final = timedelta(seconds=60)
"""A first use without an answer for this long has lost its process; a repeat takes it over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """The answer that the first use got."""

    status: int
    body: bytes


class PostgresIdempotencyKeys:
    """
    Remembers answers by (principal, key).

    Only an answer that is final is stored: after an error that a repeat may mend, `abandon`.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def begin(
        self, principal: str, key: str, *, route: str, body_hash: str
    ) -> StoredAnswer | None:
        """
        Take the key, or find the answer of its first use.

        Returns:
            None if the caller is the first and must `finish` or `abandon`, else the answer.

        Raises:
            Conflict: The key was used for another route or body, or its first use is under way.
        """
        with translate_errors():
            taken = await self._pool.fetchval(
                query("begin_idempotent"), principal, key, route, body_hash, IN_PROGRESS_MAX
            )
            if taken is not None:
                return None
            row = await self._pool.fetchrow(query("read_idempotent"), principal, key)
        if row is not None and (row["route"], row["body_hash"]) != (route, body_hash):
            raise Conflict("the idempotency key was used for another request")
        if row is None or row["status"] is None:
            raise Conflict("a request with this idempotency key is under way")
        return StoredAnswer(status=row["status"], body=row["response"])

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
