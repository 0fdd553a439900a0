"""Which part of the account answers which operation."""

from collections.abc import Callable, Mapping
from typing import Any

from sidecar.standins.stripe_account import Account
from sidecar.standins.stripe_errors import ApiError
from sidecar.standins.stripe_requests import Call
from sidecar.standins.stripe_settings import Clock

Handler = Callable[[Call], dict[str, Any]]


def make_routes(account: Account, clock: Clock) -> dict[str, Handler]:
    """Every operation that is modelled, by its id; the others answer 501."""
    return {
        **_metering(account, clock),
        **_customers(account),
        **_catalog(account),
        **_events(account),
        **_subscriptions(account),
        **_invoices(account),
        **_payments(account),
    }


def _metering(account: Account, clock: Clock) -> dict[str, Handler]:
    events, meters = account.events, account.meters
    return {
        "billing.meter.create": lambda call: meters.create(call.params).to_json(),
        "billing.meter.retrieve": lambda call: meters.get(call.ids["id"]).to_json(),
        "billing.meter.list": lambda call: meters.list(call.params),
        "billing.meter.deactivate": lambda call: meters.deactivate(call.ids["id"]).to_json(),
        "billing.meter.reactivate": lambda call: meters.reactivate(call.ids["id"]).to_json(),
        "billing.meter_event.create": lambda call: events.create(call.params, call.http_key),
        "billing.meter_event_adjustment.create": lambda call: events.cancel(call.params),
        "billing.meter_event_summary.list": lambda call: events.summaries(
            meters.get(call.ids["id"]), call.params
        ),
        "invoice.create_preview": lambda call: account.previews.create(call.params, clock()),
    }


def _customers(account: Account) -> dict[str, Handler]:
    customers = account.customers
    return {
        "account.retrieve_current": lambda _: account.describe(),
        "customer.create": lambda call: _create_customer(account, call.params),
        "customer.retrieve": lambda call: customers.retrieve(call.ids["customer"]),
        "customer.update": lambda call: customers.update(call.ids["customer"], call.params),
        "customer.delete": lambda call: customers.delete(call.ids["customer"]),
        "customer.list": lambda call: customers.list(call.params),
        "customer.search": lambda call: customers.search(call.params),
        "customer.payment_method.list": lambda call: account.methods.of_customer(
            call.ids["customer"], call.params
        ),
    }


def _catalog(account: Account) -> dict[str, Handler]:
    catalog = account.catalog
    return {
        "product.create": lambda call: catalog.create_product(call.params),
        "product.retrieve": lambda call: catalog.find_product(call.ids["id"]),
        "product.list": lambda call: catalog.list_products(call.params),
        "price.create": lambda call: catalog.create_price(call.params),
        "price.retrieve": lambda call: catalog.retrieve_price(call.ids["price"], call.params),
        "price.list": lambda call: catalog.list_prices(call.params),
    }


def _events(account: Account) -> dict[str, Handler]:
    log, endpoints = account.log, account.endpoints
    return {
        "event.list": lambda call: log.list(call.params),
        "event.retrieve": lambda call: log.snapshots.get(call.ids["id"]),
        "v2.core.event.list": lambda call: log.list_thin(call.params),
        "v2.core.event.retrieve": lambda call: log.thin.get(call.ids["id"]),
        "webhook_endpoint.create": lambda call: endpoints.create(call.params),
        "webhook_endpoint.retrieve": lambda call: endpoints.room.get(call.ids["webhook_endpoint"]),
        "webhook_endpoint.update": lambda call: endpoints.update(
            call.ids["webhook_endpoint"], call.params
        ),
        "webhook_endpoint.delete": lambda call: endpoints.delete(call.ids["webhook_endpoint"]),
        "webhook_endpoint.list": lambda call: endpoints.list(call.params),
        "v2.core.event_destination.create": lambda call: endpoints.create_destination(call.params),
        "v2.core.event_destination.retrieve": lambda call: endpoints.destinations.get(
            call.ids["id"]
        ),
        "v2.core.event_destination.list": lambda call: endpoints.list_destinations(call.params),
    }


