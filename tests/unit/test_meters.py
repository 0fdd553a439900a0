"""Meters as a language: what a value reads, what it takes, and what it refuses to guess."""

import pytest

from sidecar.domain.errors import InvalidInput
from sidecar.domain.meter_values import Shape, parse_value
from sidecar.domain.meters import Aggregation, Meter, check_group
from sidecar.domain.pricing import Billing, RateCard, parse_rate_card
from sidecar.domain.quantities import (
    MISSING,
    UNUSABLE,
    Caller,
    Measured,
    estimate_quantities,
    measure_quantities,
)
from sidecar.domain.usage import OnMissing, TokenUsage, UsageFacts

FACTS = UsageFacts(
    raw={"outer": {"seconds": 12}, "half": 1.5},
    headers={"x-gpu-ms": "61000", "x-bad": "12.5", "x-empty": ""},
    body={"result": {"rows": 3}},
    metadata={"gpu": {"kind": "l4", "whole": 4.0}, "session": "s1", "yes": True},
)


def measured(**changes) -> Measured:
    given = {
        "usage": TokenUsage(input=100, output=10, cache_read=80),
        "status": 200,
        "duration_ms": 900,
        "request_bytes": 40,
        "response_bytes": 60,
        "model": "m-1",
        "facts": FACTS,
        "caller": Caller(
            customer_id="cus_1",
            plan="pro",
            user_id="ann",
            team_id="blue",
            credential_id="key_1",
            route="chat",
            noted={"request.headers.x-tier": "gold", "customer.labels.a.b": "eu"},
        ),
    }
    return Measured(**(given | changes))


def take(value: str, bound: int = 0, *, told: Measured | None = None, **changes):
    meter = Meter(name="m", value=value, **changes)
    return measure_quantities({"m": meter}, {"m": bound}, told or measured())


@pytest.mark.parametrize(
    ("value", "counted"),
    [
        ("usage.raw.outer.seconds", 12),
        ("response.headers.x-gpu-ms", 61_000),
        ("response.body.result.rows", 3),
        ("metadata.gpu.whole", 4),
        ("response.duration_ms", 900),
        ("duration_ms", 900),
        ("request.bytes", 40),
        ("response_bytes", 60),
        ('(int(response.headers["x-gpu-ms"]) + 59999) / 60000', 2),
        ("(usage.input - usage.cache_read) * 10 + usage.cache_read", 280),
        ('request.headers["x-tier"] == "gold" ? 2 : 1', 2),
        ('customer.labels["a.b"] == "eu" ? usage.total : 0', 110),
        ("has(metadata.gpu.kind) ? 1 : 0", 1),
    ],
)
def test_values_read_usage_request_response_and_metadata(value: str, counted: int) -> None:
    taken = take(value)
    assert (taken.refusal, taken.quantities, taken.estimated) == ("", {"m": counted}, frozenset())


@pytest.mark.parametrize(
    "value",
    [
        "usage.raw.half",
        "response.headers.x-bad",
        "metadata.session",
        "metadata.yes",
        "usage.input - 200",
        "double(usage.input) / 3.0",
    ],
)
def test_what_is_there_but_is_no_count_sets_the_report_aside(value: str) -> None:
    for on_missing in OnMissing:
        taken = take(value, 5, on_missing=on_missing)
        assert (taken.refusal, taken.culprit, taken.quantities) == (UNUSABLE, "m", {})


@pytest.mark.parametrize(
    "value",
    [
        "usage.raw.nothing",
        "response.headers.x-empty",
        "metadata.gpu.kind.deeper",
        "1 / (usage.output - 10)",
    ],
)
def test_what_is_missing_follows_on_missing_and_is_never_silently_nothing(value: str) -> None:
    taken = take(value, 7)
    assert (taken.quantities, taken.estimated) == ({"m": 7}, {"m"})
    assert take(value, 0).refusal == MISSING
    zero = take(value, 7, on_missing=OnMissing.ZERO)
    assert (zero.quantities, zero.estimated) == ({"m": 0}, {"m"})


def test_a_duration_that_the_edge_does_not_know_is_missing_and_not_nothing() -> None:
    assert take("duration_ms", told=measured(duration_ms=None)).refusal == MISSING
    assert take("duration_ms", told=measured(duration_ms=0)).quantities == {"m": 0}


def test_a_count_takes_one_for_each_request_that_matches() -> None:
    count = {"aggregation": Aggregation.COUNT, "statuses": frozenset({200})}
    assert take("requests", **count).quantities == {"m": 1}
    assert take("requests", told=measured(status=500), **count).quantities == {"m": 0}


