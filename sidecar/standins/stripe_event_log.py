"""What happened, as events: snapshots of objects (v1) and thin ones (v2)."""

import copy
import itertools
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from sidecar.standins.stripe_errors import ApiError, refuse_unmodelled
from sidecar.standins.stripe_rooms import PAGE, Item, Room, in_live_mode
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds

EVENTS_URL = "/v1/events"


class EventLog:
    """
    Every event of the account, the newest last.

    Attributes:
        request: Id and Idempotency-Key of the request that is served now; both None in between,
            when time is the cause.
        listeners: Called with every event; they must not raise.
    """

    def __init__(self, settings: StripeSettings, clock: Clock, api_version: str) -> None:
        self._settings = settings
        self._clock = clock
        self._api_version = api_version
        self._random = random.Random(settings.seed)  # noqa: S311 - Twins must repeat from a seed.
        self._thin_numbers = itertools.count(1)
        self.snapshots = Room("event", "evt", EVENTS_URL, settings.events_max)
        self.thin = Room("event", "evt", "/v2/core/events", settings.events_max)
        self.request: tuple[str | None, str | None] = (None, None)
        self.listeners: list[Callable[[Item], None]] = []

    def emit(self, kind: str, item: Item, previous: Mapping[str, Any] | None = None) -> None:
        """
        Tell that something happened to an object, once or (settings.twin_events) twice.

        Args:
            kind: The event's type.
            item: The object as it is now; copied.
            previous: The changed fields as they were, for `*.updated`.
        """
        twice = self._random.random() < self._settings.twin_events
        for _ in range(2 if twice else 1):
            self._emit_once(kind, item, previous)

    def emit_thin(self, body: Item) -> None:
        """Tell a v2 event: the body as GET answers it."""
        self.thin.add(body)
        self._tell(body)

    def new_thin_id(self) -> str:
        """An id for the next v2 event."""
        return f"evt_thin{next(self._thin_numbers):08d}"

    def list(self, params: Mapping[str, Any]) -> Item:
        """One page of snapshot events: of one type, which may end in `.*`, or of several."""
        refuse_unmodelled(params, PAGE | {"created", "type", "types"})
        if "type" in params and "types" in params:
            raise ApiError(400, "You may only specify one of: type, types.", param="types")
        patterns = params.get("types", [params.get("type", "*")])
        shown = [
            event
            for event in self.snapshots.filtered(params, ())
            if any(fnmatchcase(event["type"], pattern) for pattern in patterns)
        ]
        return self.snapshots.page_of(shown, params)

    def list_thin(self, params: Mapping[str, Any]) -> Item:
        """The newest v2 events; only `limit`, `object_id` and `types` are modelled."""
        refuse_unmodelled(params, frozenset({"limit", "object_id", "types"}))
        shown = [
            event
            for event in reversed(self.thin.items.values())
            if params.get("types") is None or event["type"] in params["types"]
            if params.get("object_id") in (None, (event.get("related_object") or {}).get("id"))
        ]
        limit = params.get("limit", 20)
        return {"data": shown[:limit], "next_page_url": None, "previous_page_url": None}

    def _emit_once(self, kind: str, item: Item, previous: Mapping[str, Any] | None) -> None:
        request_id, key = self.request
        data: dict[str, Any] = {"object": copy.deepcopy(item)}
        if previous is not None:
            data["previous_attributes"] = copy.deepcopy(dict(previous))
        event = {
            "id": self.snapshots.new_id(),
            "object": "event",
            "api_version": self._api_version,
            "created": epoch_seconds(self._clock()),
            "data": data,
            "livemode": False,
            "pending_webhooks": 0,
            "request": {"id": request_id, "idempotency_key": key},
            "type": kind,
        }
        self._tell(self.snapshots.add(event))

    def _tell(self, event: Item) -> None:
        if self._settings.livemode:
            event.update(in_live_mode(event))
        for listener in self.listeners:
            listener(event)


def iso_instant(instant: datetime) -> str:
    """A time as v2 of the API writes it: UTC, milliseconds, Z."""
    text = instant.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
