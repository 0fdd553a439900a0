"""Customers on their way to the billing provider: implements `OnboardingRecord`."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sidecar.outbound.postgres.pool import Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.onboarding import Newcomer

_REASON_CHARS_MAX: Final = 250
"""Four octets each fit the column."""


class PostgresProviderCustomers:
    """Rows that are claimed by moving their next attempt; only the newest attempt may finish."""

    def __init__(self, pool: Pool, *, provider: str = "stripe") -> None:
        """Wire it."""
        self._pool = pool
        self._provider = provider

    async def enlist(self, *, limit: int) -> int:
        """Make rows of customers who have none and no account; how many."""
        with translate_errors():
            return len(await self._pool.fetch(query("enlist_customers"), self._provider, limit))

    async def claim(self, *, limit: int, lease_seconds: int) -> Sequence[Newcomer]:
        """Those that are due."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("claim_provider_customers"),
                self._provider,
                limit,
                timedelta(seconds=lease_seconds),
            )
        return [
            Newcomer(
                **{name: row[name] for name in Newcomer.__slots__ if name != "subscribing"},
                subscribing=row["state"] == "subscribing",
            )
            for row in rows
        ]

    async def map(self, newcomer: Newcomer, account_id: str, *, subscribe: bool) -> None:
        """Put the account on record, unless another attempt was faster."""
        with translate_errors():
            await self._pool.execute(
                query("map_provider_customer"),
                newcomer.customer_id,
                self._provider,
                newcomer.attempts,
                account_id,
                "subscribing" if subscribe else "done",
            )

    async def finish(self, newcomer: Newcomer, *, subscription_id: str = "") -> None:
        """Done."""
        await self._end(newcomer, "done", subscription_id, "")

    async def refuse(self, newcomer: Newcomer, reason: str) -> None:
        """Left to people."""
        await self._end(newcomer, "refused", "", reason)

    async def put_behind(
        self, newcomer: Newcomer, *, reason: str, retry_at: datetime, rotate: bool
    ) -> None:
        """Try it later."""
        with translate_errors():
            await self._pool.execute(
                query("put_provider_customer_behind"),
                newcomer.customer_id,
                self._provider,
                newcomer.attempts,
                int(rotate),
                _text(reason),
                retry_at,
            )

    async def _end(self, newcomer: Newcomer, state: str, subscription_id: str, reason: str) -> None:
        with translate_errors():
            await self._pool.execute(
                query("finish_provider_customer"),
                newcomer.customer_id,
                self._provider,
                newcomer.attempts,
                state,
                subscription_id,
                _text(reason),
            )


def _text(words: str) -> str:
    """Postgres refuses NUL in text, and a provider's words may hold anything."""
    return words.replace("\0", "")[:_REASON_CHARS_MAX]
