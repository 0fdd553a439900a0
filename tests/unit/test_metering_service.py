"""From a report to one priced event, whatever is repeated, reordered or broken in between."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from fixtures.http_edges import make_policy
from fixtures.use_cases import ANYONE, AWAY, GATEWAY, HOLD_NANO, Grown, UseCases
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.holds import Bound, QuotaLine
from sidecar.domain.periods import from_epoch_ms
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import Meter, Package, PerUnit, PriceLine
from sidecar.domain.usage import OnMissing, TokenUsage
from sidecar.services.hold_terms import MeterPrincipal
from sidecar.services.metering import UsageOutcome

UNHELD = MeterPrincipal(name="middleware", may_send_unheld=True)
SENT_AT = datetime(2026, 1, 31, 11, 59, tzinfo=UTC)


def with_card(**changes: object) -> Policy:
    """The policy with another prepaid rate card, its meters among the checked ones."""
    policy = make_policy()
    card = replace(policy.cards["prepaid"], **changes)
    (watched,) = policy.meters
    return replace(
        policy,
        cards={**policy.cards, "prepaid": card},
        meters=tuple(replace(watched, meter=meter) for meter in card.meters.values()),
    )


def with_meter(**changes: object) -> Policy:
    meter = Meter(name="input-tokens", value="usage.input")
    return with_card(meters={"input-tokens": replace(meter, **changes)})


def with_price(price: object) -> Policy:
    return with_card(lines=(PriceLine(meter="input-tokens", price=price),))


async def prepared(policy: Policy | None = None) -> UseCases:
    cases = UseCases(policy or make_policy())
    await cases.customer()
    return cases


def unheld(cases: UseCases, **changes: object):
    fields = {"customer_id": "cus_1", "event_id": "evt-1", "occurred_at": SENT_AT}
    return cases.report(**fields | changes)


def quarantined(cases: UseCases) -> list[str]:
    return [reason for _, reason in cases.quarantine.reports]


async def test_a_capture_burns_what_was_used_and_gives_the_rest_back():
    cases = await prepared()
    terms = await cases.hold()
    holds = Grown("sidecar_holds_total", transition="captured")
    events = Grown("sidecar_usage_events_total", edge="test", outcome="captured")
    result = await cases.metering.capture(cases.report(terms), ANYONE)
    assert (result.id, result.outcome) == (terms.hold_id, UsageOutcome.CAPTURED)
    assert result.amount_nano == cases.account.used == 7_000
    assert cases.account.held == 0
    assert (holds.by, events.by) == (1, 1)
    ((_, event, _),) = cases.state.stream
    assert event.occurred_at == from_epoch_ms(terms.decided_at_ms), "the store's instant, no edge's"


async def test_a_failed_upstream_gives_the_whole_hold_back_and_is_no_estimate():
    cases = await prepared()
    terms = await cases.hold()
    result = await cases.metering.capture(cases.report(terms, None, status=503), ANYONE)
    assert (result.outcome, result.amount_nano, result.reason) == (UsageOutcome.CAPTURED, 0, "")
    assert (cases.account.used, cases.account.held) == (0, 0)
    ((_, event, amount),) = cases.state.stream
    assert (amount, event.estimated, event.status) == (0, False, 503)


async def test_a_repeat_is_a_duplicate_and_counts_no_second_hold():
    cases = await prepared()
    terms = await cases.hold()
    await cases.metering.capture(cases.report(terms), ANYONE)
    holds = Grown("sidecar_holds_total", transition="captured")
    result = await cases.metering.capture(cases.report(terms), ANYONE)
    assert result.outcome is UsageOutcome.DUPLICATE
    assert (cases.account.used, holds.by) == (7_000, 0)


async def test_measured_usage_corrects_an_estimate_and_counts_its_hold_once():
    cases = await prepared()
    terms = await cases.hold()
    holds = Grown("sidecar_holds_total", transition="captured")
    first = await cases.metering.capture(cases.report(terms, None), ANYONE)
    assert (first.reason, cases.account.used) == ("usage_missing", HOLD_NANO)
    second = await cases.metering.capture(cases.report(terms), ANYONE)
    assert second.outcome is UsageOutcome.CAPTURED
    assert (cases.account.used, holds.by) == (7_000, 1)
    assert [(kind, amount) for kind, _, amount in cases.state.stream] == [
        ("capture", HOLD_NANO),
        ("correction:1", 7_000 - HOLD_NANO),
    ]


async def test_an_estimate_after_measured_usage_changes_nothing():
    cases = await prepared()
    terms = await cases.hold()
    await cases.metering.capture(cases.report(terms), ANYONE)
    result = await cases.metering.capture(cases.report(terms, None), ANYONE)
    assert (result.outcome, cases.account.used) == (UsageOutcome.DUPLICATE, 7_000)


async def test_two_measurements_that_differ_are_kept_for_people():
    cases = await prepared()
    terms = await cases.hold()
    await cases.metering.capture(cases.report(terms, 7), ANYONE)
    aside = Grown("sidecar_quarantined_total", reason="capture_conflict")
    result = await cases.metering.capture(cases.report(terms, 8), ANYONE)
    assert (result.outcome, result.reason) == (UsageOutcome.QUARANTINED, "capture_conflict")
    assert list(cases.quarantine.reports) == [(terms.hold_id, "capture_conflict")]
    assert (cases.account.used, aside.by) == (7_000, 1)


async def test_a_late_capture_takes_from_available_and_then_is_counted_overage():
    cases = await prepared()
    terms = await cases.hold()
    cases.clock.advance(121)
    await cases.balances.orphan_hold("cus_1", terms.hold_id)
    cases.account.granted = 3_000
    overspend = Grown("sidecar_overspend_nano_total", bound="late")
    result = await cases.metering.capture(cases.report(terms), ANYONE)
    assert (result.outcome, result.amount_nano) == (UsageOutcome.LATE, 7_000)
    assert overspend.by == 4_000


async def test_usage_within_a_proven_bound_never_overspends():
    cases = await prepared()
    terms = replace(await cases.hold(), bound=Bound.PROVEN)
    cases.account.granted = HOLD_NANO
    overspend = Grown("sidecar_overspend_nano_total", bound="proven")
    await cases.metering.capture(cases.report(terms, 100), ANYONE)
    assert (cases.account.available, overspend.by) == (0, 0)


async def test_a_claim_beyond_what_the_request_allowed_is_no_proven_overspend():
    cases = await prepared()
    terms = await cases.hold()
    terms = replace(terms, bound=Bound.PROVEN)
    cases.account.granted = HOLD_NANO
    proven = Grown("sidecar_overspend_nano_total", bound="proven")
    estimated = Grown("sidecar_overspend_nano_total", bound="estimated")
    result = await cases.metering.capture(
        cases.report(terms, 101, hold_token=cases.tokens.sign(terms)), ANYONE
    )
    assert result.amount_nano > HOLD_NANO
    assert (proven.by, estimated.by) == (0, result.amount_nano - HOLD_NANO)


@pytest.mark.parametrize("named", ["token", "id", "id and customer"])
async def test_a_hold_is_found_by_token_by_id_and_by_id_with_its_customer(named: str):
    cases = await prepared()
    terms = await cases.hold()
    by = {
        "token": {},
        "id": {"hold_token": "", "hold_id": terms.hold_id},
        "id and customer": {"hold_token": "", "hold_id": terms.hold_id, "customer_id": "cus_1"},
    }[named]
    result = await cases.metering.capture(cases.report(terms, **by), ANYONE)
    assert result.outcome is UsageOutcome.CAPTURED


async def test_the_token_alone_settles_usage_that_the_store_has_forgotten():
    cases = await prepared()
    terms = await cases.hold()
    cases.account.open.clear()
    cases.account.held = 0
    result = await cases.metering.capture(cases.report(terms), ANYONE)
    assert (result.outcome, cases.account.used) == (UsageOutcome.LATE, 7_000)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hold_token": "forged"}, "hold_token has a wrong signature"),
        ({"hold_id": "0" * 40}, "hold_id is not the one of hold_token"),
        ({"customer_id": "cus_2"}, "customer_id is not the one of hold_token"),
        ({"hold_token": "", "hold_id": "UPPER"}, "hold_id must be 40 lower-case hex digits"),
    ],
)
async def test_what_no_hold_can_be_named_by_is_rejected(changes: dict[str, str], words: str):
    cases = await prepared()
    terms = await cases.hold()
    result = await cases.metering.capture(cases.report(terms, **changes), ANYONE)
    assert result.outcome is UsageOutcome.REJECTED
    assert words in result.reason
    assert (cases.account.used, quarantined(cases)) == (0, [])


async def test_an_id_that_the_store_does_not_know_is_kept_for_people():
    cases = await prepared()
    result = await cases.metering.capture(cases.report(hold_id="0" * 40), ANYONE)
    assert (result.outcome, result.reason) == (UsageOutcome.QUARANTINED, "unknown_hold")
    assert list(cases.quarantine.reports) == [("0" * 40, "unknown_hold")]


@pytest.mark.parametrize(
    ("principal", "may"),
    [
        (MeterPrincipal(name="all"), True),
        (MeterPrincipal(name="own", gateways=frozenset({GATEWAY})), True),
        (MeterPrincipal(name="other", gateways=frozenset({"gw-2"})), False),
        (MeterPrincipal(name="own", customers=frozenset({"cus_1", "cus_2"})), True),
        (MeterPrincipal(name="other", customers=frozenset({"cus_2"})), False),
        (
            MeterPrincipal(
                name="half", gateways=frozenset({GATEWAY}), customers=frozenset({"cus_2"})
            ),
            False,
        ),
    ],
)
async def test_a_sender_reports_on_its_own_gateways_and_customers_only(
    principal: MeterPrincipal, may
):
    cases = await prepared()
    terms = await cases.hold()
    by_token = await cases.metering.capture(cases.report(terms), principal)
    by_id = await cases.metering.capture(cases.report(hold_id=terms.hold_id), principal)
    assert (by_token.outcome is UsageOutcome.CAPTURED) == may
    assert (by_id.outcome is UsageOutcome.DUPLICATE) == may
    assert (cases.account.used > 0) == may


@pytest.mark.parametrize(
    ("principal", "outcome"),
    [
        (ANYONE, UsageOutcome.REJECTED),
        (UNHELD, UsageOutcome.UNHELD),
        (replace(UNHELD, customers=frozenset({"cus_1"})), UsageOutcome.UNHELD),
        (replace(UNHELD, customers=frozenset({"cus_2"})), UsageOutcome.REJECTED),
        (replace(UNHELD, gateways=frozenset({"gw-2"})), UsageOutcome.REJECTED),
    ],
)
async def test_unheld_usage_needs_its_right_within_the_senders_scope(
    principal: MeterPrincipal, outcome: UsageOutcome
):
    cases = await prepared()
    result = await cases.metering.capture(unheld(cases), principal)
    assert result.outcome is outcome
    assert (cases.account.used == 7_000) == (outcome is UsageOutcome.UNHELD)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ({"customer_id": ""}, "customer_id and id"),
        ({"event_id": ""}, "customer_id and id"),
        ({"occurred_at": None}, "occurred_at"),
        ({"occurred_at": datetime(1969, 12, 31, tzinfo=UTC)}, "1970 to 2105"),
        ({"occurred_at": datetime(2107, 1, 1, tzinfo=UTC)}, "1970 to 2105"),
        ({"customer_id": "cus_nobody"}, "names no customer"),
    ],
)
async def test_unheld_usage_says_whose_it_is_and_when(missing: dict[str, object], words: str):
    cases = await prepared()
    result = await cases.metering.capture(unheld(cases, **missing), UNHELD)
    assert result.outcome is UsageOutcome.REJECTED
    assert words in result.reason


async def test_unheld_usage_collapses_on_the_senders_id_whatever_else_is_sent_again():
    cases = await prepared()
    first = await cases.metering.capture(unheld(cases), UNHELD)
    again = await cases.metering.capture(unheld(cases, edge="other"), UNHELD)
    other = await cases.metering.capture(unheld(cases, event_id="evt-2"), UNHELD)
    assert (again.outcome, again.id) == (UsageOutcome.DUPLICATE, first.id)
    assert other.id != first.id
    assert cases.account.used == 14_000
    assert [event.client_key for _, event, _ in cases.state.stream] == ["evt-1", "evt-2"]


async def test_unheld_usage_of_a_plan_that_the_policy_lost_is_rejected():
    cases = UseCases()
    await cases.customer(plan="gone")
    result = await cases.metering.capture(unheld(cases), UNHELD)
    assert "customer_id names no customer with a plan" in result.reason


async def test_unheld_usage_before_the_first_policy_is_to_be_sent_again():
    cases = await prepared()

    def nothing() -> Policy:
        raise AWAY

    cases.policies.current = nothing
    with pytest.raises(StoreUnavailable):
        await cases.metering.capture_all([unheld(cases)], UNHELD)


async def test_a_price_version_that_was_never_published_is_kept_for_people():
    cases = await prepared()
    terms = replace(await cases.hold(), price_version="0" * 24)
    result = await cases.metering.capture(cases.report(terms), ANYONE)
    assert (result.outcome, result.reason) == (UsageOutcome.QUARANTINED, "unknown_price_version")


async def test_a_model_without_a_price_is_kept_for_people():
    line = PriceLine(meter="input-tokens", price=PerUnit(amount_nano=1_000), models=("known",))
    cases = await prepared(with_card(lines=(line,)))
    cases.facts = replace(cases.facts, model="known")
    card = cases.policy.cards["prepaid"]
    terms = replace(await _postpaid_hold(cases), price_version=card.version, model="known")
    result = await cases.metering.capture(cases.report(terms, model="surprise"), ANYONE)
    assert (result.outcome, result.reason) == (UsageOutcome.QUARANTINED, "unpriced_model")
    named = await cases.metering.capture(cases.report(terms), ANYONE)
    assert named.amount_nano == 7_000, "without a name of its own, the request's model counts"


async def test_a_meter_that_the_rate_card_lacks_is_kept_for_people_and_is_no_crash():
    cases = await prepared()
    terms = replace(await cases.hold(), estimate={"input-tokens": 100, "renamed": 1})
    result = await cases.metering.capture(cases.report(terms), ANYONE)
    assert (result.outcome, result.reason) == (UsageOutcome.QUARANTINED, "unknown_meter")


@pytest.mark.parametrize(
    ("on_missing", "tokens", "estimated"),
    [
        (OnMissing.CAPTURE_ESTIMATE, 100, True),
        (OnMissing.BYTES, 40, True),
        (OnMissing.ZERO, 0, True),
    ],
)
async def test_usage_that_the_response_left_out_follows_the_meter(
    on_missing: OnMissing, tokens: int, estimated
):
    cases = await prepared(with_meter(on_missing=on_missing))
    terms = await cases.hold()
    report = cases.report(terms, None, request_bytes=40)
    result = await cases.metering.capture(report, ANYONE)
    ((_, event, _),) = cases.state.stream
    assert (result.amount_nano, result.reason) == (tokens * 1_000, "usage_missing")
    assert event.estimated is estimated


async def test_bytes_never_stand_for_more_than_the_hold():
    cases = await prepared(with_meter(on_missing=OnMissing.BYTES))
    terms = await cases.hold()
    report = cases.report(terms, None, request_bytes=10**9)
    assert (await cases.metering.capture(report, ANYONE)).amount_nano == HOLD_NANO


@pytest.mark.parametrize(("status", "amount"), [(200, 7_000), (500, 0), (None, 0)])
async def test_a_status_that_the_meter_does_not_count_costs_nothing(status, amount):
    cases = await prepared(with_meter(statuses=frozenset({200})))
    terms = await cases.hold()
    result = await cases.metering.capture(cases.report(terms, status=status), ANYONE)
    assert (result.outcome, result.amount_nano) == (UsageOutcome.CAPTURED, amount)
    assert cases.account.held == 0


async def test_a_counter_takes_what_was_used_and_not_what_was_held():
    cases = await prepared()
    terms = await cases.hold()
    line = QuotaLine(field="q:m:1", meter="input-tokens", quantity=100)
    stale = QuotaLine(field="q:n:1", meter="another", quantity=5)
    terms = replace(terms, quota_lines=(line, stale))
    await cases.metering.capture(cases.report(terms), ANYONE)
    assert cases.account.counters.counts == {"q:m:1": 7}


@pytest.mark.parametrize(("tokens", "kept"), [(1_000, False), (1_001, True)])
async def test_a_header_that_claims_ten_times_the_hold_is_kept_for_people(tokens, kept):
    cases = await prepared()
    terms = await cases.hold()
    report = cases.report(terms, tokens, from_header=True)
    result = await cases.metering.capture(report, ANYONE)
    assert (result.outcome is UsageOutcome.QUARANTINED) == kept
    assert quarantined(cases) == (["implausible_header"] if kept else [])


async def test_the_header_rule_is_about_tokens_and_not_about_bytes():
    """No request bounds its response's bytes; the hold's estimate of them is 0."""
    meters = {
        "input-tokens": Meter(name="input-tokens", value="usage.input"),
        "bytes-out": Meter(name="bytes-out", value="response_bytes"),
    }
    cases = await prepared(with_card(meters=meters))
    terms = await cases.hold()
    report = cases.report(terms, from_header=True, response_bytes=50_000)
    result = await cases.metering.capture(report, ANYONE)
    assert result.outcome is UsageOutcome.CAPTURED


async def test_packages_are_paid_once_per_package_of_the_running_total():
    cases = await prepared(with_price(Package(amount_nano=90_000, per=10)))
    cases.account.granted = 10**9
    amounts = []
    for number, tokens in enumerate((7, 3, 1, 9, 25)):
        terms = await cases.hold(number)
        amounts.append(
            (await cases.metering.capture(cases.report(terms, tokens), ANYONE)).amount_nano
        )
    assert amounts == [90_000, 0, 90_000, 0, 270_000]
    assert sum(amounts) == Package(amount_nano=90_000, per=10).cumulative(45)


async def test_a_repeat_with_a_running_total_reserves_nothing_more():
    cases = await prepared(with_price(Package(amount_nano=90_000, per=10)))
    cases.account.granted = 10**9
    terms = await cases.hold()
    cases.balances.lost["capture"] = 1
    with pytest.raises(StoreUnavailable):
        await cases.metering.capture(cases.report(terms), ANYONE)
    again = await cases.metering.capture(cases.report(terms), ANYONE)
    assert (again.outcome, again.amount_nano) == (UsageOutcome.DUPLICATE, 90_000)
    assert sum(cases.account.totals.values()) == 7
    assert cases.account.used == 90_000


@pytest.mark.parametrize("price", [PerUnit(amount_nano=10**10), Package(amount_nano=10**19, per=7)])
async def test_usage_beyond_any_balance_is_kept_for_people_and_reserves_nothing(price):
    cases = await prepared()
    await cases.hold()
    card = replace(
        cases.policy.cards["prepaid"], lines=(PriceLine(meter="input-tokens", price=price),)
    )
    await cases.cards.publish(card)
    terms = replace(await cases.hold(), price_version=card.version)
    result = await cases.metering.capture(cases.report(terms, 10**15), ANYONE)
    assert (result.outcome, result.reason) == (UsageOutcome.QUARANTINED, "out_of_bounds")
    assert cases.balances.calls.count("reserve") == 0
    assert cases.account.used == 0


async def test_a_quantity_beyond_the_largest_reserves_nothing():
    meters = {"input-tokens": Meter(name="input-tokens", value="usage.total")}
    lines = (PriceLine(meter="input-tokens", price=PerUnit(amount_nano=1, per=10**6)),)
    cases = await prepared(with_card(meters=meters, lines=lines))
    terms = await cases.hold()
    usage = TokenUsage(input=10**15, output=10**15)
    result = await cases.metering.capture(cases.report(terms, usage=usage), ANYONE)
    assert (result.outcome, cases.balances.calls.count("reserve")) == (UsageOutcome.QUARANTINED, 0)


async def test_what_the_store_cannot_keep_is_kept_for_people_and_not_dropped():
    cases = await prepared()
    terms = await cases.hold()
    cases.balances.failures["capture"] = [InvalidInput("the usage event cannot be encoded")]
    result = await cases.metering.capture(cases.report(terms), ANYONE)
    assert result.outcome is UsageOutcome.QUARANTINED
    assert list(cases.quarantine.reports) == [(terms.hold_id, "out_of_bounds")]


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda cases: cases.state.accounts.clear(), "no_customer"),
        (lambda cases: setattr(cases.account, "used", 4 * 10**18), "out_of_bounds"),
    ],
)
async def test_what_the_store_refuses_to_book_is_kept_for_people(break_it, reason: str):
    cases = await prepared()
    terms = await cases.hold()
    break_it(cases)
    result = await cases.metering.capture(cases.report(terms), ANYONE)
    assert (result.outcome, result.reason) == (UsageOutcome.QUARANTINED, reason)


async def test_a_store_that_fails_in_a_batch_raises_and_the_repeat_collapses():
    cases = await prepared()
    holds = [await cases.hold(number) for number in range(5)]
    batch = [cases.report(terms) for terms in holds]
    cases.balances.failures["capture"] = [AWAY]
    cases.balances.lost["capture"] = 1
    with pytest.raises(StoreUnavailable):
        await cases.metering.capture_all(batch, ANYONE)
    assert cases.account.used == 4 * 7_000, "the others were captured all the same"
    results = await cases.metering.capture_all(batch, ANYONE)
    outcomes = sorted(result.outcome.value for result in results)
    assert outcomes == ["captured", "duplicate", "duplicate", "duplicate", "duplicate"]
    assert cases.account.used == 5 * 7_000
    assert len(cases.state.stream) == 5


async def test_a_batch_answers_in_the_order_it_was_sent():
    cases = await prepared()
    holds = [await cases.hold(number) for number in range(9)]
    batch = [cases.report(terms, number) for number, terms in enumerate(holds)]
    results = await cases.metering.capture_all([*batch, cases.report(hold_id="bad")], ANYONE)
    assert [result.id for result in results] == [*(terms.hold_id for terms in holds), "bad"]
    assert results[-1].outcome is UsageOutcome.REJECTED


async def test_reports_about_one_hold_are_captured_in_their_order():
    """The first of two measurements that differ is the one that counts."""
    cases = await prepared()
    terms = await cases.hold()
    read = cases.cards.read
    slow_first = iter([3, 0])

    async def read_slowly(version: str):
        for _ in range(next(slow_first)):
            await asyncio.sleep(0)
        return await read(version)

    cases.cards.read = read_slowly
    first, second = await cases.metering.capture_all(
        [cases.report(terms, 7), cases.report(terms, 8)], ANYONE
    )
    assert (first.outcome, second.outcome) == (UsageOutcome.CAPTURED, UsageOutcome.QUARANTINED)


async def test_a_batch_is_captured_by_a_bounded_number_at_a_time():
    cases = await prepared()
    cases.metering._concurrency_max = 3
    cases.account.granted = 10**9
    batch = [cases.report(await cases.hold(number)) for number in range(20)]
    running = most = 0
    capture = cases.balances.capture_hold

    async def count(*args: object, **options: object):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return await capture(*args, **options)

    cases.balances.capture_hold = count
    await cases.metering.capture_all(batch, ANYONE)
    assert most == 3


async def test_a_cancelled_batch_leaves_no_task_behind():
    cases = await prepared()
    batch = [cases.report(await cases.hold(number)) for number in range(5)]
    never = asyncio.Event()

    async def hang(_: str) -> None:
        await never.wait()

    cases.cards.read = hang
    before = asyncio.all_tasks()
    work = asyncio.create_task(cases.metering.capture_all(batch, ANYONE))
    for _ in range(5):
        await asyncio.sleep(0)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert asyncio.all_tasks() == before


async def test_a_sign_of_life_moves_the_expiry_of_an_open_hold_only():
    cases = await prepared()
    terms = await cases.hold()
    extended = Grown("sidecar_holds_total", transition="extended")
    cases.clock.advance(60)
    assert await cases.metering.keep_alive(cases.report(terms, None), ANYONE)
    cases.clock.advance(100)
    assert await cases.balances.due_holds(0, 10) == []
    await cases.metering.capture(cases.report(terms), ANYONE)
    assert not await cases.metering.keep_alive(cases.report(terms, None), ANYONE)
    assert not await cases.metering.keep_alive(cases.report(hold_id="0" * 40), ANYONE)
    assert extended.by == 1


async def test_a_sign_of_life_for_others_is_refused():
    cases = await prepared()
    terms = await cases.hold()
    other = MeterPrincipal(name="other", gateways=frozenset({"gw-2"}))
    with pytest.raises(InvalidInput):
        await cases.metering.keep_alive(cases.report(terms, None), other)
    with pytest.raises(InvalidInput):
        await cases.metering.keep_alive(cases.report(hold_token="forged"), ANYONE)


PRICES = st.sampled_from(
    [
        PerUnit(amount_nano=1_000),
        PerUnit(amount_nano=7, per=3),
        Package(amount_nano=90_000, per=10),
        Package(amount_nano=11, per=1),
    ]
)


@given(st.data())
def test_any_order_and_repetition_of_reports_uses_the_same_amount(data: st.DataObject):
    price = data.draw(PRICES, label="price")
    tokens = data.draw(st.lists(st.integers(0, 100), min_size=1, max_size=6), label="tokens")
    once = range(len(tokens))
    extra = data.draw(st.lists(st.sampled_from(once), max_size=6), label="repeated")
    order = data.draw(st.permutations([*once, *extra]), label="order")
    batches = data.draw(st.integers(1, 4), label="batches")

    async def run() -> tuple[int, int, int]:
        cases = await prepared(with_price(price))
        cases.account.granted = 10**12
        holds = [await cases.hold(number) for number in once]
        reports = [cases.report(holds[index], tokens[index]) for index in order]
        for start in range(batches):
            await cases.metering.capture_all(reports[start::batches], ANYONE)
        return cases.account.used, cases.account.held, len(cases.state.stream)

    used, held, events = asyncio.run(run())
    assert used == price.cumulative(sum(tokens))
    assert (held, events) == (0, len(tokens))


@given(st.data())
def test_where_usage_is_measured_at_last_the_estimates_before_it_leave_no_trace(
    data: st.DataObject,
):
    tokens = data.draw(st.lists(st.integers(0, 100), min_size=1, max_size=5), label="tokens")
    kinds = [(index, measured) for index in range(len(tokens)) for measured in (True, False)]
    order = data.draw(st.permutations(kinds), label="order")

    async def run() -> int:
        cases = await prepared()
        cases.account.granted = 10**12
        holds = [await cases.hold(number) for number in range(len(tokens))]
        for index, measured in order:
            report = cases.report(holds[index], tokens[index] if measured else None)
            await cases.metering.capture(report, ANYONE)
        return cases.account.used

    assert asyncio.run(run()) == 1_000 * sum(tokens)


async def _postpaid_hold(cases: UseCases):
    """A hold of another plan, where the prepaid one cannot price what is asked."""
    await cases.live.put_customer(
        replace(cases.account.customer, plan="postpaid"),
    )
    return await cases.hold(99)
