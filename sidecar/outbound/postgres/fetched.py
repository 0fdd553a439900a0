"""What was fetched from providers, of record: implements `ProviderRecords` and `ProviderSweeps`."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from asyncpg import Record

from sidecar.domain.errors import InvariantViolated
from sidecar.domain.minor_units import STRIPE
from sidecar.domain.standing import InvoiceState
from sidecar.outbound.postgres.pool import Connection, Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.inbox_ports import (
    Handled,
    InboxClaim,
    InvoiceRecord,
    KnownCustomer,
    PaymentRecord,
    SubscriptionRecord,
    SweepPosition,
)

_FIRST_SWEEP: Final = timedelta(days=30)
"""How far back the first look at a provider's events goes: as far as Stripe keeps them."""


async def write_handled(
    connection: Connection, claim: InboxClaim, handled: Handled
) -> Sequence[str]:
    """Write the rows, within the caller's transaction; returns the customers they are about."""
    provider, fence = claim.ref.provider, claim.fence
    touched: list[str] = []

    async def run(name: str, *values: object) -> None:
        """A statement that answers the customers whose rows it took or changed."""
        rows = await connection.fetch(query(name), *values)
        touched.extend(row["customer_id"] for row in rows)

    if (invoice := handled.invoice) is not None:
        await run("move_invoice", provider, invoice.invoice_id, invoice.customer_id, fence)
        await connection.execute(query("put_invoice"), *_invoice_values(invoice), fence)
        touched.append(invoice.customer_id)
    if handled.gone_invoice:
        await run("void_provider_invoice", provider, handled.gone_invoice, fence)
    if (subscription := handled.subscription) is not None:
        name, customer_id = subscription.subscription_id, subscription.customer_id
        await run("move_subscription", provider, name, customer_id, fence)
        values = _subscription_values(subscription)
        await connection.execute(query("put_subscription"), *values, fence)
        touched.append(customer_id)
    if (account := handled.bills_in) is not None:
        values = (provider, account.provider_customer_id, account.currency, fence)
        await connection.execute(query("put_provider_currency"), *values)
    if handled.gone_subscription:
        await run("end_subscription", provider, handled.gone_subscription, fence)
    if (payment := handled.payment) is not None:
        await run("move_payment", provider, payment.payment_id, payment.customer_id, fence)
        await connection.execute(query("put_payment"), *_payment_values(payment), fence)
        touched.append(payment.customer_id)
    # In one order everywhere: each of them is locked next.
    return sorted({customer_id for customer_id in touched if customer_id})


class PostgresFetched:
    """Implements ProviderRecords and ProviderSweeps."""

    def __init__(self, pool: Pool) -> None:
        """Wire it."""
        self._pool = pool

    async def find_customers(
        self, provider: str, provider_customer_id: str
    ) -> Sequence[KnownCustomer]:
        """Our customers behind one of the provider's; at most two, which is one too many."""
        with translate_errors():
            if provider == STRIPE:
                rows = await self._pool.fetch(query("find_stripe_customers"), provider_customer_id)
            else:
                rows = await self._pool.fetch(query("find_payers"), provider, provider_customer_id)
        return [KnownCustomer(**dict(row)) for row in rows]

    async def read_customer(self, customer_id: str) -> KnownCustomer | None:
        """Our customer of that id."""
        with translate_errors():
            row = await self._pool.fetchrow(query("known_customer"), customer_id)
        return None if row is None else KnownCustomer(**dict(row))

    async def unseen_open_invoices(
        self, provider: str, *, before: datetime, after: str, limit: int
    ) -> Sequence[str]:
        """Ids of invoices that are open as far as we know and were last seen before an instant."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("unseen_open_invoices"), provider, before, after, limit
            )
        return [row["invoice_id"] for row in rows]

    async def mark_seen(self, provider: str, invoice_ids: Sequence[str], now: datetime) -> None:
        """Note that the provider lists them as open."""
        with translate_errors():
            await self._pool.execute(query("mark_seen"), provider, list(invoice_ids), now)

    async def read_invoices(
        self, provider: str, invoice_ids: Sequence[str]
    ) -> Mapping[str, InvoiceRecord]:
        """Those of the invoices that are known."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("read_provider_invoices"), provider, list(invoice_ids)
            )
        return {row["invoice_id"]: _invoice(row) for row in rows}

    async def name_payment(
        self, provider: str, payment_id: str, *, customer_id: str, reference: str
    ) -> str:
        """The reference of a payment's credit: as asked, or its own id if another has that."""
        own = f"{provider}:{payment_id}"
        with translate_errors():
            for name in (reference, own):
                await self._pool.execute(
                    query("name_payment"), customer_id, provider, payment_id, name
                )
                stored = await self._pool.fetchval(
                    query("read_payment_name"), customer_id, provider, payment_id
                )
                if isinstance(stored, str):
                    return stored
        raise InvariantViolated("another payment has taken this payment's own id")

    async def begin(self, provider: str, *, now: datetime) -> SweepPosition | None:
        """Take the next sweep if it is due and nobody has it; None if not."""
        with translate_errors():
            row = await self._pool.fetchrow(query("begin_sweep"), provider, now, _FIRST_SWEEP)
        return None if row is None else SweepPosition(provider=provider, **dict(row))

    async def save(self, position: SweepPosition, *, done: bool, next_at: datetime) -> None:
        """Note how far it came."""
        with translate_errors():
            await self._pool.execute(
                query("save_sweep"),
                position.provider,
                position.part,
                position.cursor,
                next_at,
                done,
            )


def _invoice_values(record: InvoiceRecord) -> tuple[object, ...]:
    return (
        record.customer_id,
        record.provider,
        record.invoice_id,
        record.provider_customer_id,
        record.state.value,
        record.currency,
        record.amount_due_minor,
        record.amount_nano,
        record.due_at,
        record.attempts,
        record.reason,
    )


def _subscription_values(record: SubscriptionRecord) -> tuple[object, ...]:
    return (
        record.customer_id,
        record.provider,
        record.subscription_id,
        record.provider_customer_id,
        record.status,
        record.plan,
        record.reason,
    )


def _payment_values(record: PaymentRecord) -> tuple[object, ...]:
    return (
        record.customer_id,
        record.provider,
        record.payment_id,
        record.invoice_id,
        record.reference,
        record.currency,
        record.amount_minor,
        record.refunded_minor,
        record.disputed,
        record.reason,
    )


def _invoice(row: Record) -> InvoiceRecord:
    return InvoiceRecord(**dict(row) | {"state": InvoiceState(row["state"])})
