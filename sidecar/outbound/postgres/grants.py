"""Grants and withdrawals of record; a part of the port `Accounts`."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import asyncpg

from sidecar.domain.errors import Conflict, InvariantViolated, NotFound
from sidecar.domain.grants import GrantKind, Rollover, WithdrawalKind
from sidecar.outbound.postgres.claimed_writes import write_claimed
from sidecar.outbound.postgres.comparing import check_same
from sidecar.outbound.postgres.pool import Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.control_ports import (
    GRANT_CONTENT,
    Grant,
    GrantState,
    Withdrawal,
    WithdrawalState,
)
from sidecar.services.inbox_ports import InboxClaim

LIST_MAX: Final = 1_000
"""Most rows of one page, whatever the caller asks for."""
RETRY_LEAST: Final = timedelta(seconds=10)
RETRY_MOST: Final = timedelta(hours=1)
"""What the live store could not take waits as long again as it has waited, within these."""
REFUSAL_CHARS_MAX: Final = 256
_WITHDRAWAL_CONTENT: Final = ("grant_id", "kind", "amount_nano")
"""Not the reason: erasing a customer clears it."""


class PostgresGrants:
    """Intents are inserts that a repeat finds again; what came of them is noted once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create_grant(self, grant: Grant, *, claim: InboxClaim | None = None) -> Grant:
        """
        Write the intent, or return the grant if it is there, posted or not.

        Raises:
            NotFound: Unknown customer.
            Conflict: Another currency than the customer's, or the id has other content.
            LeaseLost: Another worker has the object of `claim`.
        """
        await check_currency(self._pool, grant.customer_id, grant.currency, "grant")
        rollover = grant.rollover
        await write_claimed(
            self._pool,
            claim,
            "insert_grant",
            grant.customer_id,
            grant.grant_id,
            grant.amount_nano,
            grant.currency,
            grant.kind,
            grant.priority,
            grant.effective_at,
            grant.expires_at,
            grant.meters,
            None if rollover is None else rollover.from_grant_id,
            0 if rollover is None else rollover.least_nano,
            0 if rollover is None else rollover.most_nano,
            grant.schedule_id,
        )
        stored = await self.read_grant(grant.customer_id, grant.grant_id)
        if stored is None:
            raise InvariantViolated("a grant that was just stored is gone")
        check_same(f"grant {grant.grant_id!r}", stored, grant, GRANT_CONTENT)
        return stored

    async def read_grant(self, customer_id: str, grant_id: str) -> Grant | None:
        """One grant."""
        with translate_errors():
            row = await self._pool.fetchrow(query("read_grant"), customer_id, grant_id)
        return None if row is None else read_grant(dict(row))

    async def list_grants(self, customer_id: str, *, after: str, limit: int) -> Sequence[Grant]:
        """A customer's grants by id; at most LIST_MAX."""
        return [
            read_grant(dict(row))
            for row in await self._rows("list_grants", customer_id, after, min(limit, LIST_MAX))
        ]

    async def pending_grants(self, *, limit: int) -> Sequence[Grant]:
        """
        Intents that may not have been applied yet, oldest first; at most LIST_MAX.

        One that begins later and is known to be with the live store is left out until it begins,
        one that was put behind until its time has come.
        """
        return [
            read_grant(dict(row))
            for row in await self._rows("pending_grants", min(limit, LIST_MAX))
        ]

    async def note_applied(self, grant: Grant) -> None:
        """Note that the live store has a grant; a repeat changes nothing."""
        with translate_errors():
            await self._pool.execute(query("note_applied"), grant.customer_id, grant.grant_id)

    async def refuse_grant(self, grant: Grant, *, refusal: str) -> None:
        """Note that the live store will never take an intent; no effect on one that is posted."""
        words = refusal[:REFUSAL_CHARS_MAX]
        with translate_errors():
            await self._pool.execute(
                query("refuse_grant"), grant.customer_id, grant.grant_id, words
            )

    async def put_grant_behind(self, grant: Grant) -> None:
        """Leave an intent out of `pending_grants` for a while, the longer the older it is."""
        await self._put_behind("put_grant_behind", grant.customer_id, grant.grant_id)

    async def create_withdrawal(
        self, withdrawal: Withdrawal, *, claim: InboxClaim | None = None
    ) -> Withdrawal:
        """
        Write the intent, or return the withdrawal if it is there, whatever came of it.

        Raises:
            NotFound: Unknown grant.
            Conflict: The id has other content.
            LeaseLost: Another worker has the object of `claim`.
        """
        await write_claimed(
            self._pool,
            claim,
            "insert_withdrawal",
            withdrawal.customer_id,
            withdrawal.withdrawal_id,
            withdrawal.grant_id,
            withdrawal.kind,
            withdrawal.amount_nano,
            withdrawal.reason,
        )
        stored = await self._read_withdrawal(withdrawal)
        what = f"withdrawal {withdrawal.withdrawal_id!r}"
        check_same(what, stored, withdrawal, _WITHDRAWAL_CONTENT)
        return stored

    async def finish_withdrawal(
        self,
        withdrawal: Withdrawal,
        *,
        state: WithdrawalState,
        withdrawn_nano: int,
        refusal: str = "",
    ) -> Withdrawal:
        """
        Note what the live store made of an intent; the first word counts.

        Returns:
            The withdrawal as it stands.

        Raises:
            NotFound: Unknown withdrawal.
        """
        with translate_errors():
            await self._pool.execute(
                query("finish_withdrawal"),
                withdrawal.customer_id,
                withdrawal.withdrawal_id,
                state,
                withdrawn_nano,
                refusal[:REFUSAL_CHARS_MAX],
            )
        return await self._read_withdrawal(withdrawal)

    async def put_withdrawal_behind(self, withdrawal: Withdrawal) -> None:
        """Leave an intent out of `pending_withdrawals` for a while."""
        ids = withdrawal.customer_id, withdrawal.withdrawal_id
        await self._put_behind("put_withdrawal_behind", *ids)

    async def list_withdrawals(
        self, customer_id: str, *, after: str, limit: int
    ) -> Sequence[Withdrawal]:
        """A customer's withdrawals by id; at most LIST_MAX."""
        rows = await self._rows("list_withdrawals", customer_id, after, min(limit, LIST_MAX))
        return [_withdrawal(row) for row in rows]

    async def pending_withdrawals(self, *, limit: int) -> Sequence[Withdrawal]:
        """Intents that may not have been applied yet and are not put behind; at most LIST_MAX."""
        rows = await self._rows("pending_withdrawals", min(limit, LIST_MAX))
        return [_withdrawal(row) for row in rows]

    async def _put_behind(self, name: str, customer_id: str, own_id: str) -> None:
        with translate_errors():
            await self._pool.execute(query(name), customer_id, own_id, RETRY_LEAST, RETRY_MOST)

    async def _read_withdrawal(self, withdrawal: Withdrawal) -> Withdrawal:
        with translate_errors():
            row = await self._pool.fetchrow(
                query("read_withdrawal"), withdrawal.customer_id, withdrawal.withdrawal_id
            )
        if row is None:
            raise NotFound(f"there is no withdrawal {withdrawal.withdrawal_id!r}")
        return _withdrawal(row)

    async def _rows(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        with translate_errors():
            rows: list[asyncpg.Record] = await self._pool.fetch(query(name), *arguments)
        return rows


async def check_currency(pool: Pool, customer_id: str, currency: str, what: str) -> None:
    """
    Refuse credit in another currency than the customer's.

    Raises:
        NotFound: Unknown customer.
        Conflict: The currency is another.
    """
    with translate_errors():
        row = await pool.fetchrow(query("read_customer"), customer_id)
    if row is None:
        raise NotFound(f"there is no customer {customer_id!r}")
    if row["currency"] != currency:
        raise Conflict(f"the {what} is in {currency}, the customer's currency is {row['currency']}")


def read_grant(row: Mapping[str, Any]) -> Grant:
    """A grant from its columns."""
    fields = dict(row)
    from_grant_id = fields.pop("rolls_from")
    least, most = fields.pop("rolls_least_nano"), fields.pop("rolls_most_nano")
    rollover = None
    if from_grant_id is not None:
        rollover = Rollover(from_grant_id=from_grant_id, least_nano=least, most_nano=most)
    return Grant(
        **fields
        | {
            "state": GrantState(row["state"]),
            "kind": GrantKind(row["kind"]),
            "meters": tuple(row["meters"]),
            "rollover": rollover,
        }
    )


def _withdrawal(row: asyncpg.Record) -> Withdrawal:
    return Withdrawal(
        **dict(row) | {"kind": WithdrawalKind(row["kind"]), "state": WithdrawalState(row["state"])}
    )
