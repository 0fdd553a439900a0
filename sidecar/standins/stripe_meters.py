"""Meters: what is counted, by which formula. Source: docs.stripe.com/api/billing/meter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from sidecar.standins.stripe_errors import ApiError, StandinFull, missing, refuse_unmodelled
from sidecar.standins.stripe_paging import page_of
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds, exact_sum

METERS_URL = "/v1/billing/meters"
WINDOW_SECONDS = {"hour": 3_600, "day": 86_400}

_CREATE = frozenset(
    {
        "customer_mapping",
        "default_aggregation",
        "display_name",
        "event_name",
        "event_time_window",
        "value_settings",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """A meter. Only its status changes."""

    id: str
    event_name: str
    display_name: str
    formula: str
    customer_key: str
    value_key: str
    window: str | None
    created: int
    updated: int
    deactivated_at: int | None = None

    @property
    def active(self) -> bool:
        """Whether it takes events."""
        return self.deactivated_at is None

    def to_json(self) -> dict[str, Any]:
        """The meter as the API shows it."""
        return {
            "id": self.id,
            "object": "billing.meter",
            "created": self.created,
            "customer_mapping": {"event_payload_key": self.customer_key, "type": "by_id"},
            "default_aggregation": {"formula": self.formula},
            "display_name": self.display_name,
            "event_name": self.event_name,
            "event_time_window": self.window,
            "livemode": False,
            "status": "active" if self.active else "inactive",
            "status_transitions": {"deactivated_at": self.deactivated_at},
            "updated": self.updated,
            "value_settings": {"event_payload_key": self.value_key},
        }


@dataclass(slots=True, kw_only=True)
class MeterEvent:
    """
    An event that Stripe took in.

    Attributes:
        value: What it counts; None while `error` says why it counts nothing.
        timestamp: When the usage was, seconds since 1970.
        received_at: When Stripe took it in; identifiers and cancellation go by this.
        error: Code of the asynchronous error, or None.
    """

    identifier: str
    event_name: str
    meter_id: str | None
    customer: str | None
    value: Decimal | None
    timestamp: int
    received_at: datetime
    error: str | None = None
    cancelled: bool = False

    @property
    def counts(self) -> bool:
        """Whether the event is part of any total."""
        return self.value is not None and self.error is None and not self.cancelled


def aggregate(meter: Meter, events: Sequence[MeterEvent]) -> Decimal:
    """
    What a meter makes of events that count: their sum, number or last value, never below 0.

    With an event_time_window events are pre-aggregated: the newest of each UTC window stands for
    the window.

    Args:
        meter: Says formula and window.
        events: In the order of their receipt.
    """
    newest_last = sorted(events, key=lambda event: event.timestamp)  # Stable: receipt breaks ties.
    if meter.window is not None:
        width = WINDOW_SECONDS[meter.window]
        newest_last = list({event.timestamp // width: event for event in newest_last}.values())
    values = [event.value for event in newest_last if event.value is not None]
    if meter.formula == "count":
        return Decimal(len(values))
    if meter.formula == "last":
        values = values[-1:]
    return max(Decimal(0), exact_sum(values))


class Meters:
    """Every meter of the account, by id."""

    def __init__(self, settings: StripeSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._meters: dict[str, Meter] = {}

    def create(self, params: Mapping[str, Any]) -> Meter:
        """
        Add a meter. An event name belongs to one active meter.

        Raises:
            ApiError: If an active meter has that event name.
            StandinFull: If objects_max is reached.
        """
        refuse_unmodelled(params, _CREATE)
        event_name = params["event_name"]
        self._refuse_taken(event_name)
        if len(self._meters) >= self._settings.objects_max:
            raise StandinFull("objects_max meters are kept")
        now = epoch_seconds(self._clock())
        meter = Meter(
            id=f"mtr_standin{len(self._meters) + 1:08d}",
            event_name=event_name,
            display_name=params["display_name"],
            formula=params["default_aggregation"]["formula"],
            customer_key=params.get("customer_mapping", {}).get(
                "event_payload_key", "stripe_customer_id"
            ),
            value_key=params.get("value_settings", {}).get("event_payload_key", "value"),
            window=params.get("event_time_window"),
            created=now,
            updated=now,
        )
        self._meters[meter.id] = meter
        return meter

    def exists(self, meter_id: str) -> bool:
        """Whether there is such a meter, active or not."""
        return meter_id in self._meters

    def get(self, meter_id: str) -> Meter:
        """
        One meter.

        Raises:
            ApiError: With status 404 for an unknown id.
        """
        if meter_id not in self._meters:
            raise missing("billing meter", meter_id, param="id", in_path=True)
        return self._meters[meter_id]

    def find(self, event_name: str) -> Meter | None:
        """The active meter of an event name, else its newest archived one, else None."""
        named = [meter for meter in self._meters.values() if meter.event_name == event_name]
        return max(named, key=lambda meter: (meter.active, meter.id), default=None)

    def list(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """One page of meters, newest first."""
        refuse_unmodelled(params, frozenset({"limit", "starting_after", "ending_before", "status"}))
        shown = [meter.to_json() for meter in reversed(self._meters.values())]
        status = params.get("status")
        return page_of([m for m in shown if status in (None, m["status"])], params, METERS_URL)

    def update(self, meter_id: str, params: Mapping[str, Any]) -> Meter:
        """Rename a meter: nothing else of it ever changes. Raises ApiError if it is unknown."""
        refuse_unmodelled(params, frozenset({"display_name"}))
        meter = self.get(meter_id)
        name = params.get("display_name", meter.display_name)
        return self._replace(
            replace(meter, display_name=name, updated=epoch_seconds(self._clock()))
        )

    def deactivate(self, meter_id: str) -> Meter:
        """Archive a meter. Raises ApiError if it is unknown or archived already."""
        meter = self.get(meter_id)
        if not meter.active:
            raise ApiError(400, "This meter is already inactive.", param="id")
        now = epoch_seconds(self._clock())
        return self._replace(replace(meter, deactivated_at=now, updated=now))

    def reactivate(self, meter_id: str) -> Meter:
        """Bring a meter back. Raises ApiError if it is unknown, active, or its name is taken."""
        meter = self.get(meter_id)
        if meter.active:
            raise ApiError(400, "This meter is already active.", param="id")
        self._refuse_taken(meter.event_name)
        now = epoch_seconds(self._clock())
        return self._replace(replace(meter, deactivated_at=None, updated=now))

    def _replace(self, meter: Meter) -> Meter:
        self._meters[meter.id] = meter
        return meter

    def _refuse_taken(self, event_name: str) -> None:
        taken = self.find(event_name)
        if taken is not None and taken.active:
            raise ApiError(
                400,
                f"An active meter already exists with event_name {event_name}.",
                param="event_name",
            )
