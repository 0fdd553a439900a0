"""Accounts of record: the port `Accounts`, with `grants` and `schedules`."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import asyncpg

from sidecar.domain.errors import Conflict, InvariantViolated, NotFound
from sidecar.domain.standing import Standing, StandingFact
from sidecar.outbound.postgres.comparing import check_same
from sidecar.outbound.postgres.credentials import insert_credential, read_credential, rotate
from sidecar.outbound.postgres.grants import LIST_MAX, PostgresGrants
from sidecar.outbound.postgres.pool import ACQUIRE_SECONDS_MAX, Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.outbound.postgres.schedules import PostgresSchedules
from sidecar.services.control_ports import Credential, Customer, Rotation

_CUSTOMER_CONTENT: Final = (
    "plan",
    "currency",
    "labels",
    "stripe_customer_id",
    "overdraft_nano",
)


class PostgresAccounts(PostgresGrants, PostgresSchedules):
    """Writes are inserts that a repeat finds again; a repeat with other content is a Conflict."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create_customer(self, customer: Customer) -> Customer:
        """Store it, or return it if it is there. Raises Conflict if the id has other content."""
        with translate_errors():
            await self._pool.execute(
                query("insert_customer"),
                customer.customer_id,
                customer.plan,
                customer.currency,
                json.dumps(dict(customer.labels)),
                customer.stripe_customer_id,
                customer.overdraft_nano,
            )
        stored = await self.read_customer(customer.customer_id)
        if stored is None:
            raise InvariantViolated("a customer that was just stored is gone")
        check_same(f"customer {customer.customer_id!r}", stored, customer, _CUSTOMER_CONTENT)
        return stored

    async def read_customer(self, customer_id: str) -> Customer | None:
        """One customer."""
        with translate_errors():
            row = await self._pool.fetchrow(query("read_customer"), customer_id)
        return None if row is None else _customer(row)

    async def update_customer(self, customer: Customer) -> Customer | None:
        """Change plan, labels, Stripe customer and overdraft; None for an unknown one."""
        with translate_errors():
            row = await self._pool.fetchrow(
                query("update_customer"),
                customer.customer_id,
                customer.plan,
                json.dumps(dict(customer.labels)),
                customer.stripe_customer_id,
                customer.overdraft_nano,
            )
        return None if row is None else _customer(row)

    async def erase_customer(self, customer_id: str) -> Customer | None:
        """Clear what may name a person, and revoke all keys, together; None for an unknown one."""
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                row = await connection.fetchrow(query("erase_customer"), customer_id)
                await connection.execute(query("erase_credentials"), customer_id)
                await connection.execute(query("erase_standing"), customer_id)
                await connection.execute(query("erase_withdrawals"), customer_id)
                await connection.execute(query("erase_credit_notes"), customer_id)
                await connection.execute(query("erase_notices"), customer_id)
                # Nobody is to be asked to pay for a customer who asked to be forgotten.
                await connection.execute(query("delete_top_up_rule"), customer_id)
                # Nor is an account made for them again.
                await connection.execute(query("end_provider_customer"), customer_id)
                await connection.execute(query("erase_payers"), customer_id)
        return None if row is None else _customer(row)

    async def list_customers(self, *, after: str, limit: int) -> Sequence[Customer]:
        """Customers by id, those after `after`; at most LIST_MAX."""
        with translate_errors():
            rows = await self._pool.fetch(query("list_customers"), after, min(limit, LIST_MAX))
        return [_customer(row) for row in rows]

    async def create_credential(self, credential: Credential) -> Credential:
        """
        Store it, or return it if it is there.

        Raises:
            NotFound: Unknown customer.
            Conflict: The id has other content, or the secret belongs to another credential.
        """
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                await insert_credential(connection, credential)
                stored = await read_credential(connection, credential)
        if _content(stored) != _content(credential):
            raise Conflict(f"credential {credential.credential_id!r} exists with other content")
        return stored

    async def find_credential(self, credential_id: str) -> Credential | None:
        """
        A credential by its id alone.

        Raises:
            InvariantViolated: Two customers have one of that id; neither is meant for sure.
        """
        with translate_errors():
            rows = await self._pool.fetch(query("find_credential"), credential_id)
        if len(rows) > 1:
            raise InvariantViolated("two credentials have one id")
        return Credential(**dict(rows[0])) if rows else None

    async def rotate_credential(
        self, retired: Credential, successor: Credential, *, ends_at: datetime | None
    ) -> Rotation:
        """
        Store a successor and give the retired one its end, in one transaction.

        Raises:
            Conflict: It has another successor, or has ended.
        """
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                return await rotate(connection, retired, successor, ends_at)

    async def revoke_credential(self, credential: Credential) -> Credential:
        """End it now; the first time counts. Raises NotFound."""
        with translate_errors():
            row = await self._pool.fetchrow(
                query("revoke_credential"), credential.customer_id, credential.credential_id
            )
        if row is None:
            raise NotFound(f"there is no credential {credential.credential_id!r}")
        return Credential(**dict(row))

    async def list_credentials(
        self, customer_id: str, *, after: str, limit: int
    ) -> Sequence[Credential]:
        """A customer's credentials by id; at most LIST_MAX."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("list_credentials"), customer_id, after, min(limit, LIST_MAX)
            )
        return [Credential(**dict(row)) for row in rows]

    async def put_standing(self, customer_id: str, standing: StandingFact) -> None:
        """Set it. Raises NotFound for an unknown customer."""
        with translate_errors():
            await self._pool.execute(
                query("put_standing"),
                customer_id,
                standing.standing.value,
                standing.reason,
                standing.until,
                standing.overdue_since,
                standing.overdue_nano,
                standing.disputed,
            )

    async def read_standing(self, customer_id: str) -> StandingFact:
        """Good if none was set."""
        with translate_errors():
            row = await self._pool.fetchrow(query("read_standing"), customer_id)
        if row is None:
            return StandingFact(standing=Standing.GOOD)
        return StandingFact(**dict(row) | {"standing": Standing(row["standing"])})


def _content(credential: Credential) -> tuple[object, ...]:
    """What a repeat must say too."""
    return (
        credential.secret_hash,
        credential.team_id,
        credential.user_id,
        credential.name,
        credential.expires_at,
    )


def _customer(row: asyncpg.Record) -> Customer:
    return Customer(**dict(row) | {"labels": json.loads(row["labels"])})
