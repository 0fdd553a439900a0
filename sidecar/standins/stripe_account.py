"""Everything one account has, wired: rooms of objects, the event log, webhooks."""

from typing import TypedDict

from sidecar.standins.stripe_access import Access
from sidecar.standins.stripe_agenda import Agenda
from sidecar.standins.stripe_catalog import Catalog
from sidecar.standins.stripe_collection import Collection
from sidecar.standins.stripe_credit_notes import CreditNotes
from sidecar.standins.stripe_customers import Customers
from sidecar.standins.stripe_cycles import Cycles
from sidecar.standins.stripe_deliveries import Deliveries, WebhookKnobs
from sidecar.standins.stripe_event_log import EventLog
from sidecar.standins.stripe_events import MeterEvents
from sidecar.standins.stripe_invoice_items import InvoiceItems
from sidecar.standins.stripe_invoice_lines import InvoiceLines
from sidecar.standins.stripe_invoices import Invoices
from sidecar.standins.stripe_meters import Meters
from sidecar.standins.stripe_payment_methods import PaymentMethods
from sidecar.standins.stripe_payments import Payments
from sidecar.standins.stripe_preview import Previews
from sidecar.standins.stripe_refunds import Disputes, Refunds
from sidecar.standins.stripe_rooms import Item, Room
from sidecar.standins.stripe_settings import Clock, StripeSettings
from sidecar.standins.stripe_subscriptions import Subscriptions
from sidecar.standins.stripe_webhook_endpoints import WebhookEndpoints


class Basics(TypedDict):
    """What every part of billing is made with."""

    settings: StripeSettings
    clock: Clock
    log: EventLog
    customers: Customers


class Account:
    """
    One Stripe account in memory.

    Args:
        settings: Behaviour and bounds.
        clock: What time it is.
        api_version: What events say.
        knobs: How webhooks misbehave.
    """

    def __init__(
        self, settings: StripeSettings, clock: Clock, api_version: str, knobs: WebhookKnobs
    ) -> None:
        self.settings = settings
        self._clock = clock
        self.agenda = Agenda(settings.actions_max)
        self.access = Access(settings)
        self.log = EventLog(settings, clock, api_version)
        self.endpoints = WebhookEndpoints(settings, clock, api_version)
        self.deliveries = Deliveries(self.endpoints, knobs, settings.seed)
        self.log.listeners.append(self.deliveries.enqueue)
        self.customers = Customers(settings, clock, self.log)
        self.meters = Meters(settings, clock)
        self.catalog = Catalog(settings, clock, self.meters.exists)
        self.events = MeterEvents(
            settings=settings,
            clock=clock,
            meters=self.meters,
            customer_exists=self.customers.exists,
            log=self.log,
        )
        self.previews = Previews(self.customers, self.catalog, self.meters, self.events)
        self._wire_payments()
        self._wire_billing()

    def _wire_payments(self) -> None:
        settings, clock, log = self.settings, self._clock, self.log
        self.methods = PaymentMethods(settings, clock, log, self.customers)
        self.payments = Payments(
            settings=settings,
            clock=clock,
            log=log,
            customers=self.customers,
            methods=self.methods,
        )
        self.refunds = Refunds(settings, clock, log, self.payments)
        self.disputes = Disputes(settings, clock, log, self.payments)

    def _wire_billing(self) -> None:
        basics: Basics = {
            "settings": self.settings,
            "clock": self._clock,
            "log": self.log,
            "customers": self.customers,
        }
        lines = InvoiceLines(self.catalog, self.meters, self.events)
        self.subscriptions = Subscriptions(**basics, catalog=self.catalog, methods=self.methods)
        self.invoices = Invoices(self.settings, self._clock, self.log, self.customers)
        self.invoice_items = InvoiceItems(
            **basics, catalog=self.catalog, lines=lines, invoices=self.invoices
        )
        self.collection = Collection(
            **basics,
            agenda=self.agenda,
            subscriptions=self.subscriptions,
            invoices=self.invoices,
            payments=self.payments,
        )
        self.cycles = Cycles(
            **basics,
            agenda=self.agenda,
            subscriptions=self.subscriptions,
            lines=lines,
            invoices=self.invoices,
            invoice_items=self.invoice_items,
            collection=self.collection,
        )
        self.credit_notes = CreditNotes(
            **basics,
            invoices=self.invoices,
            collection=self.collection,
            refunds=self.refunds,
        )

    def run_due(self) -> None:
        """Let the time that has passed take effect, the earliest first."""
        while True:
            due = self.agenda.next_due
            if due is None or due > self._clock().timestamp():
                return
            self.agenda.run_next()

    def find(self, object_id: str) -> Item | None:
        """The object of an id that other objects name, or None."""
        return next(
            (room.items[object_id] for room in self._rooms() if object_id in room.items), None
        )

    def _rooms(self) -> list[Room]:
        return [
            self.customers.room,
            self.methods.room,
            self.payments.intents,
            self.payments.charges,
            self.refunds.room,
            self.disputes.room,
            self.subscriptions.room,
            self.invoices.room,
            self.invoice_items.room,
            self.collection.payments_room,
            self.credit_notes.room,
        ]

    def describe(self) -> Item:
        """The account as it describes itself."""
        return {
            "id": self.settings.account_id,
            "object": "account",
            "business_profile": {"name": "Stand-in", "support_email": None, "url": None},
            "charges_enabled": True,
            "country": "US",
            "default_currency": "usd",
            "details_submitted": True,
            "email": "standin@example.com",
            "payouts_enabled": True,
            "settings": {
                "dashboard": {"display_name": "Stand-in", "timezone": "Etc/UTC"},
                "payments": {"statement_descriptor": "STANDIN"},
            },
            "type": "standard",
        }
