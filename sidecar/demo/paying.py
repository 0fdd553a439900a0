"""
Who pays at Stripe in the demo and who does not, heard of through the stand-in's own webhooks.

Nothing is set by hand: an invoice that is not paid makes its customer delinquent, a month that ends
becomes an invoice that Stripe charges, and payments come back as news.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from sidecar.app import Application, read_secret
from sidecar.demo.billing import CUSTOMER, POLL_SECONDS, PRICE_KEYS
from sidecar.demo.story import CUSTOMERS
from sidecar.domain.minor_units import STRIPE, from_minor
from sidecar.outbound.admin_api import AdminApi
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.services.stripe_events import ENDPOINT_EVENTS
from sidecar.settings import Settings
from sidecar.standins.stripe import StripeStandin

OVERDUE: Final = "cus_overdue"
MONTH: Final = timedelta(days=32)
"""Any month, and the hour for which Stripe keeps its invoice as a draft."""
NEWS_SECONDS_MAX: Final = 30.0
_STATE: Final = "SELECT state FROM provider_invoices WHERE customer_id = $1 AND invoice_id = $2"
_POSTED: Final = """
SELECT account, sum(amount_nano)::bigint AS nano FROM ledger_entries
WHERE customer_id = $1 AND account IN ('clearing', 'customer_receivable') GROUP BY account
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """
    What came of the payments.

    Attributes:
        invoice_id: Stripe's, of the postpaid customer's month.
        state: As the webhook left it here.
        taken_nano: What the ledger says that Stripe has taken.
        owed_nano: What the customer still owes.
        standing: Of the customer who was overdue and has paid.
        problems: What is not as it should be, in words.
    """

    invoice_id: str
    total_minor: int
    state: str
    taken_nano: int
    owed_nano: int
    standing: str
    problems: tuple[str, ...]


def endpoint_secret(stripe: StripeStandin, folder: Path) -> tuple[str, Path]:
    """Make Stripe's webhook endpoint; its id, and the file with its secret."""
    params = {"url": "http://127.0.0.1:9/", "enabled_events": list(ENDPOINT_EVENTS)}
    endpoint_id = str(stripe.account.endpoints.create(params)["id"])
    path = folder / "stripe-webhook-secret"
    path.touch(mode=0o600)
    path.write_text(f"{stripe.webhook_secret(endpoint_id)}\n")
    return endpoint_id, path


async def begin(settings: Settings, admin: AdminApi) -> str:
    """Subscribe who pays, and bill who does not; returns that invoice once it has bitten."""
    async with _stripe(settings) as v1:
        prices = (await v1.prices.list_async({"lookup_keys": PRICE_KEYS})).data
        items = [{"price": price.id} for price in prices]
        await v1.subscriptions.create_async({"customer": CUSTOMERS[CUSTOMER][1], "items": items})
        owing = CUSTOMERS[OVERDUE][1]
        line = {"customer": owing, "amount": 4_200, "currency": "usd"}
        await v1.invoice_items.create_async(line)
        made = await v1.invoices.create_async(
            {
                "customer": owing,
                "pending_invoice_items_behavior": "include",
                "collection_method": "send_invoice",
                "days_until_due": 0,
            }
        )
        await v1.invoices.finalize_invoice_async(made.id)
    await _until(lambda: _has_standing(admin, "delinquent"))
    return str(made.id)


async def pay_all(
    application: Application,
    settings: Settings,
    admin: AdminApi,
    stripe: StripeStandin,
    *,
    overdue: str,
    due_minor: int,
) -> Paid:
    """Let the month end at Stripe and the overdue invoice be paid. Raises TimeoutError."""
    async with _stripe(settings) as v1:
        await v1.invoices.pay_async(overdue, {"paid_out_of_band": True})
        stripe.advance(MONTH)
        listed = {"customer": CUSTOMERS[CUSTOMER][1], "limit": 1}
        invoice = (await v1.invoices.list_async(listed)).data[0]
    taken = from_minor(int(invoice.total), "USD", STRIPE)

    async def posted() -> bool:
        return (await _balances(application)).get("clearing", 0) == -taken

    async def read_state() -> str:
        return str(await application.pool.fetchval(_STATE, CUSTOMER, invoice.id))

    async def told() -> bool:
        # Of the payment and of its invoice, which come in any order.
        return await read_state() == "paid"

    await _until(posted)
    await _until(told)
    await _until(lambda: _has_standing(admin, "good"))
    balances = await _balances(application)
    state = await read_state()
    owed = -balances.get("customer_receivable", 0)
    equations = [
        ("payment: Stripe's invoice = ours", int(invoice.total), due_minor),
        ("payment: state of Stripe's invoice", state, "paid"),
        ("payment: what cus_postpaid still owes", owed, 0),
    ]
    return Paid(
        invoice_id=str(invoice.id),
        total_minor=int(invoice.total),
        state=state,
        taken_nano=-balances.get("clearing", 0),
        owed_nano=owed,
        standing=str((await admin.read_standing(OVERDUE))["standing"]),
        problems=tuple(
            f"{words}: {found} is not {wanted}"
            for words, found, wanted in equations
            if found != wanted
        ),
    )


@asynccontextmanager
async def _stripe(settings: Settings) -> AsyncIterator[Any]:
    assert settings.stripe_api_key_file is not None
    connection = StripeConnection(
        read_secret(settings.stripe_api_key_file), base_url=settings.stripe_base_url
    )
    try:
        yield connection.client.v1
    finally:
        await connection.close()


async def _balances(application: Application) -> dict[str, int]:
    rows = await application.pool.fetch(_POSTED, CUSTOMER)
    return {row["account"]: row["nano"] for row in rows}


async def _has_standing(admin: AdminApi, standing: str) -> bool:
    return bool((await admin.read_standing(OVERDUE))["standing"] == standing)


async def _until(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(NEWS_SECONDS_MAX):
        while not await done():  # noqa: ASYNC110  What is watched sets no event.
            await asyncio.sleep(POLL_SECONDS)
