"""
Subscriptions through time: their first invoice, one for each period, trials and ends.

What Stripe does not document and is assumed here: usage of a trial is on no invoice; a price that
is replaced within a period prices the whole period's usage; a subscription of metered prices alone
starts without an invoice, as `billing_mode=flexible` does.
"""

from collections.abc import Mapping
from typing import Any

from sidecar.standins.stripe_agenda import Agenda
from sidecar.standins.stripe_collection import Collection
from sidecar.standins.stripe_customers import Customers
from sidecar.standins.stripe_errors import ApiError, not_modelled, refuse_unmodelled
from sidecar.standins.stripe_event_log import EventLog
from sidecar.standins.stripe_invoice_items import InvoiceItems
from sidecar.standins.stripe_invoice_lines import InvoiceLines
from sidecar.standins.stripe_invoices import DAY_SECONDS, HOUR_SECONDS, Invoices
from sidecar.standins.stripe_periods import period_end
from sidecar.standins.stripe_rooms import Item
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds
from sidecar.standins.stripe_subscriptions import (
    ENDED,
    Subscriptions,
    is_metered,
    items_of,
    period_of,
)

INCOMPLETE_SECONDS = 23 * HOUR_SECONDS
TRIAL_NOTICE_SECONDS = 3 * DAY_SECONDS


