"""Which card counts when, through the whole of metering: ledger = invoice over changes of cards."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from fixtures.http_edges import make_policy
from fixtures.prices import captured_prices
from fixtures.use_cases import UseCases
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.domain.card_schedules import CardSchedule, Timeline
from sidecar.domain.periods import Period, add_months
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import FreeQuota, OnChange, PriceLine, RateCard
from sidecar.domain.prorating import prorate
from sidecar.domain.usage import TokenUsage
from sidecar.services.hold_terms import MeterPrincipal
from sidecar.services.metering import UsageOutcome

UNHELD = MeterPrincipal(name="middleware", may_send_unheld=True)
START = datetime(2026, 1, 1, tzinfo=UTC)
METER = "input-tokens"
AFFORDABLE = captured_prices(st.integers(0, 10**12))
SMALL = st.integers(0, 30) | st.integers(0, 5_000)
HOURS = st.integers(0, 24 * 31 * 3)


def month_of(instant: datetime) -> Period:
    start = datetime(instant.year, instant.month, 1, tzinfo=UTC)
    return Period(start=start, end=add_months(start, 1))


def card_of(price: object, on_change: OnChange, since: datetime | None = None) -> RateCard:
    base = make_policy().cards["postpaid"]
    line = PriceLine(meter=METER, price=price, since=since)
    return replace(base, lines=(line,), on_change=on_change)


@st.composite
def schedules(draw: st.DrawFn) -> CardSchedule:
    """Up to four cards in turn, some of them alike, and another one for a customer."""
    on_change = draw(st.sampled_from(OnChange))
    few = draw(st.lists(AFFORDABLE, min_size=1, max_size=3))
    hours = sorted(draw(st.sets(st.integers(1, 24 * 80), max_size=3)))
    starts = tuple(START + timedelta(hours=n) for n in hours)

    def card(since: datetime | None) -> RateCard:
        price = draw(st.sampled_from(few))
        dated = on_change is OnChange.PRORATE and isinstance(price, FreeQuota)
        return card_of(price, on_change, since if dated else None)

    cards = tuple(card(since) for since in (None, *starts))
    return CardSchedule(
        general=Timeline(cards=cards, starts=starts),
        customers={"cus_own": Timeline(cards=(card(None),))},
    )


def policy_of(schedule: CardSchedule) -> Policy:
    policy = make_policy()
    cards = {**policy.cards, "postpaid": schedule.general.cards[0]}
    return replace(policy, cards=cards, schedules={"postpaid": schedule})


async def charged(
    policy: Policy, customer_id: str, usage: list[tuple[int, int]], order: list[int]
) -> dict[int, int]:
    """What each use came to in nano, sent in this order; a use may be sent more than once."""
    cases = UseCases(policy)
    await cases.customer(customer_id, plan="postpaid")
    amounts: dict[int, int] = {}
    for number in order:
        tokens, hour = usage[number]
        report = cases.report(
            customer_id=customer_id,
            event_id=f"evt-{number}",
            occurred_at=START + timedelta(hours=hour),
            usage=TokenUsage(input=tokens, output=0),
        )
        result = await cases.metering.capture(report, UNHELD)
        if number in amounts:
            assert result.outcome is UsageOutcome.DUPLICATE
        else:
            assert result.outcome is UsageOutcome.UNHELD
            amounts[number] = result.amount_nano
    return amounts


@settings(max_examples=60)
@given(st.data())
def test_any_split_order_and_lateness_adds_up_to_the_prices_of_the_totals(
    data: st.DataObject,
) -> None:
    schedule = data.draw(schedules(), label="schedule")
    customer = data.draw(st.sampled_from(["cus_1", "cus_own"]), label="customer")
    usage = data.draw(st.lists(st.tuples(SMALL, HOURS), min_size=1, max_size=8), label="usage")
    twice = data.draw(st.lists(st.sampled_from(range(len(usage))), max_size=3), label="repeated")
    order = data.draw(st.permutations([*range(len(usage)), *twice]), label="order")
    policy = policy_of(schedule)

    amounts = asyncio.run(charged(policy, customer, usage, order))

    expected: dict[tuple[str, datetime], tuple[int, object]] = {}
    for tokens, hour in usage:
        instant = START + timedelta(hours=hour)
        card = policy.card_for("postpaid", customer, instant)
        assert card is not None
        month = month_of(instant)
        key = (card.total_name(0), month.start)
        total, _ = expected.get(key, (0, None))
        expected[key] = (total + tokens, card.lines[0].price_in(month))
    assert sum(amounts.values()) == sum(
        price.cumulative(total) for total, price in expected.values()
    )


@given(schedules(), HOURS)
def test_an_instant_has_the_last_card_that_has_begun(schedule: CardSchedule, hour: int) -> None:
    policy = policy_of(schedule)
    instant = START + timedelta(hours=hour)
    begun = [start for start in schedule.general.starts if start <= instant]
    assert policy.card_for("postpaid", "cus_1", instant) is schedule.general.cards[len(begun)]
    assert policy.card_for("postpaid", "cus_own", instant) is schedule.customers["cus_own"].cards[0]
    assert policy.card_for("prepaid", "cus_own", instant) is policy.cards["prepaid"]
    assert policy.card_for("gone", "cus_1", instant) is None


@given(schedules(), HOURS, st.integers(1, 2_000))
def test_a_period_is_divided_among_its_cards_without_gap(
    schedule: CardSchedule, hour: int, length: int
) -> None:
    start = START + timedelta(hours=hour)
    period = Period(start=start, end=start + timedelta(hours=length))
    parts = list(schedule.general.within(period))
    assert parts[0][1].start == period.start
    assert parts[-1][1].end == period.end
    for (_, one), (_, following) in pairwise(parts):
        assert one.end == following.start
    for card, span in parts:
        assert schedule.general.at(span.start) is card
        assert schedule.general.at(span.end - timedelta(microseconds=1)) is card


@given(
    st.integers(0, 4 * 10**18),
    st.integers(1, 10**13),
    st.lists(st.integers(1, 10**13), max_size=6),
)
def test_shares_of_a_divided_period_add_up_to_the_whole(
    whole: int, length: int, cuts: list[int]
) -> None:
    period = Period(start=START, end=START + timedelta(microseconds=length))
    bounds = sorted({0, length, *(cut for cut in cuts if cut < length)})
    spans = [
        Period(start=START + timedelta(microseconds=one), end=START + timedelta(microseconds=other))
        for one, other in pairwise(bounds)
    ]
    shares = [prorate(whole, span, period) for span in spans]
    assert sum(shares) == whole
    assert all(share >= 0 for share in shares)


HALF = START + timedelta(days=15, hours=12)
QUOTA = FreeQuota(price=make_policy().cards["postpaid"].lines[0].price, units=100)


@pytest.mark.parametrize(
    ("on_change", "second", "amount"),
    [
        # 100 units before the change, 100 after it, of which each quota frees 100.
        (OnChange.RESET, QUOTA, 0),
        (OnChange.CARRY, QUOTA, 100_000),
        (OnChange.CARRY, replace(QUOTA, units=80), 20_000),
        # Half of the month is left when the second card begins: 40 of 80 are free.
        (OnChange.PRORATE, replace(QUOTA, units=80), 60_000),
    ],
)
def test_a_change_of_cards_treats_a_free_quota_as_the_plan_says(
    on_change: OnChange, second: FreeQuota, amount: int
) -> None:
    since = HALF if on_change is OnChange.PRORATE else None
    cards = (card_of(QUOTA, on_change), replace(card_of(second, on_change, since), plan="postpaid"))
    if on_change is OnChange.RESET:
        # The same prices under another name, as a changed meter makes them.
        meters = {METER: replace(cards[1].meters[METER], group_by=("model",))}
        cards = (cards[0], replace(cards[1], meters=meters))
    schedule = CardSchedule(general=Timeline(cards=cards, starts=(HALF,)))
    usage = [(100, 1), (100, 24 * 16)]
    amounts = asyncio.run(charged(policy_of(schedule), "cus_1", usage, [1, 0]))
    assert sum(amounts.values()) == amount


def test_a_prorated_quota_is_whole_again_in_the_next_month() -> None:
    line = PriceLine(meter=METER, price=replace(QUOTA, units=62), since=HALF)
    january, february = month_of(START), month_of(START + timedelta(days=40))
    assert line.price_in(january) == replace(QUOTA, units=31)
    assert line.price_in(february) == line.price
