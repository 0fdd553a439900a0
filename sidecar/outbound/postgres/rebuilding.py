"""The shards of record, and all that a live store is made anew from: the port `RebuildRecord`."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import asyncpg

from sidecar.domain.periods import to_epoch_ms
from sidecar.domain.rebuilding import (
    RecordedCredential,
    RecordedCustomer,
    RecordedGrant,
    RecordedUsage,
    RecordedWithdrawal,
)
from sidecar.domain.standing import Standing, StandingFact
from sidecar.outbound.postgres.ended_holds import by_hold
from sidecar.outbound.postgres.grants import read_grant
from sidecar.outbound.postgres.pool import (
    ACQUIRE_SECONDS_MAX,
    Connection,
    Pool,
    translate_errors,
)
from sidecar.outbound.postgres.queries import query
from sidecar.services.control_ports import GrantState
from sidecar.services.rebuild_ports import PriceUse, RecordedShard

DEDUPE_HORIZON: Final = timedelta(hours=48)
"""How long the live store remembers how an id ended."""
_ROWS_AT_ONCE: Final = 1_000


class PostgresRebuildRecord:
    """Implements RebuildRecord."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def shards(self) -> Mapping[int, RecordedShard]:
        """Those that have a row. Raises StoreUnavailable."""
        with translate_errors():
            rows = await self._pool.fetch(query("list_shards"))
        return {
            row["shard"]: RecordedShard(
                epoch=row["epoch"],
                settled_epoch=row["settled_epoch"],
                settled_seq=row["settled_seq"],
                offset=row["stream_offset"],
            )
            for row in rows
        }

    async def adopt(self, shard: int, epoch: int) -> None:
        """Take over the epoch of a store that was opened before epochs were numbered here."""
        with translate_errors():
            await self._pool.execute(query("adopt_epoch"), shard, epoch)

    async def open_new(self, shards: Sequence[int]) -> Mapping[int, int]:
        """
        Number the first epochs where there are no customers; empty where that is not so.

        Two processes may try: each shard is given to one of them.
        """
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                if await connection.fetchval(query("any_customer")):
                    return {}
                rows = await connection.fetch(query("open_shards"), list(shards))
        return {row["shard"]: row["epoch"] for row in rows}

    @asynccontextmanager
    async def begin(self, expected: Mapping[int, int]) -> AsyncIterator["PostgresSnapshot"]:
        """
        Lock shards, raise their epochs and read; it commits at the end.

        Settlement locks the same rows, so what it committed before is read and it commits
        nothing until the end. Whoever holds a lease has lost it.

        Raises:
            StoreUnavailable: Nothing has changed; repeat it.
        """
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                # The live store is written to meanwhile.
                await connection.execute(query("idle_at_leisure"))
                await connection.execute(query("ensure_shards"), list(expected))
                locked = await connection.fetch(query("lock_shards"), list(expected))
                mine = [row["shard"] for row in locked if row["epoch"] == expected[row["shard"]]]
                rows = await connection.fetch(query("raise_epochs"), mine)
                yield PostgresSnapshot(connection, rows)


