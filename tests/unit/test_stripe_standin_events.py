from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from sidecar.standins.stripe_errors import ApiError, StandinFull
from sidecar.standins.stripe_event_log import EventLog
from sidecar.standins.stripe_events import MeterEvents
from sidecar.standins.stripe_meters import Meters
from sidecar.standins.stripe_settings import MovableClock, StripeSettings

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOON_SECONDS = int(NOON.timestamp())
CUSTOMERS = {"cus_1", "cus_2"}


class Account:
    """Meters and events over one movable clock."""

    def __init__(self, formula="sum", window=None, **settings):
        self.clock = MovableClock(now=NOON)
        chosen = StripeSettings(**settings)
        self.meters = Meters(chosen, self.clock)
        params = {
            "display_name": "Tokens",
            "event_name": "tokens",
            "default_aggregation": {"formula": formula},
        }
        if window:
            params["event_time_window"] = window
        self.meter = self.meters.create(params)
        log = EventLog(chosen, self.clock, "2026-10-28.endive")
        self.events = MeterEvents(
            settings=chosen,
            clock=self.clock,
            meters=self.meters,
            customer_exists=CUSTOMERS.__contains__,
            log=log,
        )

    def send(self, value="25", customer="cus_1", event_name="tokens", key="key-1", **fields):
        payload = {"stripe_customer_id": customer, "value": value}
        params = {"event_name": event_name, "payload": payload, **fields}
        return self.events.create(params, key)

    def reported(self):
        return [report.code for report in self.events.error_reports]

    def summary(self, start, end, **params):
        params = {"customer": "cus_1", "start_time": start, "end_time": end, **params}
        return self.events.summaries(self.meter, params)["data"]


def test_totals_are_exact_sums_by_customer_and_meter():
    account = Account()
    for value, customer in [("0.1", "cus_1"), ("0.2", "cus_1"), ("999999999999999", "cus_2")]:
        account.send(value, customer)
    account.send("0.00000000000001", "cus_2")
    assert account.events.totals() == {
        ("cus_1", "tokens"): Decimal("0.3"),
        ("cus_2", "tokens"): Decimal("999999999999999.00000000000001"),
    }


def test_an_identifier_is_taken_for_24_hours_and_then_counts_again():
    account = Account()
    account.send(identifier="same")
    account.clock.advance(timedelta(hours=24) - timedelta(seconds=1))
    with pytest.raises(ApiError) as caught:
        account.send(identifier="same")
    assert str(caught.value) == "An event already exists with identifier same."
    assert caught.value.headers == {"stripe-should-retry": "false"}
    assert "code" not in caught.value.body()["error"]
    account.clock.advance(timedelta(seconds=1))
    account.send(identifier="same")
    assert account.events.totals() == {("cus_1", "tokens"): Decimal(50)}


def test_the_duplicate_code_is_a_knob():
    account = Account(duplicate_code=True)
    account.send(identifier="same")
    with pytest.raises(ApiError) as caught:
        account.send(identifier="same")
    assert caught.value.body()["error"]["code"] == "duplicate_meter_event"


def test_events_without_identifier_get_different_ones():
    account = Account()
    assert account.send()["identifier"] != account.send()["identifier"]


