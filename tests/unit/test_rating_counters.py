"""What an event took of the counters of its hold, as rating tells the capture."""

from datetime import UTC, datetime

import pytest
from fixtures.memory_store import MemoryBalances, MemoryState

from sidecar.domain.counters import IN_FLIGHT, MONEY, REQUESTS, TOKENS
from sidecar.domain.holds import HoldTerms, QuotaLine
from sidecar.domain.pricing import Billing, Meter, PerUnit, PriceLine, RateCard
from sidecar.domain.usage import TokenUsage, UsageReport
from sidecar.services.rating import Priced, Rating

CARD = RateCard(
    plan="prepaid",
    billing=Billing.PREPAID,
    currency="USD",
    lines=(PriceLine(meter="output", price=PerUnit(amount_nano=3_000, per=1)),),
    meters={"output": Meter(name="output", value="usage.output")},
)
TERMS = HoldTerms(
    hold_id="0" * 40,
    gateway_id="gw-1",
    customer_id="cus_1",
    team_id="team",
    user_id="user",
    plan="prepaid",
    currency="USD",
    amount_nano=300_000,
    price_version=CARD.version,
    estimate={"output": 100},
    quota_lines=tuple(
        QuotaLine(field=f"q:{measure}:0", meter=measure, quantity=quantity)
        for measure, quantity in (
            ("output", 100),
            ("unmatched", 5),
            (MONEY, 300_000),
            (REQUESTS, 1),
            (TOKENS, 150),
            (IN_FLIGHT, 1),
        )
    ),
)


async def price(usage: TokenUsage) -> Priced:
    report = UsageReport(
        edge="test",
        gateway_id="gw-1",
        received_at=datetime(2026, 1, 31, tzinfo=UTC),
        usage=usage,
        status=200,
    )
    priced = await Rating(MemoryBalances(MemoryState())).price(report, TERMS, CARD)
    assert isinstance(priced, Priced)
    return priced


@pytest.mark.parametrize(
    ("usage", "taken"),
    [
        (
            TokenUsage(input=8, output=7),
            {"output": 7, "unmatched": 0, MONEY: 21_000, REQUESTS: 1, TOKENS: 15, IN_FLIGHT: 0},
        ),
        # Unknown is never free: what was held counts.
        (
            TokenUsage(),
            {"output": 100, "unmatched": 0, MONEY: 300_000, REQUESTS: 1, TOKENS: 150, IN_FLIGHT: 0},
        ),
    ],
)
async def test_each_measure_counts_what_the_rated_event_took_of_it(usage, taken):
    priced = await price(usage)
    assert {line.meter: line.quantity for line in priced.quota_lines} == taken
    assert [line.field for line in priced.quota_lines] == [f.field for f in TERMS.quota_lines]


async def test_an_event_inherits_team_and_user_from_its_hold():
    event = (await price(TokenUsage(input=1, output=1))).event
    assert (event.team_id, event.user_id) == ("team", "user")
