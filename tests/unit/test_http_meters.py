"""Meters over REST: OpenMeter's parameters in, windows and groups out."""

from datetime import UTC, datetime, timedelta

import pytest
from fixtures.http_edges import ADMIN_TOKEN, World, calling, make_policy

from sidecar.domain.meters import Aggregation, Meter
from sidecar.domain.rules import MeterRule
from sidecar.services.meter_queries import ROWS_MAX, StoredUsage, WindowSize

START = datetime(2026, 11, 20, tzinfo=UTC)
URL = "/api/v1/meters/peak/query"


def make_world(aggregation: Aggregation = Aggregation.MAX) -> World:
    policy = make_policy()
    meter = Meter(
        name="peak",
        value="metadata.load",
        aggregation=aggregation,
        group_by=("model", "metadata.a"),
    )
    object.__setattr__(policy, "meters", (*policy.meters, MeterRule(meter=meter, match=())))
    return World(policy=policy)


def stored(number: int = 0, **changes) -> StoredUsage:
    return StoredUsage(
        **(
            {
                "subject": "cus_1",
                "window_start": START + timedelta(hours=number),
                "groups": ("m",),
                "total": 30,
                "largest": 20,
                "distinct": 2,
                "newest": 7,
            }
            | changes
        )
    )


async def get(world: World, path: str, **query: str):
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        return await call("GET", path, params=query)


async def test_meters_are_listed_by_name():
    reply = await get(make_world(), "/api/v1/meters")
    assert [item["name"] for item in reply.body["items"]] == ["input-tokens", "peak"]
    assert reply.body["items"][1] == {
        "name": "peak",
        "aggregation": "max",
        "value": "metadata.load",
        "group_by": ["model", "metadata.a"],
        "status": [],
        "on_missing": "capture-estimate",
        "max": None,
        "additive": False,
    }


async def test_a_query_asks_for_what_its_parameters_say():
    world = make_world()
    world.meter_usage.rows = [stored()]
    reply = await get(
        world,
        URL,
        **{
            "subject": "cus_1,cus_2",
            "from": "2026-11-20T00:00:00Z",
            "to": "2026-11-21T00:00:00Z",
            "windowSize": "HOUR",
            "windowTimeZone": "Europe/Berlin",
            "groupBy": "model,subject",
            "filterGroupBy[metadata.a]": "x,y",
        },
    )
    assert reply.status == 200, reply.body
    assert reply.body["data"] == [
        {
            "value": 20,
            "windowStart": "2026-11-20T00:00:00Z",
            "windowEnd": "2026-11-20T01:00:00Z",
            "subject": "cus_1",
            "groupBy": {"model": "m"},
        }
    ]
    assert (reply.body["from"], reply.body["windowSize"]) == ("2026-11-20T00:00:00Z", "HOUR")
    (asked,) = world.meter_usage.asked
    assert (asked.subjects, asked.group_by) == (("cus_1", "cus_2"), ("model", "subject"))
    assert (asked.window_size, asked.time_zone) == (WindowSize.HOUR, "Europe/Berlin")
    assert (asked.filters, asked.end) == ({"metadata.a": ("x", "y")}, START + timedelta(days=1))


@pytest.mark.parametrize(
    ("aggregation", "value"),
    [
        (Aggregation.SUM, 30),
        (Aggregation.COUNT, 30),
        (Aggregation.MAX, 20),
        (Aggregation.UNIQUE, 2),
        (Aggregation.LATEST, 7),
    ],
)
async def test_the_meter_says_which_number_counts(aggregation, value):
    world = make_world(aggregation)
    world.meter_usage.rows = [stored(subject="", groups=())]
    reply = await get(world, URL)
    (row,) = reply.body["data"]
    assert (row["value"], row["subject"]) == (value, None)
    assert row["windowStart"].endswith("-01T00:00:00Z")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"groupBy": "colour"}, "is not grouped by 'colour'; it has: subject, model, metadata.a"),
        ({"filterGroupBy[subject]": "x"}, "is not grouped by 'subject'"),
        ({"windowTimeZone": "Mars/Base"}, "IANA time zone"),
        ({"windowSize": "WEEK"}, "windowSize"),
        ({"from": "2026-11-21T00:00:00Z", "to": "2026-11-20T00:00:00Z"}, "from must lie before to"),
        ({"from": "2020-01-01T00:00:00Z", "to": "2026-11-20T00:00:00Z"}, "at most 366 days"),
        ({"colour": "x"}, "colour"),
        ({"subject": ",".join(map(str, range(101)))}, "101 values, at most 100"),
    ],
)
async def test_what_cannot_be_answered_is_a_400_that_says_why(query, words):
    reply = await get(make_world(), URL, **query)
    assert reply.status == 400
    assert words in reply.body["detail"]


async def test_too_many_rows_are_refused_and_never_cut():
    world = make_world()
    world.meter_usage.rows = [stored(number) for number in range(ROWS_MAX + 1)]
    reply = await get(world, URL, groupBy="model", windowSize="HOUR")
    assert reply.status == 400
    assert f"more than {ROWS_MAX} rows" in reply.body["detail"]


async def test_a_meter_that_is_none_is_a_404():
    assert (await get(make_world(), "/api/v1/meters/nothing/query")).status == 404