@pytest.mark.parametrize(
    ("offset", "code"),
    [
        (timedelta(days=-35), None),
        (timedelta(days=-35, seconds=-1), "timestamp_too_far_in_past"),
        (timedelta(minutes=5), None),
        (timedelta(minutes=5, seconds=1), "timestamp_in_future"),
        (timedelta(days=365_000), "timestamp_in_future"),
    ],
)
def test_timestamps_reach_35_days_back_and_5_minutes_ahead(offset, code):
    timestamp = NOON_SECONDS + int(offset.total_seconds())
    account = Account()
    if code is None:
        account.send(timestamp=timestamp)
        assert account.events.totals() == {("cus_1", "tokens"): Decimal(25)}
        return
    with pytest.raises(ApiError) as caught:
        account.send(timestamp=timestamp)
    error = caught.value.body()["error"]
    assert (error["code"], error["param"]) == (code, "timestamp")
    late = Account(timestamp_errors="async")
    late.send(timestamp=timestamp)
    assert (late.reported(), late.events.totals()) == ([code], {})


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"value": "many"}, "meter_event_invalid_value"),
        ({"value": ""}, "meter_event_invalid_value"),
        ({"value": "1e3"}, "meter_event_invalid_value"),
        ({"value": "NaN"}, "meter_event_invalid_value"),
        ({"value": "٢٥"}, "meter_event_invalid_value"),
        ({"value": "1234567890123456"}, "meter_event_value_too_many_digits"),
        ({"value": "1.234567890123456"}, "meter_event_value_too_many_digits"),
        ({"customer": "cus_unknown"}, "meter_event_customer_not_found"),
        ({"customer": ""}, "meter_event_no_customer_defined"),
        ({"event_name": "unknown"}, "no_meter"),
    ],
)
def test_what_is_wrong_with_the_content_is_reported_later_and_counts_nothing(fields, code):
    account = Account()
    assert account.send(**fields)["object"] == "billing.meter_event"
    assert (account.reported(), account.events.totals()) == ([code], {})


@pytest.mark.parametrize("value", ["123456789012345", "-7", "+7", "0.5", "7.", ".5"])
def test_decimal_strings_of_up_to_15_digits_count(value):
    account = Account()
    account.send(value)
    assert account.events.totals() == {("cus_1", "tokens"): Decimal(value)}


def test_an_error_report_is_a_thin_event_with_the_http_key_and_its_meter():
    account = Account()
    account.send(customer="cus_unknown", identifier="id-1", key="id-1:0")
    account.send(event_name="unknown", key="id-2:0")
    known, unknown = account.events.error_reports
    assert known.event["type"] == "v1.billing.meter.error_report_triggered"
    assert known.event["related_object"]["id"] == account.meter.id
    [kind] = known.event["data"]["reason"]["error_types"]
    assert kind["sample_errors"][0]["request"]["identifier"] == "id-1:0"
    assert (known.identifier, known.customer) == ("id-1", "cus_unknown")
    assert unknown.event["type"] == "v1.billing.meter.no_meter_found"
    assert "related_object" not in unknown.event


def test_an_archived_meter_counts_nothing_and_its_name_may_be_given_again():
    account = Account()
    account.send()
    account.meters.deactivate(account.meter.id)
    account.send()
    assert account.reported() == ["archived_meter"]
    with pytest.raises(ApiError, match="already inactive"):
        account.meters.deactivate(account.meter.id)
    account.meters.create(
        {
            "display_name": "again",
            "event_name": "tokens",
            "default_aggregation": {"formula": "sum"},
        }
    )
    account.send()
    assert account.events.totals() == {("cus_1", "tokens"): Decimal(50)}
    with pytest.raises(ApiError, match="already exists"):
        account.meters.reactivate(account.meter.id)


def test_an_event_name_belongs_to_one_active_meter():
    account = Account()
    with pytest.raises(ApiError, match="already exists"):
        account.meters.create(
            {
                "display_name": "b",
                "event_name": "tokens",
                "default_aggregation": {"formula": "sum"},
            }
        )


def cancel(account, identifier, event_name="tokens"):
    params = {"event_name": event_name, "type": "cancel", "cancel": {"identifier": identifier}}
    return account.events.cancel(params)


def test_a_cancelled_event_counts_nothing_and_keeps_its_identifier():
    account = Account()
    account.send(identifier="gone")
    account.send(identifier="kept", value="3")
    assert cancel(account, "gone")["status"] == "pending"
    assert account.events.totals() == {("cus_1", "tokens"): Decimal(3)}
    with pytest.raises(ApiError, match="already cancelled"):
        cancel(account, "gone")
    with pytest.raises(ApiError, match="already exists"):
        account.send(identifier="gone")


