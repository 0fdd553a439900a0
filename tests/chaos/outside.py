"""Stripe and Paystack as they go on by themselves: invoices, payments, disputes, webhooks."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from aiohttp import web
from chaos.jobs import GRACE
from fixtures.collecting_banks import PaystackBank
from fixtures.live_store import SystemClock
from fixtures.provider_parts import served

from sidecar.domain.errors import InvalidInput
from sidecar.domain.minor_units import PAYSTACK, STRIPE
from sidecar.inbound.webhooks.stripe import StripeWebhooks
from sidecar.outbound.postgres.inbox import PostgresInbox
from sidecar.outbound.postgres.payers import PostgresPayers
from sidecar.outbound.postgres.pool import Pool
from sidecar.services.provider_ports import Payer
from sidecar.services.webhooks import WebhookReceiver
from sidecar.standins.paystack_transactions import Card
from sidecar.standins.stripe import StripeStandin
from sidecar.standins.stripe_deliveries import WebhookKnobs
from sidecar.standins.stripe_faults import Fault, Faults

DUE_DAYS = (-30, 60)
LOST_ANSWERS = 0.3
ACTS = {"send": 3, "charge": 1, "pay": 4, "void": 2, "give up": 1, "dispute": 2}
FAULTS = {
    Fault.DROP_BEFORE_COMMIT: 0.05,
    Fault.DROP_AFTER_COMMIT: 0.05,
    Fault.TRUNCATE_AFTER_COMMIT: 0.05,
    Fault.ERROR_BEFORE_COMMIT: 0.05,
    Fault.ERROR_AFTER_COMMIT: 0.05,
    Fault.RATE_LIMIT: 0.05,
}
"""30 % of all requests together."""


def at_stripe(customer_id: str) -> str:
    return f"{customer_id}_at_stripe"


class Outside:
    """Both providers, and the door at which Stripe's webhooks arrive."""

    def __init__(self, rng: Random, pool: Pool) -> None:
        self.rng = rng
        self.stripe = StripeStandin(
            faults=Faults(seed=rng.randrange(2**32), probabilities=FAULTS, paths=None),
            webhooks=WebhookKnobs(duplicate=0.3, shuffle=True, attempts_max=1_000),
        )
        self.bank = PaystackBank()
        self.stripe_url = self.paystack_url = ""
        self.prices: dict[str, list[str]] = {}
        """What may be subscribed to, by the plan that it gives."""
        self.plans: dict[str, str] = {}
        """The same the other way round."""
        self.answers: Counter[str] = Counter()
        self.drawn: Counter[Fault] = Counter()
        """Of both providers, up to the calm."""
        self._pool = pool
        self._payers = PostgresPayers(pool)
        self._receiver: WebhookReceiver | None = None
        self._calm = False

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        seed = self.rng.randrange(2**32)
        async with (
            self.stripe.serving() as self.stripe_url,
            self.bank.serving() as self.paystack_url,
            served(self._take) as door,
        ):
            # On the server itself: it is asked for its faults at each request.
            self.bank.standin.faults = Faults(seed=seed, probabilities=FAULTS, paths=None)
            made = self.stripe.account.endpoints.create({"url": door, "enabled_events": ["*"]})
            verifier = StripeWebhooks([made["secret"]])
            self._receiver = WebhookReceiver(
                PostgresInbox(self._pool), {STRIPE: verifier}, SystemClock()
            )
            yield

    async def _take(self, request: web.Request) -> web.Response:
        """Some answers never come, before or after the webhook was stored: it comes again."""
        fate = "stored" if self._calm else self._fate()
        if fate != "lost before":
            assert self._receiver is not None
            body = await request.read()
            headers = {name.lower(): value for name, value in request.headers.items()}
            try:
                receipt = await self._receiver.receive(STRIPE, headers, body)
            except InvalidInput:
                self.answers["refused"] += 1
                return web.Response(status=400)
            self.answers[receipt.value] += 1
        if fate != "stored":
            self.answers[fate] += 1
        return web.Response(status=200 if fate == "stored" else 500)

    def _fate(self) -> str:
        if self.rng.random() >= LOST_ANSWERS:
            return "stored"
        return self.rng.choice(["lost before", "lost after"])

    async def add_payer(self, customer_id: str, number: int) -> None:
        """A customer whose invoices Paystack collects: by card, by one that waits, by request."""
        card = (Card.SUCCEEDS, Card.PENDS, None)[number % 3]
        email, code = f"{customer_id}@example.com", ""
        if card is not None:
            code = f"AUTH_{customer_id}"
            self.bank.standin.add_card(code, email, card)
        payer = Payer(
            customer_id=customer_id,
            provider=PAYSTACK,
            email=email,
            authorization_code=code,
            collect=True,
        )
        await self._payers.put(payer, keep_authorization=False)

    def add_customer(self, customer_id: str) -> None:
        self.stripe.add_customer(at_stripe(customer_id), card="pm_card_visa")

    def add_price(self, plan: str, meter: str) -> None:
        """A price that is paid for what was used, as the catalog would have made it."""
        made = self.stripe.account.catalog.create_price(
            {
                "product_data": {"name": plan},
                "currency": "usd",
                "unit_amount": 1,
                "recurring": {
                    "interval": "month",
                    "usage_type": "metered",
                    "meter": self.stripe.account.meters.find(meter).id,
                },
                "metadata": {"sidecar_plan": plan},
            }
        )
        self.prices.setdefault(plan, []).append(made["id"])
        self.plans[made["id"]] = plan

    def account_of(self, customer_id: str) -> str:
        """Where Stripe bills a customer: as told from the start, or as was made for it."""
        for one in self.stripe.account.customers.room.items.values():
            if one["metadata"].get("sidecar_customer") == customer_id:
                return str(one["id"])
        return at_stripe(customer_id)

    def go_on(self, customers: list[str], now: datetime) -> None:
        """Something happens to one customer's invoice; who pays at Paystack may do so, too."""
        self.bank.move(self.rng)
        account, customer = self.stripe.account, at_stripe(self.rng.choice(customers))
        mine = [one for one in self.invoices() if one["customer"] == customer]
        owed = [one for one in mine if one["status"] in ("open", "uncollectible")]
        disputes = [one for one in account.disputes.room.items.values() if is_open(one)]
        (act,) = self.rng.choices(list(ACTS), list(ACTS.values()))
        if act in ("send", "charge"):
            self._bill(customer, now, sent=act == "send")
        elif act == "dispute":
            if disputes and self.rng.random() < 0.6:
                self.stripe.close_dispute(self.rng.choice(disputes)["id"], won=True)
            else:
                self._dispute(customer)
        elif owed:
            one = self.rng.choice(owed)
            if act == "pay":
                account.collection.pay(one["id"], {"paid_out_of_band": True})
            elif act == "void":
                account.collection.void(one["id"])
            elif one["status"] == "open":
                account.collection.mark_uncollectible(one["id"])

    async def pay_what_is_looked_at(self) -> None:
        """Invoices are paid that a worker has just fetched as open."""
        rows = await self._pool.fetch(
            "SELECT object_id FROM inbox_objects WHERE kind = 'invoice' AND lease_owner <> ''"
        )
        looked_at = {row["object_id"] for row in rows}
        for one in self.invoices():
            if one["id"] in looked_at and one["status"] == "open":
                self.stripe.account.collection.pay(one["id"], {"paid_out_of_band": True})

    def _bill(self, customer: str, now: datetime, *, sent: bool) -> None:
        account, params = self.stripe.account, {"collection_method": "charge_automatically"}
        if sent:
            due = now + timedelta(days=self.rng.randint(*DUE_DAYS))
            params = {"collection_method": "send_invoice", "due_date": int(due.timestamp())}
        amount = self.rng.randint(100, 10_000)
        account.invoice_items.create({"customer": customer, "amount": amount, "currency": "usd"})
        made = account.cycles.create_invoice(
            {"customer": customer, "pending_invoice_items_behavior": "include", **params}
        )
        account.collection.finalize(made["id"], {})

    def _dispute(self, customer: str) -> None:
        disputed = {one["charge"] for one in self.stripe.account.disputes.room.items.values()}
        for charge in self.stripe.account.payments.charges.items.values():
            mine = charge["customer"] == customer and charge["paid"]
            if mine and charge["id"] not in disputed:
                self.stripe.open_dispute(charge["id"])
                return

    def invoices(self) -> list[dict[str, Any]]:
        return list(self.stripe.account.invoices.room.items.values())

    def standing(self, customer_id: str, now: datetime) -> str:
        """What a customer's invoices at Stripe come to, by the rules in docs and from there."""
        customer, found = self.account_of(customer_id), "good"
        for one in self.invoices():
            if one["customer"] != customer:
                continue
            if one["status"] == "uncollectible":
                return "delinquent"
            if one["status"] == "open" and one["due_date"] is not None:
                due = datetime.fromtimestamp(one["due_date"], UTC)
                if due + GRACE <= now:
                    return "delinquent"
                found = "grace" if due <= now else found
        charges = {
            name: one
            for name, one in self.stripe.account.payments.charges.items.items()
            # What was paid for credit is a matter of credit.
            if one["customer"] == customer and "sidecar_top_up" not in one["metadata"]
        }
        disputes = self.stripe.account.disputes.room.items.values()
        if any(is_open(one) and one["charge"] in charges for one in disputes):
            return "delinquent"
        return found

    async def calm(self) -> None:
        """No more faults, and every webhook arrives."""
        for faults in (self.stripe.faults, self.bank.standin.faults):
            self.drawn.update(faults.drawn)
            faults.stop()
        self._calm = True
        await self.stripe.drain()


def is_open(dispute: dict[str, Any]) -> bool:
    return dispute["status"] not in ("won", "lost")
