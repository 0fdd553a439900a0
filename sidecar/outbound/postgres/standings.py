"""Standings of record, with what decides them: implements `StandingRecord`."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from asyncpg import Record

from sidecar.domain.errors import InvariantViolated, NotFound
from sidecar.domain.standing import (
    GOOD,
    InvoiceDebt,
    InvoiceState,
    Standing,
    StandingFact,
)
from sidecar.outbound.postgres.pool import ACQUIRE_SECONDS_MAX, Connection, Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.standing_ports import (
    Decide,
    Evaluated,
    HeldSubscription,
    StandingInputs,
    StandingView,
)

INVOICES_MAX: Final = 1_000
"""Unpaid invoices that are looked at; those that are due first."""
SUBSCRIPTIONS_MAX: Final = 100


class PostgresStandings:
    """Implements StandingRecord; the row of `standing_looks` is the customer's lock."""

    def __init__(self, pool: Pool) -> None:
        """Wire it."""
        self._pool = pool

    async def evaluate(self, customer_id: str, decide: Decide) -> Evaluated | None:
        """Read the inputs, decide and record it; None for an unknown customer."""
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                look = await connection.fetchrow(query("lock_standing"), customer_id)
                if look is None:
                    raise InvariantViolated("lock_standing answered no row")
                inputs = await _inputs(connection, customer_id, look)
                if inputs is None:
                    await connection.execute(query("forget_look"), customer_id)
                    return None
                return await _decide(connection, customer_id, look, inputs, decide)

    async def settle(self, customer_id: str, version: int, next_at: datetime | None) -> None:
        """The live store has it: look again at `next_at`, unless an input has changed since."""
        with translate_errors():
            await self._pool.execute(query("settle_standing"), customer_id, version, next_at)

    async def claim_due(self, now: datetime, *, limit: int, lease_seconds: int) -> Sequence[str]:
        """Customers to be looked at, for whom nobody else is asked within the lease."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("claim_standings"), now, limit, timedelta(seconds=lease_seconds)
            )
        return [row["customer_id"] for row in rows]

    async def put_override(self, customer_id: str, fact: StandingFact | None) -> None:
        """Set an operator's word, or take it back. Raises NotFound for an unknown customer."""
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                await _require_customer(connection, customer_id)
                if fact is None:
                    await connection.execute(query("delete_override"), customer_id)
                else:
                    await connection.execute(
                        query("put_override"), customer_id, *_fact_values(fact)
                    )
                await connection.execute(query("mark_standing"), customer_id)

    async def read(self, customer_id: str) -> StandingView:
        """What is on record. Raises NotFound for an unknown customer."""
        with translate_errors():
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection:
                await _require_customer(connection, customer_id)
                fact = await connection.fetchrow(query("read_standing"), customer_id)
                override = await connection.fetchrow(query("read_override"), customer_id)
                derived = await connection.fetchrow(query("read_derived"), customer_id)
        return StandingView(
            fact=GOOD if fact is None else _fact(fact),
            derived=GOOD
            if derived is None
            else StandingFact(
                standing=Standing(derived["derived"]), reason=derived["derived_reason"]
            ),
            override=None if override is None else _fact(override),
        )


async def _require_customer(connection: Connection, customer_id: str) -> None:
    if await connection.fetchrow(query("standing_customer"), customer_id) is None:
        raise NotFound(f"there is no customer {customer_id!r}")


async def _inputs(connection: Connection, customer_id: str, look: Record) -> StandingInputs | None:
    customer = await connection.fetchrow(query("standing_customer"), customer_id)
    if customer is None:
        return None
    invoices = await connection.fetch(query("standing_invoices"), customer_id, INVOICES_MAX)
    subscriptions = await connection.fetch(
        query("standing_subscriptions"), customer_id, SUBSCRIPTIONS_MAX
    )
    override = await connection.fetchrow(query("read_override"), customer_id)
    return StandingInputs(
        currency=customer["currency"],
        plan=customer["plan"],
        subscribed_plan=look["subscribed_plan"],
        invoices=tuple(
            InvoiceDebt(
                state=InvoiceState(row["state"]),
                due_at=row["due_at"],
                amount_nano=row["amount_nano"],
                disputed=row["disputed"],
            )
            for row in invoices
        ),
        subscriptions=tuple(HeldSubscription(**dict(row)) for row in subscriptions),
        override=None if override is None else _fact(override),
    )


async def _decide(
    connection: Connection,
    customer_id: str,
    look: Record,
    inputs: StandingInputs,
    decide: Decide,
) -> Evaluated:
    decision = decide(inputs)
    row = await connection.fetchrow(query("read_standing"), customer_id)
    changed = decision.fact != (GOOD if row is None else _fact(row))
    moved = decision.plan != inputs.plan
    if changed:
        await connection.execute(query("put_standing"), customer_id, *_fact_values(decision.fact))
    if moved:
        await connection.execute(query("put_subscribed_plan"), customer_id, decision.plan)
    show = changed or not look["shown"]
    show_plan = moved or not look["plan_shown"]
    version = await connection.fetchval(
        query("note_standing"),
        customer_id,
        changed or moved,
        not show,
        not show_plan,
        decision.derived.standing.value,
        decision.derived.reason,
        decision.subscribed_plan,
        decision.retry_at,
    )
    assert isinstance(version, int)
    return Evaluated(decision=decision, version=version, show=show, show_plan=show_plan)


def _fact(row: Record) -> StandingFact:
    return StandingFact(**dict(row) | {"standing": Standing(row["standing"])})


def _fact_values(fact: StandingFact) -> tuple[object, ...]:
    return (
        fact.standing.value,
        fact.reason,
        fact.until,
        fact.overdue_since,
        fact.overdue_nano,
        fact.disputed,
    )
