"""
From settled usage to a closed invoice, and beside it what Stripe makes of the same meters.

Stripe's prices are those that `sidecar catalog apply` makes of the policy; its preview is worked
out from the meter events that it took in, ours from the ledger.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sidecar.app import Application, read_secret
from sidecar.app.cataloguing import cataloguer_for, load_wanted
from sidecar.app.parts import SystemClock
from sidecar.demo.story import CUSTOMERS
from sidecar.outbound.admin_api import AdminApi
from sidecar.outbound.admin_invoices import InvoicesApi
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.services.cataloguing import Ending
from sidecar.settings import Settings

CUSTOMER: Final = "cus_postpaid"
PLAN: Final = "postpaid"
CLOSE_SECONDS_MAX: Final = 30.0
EVENTS_MAX: Final = 100
POLL_SECONDS: Final = 0.1
PRICE_KEYS: Final = [f"sidecar:{PLAN}:{meter}" for meter in ("input-tokens", "output-tokens")]
_FIRST_HOLD: Final = """
SELECT hold_id FROM usage_events WHERE customer_id = $1 ORDER BY occurred_at, hold_id LIMIT 1
"""

Lines = Mapping[str, tuple[int, int]]
"""Quantity and amount in minor units, by meter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Billing:
    """
    One customer's invoice, twice, and one request of it.

    Attributes:
        ours: Of our invoice.
        stripe: Of Stripe's preview.
        traced: The request's lines, as `sidecar trace` has them.
        back: How many requests the traced invoice line leads back to.
        problems: What does not agree, in words.
    """

    ours: Lines
    stripe: Lines
    total_minor: int
    stripe_total_minor: int
    hold_id: str
    traced: tuple[dict[str, Any], ...]
    back: int
    problems: tuple[str, ...]


async def price_at_stripe(settings: Settings) -> None:
    """Make Stripe's prices of the plan. Raises RuntimeError if Stripe does not take them."""
    plans = frozenset({PLAN})
    _, wanted = load_wanted(settings, None, plans)
    async with cataloguer_for(settings) as cataloguer:
        applied = await cataloguer.apply(wanted, plans)
    if applied.ending is not Ending.DONE:
        raise RuntimeError(f"the catalog was not applied: {applied.detail} {applied.problems}")


async def read_billing(application: Application, settings: Settings, admin: AdminApi) -> Billing:
    """Preview, close and trace the invoice. Raises TimeoutError if it does not close."""
    invoices = InvoicesApi(admin)
    preview = await invoices.preview(CUSTOMER)
    stripe, stripe_total = await _stripe_preview(settings)
    closed = await _close(invoices)
    hold_id = str(await application.pool.fetchval(_FIRST_HOLD, CUSTOMER))
    traced = [
        line
        for line in (await invoices.trace(hold_id, CUSTOMER))["lines"]
        if line["meter"] in stripe
    ]
    problems = []
    back = 0
    for line in traced:
        if line["invoice_id"] != closed["id"] or line["line_number"] is None:
            problems.append(f"trace: {line['meter']} of hold {hold_id} is on no invoice line")
            continue
        events = await invoices.list_line_events(closed["id"], line["line_number"], EVENTS_MAX)
        back = len(events)
        if hold_id not in {event["hold_id"] for event in events}:
            problems.append(f"trace: line {line['line_number']} does not lead back to {hold_id}")
    ours = _lines(preview)
    equations = [
        ("invoice: Stripe's lines = ours", stripe, ours),
        ("invoice: Stripe's total = ours", stripe_total, preview["due_minor"]),
        ("invoice: closed = preview", _lines(closed), ours),
        ("trace: meters", {line["meter"] for line in traced}, set(ours)),
    ]
    problems += [
        f"{words}: {found} is not {wanted}" for words, found, wanted in equations if found != wanted
    ]
    return Billing(
        ours=ours,
        stripe=stripe,
        total_minor=preview["due_minor"],
        stripe_total_minor=stripe_total,
        hold_id=hold_id,
        traced=tuple(traced),
        back=back,
        problems=tuple(problems),
    )


def _lines(invoice: Mapping[str, Any]) -> Lines:
    return {line["meter"]: (line["quantity"], line["due_minor"]) for line in invoice["lines"]}


async def _close(invoices: InvoicesApi) -> dict[str, Any]:
    """Let the running period end in a moment, and wait for its invoice."""
    clock = SystemClock()
    edge = clock.now().replace(microsecond=0) + timedelta(seconds=2)
    await invoices.set_anchor(CUSTOMER, edge.isoformat())
    async with asyncio.timeout(CLOSE_SECONDS_MAX):
        await asyncio.sleep(max(0.0, (edge - clock.now()).total_seconds()) + 0.1)
        await invoices.close(CUSTOMER)
        filters = {"customer_id": CUSTOMER, "state": "closed"}
        found: list[dict[str, Any]] = []
        while not found:
            await asyncio.sleep(POLL_SECONDS)
            found = await invoices.list_invoices(filters, 1)
    return await invoices.read(found[0]["id"])


async def _stripe_preview(settings: Settings) -> tuple[Lines, int]:
    """What Stripe's invoice of the running month would say, from its own meter events."""
    assert settings.stripe_api_key_file is not None
    connection = StripeConnection(
        read_secret(settings.stripe_api_key_file), base_url=settings.stripe_base_url
    )
    try:
        client = connection.client.v1
        prices = (await client.prices.list_async({"lookup_keys": PRICE_KEYS})).data
        stripe_id = CUSTOMERS[CUSTOMER][1]
        assert stripe_id is not None
        preview = await client.invoices.create_preview_async(
            {
                "customer": stripe_id,
                "subscription_details": {"items": [{"price": price.id} for price in prices]},
            }
        )
    finally:
        await connection.close()
    meters = {price.id: str(price.lookup_key).rpartition(":")[2] for price in prices}
    lines = {}
    for line in preview.to_dict()["lines"]["data"]:
        meter = meters[line["pricing"]["price_details"]["price"]]
        lines[meter] = (int(line["quantity"]), int(line["amount"]))
    return lines, int(preview.total)