class PostgresSnapshot:
    """Implements RebuildSnapshot, inside the transaction that raised the epochs."""

    def __init__(self, connection: Connection, rows: Sequence[asyncpg.Record]) -> None:
        self._connection = connection
        self.epochs = {row["shard"]: row["epoch"] for row in rows}
        self._settled = {row["shard"]: (row["settled_epoch"], row["settled_seq"]) for row in rows}

    def settled(self, shard: int) -> tuple[int, int]:
        """Epoch and seq of the shard's last decision that the ledger has."""
        return self._settled[shard]

    async def clock_ms(self, shard: int) -> int:
        """The instant of the shard's last settled decision, 0 if there is none."""
        decided = await self._connection.fetchval(query("last_decided"), shard)
        return 0 if decided is None else to_epoch_ms(decided)

    async def customer_ids(self, after: str, limit: int) -> Sequence[str]:
        """Customers of all shards, by id."""
        rows = await self._connection.fetch(query("rebuild_ids"), after, limit)
        return [row["customer_id"] for row in rows]

    async def customers(
        self, ids: Sequence[str]
    ) -> Sequence[tuple[RecordedCustomer, Sequence[PriceUse]]]:
        """These customers, without totals, and what their totals are made of."""
        await self._connection.execute(query("forget_unposted_withdrawals"), list(ids))
        withdrawals = await self._grouped("rebuild_withdrawals", ids)
        credentials = await self._grouped("rebuild_credentials", ids)
        grants = await self._grouped("rebuild_grants", ids)
        counted = await self._grouped("rebuild_counters", ids)
        prices = await self._grouped("rebuild_prices", ids)
        return [
            (
                RecordedCustomer(
                    customer_id=row["customer_id"],
                    currency=row["currency"],
                    plan=row["plan"],
                    labels=json.loads(row["labels"]),
                    overdraft_nano=row["overdraft_nano"],
                    granted_nano=row["granted_nano"],
                    used_nano=row["used_nano"],
                    voided_nano=row["voided_nano"],
                    expired_nano=row["expired_nano"],
                    prepaid_nano=row["prepaid_nano"],
                    grants=tuple(_grant(one) for one in grants.get(row["customer_id"], ())),
                    withdrawals=tuple(
                        _withdrawal(one) for one in withdrawals.get(row["customer_id"], ())
                    ),
                    standing=_standing(row),
                    credentials=tuple(
                        _credential(one) for one in credentials.get(row["customer_id"], ())
                    ),
                    counted={
                        one["field"]: one["quantity"] for one in counted.get(row["customer_id"], ())
                    },
                ),
                [_price_use(one) for one in prices.get(row["customer_id"], ())],
            )
            for row in await self._connection.fetch(query("rebuild_customers"), list(ids))
        ]

    async def credentials(self, ids: Sequence[str]) -> Mapping[str, Sequence[RecordedCredential]]:
        """The customers' credentials, by customer; who has none is left out."""
        found = await self._grouped("rebuild_credentials", ids)
        return {customer: [_credential(row) for row in rows] for customer, rows in found.items()}

    async def ended(self, shard: int) -> AsyncIterator[RecordedUsage]:
        """Holds that ended within the dedupe horizon."""
        rows = self._connection.cursor(
            query("ended_holds"), shard, DEDUPE_HORIZON, prefetch=_ROWS_AT_ONCE
        )
        async for one in by_hold(aiter(rows)):
            yield one

    async def _grouped(self, name: str, ids: Sequence[str]) -> dict[str, list[asyncpg.Record]]:
        grouped: dict[str, list[asyncpg.Record]] = {}
        for row in await self._connection.fetch(query(name), list(ids)):
            grouped.setdefault(row["customer_id"], []).append(row)
        return grouped


def _standing(row: asyncpg.Record) -> StandingFact | None:
    if row["standing"] is None:
        return None
    return StandingFact(
        standing=Standing(row["standing"]),
        reason=row["reason"],
        until=row["until"],
        overdue_since=row["overdue_since"],
        overdue_nano=row["overdue_nano"],
        disputed=row["disputed"],
    )


def _credential(row: asyncpg.Record) -> RecordedCredential:
    return RecordedCredential(
        credential_id=row["credential_id"],
        secret_hash=row["secret_hash"],
        team_id=row["team_id"],
        user_id=row["user_id"],
        generation=row["generation"],
        ends_at=row["expires_at"],
        revoked=row["revoked"],
    )


def _grant(row: asyncpg.Record) -> RecordedGrant:
    fields = {name: value for name, value in row.items() if name not in ("ended_kind", "ended_by")}
    grant = read_grant(fields)
    assert grant.created_at is not None
    ended = "" if row["ended_by"] is None else f"{row['ended_kind']} {row['ended_by']}"
    return RecordedGrant(
        terms=grant.terms,
        begun=grant.state is GrantState.POSTED,
        remaining_nano=grant.remaining_nano,
        since=grant.created_at,
        ended_by=ended,
    )


def _withdrawal(row: asyncpg.Record) -> RecordedWithdrawal:
    return RecordedWithdrawal(
        withdrawal_id=row["withdrawal_id"],
        grant_id=row["grant_id"],
        kind=row["kind"],
        amount_nano=row["amount_nano"],
        withdrawn_nano=row["withdrawn_nano"],
    )


def _price_use(row: asyncpg.Record) -> PriceUse:
    return PriceUse(
        price_version=row["price_version"],
        meter=row["meter"],
        model=row["model"],
        month=row["month"],
        quantity=row["quantity"],
    )
