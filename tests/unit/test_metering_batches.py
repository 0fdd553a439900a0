"""A batch of usage: what is plain goes together, the rest as before, and each has its own end."""

from dataclasses import replace

import pytest
from fixtures.http_edges import make_policy
from fixtures.use_cases import ANYONE, AWAY, Grown, UseCases

from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.pricing import Package, PriceLine
from sidecar.services.metering import UsageOutcome, UsageResult

PACKAGES = make_policy().cards["prepaid"]
PACKAGES = replace(
    PACKAGES,
    lines=(PriceLine(meter="input-tokens", price=Package(amount_nano=1_000, per=1_000)),),
)


class Keeping:
    """A journal that takes what it is told to."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.full = False

    async def append(self, records):
        if self.full:
            raise StoreUnavailable("the journal is full")
        self.kept += [record.event.hold_id for record in records]


async def prepared() -> UseCases:
    cases = UseCases(make_policy())
    await cases.customer()
    cases.account.granted = 10**9
    return cases


def outcomes(results) -> list[object]:
    return [one.outcome if isinstance(one, UsageResult) else type(one) for one in results]


async def test_a_plain_batch_is_captured_by_one_call_and_counted():
    cases = await prepared()
    reports = [cases.report(await cases.hold(number)) for number in range(5)]
    events = Grown("sidecar_usage_events_total", edge="test", outcome="captured")
    holds = Grown("sidecar_holds_total", transition="captured")
    batches = []
    capture_holds = cases.balances.capture_holds

    async def count(captures):
        batches.append(len(captures))
        return await capture_holds(captures)

    cases.balances.capture_holds = count
    results = await cases.metering.capture_each(reports, ANYONE)
    assert outcomes(results) == [UsageOutcome.CAPTURED] * 5
    assert {result.amount_nano for result in results} == {7_000}
    assert batches == [5]
    assert (events.by, holds.by, cases.account.used) == (5, 5, 35_000)


async def test_reports_of_one_hold_come_in_their_order_whatever_stands_between():
    cases = await prepared()
    one, other = await cases.hold(1), await cases.hold(2)
    reports = [
        cases.report(one, None),
        cases.report(other),
        cases.report(one, 7),
        cases.report(one, 8),
        cases.report(other),
    ]
    first, second, corrected, conflict, again = await cases.metering.capture_each(reports, ANYONE)
    assert first.reason == "usage_missing"
    assert second.outcome is UsageOutcome.CAPTURED
    assert corrected.outcome is UsageOutcome.CAPTURED
    assert conflict.outcome is UsageOutcome.QUARANTINED
    assert again.outcome is UsageOutcome.DUPLICATE
    kinds = [(kind, event.hold_id) for kind, event, _ in cases.state.stream]
    assert sorted(kinds) == sorted(
        [
            ("capture", one.hold_id),
            ("correction:1", one.hold_id),
            ("capture", other.hold_id),
        ]
    )


async def test_what_is_not_plain_is_taken_with_the_plain():
    cases = await prepared()
    plain, missing = cases.report(await cases.hold(1)), cases.report(await cases.hold(2), None)
    failed = cases.report(await cases.hold(3), None, status=503)
    by_id = cases.report(await cases.hold(4))
    by_id = replace(by_id, hold_id=(await cases.hold(4)).hold_id, hold_token="")
    forged = replace(plain, hold_token="forged")
    results = await cases.metering.capture_each([plain, missing, failed, by_id, forged], ANYONE)
    assert outcomes(results) == [*[UsageOutcome.CAPTURED] * 4, UsageOutcome.REJECTED]
    assert [result.reason for result in results[:4]] == ["", "usage_missing", "", ""]


async def test_prices_of_a_total_are_taken_one_by_one():
    policy = make_policy()
    policy = replace(policy, cards={**policy.cards, "prepaid": PACKAGES})
    cases = UseCases(policy)
    await cases.customer()
    cases.account.granted = 10**9
    reports = [cases.report(await cases.hold(number), 600) for number in range(3)]
    results = await cases.metering.capture_each(reports, ANYONE)
    assert outcomes(results) == [UsageOutcome.CAPTURED] * 3
    assert sum(result.amount_nano for result in results) == cases.account.used == 2_000
    assert cases.balances.calls.count("reserve") == 3


async def test_what_the_store_does_not_answer_leaves_its_neighbours_alone():
    cases = await prepared()
    reports = [cases.report(await cases.hold(number)) for number in range(3)]
    cases.balances.failures["capture"].append(AWAY)
    results = await cases.metering.capture_each(reports, ANYONE)
    assert outcomes(results).count(StoreUnavailable) == 1
    assert outcomes(results).count(UsageOutcome.CAPTURED) == 2
    again = await cases.metering.capture_each(reports, ANYONE)
    assert outcomes(again).count(UsageOutcome.DUPLICATE) == 2
    assert cases.account.used == 21_000


async def test_an_event_that_the_store_refuses_is_set_aside():
    cases = await prepared()
    report = cases.report(await cases.hold())
    cases.balances.failures["capture"] += [InvalidInput("too large")] * 2
    (result,) = await cases.metering.capture_each([report], ANYONE)
    assert (result.outcome, result.reason) == (UsageOutcome.QUARANTINED, "out_of_bounds")


async def test_a_bug_in_one_report_costs_its_neighbours_nothing():
    cases = await prepared()
    bad, good = cases.report(await cases.hold(1)), cases.report(await cases.hold(2))
    read = cases.tokens.read

    def broken(token: str):
        if token == bad.hold_token:
            raise KeyError("bug")
        return read(token)

    cases.tokens.read = broken
    results = await cases.metering.capture_each([bad, good], ANYONE)
    assert outcomes(results) == [KeyError, UsageOutcome.CAPTURED]
    with pytest.raises(KeyError):
        await cases.metering.capture_all([bad, good], ANYONE)


async def test_a_batch_is_kept_at_once_and_what_is_not_kept_is_not_acknowledged():
    cases = await prepared()
    cases.metering._journal = journal = Keeping()
    reports = [cases.report(await cases.hold(number)) for number in range(3)]
    rejected = replace(reports[0], hold_token="forged")
    journal.full = True
    results = await cases.metering.capture_each([*reports, rejected], ANYONE)
    assert outcomes(results) == [*[StoreUnavailable] * 3, UsageOutcome.REJECTED]
    journal.full = False
    results = await cases.metering.capture_each(reports, ANYONE)
    assert outcomes(results) == [UsageOutcome.DUPLICATE] * 3
    assert len(journal.kept) == 3


async def test_a_long_batch_goes_in_parts():
    cases = await prepared()
    cases.metering._concurrency_max = 4
    cases.metering._journal = journal = Keeping()
    reports = [cases.report(await cases.hold(number)) for number in range(10)]
    results = await cases.metering.capture_each(reports, ANYONE)
    assert [result.id for result in results] == journal.kept
    assert len(set(journal.kept)) == 10
