"""
Where events are sent: webhook endpoints (snapshots) and event destinations (snapshots or thin).

Source: docs.stripe.com/api/webhook_endpoints and docs.stripe.com/api/v2/core/event_destinations.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sidecar.standins.stripe_errors import ApiError, refuse_unmodelled
from sidecar.standins.stripe_event_log import iso_instant
from sidecar.standins.stripe_rooms import Item, Room, merged_metadata, metadata_of
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds

ENDPOINTS_URL = "/v1/webhook_endpoints"
ENDPOINTS_MAX = 16

_CREATE = frozenset({"api_version", "description", "enabled_events", "metadata", "url"})
_UPDATE = (_CREATE - {"api_version"}) | {"disabled"}
_DESTINATION = frozenset(
    {
        *("description", "enabled_events", "event_payload", "include", "metadata", "name"),
        *("type", "webhook_endpoint"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where one event goes: `secret` signs it."""

    endpoint_id: str
    url: str
    secret: str


class WebhookEndpoints:
    """The account's endpoints and destinations, enabled or not."""

    def __init__(self, settings: StripeSettings, clock: Clock, api_version: str) -> None:
        self._clock = clock
        self._api_version = api_version
        self._account_id = settings.account_id
        self._secrets: dict[str, str] = {}
        self.room = Room(
            "webhook endpoint", "we", ENDPOINTS_URL, ENDPOINTS_MAX, path_name="webhook_endpoint"
        )
        self.destinations = Room(
            "event destination", "ed", "/v2/core/event_destinations", ENDPOINTS_MAX
        )

    def create(self, params: Mapping[str, Any]) -> Item:
        """Add an endpoint. Its secret is shown by this answer and by no other."""
        refuse_unmodelled(params, _CREATE)
        _refuse_bad_url(params["url"], "url")
        if not params["enabled_events"]:
            raise ApiError(400, "Invalid array: must not be empty", param="enabled_events")
        endpoint = self.room.add(
            {
                "id": self.room.new_id(),
                "object": "webhook_endpoint",
                "api_version": params.get("api_version"),
                "application": None,
                "created": epoch_seconds(self._clock()),
                "description": params.get("description") or None,
                "enabled_events": list(params["enabled_events"]),
                "livemode": False,
                "metadata": metadata_of(params),
                "status": "enabled",
                "url": params["url"],
            }
        )
        return {**endpoint, "secret": self._new_secret(endpoint["id"])}

    def update(self, endpoint_id: str, params: Mapping[str, Any]) -> Item:
        """Change an endpoint, or disable it."""
        refuse_unmodelled(params, _UPDATE)
        endpoint = self.room.get(endpoint_id)
        if "url" in params:
            _refuse_bad_url(params["url"], "url")
        for name in ("url", "enabled_events", "description"):
            if name in params:
                endpoint[name] = params[name]
        if "disabled" in params:
            endpoint["status"] = "disabled" if params["disabled"] else "enabled"
        endpoint["metadata"] = merged_metadata(endpoint["metadata"], params)
        return endpoint

    def delete(self, endpoint_id: str) -> Item:
        """Remove an endpoint; what waits for it is sent no more."""
        self.room.get(endpoint_id)
        del self.room.items[endpoint_id], self._secrets[endpoint_id]
        return {"id": endpoint_id, "object": "webhook_endpoint", "deleted": True}

    def list(self, params: Mapping[str, Any]) -> Item:
        """One page of endpoints, newest first."""
        return self.room.page(params, ())

    def create_destination(self, params: Mapping[str, Any]) -> Item:
        """Add a destination of type webhook_endpoint; secret and URL are shown if included."""
        refuse_unmodelled(params, _DESTINATION)
        if params["type"] != "webhook_endpoint" or "webhook_endpoint" not in params:
            raise ApiError(400, "The stand-in sends to webhook_endpoint only.", param="type")
        url = params["webhook_endpoint"]["url"]
        _refuse_bad_url(url, "webhook_endpoint.url")
        now = iso_instant(self._clock())
        thin = params["event_payload"] == "thin"
        destination = self.destinations.add(
            {
                "id": self.destinations.new_id(),
                "object": "v2.core.event_destination",
                "created": now,
                "description": params.get("description", ""),
                "enabled_events": list(params["enabled_events"]),
                "event_payload": params["event_payload"],
                "events_from": ["self"],
                "livemode": False,
                "metadata": metadata_of(params),
                "name": params["name"],
                "snapshot_api_version": None if thin else self._api_version,
                "status": "enabled",
                "type": "webhook_endpoint",
                "updated": now,
                "webhook_endpoint": {"url": url},
            }
        )
        secret = self._new_secret(destination["id"])
        included = params.get("include", [])
        details: dict[str, Any] = {"url": None, "signing_secret": None}
        if "webhook_endpoint.url" in included:
            details["url"] = url
        if "webhook_endpoint.signing_secret" in included:
            details["signing_secret"] = secret
        return {**destination, "webhook_endpoint": details}

    def list_destinations(self, params: Mapping[str, Any]) -> Item:
        """Every destination, newest first: there are few."""
        refuse_unmodelled(params, frozenset({"limit"}))
        shown = list(reversed(self.destinations.items.values()))
        return {"data": shown, "next_page_url": None, "previous_page_url": None}

    def secret_of(self, endpoint_id: str) -> str:
        """The signing secret of an endpoint or destination. Raises KeyError if there is none."""
        return self._secrets[endpoint_id]

    def targets(self, event: Item) -> tuple[Target, ...]:
        """Who gets this event now."""
        thin = event["object"] == "v2.core.event"
        wanting = [] if thin else list(self.room.items.values())
        wanting += [
            item
            for item in self.destinations.items.values()
            if (item["event_payload"] == "thin") == thin
        ]
        return tuple(
            Target(
                endpoint_id=item["id"],
                url=item["url"] if "url" in item else item["webhook_endpoint"]["url"],
                secret=self._secrets[item["id"]],
            )
            for item in wanting
            if item["status"] == "enabled"
            and any(fnmatchcase(event["type"], name) for name in item["enabled_events"])
        )

    def exists(self, endpoint_id: str) -> bool:
        """Whether an endpoint or destination is still there."""
        return endpoint_id in self._secrets

    def _new_secret(self, endpoint_id: str) -> str:
        # No secret of anybody: the same in every run, so that a failing test can be repeated.
        digest = hashlib.sha256(f"{self._account_id}/{endpoint_id}".encode()).hexdigest()
        self._secrets[endpoint_id] = f"whsec_{digest[:32]}"
        return self._secrets[endpoint_id]


def _refuse_bad_url(url: str, param: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise ApiError(400, "Invalid URL: an explicit scheme must be provided.", param=param)
