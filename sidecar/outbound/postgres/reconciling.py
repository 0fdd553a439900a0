"""What the ledger says of customers' credit, and its projections: the port `LedgerCredits`."""

import json
from collections.abc import Sequence
from typing import Final

from sidecar.domain.credit_replay import Credit
from sidecar.domain.holds import hold_day
from sidecar.domain.reconciliation import Difference, DifferenceKind, GrantLine, Remedy
from sidecar.outbound.postgres.pool import ACQUIRE_SECONDS_MAX, Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.reconciling import LedgerCredit

LIST_MAX: Final = 1_000


class PostgresCredits:
    """Implements LedgerCredits."""

    def __init__(self, pool: Pool) -> None:
        """Wire it."""
        self._pool = pool

    async def list_customer_ids(self, *, after: str, limit: int) -> Sequence[str]:
        """Customers by id, those after `after`; at most LIST_MAX."""
        with translate_errors():
            rows = await self._pool.fetch(query("list_customer_ids"), after, min(limit, LIST_MAX))
        return [row["customer_id"] for row in rows]

    async def read_credit(
        self, customer_id: str, shard: int, hold_ids: Sequence[str]
    ) -> LedgerCredit | None:
        """What is posted of a customer and of these holds, and up to which offset: one look."""
        days = sorted({hold_day(hold_id) for hold_id in hold_ids})
        with translate_errors():
            row = await self._pool.fetchrow(
                query("read_credit"), customer_id, shard, days, list(hold_ids)
            )
        if row is None:
            return None
        grants = [_grant_line(item) for item in json.loads(row["grants"] or "[]")]
        return LedgerCredit(
            customer_id=customer_id,
            credit=Credit(
                granted_nano=int(row["granted_nano"]),
                used_nano=int(row["used_nano"]),
                used_prepaid_nano=int(row["used_prepaid_nano"]),
                voided_nano=int(row["voided_nano"]),
                expired_nano=int(row["expired_nano"]),
                deficit_nano=int(row["deficit_nano"]),
                remaining={line.grant_id: line.free_nano for line in grants if not line.scheduled},
            ),
            offset=row["stream_offset"],
            grants={line.grant_id: line for line in grants},
            settled_holds=tuple(row["settled_holds"]),
        )

    async def unsummed(self, *, limit: int) -> Sequence[Difference]:
        """Projections that are not the sum of their entries; reads the whole ledger."""
        found: list[Difference] = []
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                await connection.execute(query("idle_at_leisure"))
                for name in ("unsummed_balances", "unsummed_grants"):
                    found += [
                        Difference(
                            customer_id=row["customer_id"],
                            kind=DifferenceKind.MANUAL_EDIT,
                            what=row["what"],
                            expected_nano=int(row["expected_nano"]),
                            found_nano=int(row["found_nano"]),
                            remedy=Remedy.RESUM,
                        )
                        for row in await connection.fetch(query(name), limit)
                    ]
        return found

    async def resum(self, customer_id: str) -> None:
        """Sum the customer's projections up from the entries anew."""
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                await connection.execute(query("resum_balances"), customer_id)
                await connection.execute(query("resum_grants"), customer_id)


def _grant_line(item: dict[str, object]) -> GrantLine:
    """A grant as the live book would have it, all of it free."""
    expires, begun = item["expires_ms"], item["state"] == "posted"
    return GrantLine(
        grant_id=str(item["grant_id"]),
        state="active" if begun else "scheduled",
        kind=str(item["kind"]),
        priority=int(str(item["priority"])),
        effective_ms=int(str(item["effective_ms"])),
        expires_ms=None if expires is None else int(str(expires)),
        meters=str(item["meters"]),
        free_nano=int(str(item["free_nano"])),
        pinned_nano=0,
        rolls="" if begun else str(item["rolls"]),
    )
