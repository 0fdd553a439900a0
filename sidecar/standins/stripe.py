"""
A stateful stand-in of Stripe's billing API, for tests and the demo.

`python -m sidecar.standins.stripe --port 0` runs it as a process and prints its URL.
"""

import argparse
import asyncio
import signal
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sidecar.standins.serving import RequestRecord
from sidecar.standins.stripe_deliveries import Attempt
from sidecar.standins.stripe_events import ErrorReport
from sidecar.standins.stripe_meters import MeterEvent
from sidecar.standins.stripe_preview import InvoicePreview
from sidecar.standins.stripe_rooms import Item
from sidecar.standins.stripe_server import StripeServer
from sidecar.standins.stripe_settings import MovableClock, RunningClock, exact_sum

__all__ = ["RequestRecord", "StripeStandin"]


class StripeStandin(StripeServer):
    """The server with what a test may do to the account behind the API's back, and see of it."""

    def add_customer(self, customer_id: str, *, card: str | None = None) -> None:
        """
        Add a customer under this id, with a card of stripe_payment_methods.CARDS that pays.

        Raises:
            ApiError: If the id is taken or the card unknown.
        """
        self.account.customers.add(customer_id, {})
        if card is not None:
            self.set_card(customer_id, card)

    def set_card(self, customer_id: str, card: str) -> str:
        """Let another test card pay a customer's invoices, and answer its id."""
        method: str = self.account.methods.make_default(card, customer_id)["id"]
        return method

    def add_meter(self, event_name: str, *, formula: str = "sum") -> str:
        """Add a meter with default keys and answer its id. Raises ApiError if taken."""
        params = {
            "display_name": event_name,
            "event_name": event_name,
            "default_aggregation": {"formula": formula},
        }
        return self.account.meters.create(params).id

    def meter_totals(self) -> dict[tuple[str, str], Decimal]:
        """Exact sum of the events that count, by (customer, event name)."""
        return self.account.events.totals()

    def values(self) -> dict[str, Decimal]:
        """Exact sum of the events that count, by event name."""
        totals = self.meter_totals()
        names = sorted({name for _, name in totals})
        return {
            name: exact_sum(
                total for (_, event_name), total in totals.items() if event_name == name
            )
            for name in names
        }

    def invoice_preview(
        self, customer_id: str, price_ids: list[str], *, start: datetime, end: datetime
    ) -> InvoicePreview:
        """Price a customer's events of [start, end) by metered prices. Raises ApiError."""
        return self.account.previews.preview(customer_id, price_ids, start=start, end=end)

    @property
    def meter_event_count(self) -> int:
        """How many events count: neither refused, nor in error, nor cancelled."""
        return sum(event.counts for event in self.account.events.events)

    @property
    def meter_events(self) -> tuple[MeterEvent, ...]:
        """Every event taken in, in order, those that do not count included."""
        return self.account.events.events

    @property
    def error_reports(self) -> tuple[ErrorReport, ...]:
        """Every asynchronous error so far, in order."""
        return tuple(self.account.events.error_reports)

    @property
    def snapshot_events(self) -> tuple[Item, ...]:
        """Every snapshot event so far, the newest last."""
        return tuple(self.account.log.snapshots.items.values())

    def add_restricted_key(self, key: str, *scopes: str) -> None:
        """Take a restricted key, for what these scopes (`rak_customer_read`, ...) name."""
        self.account.access.add_restricted_key(key, scopes)

    def webhook_secret(self, endpoint_id: str) -> str:
        """What signs an endpoint's webhooks. Raises KeyError for an unknown one."""
        return self.account.endpoints.secret_of(endpoint_id)

    def advance(self, step: timedelta) -> None:
        """
        Move the clock forward, stopping wherever something falls due.

        Raises:
            TypeError: If the clock is none that can be moved (MovableClock, RunningClock).
        """
        if not isinstance(self.clock, MovableClock | RunningClock):
            message = "the clock cannot be moved; give a MovableClock or a RunningClock"
            raise TypeError(message)
        target = self.clock() + step
        while True:
            self.run_due()
            due = self.account.agenda.next_due
            if due is None or due > target.timestamp():
                break
            self.clock.advance(datetime.fromtimestamp(due, UTC) - self.clock())
        self.clock.advance(max(target - self.clock(), timedelta(0)))

    def run_due(self) -> None:
        """Let the time that has passed take effect, for a clock that was moved by hand."""
        self.account.run_due()

    def set_delinquent(self, customer_id: str, *, delinquent: bool) -> None:
        """Set what the API only shows."""
        customer = self.account.customers.get(customer_id)
        self.account.customers.change(customer, {"delinquent": delinquent})

    def complete_checkout(
        self,
        session_id: str,
        *,
        card: str = "pm_card_visa",
        email: str = "payer@example.com",
        delayed: bool = False,
    ) -> Item:
        """
        Somebody pays on a session's page, with a test card.

        A card that refuses leaves the session open; with `delayed` the money comes by
        `settle_checkout`. Raises ApiError if the session is not open.
        """
        return self.account.checkout.complete(session_id, card=card, email=email, delayed=delayed)

    def settle_checkout(self, session_id: str, *, paid: bool) -> Item:
        """The money of a delayed payment comes, or never will."""
        return self.account.checkout.settle(session_id, paid=paid)

    def visit_payment_link(self, link_id: str) -> Item:
        """Somebody opens a payment link: answers the session to complete."""
        return self.account.payment_links.visit(link_id)

    def authenticate(self, intent_id: str, *, confirmed: bool = True) -> Item:
        """A card's owner confirms a payment that asked for it, or fails to."""
        return self.account.payments.authenticate(intent_id, confirmed=confirmed)

    def open_dispute(
        self, charge_id: str, *, amount: int | None = None, reason: str = "fraudulent"
    ) -> Item:
        """A charge is disputed, over all of it or an amount in minor units."""
        return self.account.disputes.open(charge_id, amount=amount, reason=reason)

    def close_dispute(self, dispute_id: str, *, won: bool) -> Item:
        """The bank decides a dispute."""
        return self.account.disputes.close(dispute_id, won=won)

    def fail_refund(self, refund_id: str) -> Item:
        """A refund comes back from the bank."""
        return self.account.refunds.fail(refund_id)

    async def deliver(self) -> list[Attempt]:
        """Send the webhooks that wait, once; what fails waits again."""
        return await self.account.deliveries.deliver()

    async def drain(self) -> list[Attempt]:
        """Send webhooks until none waits; the failing ones until they are given up."""
        return await self.account.deliveries.drain()


async def _run(arguments: argparse.Namespace) -> None:
    standin = StripeStandin(clock=RunningClock(), automatic=True)
    for customer in arguments.customer:
        standin.add_customer(customer)
    for event_name in arguments.meter:
        standin.add_meter(event_name)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    url = await standin.start(port=arguments.port)
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()
    await ended.wait()
    await standin.stop()


def main() -> None:
    """Serve on 127.0.0.1 until SIGINT or SIGTERM; the first line of output is the URL."""
    parser = argparse.ArgumentParser(prog="python -m sidecar.standins.stripe")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--customer", action="append", default=[], help="id to exist from start")
    parser.add_argument("--meter", action="append", default=[], help="event name of a sum meter")
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