def test_observations_are_left_out_where_there_is_nothing_to_observe() -> None:
    for aggregation in (Aggregation.MAX, Aggregation.LATEST, Aggregation.UNIQUE):
        taken = take("metadata.absent", aggregation=aggregation)
        assert (taken.refusal, taken.observed) == ("", {})
    assert take("metadata.session", aggregation=Aggregation.MAX).observed == {}
    low = take("metadata.low", aggregation=Aggregation.LATEST)
    assert low.skipped == {"m": "its value is not there"}


def test_distinct_values_are_kept_as_hashes() -> None:
    first = take("metadata.session", aggregation=Aggregation.UNIQUE).observed["m"]
    second = take("user.id", aggregation=Aggregation.UNIQUE).observed["m"]
    assert (first.quantity, len(first.text_hash)) == (1, 32)
    assert "s1" not in first.text_hash
    assert first.text_hash != second.text_hash


def test_groups_are_bounded_printable_texts() -> None:
    every = ("model", "route", "metadata.gpu.kind", "label:a.b")
    assert take("requests", group_by=every).observed["m"].groups == {
        "model": "m-1",
        "route": "chat",
        "metadata.gpu.kind": "l4",
        "label:a.b": "eu",
    }
    told = measured(model="x" * 100, facts=UsageFacts(metadata={"a": "b\n\x00", "map": {"c": 1}}))
    found = take("requests", told=told, group_by=("model", "metadata.a", "metadata.map"))
    assert found.observed["m"].groups == {
        "model": "x" * 64,
        "metadata.a": "b??",
        "metadata.map": "",
    }
    rest = take("requests", group_by=("user", "team", "key", "response.status"))
    assert list(rest.observed["m"].groups.values()) == ["ann", "blue", "key_1", "200"]


def test_only_what_has_a_bound_is_held() -> None:
    meters = [
        Meter(name="free", value="metadata.x"),
        Meter(name="bound", value="metadata.x", max_quantity=9),
        Meter(name="calls", value="requests", aggregation=Aggregation.COUNT),
        Meter(name="peak", value="usage.input", aggregation=Aggregation.MAX),
    ]
    assert estimate_quantities(meters, 5, 5, 0) == {"free": 0, "bound": 9, "calls": 1, "peak": 0}
    assert [meter.bounded for meter in meters[:3]] == [False, True, True]


def test_a_published_card_carries_the_meter_and_reads_it_again() -> None:
    meters = {
        "old": Meter(name="old", value="usage.input", statuses=frozenset({200})),
        "new": Meter(
            name="new",
            value="usage.input * 2",
            group_by=("model",),
            max_quantity=10,
            aggregation=Aggregation.SUM,
        ),
    }
    card = RateCard(plan="p", billing=Billing.POSTPAID, currency="USD", lines=(), meters=meters)
    read = parse_rate_card(card.content())
    assert (read.version, dict(read.meters)) == (card.version, meters)
    assert parse_value("usage.input * 2") is read.meters["new"].parsed
    assert set(meters["old"].describe()) == {"value", "statuses", "on_missing", "reported"}


def test_a_card_with_a_value_that_this_version_cannot_read_is_refused() -> None:
    meters = {"m": Meter(name="m", value="usage.input")}
    card = RateCard(plan="p", billing=Billing.POSTPAID, currency="USD", lines=(), meters=meters)
    with pytest.raises(InvalidInput, match="unknown variable"):
        parse_rate_card(card.content().replace("usage.input", "usage.colour"))


def test_values_have_three_shapes_and_say_what_a_hold_must_note() -> None:
    assert parse_value("usage.total").shape is Shape.BUILT_IN
    assert parse_value("metadata.a_b.c").shape is Shape.PATH
    meter = Meter(
        name="m",
        value='size(request.path) + int(response.headers["x-a"]) + int(metadata.k.l)',
        group_by=("label:tier", "metadata.other"),
    )
    assert meter.parsed.shape is Shape.EXPRESSION
    assert meter.request_facts == {"request.path", "customer.labels.tier"}
    assert meter.response_headers == {"x-a"}
    assert meter.metadata_paths == {"k.l", "other"}


@pytest.mark.parametrize("name", ["customer.labels", "request.headers", "response.headers"])
def test_a_map_is_not_read_as_a_whole(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"cannot read {name} as a whole"):
        parse_value(f"size({name})")


@pytest.mark.parametrize(
    "text", ["", "colour", "label:", "metadata", "metadata.a-b", "label:" + "x" * 65]
)
def test_what_cannot_be_grouped_by_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="nothing to group by"):
        check_group(text)