def test_only_events_of_the_last_24_hours_can_be_cancelled():
    account = Account()
    account.send(identifier="old")
    account.clock.advance(timedelta(hours=24))
    cancel(account, "old")
    account.send(identifier="older")
    account.clock.advance(timedelta(hours=24, seconds=1))
    with pytest.raises(ApiError, match="within 24 hours"):
        cancel(account, "older")


@pytest.mark.parametrize(("identifier", "name"), [("none", "tokens"), ("one", "other")])
def test_an_unknown_event_cannot_be_cancelled(identifier, name):
    account = Account()
    account.send(identifier="one")
    with pytest.raises(ApiError) as caught:
        cancel(account, identifier, name)
    assert caught.value.body()["error"]["code"] == "resource_missing"


def test_summaries_are_half_open_floats():
    account = Account()
    for offset, value in [(0, "1"), (59, "2"), (60, "4"), (-1, "8")]:
        account.send(value, timestamp=NOON_SECONDS + offset)
    [summary] = account.summary(NOON_SECONDS, NOON_SECONDS + 60)
    assert (summary["aggregated_value"], type(summary["aggregated_value"])) == (3.0, float)


def test_summaries_lag_behind_and_totals_do_not():
    account = Account(summary_lag=timedelta(minutes=10))
    account.send()
    hour = (NOON_SECONDS, NOON_SECONDS + 3_600)
    assert account.summary(*hour)[0]["aggregated_value"] == 0.0
    assert account.summary(*hour, value_grouping_window="hour") == []
    assert account.events.totals() == {("cus_1", "tokens"): Decimal(25)}
    account.clock.advance(timedelta(minutes=10))
    assert account.summary(*hour)[0]["aggregated_value"] == 25.0


def test_grouped_summaries_come_newest_first_and_skip_empty_windows():
    account = Account()
    start = NOON_SECONDS - 4 * 3_600
    for hours, value in [(0, "1"), (2, "2"), (2, "4")]:
        account.send(value, timestamp=start + hours * 3_600)
    items = account.summary(start, NOON_SECONDS, value_grouping_window="hour")
    shown = [((item["start_time"] - start) // 3_600, item["aggregated_value"]) for item in items]
    assert shown == [(2, 6.0), (0, 1.0)]


@pytest.mark.parametrize(
    ("shift", "params", "param"),
    [
        (1, {}, "start_time"),
        (60, {"value_grouping_window": "hour"}, "start_time"),
        (3_600, {}, "end_time"),
        (0, {"customer": "cus_unknown"}, "customer"),
    ],
)
def test_summaries_refuse_times_off_the_border_and_unknown_customers(shift, params, param):
    account = Account()
    with pytest.raises(ApiError) as caught:
        account.summary(NOON_SECONDS + shift, NOON_SECONDS + 3_600, **params)
    assert caught.value.body()["error"]["param"] == param


@pytest.mark.parametrize(
    ("formula", "window", "expected"),
    [("sum", None, 7), ("count", None, 3), ("last", None, 4), ("sum", "hour", 6)],
)
def test_a_meter_aggregates_by_its_formula_and_window(formula, window, expected):
    account = Account(formula, window)
    for offset, value in [(-3_600, "2"), (1, "4"), (0, "1")]:
        account.send(value, timestamp=NOON_SECONDS + offset)
    start, end = NOON_SECONDS - 7_200, NOON_SECONDS + 3_600
    assert account.summary(start, end)[0]["aggregated_value"] == expected


def test_an_aggregate_never_falls_below_zero():
    account = Account()
    account.send("-5")
    assert account.summary(NOON_SECONDS, NOON_SECONDS + 60)[0]["aggregated_value"] == 0.0
    assert account.events.totals() == {("cus_1", "tokens"): Decimal(-5)}


def test_a_full_account_raises():
    account = Account(meter_events_max=1)
    account.send()
    with pytest.raises(StandinFull):
        account.send()


def test_a_clock_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="aware"):
        MovableClock(now=datetime(2026, 11, 20))  # noqa: DTZ001 - The naive value is the case.
