"""Usage that comes late, in whatever steps: all invoices together charge the price of the total."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.invoice_charges import charges_of
from sidecar.domain.invoices import Charge, FindingKind, UsagePart
from sidecar.domain.late_charges import LatePeriod, late_charges, withhold, work_out
from sidecar.domain.periods import Period
from sidecar.domain.pricing import (
    Billing,
    Flat,
    FreeQuota,
    Minimum,
    OnChange,
    PerUnit,
    PriceLine,
    RateCard,
    Tier,
    Volume,
)

PERIOD = Period(start=datetime(2026, 6, 1, tzinfo=UTC), end=datetime(2026, 7, 1, tzinfo=UTC))
MIDDLE = PERIOD.start + timedelta(days=11)
VOLUME = Volume(
    tiers=(Tier(up_to=100, amount_nano=50, flat_nano=7), Tier(up_to=None, amount_nano=30)), per=4
)
UNIT = 10


def card(plan: str, on_change: OnChange, least: int, free: int = 0) -> RateCard:
    volume = FreeQuota(price=VOLUME, units=free) if free else VOLUME
    return RateCard(
        plan=plan,
        billing=Billing.POSTPAID,
        currency="USD",
        lines=(
            PriceLine(meter="calls", price=volume),
            PriceLine(meter="tokens", price=PerUnit(amount_nano=UNIT)),
            PriceLine(meter="", price=Flat(amount_nano=250)),
            PriceLine(meter="", price=Minimum(amount_nano=least)),
        ),
        meters={},
        on_change=on_change,
    )


def part(of: RateCard, meter: str, quantity: int, *, prepaid: bool = False) -> UsagePart:
    return UsagePart(
        late=False,
        month=PERIOD.start,
        price_version=of.version,
        meter=meter,
        model="",
        prepaid=prepaid,
        events=1,
        corrections=0,
        quantity=quantity,
        amount_nano=quantity * UNIT if meter == "tokens" else 0,
    )


def total_of(charges: list[Charge]) -> int:
    return sum(charge.amount_nano for charge in charges)


_used = st.tuples(st.sampled_from([0, 1]), st.sampled_from(["calls", "tokens"]))
# What is late may also take back a part of what was there.
_first = st.lists(st.tuples(_used, st.integers(0, 160)), max_size=5)
_later = st.lists(
    st.lists(st.tuples(_used, st.integers(-40, 120)), min_size=1, max_size=4), max_size=5
)


def quantities(usage) -> dict:
    found: dict = {}
    for key, quantity in usage:
        found[key] = found.get(key, 0) + quantity
    return found


@given(_first, _later, st.sampled_from(OnChange), st.integers(0, 4_000), st.integers(0, 120))
def test_all_invoices_together_charge_the_price_of_the_total(
    first, later, on_change, least, free
) -> None:
    own = card("pro", on_change, least, free)
    on_time = [part(own, meter, quantity) for (_, meter), quantity in first]
    in_force = [(own, PERIOD)]
    charged = total_of(charges_of(PERIOD, in_force, {own.version: own}, on_time))
    before = on_time
    for batch in later:
        added = [part(own, meter, quantity) for (_, meter), quantity in batch]
        late = LatePeriod(period=PERIOD, in_force=in_force, before=before, added=added)
        found = late_charges(late, {own.version: own})
        assert all(one.late and one.period == PERIOD and one.amount_nano for one in found)
        charged += total_of(found)
        before = [*before, *added]
    calls = sum(one.quantity for one in before if one.meter == "calls")
    rated = sum(one.amount_nano for one in before)
    volume = VOLUME.period_amount(max(0, calls - free))
    assert charged + rated == rated + volume + 250 + max(0, least - rated - volume - 250)


@given(_first, _later, st.sampled_from(OnChange), st.booleans())
def test_so_they_do_where_the_plan_changed_and_where_a_card_was_not_in_force(
    first, later, on_change, changed
) -> None:
    cards = [card("small", on_change, 900), card("large", on_change, 3_000, free=5)]
    known = {one.version: one for one in cards}
    in_force = (
        [
            (cards[0], Period(start=PERIOD.start, end=MIDDLE)),
            (cards[1], Period(start=MIDDLE, end=PERIOD.end)),
        ]
        if changed
        else [(cards[1], PERIOD)]
    )
    before = [part(cards[number], meter, quantity) for (number, meter), quantity in first]
    charged = charges_of(PERIOD, in_force, known, before)
    for batch in later:
        added = [part(cards[number], meter, quantity) for (number, meter), quantity in batch]
        late = LatePeriod(period=PERIOD, in_force=in_force, before=before, added=added)
        found = late_charges(late, known)
        assert found == late_charges(late, known)
        charged += found
        before = [*before, *added]
    whole = charges_of(PERIOD, in_force, known, before)
    assert total_of(charged) == total_of(whole)
    # Quantities of volume lines add up as well, for each line that something is charged of.
    for one in whole:
        if one.amount_nano and one.card.lines[one.index].meter:
            same = [c for c in charged if (c.card, c.index) == (one.card, one.index)]
            assert total_of(same) == one.amount_nano


@given(
    st.lists(st.integers(-50, 50).filter(bool), max_size=6),
    st.integers(-100, 0),
)
def test_what_is_written_off_raises_no_period_and_takes_nothing_back(amounts, usage) -> None:
    own = card("pro", OnChange.RESET, 0)
    charges = [Charge(card=own, index=0, quantity=1, amount_nano=amount) for amount in amounts]
    kept = withhold(charges, usage)
    assert total_of(kept) + usage == min(0, total_of(charges) + usage)
    if total_of(charges) + usage <= 0:
        assert kept == charges
    assert [one.amount_nano for one in kept if one.amount_nano < 0] == [
        amount for amount in amounts if amount < 0
    ]


def test_a_minimum_asks_for_what_a_late_correction_took_back_under_each_policy() -> None:
    own = card("pro", OnChange.RESET, 5_000)
    late = LatePeriod(
        period=PERIOD,
        in_force=[(own, PERIOD)],
        before=[part(own, "tokens", 100)],
        added=[part(own, "tokens", -30)],
    )
    for written_off in (False, True):
        work = work_out([late], {own.version: own}, written_off=written_off)
        assert [(one.index, one.amount_nano) for one in work.charges] == [(3, 300)]
        assert work.findings == ()


def test_a_volume_that_is_written_off_is_told_by_how_much() -> None:
    own = card("pro", OnChange.RESET, 0)
    late = LatePeriod(
        period=PERIOD,
        in_force=[(own, PERIOD)],
        before=[part(own, "calls", 40)],
        added=[part(own, "calls", 8)],
    )
    work = work_out([late], {own.version: own}, written_off=True)
    assert work.charges == ()
    (finding,) = work.findings
    told = (finding.kind, finding.line_number, finding.captured_nano, finding.expected_nano)
    assert told == (FindingKind.LATE_WRITTEN_OFF, 0, 0, 100)
    # The next tier is cheaper for all units: that is the customer's under each policy.
    cheaper = LatePeriod(
        period=PERIOD,
        in_force=[(own, PERIOD)],
        before=[part(own, "calls", 96)],
        added=[part(own, "calls", 8)],
    )
    work = work_out([cheaper], {own.version: own}, written_off=True)
    assert [one.amount_nano for one in work.charges] == [104 * 30 // 4 - 96 * 50 // 4 - 7]
    assert work.findings == ()
