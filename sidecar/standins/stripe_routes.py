"""Which part of the account answers which operation."""

from collections.abc import Callable
from typing import Any

from sidecar.standins.stripe_account import Account
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
        "customer.create": lambda call: customers.create(call.params),
        "customer.retrieve": lambda call: customers.retrieve(call.ids["customer"]),
        "customer.update": lambda call: customers.update(call.ids["customer"], call.params),
        "customer.delete": lambda call: customers.delete(call.ids["customer"]),
        "customer.list": lambda call: customers.list(call.params),
        "customer.search": lambda call: customers.search(call.params),
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
