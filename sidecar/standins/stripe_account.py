"""Everything one account has, wired: rooms of objects, the event log, webhooks."""

from sidecar.standins.stripe_access import Access
from sidecar.standins.stripe_catalog import Catalog
from sidecar.standins.stripe_customers import Customers
from sidecar.standins.stripe_deliveries import Deliveries, WebhookKnobs
from sidecar.standins.stripe_event_log import EventLog
from sidecar.standins.stripe_events import MeterEvents
from sidecar.standins.stripe_meters import Meters
from sidecar.standins.stripe_preview import Previews
from sidecar.standins.stripe_rooms import Item, Room
from sidecar.standins.stripe_settings import Clock, StripeSettings
from sidecar.standins.stripe_webhook_endpoints import WebhookEndpoints


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
        self.access = Access(settings)
        self.log = EventLog(settings, clock, api_version)
        self.endpoints = WebhookEndpoints(settings, clock, api_version)
        self.deliveries = Deliveries(self.endpoints, knobs, settings.seed)
        self.log.listeners.append(self.deliveries.enqueue)
        self.customers = Customers(settings, clock, self.log)
        self.meters = Meters(settings, clock)
        self.catalog = Catalog(settings, clock, self.meters.exists)
        self.events = MeterEvents(settings, clock, self.meters, self.customers.exists, self.log)
        self.previews = Previews(self.customers, self.catalog, self.meters, self.events)

    def run_due(self) -> None:
        """Let the time that has passed take effect."""

    def find(self, object_id: str) -> Item | None:
        """The object of an id that other objects name, or None."""
        return next(
            (room.items[object_id] for room in self._rooms() if object_id in room.items), None
        )

    def _rooms(self) -> list[Room]:
        return [self.customers.room]

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
