"""Meter events, their cancellation and their summaries: the heart of the stand-in."""

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sidecar.standins.stripe_errors import NO_RETRY, ApiError, StandinFull, missing
from sidecar.standins.stripe_event_log import EventLog, iso_instant
from sidecar.standins.stripe_meters import (
    METERS_URL,
    WINDOW_SECONDS,
    Meter,
    MeterEvent,
    Meters,
    aggregate,
)
from sidecar.standins.stripe_paging import page_of
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds, exact_sum

PAST_MAX = timedelta(days=35)
FUTURE_MAX = timedelta(minutes=5)
CANCEL_WITHIN = timedelta(hours=24)
VALUE_DIGITS_MAX = 15

_VALUE = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReport:
    """
    One asynchronous error, as a thin event reports it.

    Attributes:
        code: Stripe's error code.
        http_key: The request's Idempotency-Key. Stripe's sample error carries this, and not the
            event's identifier.
        event: The whole event as GET would return it; a webhook carries it without `data`.
    """

    code: str
    event_name: str
    customer: str | None
    identifier: str
    http_key: str | None
    event: dict[str, Any]


class MeterEvents:
    """
    Takes meter events in and totals them.

    An event is answered 200 before its meter, customer and value are looked at, as at Stripe:
    what is wrong with those becomes an ErrorReport and counts nothing.
    """

    def __init__(
        self,
        *,
        settings: StripeSettings,
        clock: Clock,
        meters: Meters,
        customer_exists: Callable[[str], bool],
        log: EventLog,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._meters = meters
        self._customer_exists = customer_exists
        self._log = log
        self._events: list[MeterEvent] = []
        self._by_identifier: dict[str, MeterEvent] = {}
        self._by_customer: dict[tuple[str, str], list[MeterEvent]] = {}
        self.error_reports: list[ErrorReport] = []

    @property
    def events(self) -> tuple[MeterEvent, ...]:
        """Every event taken in, those with errors and cancelled ones included."""
        return tuple(self._events)

    def totals(self) -> dict[tuple[str, str], Decimal]:
        """Sum of the events that count, by (customer, event name); not clamped at 0."""
        values: dict[tuple[str, str], list[Decimal]] = {}
        for event in self._events:
            if event.counts and event.customer is not None and event.value is not None:
                values.setdefault((event.customer, event.event_name), []).append(event.value)
        return {key: exact_sum(items) for key, items in values.items()}

    def lock_name(self, params: Mapping[str, Any]) -> tuple[str, str]:
        """What one call at a time may touch: (customer, event name)."""
        meter = self._meters.find(params["event_name"])
        key = "stripe_customer_id" if meter is None else meter.customer_key
        return params["payload"].get(key, ""), params["event_name"]

    def create(self, params: Mapping[str, Any], http_key: str | None) -> dict[str, Any]:
        """
        Take an event in.

        Raises:
            ApiError: For a duplicate identifier, and for a timestamp out of range unless that is
                reported asynchronously.
            StandinFull: If meter_events_max is reached.
        """
        now = self._clock()
        identifier = params.get("identifier") or uuid.uuid4().hex
        self._refuse_duplicate(identifier, now)
        timestamp = params.get("timestamp", epoch_seconds(now))
        timestamp_error = _timestamp_error(timestamp, now)
        if timestamp_error and self._settings.timestamp_errors == "sync":
            raise ApiError(
                400,
                "The timestamp must be within the past 35 calendar days or up to 5 minutes in "
                "the future.",
                code=timestamp_error,
                param="timestamp",
            )
        if len(self._events) >= self._settings.meter_events_max:
            raise StandinFull("meter_events_max events are kept")
        event = self._judge(params, identifier, timestamp, now)
        event.error = event.error or timestamp_error
        self._keep(event, http_key)
        return {
            "object": "billing.meter_event",
            "created": epoch_seconds(now),
            "event_name": event.event_name,
            "identifier": identifier,
            "livemode": False,
            "payload": dict(params["payload"]),
            "timestamp": timestamp,
        }

    def cancel(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """
        Take an event out of the totals again. Its identifier stays taken.

        Raises:
            ApiError: For an unknown identifier, an event that does not count, or one that was
                received more than 24 hours ago.
        """
        param = "cancel[identifier]"
        identifier = params.get("cancel", {}).get("identifier")
        if identifier is None:
            raise ApiError(
                400, f"Missing required param: {param}.", code="parameter_missing", param=param
            )
        event = self._by_identifier.get(identifier)
        if event is None or event.event_name != params["event_name"] or event.error:
            raise missing("meter event", identifier, param=param, in_path=False)
        if event.cancelled:
            raise ApiError(400, "This meter event is already cancelled.", param=param)
        if self._clock() - event.received_at > CANCEL_WITHIN:
            raise ApiError(
                400,
                "You can only cancel events within 24 hours of Stripe receiving them.",
                param=param,
            )
        event.cancelled = True
        return {
            "object": "billing.meter_event_adjustment",
            "cancel": {"identifier": identifier},
            "event_name": event.event_name,
            "livemode": False,
            "status": "pending",
            "type": "cancel",
        }

    def aggregate(
        self, meter: Meter, customer: str, start: int, end: int, *, received_by: datetime | None
    ) -> Decimal:
        """
        What the meter says for a customer over [start, end), seconds since 1970.

        Args:
            meter: Whose formula is applied.
            customer: Whose events are read.
            start: First second that counts.
            end: First second that does not.
            received_by: Leave out events received later than this; None takes all.
        """
        events = [
            event
            for event in self._by_customer.get((meter.id, customer), [])
            if event.counts
            and start <= event.timestamp < end
            and (received_by is None or event.received_at <= received_by)
        ]
        return aggregate(meter, events)

    def summaries(self, meter: Meter, params: Mapping[str, Any]) -> dict[str, Any]:
        """
        One page of event summaries, newest first; windows without events are left out.

        Values are floats, and late by summary_lag, as at Stripe.

        Raises:
            ApiError: For an unknown customer or times that are not on the window's border.
        """
        customer, start, end = params["customer"], params["start_time"], params["end_time"]
        if not self._customer_exists(customer):
            raise missing("customer", customer, param="customer", in_path=False)
        grouping = params.get("value_grouping_window")
        width = WINDOW_SECONDS.get(str(grouping), 60)
        for name in ("start_time", "end_time"):
            if params[name] % width:
                raise ApiError(
                    400,
                    f"{name} must be aligned with {grouping or 'minute'} boundaries",
                    param=name,
                )
        if start >= end:
            raise ApiError(400, "start_time must be before end_time", param="end_time")
        received_by = self._clock() - self._settings.summary_lag
        windows = [(start, end)]
        if grouping is not None:
            used = {
                event.timestamp // width * width
                for event in self._by_customer.get((meter.id, customer), [])
                if event.counts
                and start <= event.timestamp < end
                and event.received_at <= received_by
            }
            windows = [(first, first + width) for first in sorted(used, reverse=True)]
        items = [
            {
                "id": f"mtrusg_{meter.id}_{customer}_{first}_{last}",
                "object": "billing.meter_event_summary",
                "aggregated_value": float(
                    self.aggregate(meter, customer, first, last, received_by=received_by)
                ),
                "end_time": last,
                "livemode": False,
                "meter": meter.id,
                "start_time": first,
            }
            for first, last in windows
        ]
        return page_of(items, params, f"{METERS_URL}/{meter.id}/event_summaries")

    def _refuse_duplicate(self, identifier: str, now: datetime) -> None:
        known = self._by_identifier.get(identifier)
        if known is None or now - known.received_at >= self._settings.identifier_window:
            return
        raise ApiError(
            400,
            f"An event already exists with identifier {identifier}.",
            code="duplicate_meter_event" if self._settings.duplicate_code else None,
            headers=NO_RETRY,
        )

    def _judge(
        self, params: Mapping[str, Any], identifier: str, timestamp: int, now: datetime
    ) -> MeterEvent:
        """What the asynchronous part of Stripe finds: customer and value, or an error."""
        payload = params["payload"]
        meter = self._meters.find(params["event_name"])
        customer = payload.get("stripe_customer_id" if meter is None else meter.customer_key)
        value: Decimal | None = None
        if meter is None:
            error: str | None = "no_meter"
        elif not meter.active:
            error = "archived_meter"
        elif not customer:
            error = "meter_event_no_customer_defined"
        elif not self._customer_exists(customer):
            error = "meter_event_customer_not_found"
        elif meter.formula == "count":
            value, error = Decimal(1), None
        else:
            value, error = _parse_value(payload.get(meter.value_key, ""))
        return MeterEvent(
            identifier=identifier,
            event_name=params["event_name"],
            meter_id=None if meter is None else meter.id,
            customer=customer,
            value=value,
            timestamp=timestamp,
            received_at=now,
            error=error,
        )

    def _keep(self, event: MeterEvent, http_key: str | None) -> None:
        self._events.append(event)
        self._by_identifier[event.identifier] = event
        if event.error is None and event.meter_id and event.customer:
            self._by_customer.setdefault((event.meter_id, event.customer), []).append(event)
        if event.error is not None:
            report = _report(event, event.error, http_key, self._log.new_thin_id())
            self.error_reports.append(report)
            self._log.emit_thin(report.event)


def _timestamp_error(timestamp: int, now: datetime) -> str | None:
    if now.timestamp() - timestamp > PAST_MAX.total_seconds():
        return "timestamp_too_far_in_past"
    if timestamp - now.timestamp() > FUTURE_MAX.total_seconds():
        return "timestamp_in_future"
    return None


def _parse_value(text: str) -> tuple[Decimal | None, str | None]:
    if len(text) > 10 * VALUE_DIGITS_MAX or not _VALUE.fullmatch(text):
        return None, "meter_event_invalid_value"
    if sum(character.isdigit() for character in text) > VALUE_DIGITS_MAX:
        return None, "meter_event_value_too_many_digits"
    return Decimal(text), None


def _report(event: MeterEvent, code: str, http_key: str | None, event_id: str) -> ErrorReport:
    """Build the thin event that Stripe would send, with the data that GET would add."""
    found = event.meter_id is not None
    instant = iso_instant(event.received_at)
    sample = {
        "error_message": f"The meter event was not counted: {code}.",
        "request": {"identifier": http_key or ""},
    }
    reason = {
        "error_count": 1,
        "error_types": [{"code": code, "error_count": 1, "sample_errors": [sample]}],
    }
    body: dict[str, Any] = {
        "id": event_id,
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered"
        if found
        else "v1.billing.meter.no_meter_found",
        "livemode": False,
        "created": instant,
        "context": None,
        "data": {
            "developer_message_summary": "There is 1 invalid event",
            "reason": reason,
            "validation_start": instant,
            "validation_end": instant,
        },
    }
    if found:
        body["related_object"] = {
            "id": event.meter_id,
            "type": "billing.meter",
            "url": f"{METERS_URL}/{event.meter_id}",
        }
    return ErrorReport(
        code=code,
        event_name=event.event_name,
        customer=event.customer,
        identifier=event.identifier,
        http_key=http_key,
        event=body,
    )