def _create_customer(account: Account, params: Mapping[str, Any]) -> dict[str, Any]:
    """A customer, with its card if it brings one."""
    method = params.get("payment_method")
    chosen = params.get("invoice_settings", {}).get("default_payment_method")
    if method is not None:
        account.methods.card_of(method)
    if chosen not in (None, method):
        message = "The default payment method must be the one that comes with the customer."
        raise ApiError(400, message, param="invoice_settings[default_payment_method]")
    customer = account.customers.create(params)
    if method is not None:
        attach = account.methods.make_default if chosen else account.methods.attach
        attach(method, customer["id"])
    return customer


def _subscriptions(account: Account) -> dict[str, Handler]:
    cycles, subscriptions = account.cycles, account.subscriptions
    name = "subscription_exposed_id"
    return {
        "subscription.create": lambda call: cycles.create(call.params),
        "subscription.retrieve": lambda call: subscriptions.room.get(call.ids[name]),
        "subscription.update": lambda call: cycles.update(call.ids[name], call.params),
        "subscription.cancel": lambda call: cycles.cancel(call.ids[name], call.params),
        "subscription.list": lambda call: subscriptions.page(call.params),
        "subscription_item.list": lambda call: subscriptions.list_items(call.params),
    }


def _invoices(account: Account) -> dict[str, Handler]:
    cycles, invoices, collection = account.cycles, account.invoices, account.collection
    items, notes = account.invoice_items, account.credit_notes
    return {
        "invoice.create": lambda call: cycles.create_invoice(call.params),
        "invoice.retrieve": lambda call: invoices.get(call.ids["invoice"]),
        "invoice.update": lambda call: invoices.update(call.ids["invoice"], call.params),
        "invoice.delete": lambda call: invoices.delete(call.ids["invoice"]),
        "invoice.list": lambda call: invoices.list(call.params),
        "invoice.finalize_invoice": lambda call: collection.finalize(
            call.ids["invoice"], call.params
        ),
        "invoice.pay": lambda call: collection.pay(call.ids["invoice"], call.params),
        "invoice.send_invoice": lambda call: collection.send(call.ids["invoice"]),
        "invoice.void_invoice": lambda call: collection.void(call.ids["invoice"]),
        "invoice.mark_uncollectible": lambda call: collection.mark_uncollectible(
            call.ids["invoice"]
        ),
        "invoice_line_item.list": lambda call: invoices.list_lines(
            call.ids["invoice"], call.params
        ),
        "invoice_payment.list": lambda call: collection.list_payments(call.params),
        "invoice_payment.retrieve": lambda call: collection.payments_room.get(
            call.ids["invoice_payment"]
        ),
        "invoice_item.create": lambda call: items.create(call.params),
        "invoice_item.retrieve": lambda call: items.room.get(call.ids["invoiceitem"]),
        "invoice_item.delete": lambda call: items.delete(call.ids["invoiceitem"]),
        "invoice_item.list": lambda call: items.page(call.params),
        "credit_note.create": lambda call: notes.create(call.params),
        "credit_note.retrieve": lambda call: notes.room.get(call.ids["id"]),
        "credit_note.void_credit_note": lambda call: notes.void(call.ids["id"]),
        "credit_note.list": lambda call: notes.page(call.params),
    }


def _payments(account: Account) -> dict[str, Handler]:
    payments, refunds, disputes = account.payments, account.refunds, account.disputes
    return {
        "payment_method.attach": lambda call: account.methods.attach_by(
            call.ids["payment_method"], call.params
        ),
        "payment_method.retrieve": lambda call: account.methods.room.get(
            call.ids["payment_method"]
        ),
        "payment_intent.create": lambda call: payments.create(call.params),
        "payment_intent.retrieve": lambda call: payments.intents.get(call.ids["intent"]),
        "payment_intent.confirm": lambda call: payments.confirm(call.ids["intent"], call.params),
        "payment_intent.cancel": lambda call: payments.cancel(call.ids["intent"], call.params),
        "payment_intent.list": lambda call: payments.intents.page(call.params, ("customer",)),
        "charge.retrieve": lambda call: payments.charges.get(call.ids["charge"]),
        "charge.list": lambda call: payments.charges.page(
            call.params, ("customer", "payment_intent")
        ),
        "refund.create": lambda call: refunds.create(call.params),
        "refund.retrieve": lambda call: refunds.room.get(call.ids["refund"]),
        "refund.list": lambda call: refunds.room.page(call.params, ("charge", "payment_intent")),
        "dispute.retrieve": lambda call: disputes.room.get(call.ids["dispute"]),
        "dispute.list": lambda call: disputes.room.page(call.params, ("charge", "payment_intent")),
    }