class Cycles:
    """Makes the invoices of the account's subscriptions."""

    def __init__(
        self,
        *,
        settings: StripeSettings,
        clock: Clock,
        log: EventLog,
        agenda: Agenda,
        customers: Customers,
        subscriptions: Subscriptions,
        lines: InvoiceLines,
        invoices: Invoices,
        invoice_items: InvoiceItems,
        collection: Collection,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._log = log
        self._agenda = agenda
        self._customers = customers
        self._subscriptions = subscriptions
        self._lines = lines
        self._invoices = invoices
        self._invoice_items = invoice_items
        self._collection = collection

    def create(self, params: Mapping[str, Any]) -> Item:
        """
        Start a subscription: now, with a trial, or with a first period up to its anchor.

        Raises:
            ApiError: As Subscriptions.build, and for a trial or anchor in the past.
        """
        now = epoch_seconds(self._clock())
        if params.get("payment_behavior", "allow_incomplete") != "allow_incomplete":
            raise not_modelled("payment_behavior other than allow_incomplete")
        trial_end = _trial_end(params, now)
        anchor = trial_end or params.get("billing_cycle_anchor", now)
        if anchor < now:
            raise ApiError(
                400, "billing_cycle_anchor cannot be in the past.", param="billing_cycle_anchor"
            )
        subscription = self._subscriptions.build(params, now)
        fixed = [item for item in items_of(subscription) if not is_metered(item["price"])]
        prorates = params.get("proration_behavior") != "none"
        if anchor > now and trial_end is None and fixed and prorates:
            raise not_modelled("prorations; send proration_behavior=none")
        recurring = items_of(subscription)[0]["price"]["recurring"]
        end = anchor if anchor > now else period_end(now, now, recurring)
        subscription["billing_cycle_anchor"] = anchor
        _set_period(subscription, now, end)
        if trial_end is not None:
            subscription.update(status="trialing", trial_start=now, trial_end=trial_end)
        if subscription["cancel_at_period_end"]:
            subscription.update(cancel_at=end, canceled_at=now)
        self._subscriptions.room.add(subscription)
        customer = self._customers.get(subscription["customer"])
        customer["currency"] = customer["currency"] or subscription["currency"]
        invoice = None
        if fixed and anchor == now:
            invoice = self._invoice(
                subscription,
                reason="subscription_create",
                used=None,
                ahead=(now, end),
                items=fixed,
            )
            subscription["latest_invoice"] = invoice["id"]
        self._log.emit("customer.subscription.created", subscription)
        if invoice is not None:
            self._collect_first(subscription, invoice)
        if trial_end is not None:
            notice = trial_end - TRIAL_NOTICE_SECONDS
            self._agenda.at(notice, lambda: self._announce_trial_end(subscription))
        self._plan(subscription)
        return subscription

    def update(self, subscription_id: str, params: Mapping[str, Any]) -> Item:
        """Change a subscription; `trial_end=now` starts the first paid period."""
        subscription = self._subscriptions.live(subscription_id)
        if params.get("trial_end", "now") != "now":
            raise not_modelled("another trial_end than now")
        self._subscriptions.change(subscription, params)
        if "trial_end" in params and subscription["status"] == "trialing":
            self._turn(subscription, epoch_seconds(self._clock()))
        return subscription

    def cancel(self, subscription_id: str, params: Mapping[str, Any]) -> Item:
        """End a subscription now; its usage so far is invoiced with `invoice_now` only."""
        refuse_unmodelled(params, frozenset({"cancellation_details", "invoice_now", "prorate"}))
        if params.get("prorate"):
            raise not_modelled("prorations")
        subscription = self._subscriptions.live(subscription_id)
        if params.get("invoice_now") and subscription["status"] != "trialing":
            start = period_of(subscription)[0]
            invoice = self._invoice(
                subscription,
                reason="subscription_update",
                used=(start, epoch_seconds(self._clock())),
                ahead=None,
            )
            subscription["latest_invoice"] = invoice["id"]
            self._collection.finalize_draft(invoice)
        return self._subscriptions.end(subscription)

    def create_invoice(self, params: Mapping[str, Any]) -> Item:
        """A manual invoice; with `pending_invoice_items_behavior=include` of what is pending."""
        if "subscription" in params:
            raise not_modelled("manual invoices of a subscription")
        customer, currency, fields = self._invoices.create_params(params)
        include = params.get("pending_invoice_items_behavior", "exclude") == "include"
        invoice = self._invoices.open_draft(
            customer,
            currency,
            lambda draft: self._invoice_items.lines_of(draft["id"]),
            before=self._invoice_items.pull if include else lambda _: None,
            **fields,
        )
        self._collection.plan(invoice)
        return invoice

    def _collect_first(self, subscription: Item, invoice: Item) -> None:
        if subscription["collection_method"] == "charge_automatically":
            self._collection.finalize_draft(invoice)  # At once: there is no usage to wait for.
        if subscription["status"] == "incomplete":
            instant = epoch_seconds(self._clock()) + INCOMPLETE_SECONDS
            self._agenda.at(instant, lambda: self._expire(subscription))

    def _plan(self, subscription: Item) -> None:
        end = period_of(subscription)[1]
        self._agenda.at(end, lambda: self._turn_if_due(subscription, end))

    def _turn_if_due(self, subscription: Item, end: int) -> None:
        stands = subscription["status"] not in (*ENDED, "incomplete")
        if stands and period_of(subscription)[1] == end:
            self._turn(subscription, end)

    def _turn(self, subscription: Item, now: int) -> None:
        """One period ends and the next begins, unless that was the last."""
        used: tuple[int, int] | None = (period_of(subscription)[0], now)
        if subscription["status"] == "trialing":
            used = None
        if subscription["cancel_at_period_end"]:
            if used is not None and any(is_metered(i["price"]) for i in items_of(subscription)):
                invoice = self._invoice(
                    subscription, reason="subscription_cycle", used=used, ahead=None
                )
                subscription["latest_invoice"] = invoice["id"]
            self._subscriptions.end(subscription)
            return
        fields: Item = {}
        anchor = subscription["billing_cycle_anchor"]
        if subscription["status"] == "trialing":
            anchor = now
            fields = {"status": "active", "billing_cycle_anchor": now, "trial_end": now}
        recurring = items_of(subscription)[0]["price"]["recurring"]
        end = period_end(anchor, now, recurring)
        items = [
            {**item, "current_period_start": now, "current_period_end": end}
            for item in items_of(subscription)
        ]
        invoice = self._invoice(
            subscription, reason="subscription_cycle", used=used, ahead=(now, end)
        )
        fields["items"] = {**subscription["items"], "data": items}
        fields["latest_invoice"] = invoice["id"]
        self._subscriptions.set_fields(subscription, fields)
        self._plan(subscription)

    def _invoice(
        self,
        subscription: Item,
        *,
        reason: str,
        used: tuple[int, int] | None,
        ahead: tuple[int, int] | None,
        items: list[Item] | None = None,
    ) -> Item:
        """A draft of usage in `used` and fixed prices of `ahead`; finalized after the grace."""
        chosen = list(items_of(subscription)) if items is None else items
        customer = self._customers.room.get(subscription["customer"])

        def lines(draft: Item) -> list[Item]:
            made = [] if used is None else self._lines.in_arrears(customer["id"], chosen, used)
            made += [] if ahead is None else self._lines.in_advance(chosen, ahead)
            return made + self._invoice_items.lines_of(draft["id"])

        now = epoch_seconds(self._clock())
        advances = subscription["status"] != "unpaid"  # Then drafts pile up unfinalized.
        grace = int(self._settings.finalization_grace.total_seconds())
        start, end = used or ahead or (now, now)
        details = {
            "subscription": subscription["id"],
            "metadata": dict(subscription["metadata"]),
        }
        invoice = self._invoices.open_draft(
            customer,
            subscription["currency"],
            lines,
            before=self._invoice_items.pull,
            days_until_due=subscription["days_until_due"],
            auto_advance=advances,
            automatically_finalizes_at=now + grace if advances else None,
            billing_reason=reason,
            collection_method=subscription["collection_method"],
            parent={"type": "subscription_details", "subscription_details": details},
            period_start=start,
            period_end=end,
        )
        self._collection.plan(invoice)
        return invoice

    def _announce_trial_end(self, subscription: Item) -> None:
        if subscription["status"] == "trialing":
            self._log.emit("customer.subscription.trial_will_end", subscription)

    def _expire(self, subscription: Item) -> None:
        if subscription["status"] == "incomplete":
            self._subscriptions.end(subscription, status="incomplete_expired")
            self._collection.void(subscription["latest_invoice"])


def _trial_end(params: Mapping[str, Any], now: int) -> int | None:
    if "trial_end" in params and "trial_period_days" in params:
        raise ApiError(400, "Give trial_end or trial_period_days, not both.", param="trial_end")
    if "trial_period_days" in params:
        return now + int(params["trial_period_days"]) * DAY_SECONDS
    end = params.get("trial_end", "now")
    if end == "now":
        return None
    if end <= now:
        raise ApiError(400, "Invalid timestamp: must be in the future.", param="trial_end")
    return int(end)


def _set_period(subscription: Item, start: int, end: int) -> None:
    for item in items_of(subscription):
        item.update(current_period_start=start, current_period_end=end)
