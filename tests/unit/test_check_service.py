"""The order of one check's steps, and what each failure comes to."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Self

import pytest
from fixtures.http_edges import make_policy
from fixtures.use_cases import ANYONE, AWAY, CREDIT_NANO, HOLD_NANO, KEY, TTL_MS, Grown, UseCases

from sidecar.domain.counters import Counter, CounterKind
from sidecar.domain.decisions import Allow, Decision, Deny, DenyReason
from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.holds import Bound
from sidecar.domain.matching import Match
from sidecar.domain.periods import CalendarUnit, CalendarWindow, to_epoch_ms
from sidecar.domain.policy import Policy
from sidecar.domain.requests import RequestFacts
from sidecar.domain.rules import EstimateFrom, Mode, OnStoreFailure, Quota, Rule, RuleTemplate
from sidecar.domain.standing import Standing, StandingFact
from sidecar.services.check import CheckService
from sidecar.services.ports import PlaceOutcome, PlaceStatus

CHAT = Match(routes=frozenset({0}))
MONTH = CalendarWindow(unit=CalendarUnit.MONTH)


def quota_policy(limit: int = 250, **rule_changes: object) -> Policy:
    """Each check takes 100 input tokens of the month's."""
    counter = Counter(
        name="monthly",
        kind=CounterKind.WINDOW,
        measure="input-tokens",
        limit=limit,
        window=MONTH,
    )
    rule = Rule(
        name="tokens",
        template=RuleTemplate.QUOTA,
        match=(CHAT,),
        quota="monthly",
        counter=counter,
    )
    policy = make_policy(replace(rule, **rule_changes))
    return replace(policy, quotas={"monthly": Quota(name="monthly", counter=counter)})


def allowing_policy() -> Policy:
    """Every rule lets requests pass while the store gives no answer, that on credits too."""
    policy = make_policy()
    credits_rule = Rule(name="credits", template=RuleTemplate.NO_CREDITS, match=(CHAT,))
    rules = tuple(
        replace(rule, on_store_failure=OnStoreFailure.ALLOW)
        for rule in (*policy.rules, credits_rule)
    )
    return replace(policy, rules=rules)


def reading_policy() -> Policy:
    """The estimate comes from the body."""
    policy = make_policy()
    (estimate,) = policy.estimates
    return replace(policy, estimates=(replace(estimate, source=EstimateFrom.BODY),))


def reason(decision: Decision) -> DenyReason:
    assert isinstance(decision, Deny), decision
    return decision.reason


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  What is watched sets no event.
            await asyncio.sleep(0)


class Releasing:
    """Runs the releases while its context lasts; leaves no task behind."""

    def __init__(self, checks: CheckService) -> None:
        self.stop = asyncio.Event()
        self._checks = checks

    async def __aenter__(self) -> Self:
        self._before = asyncio.all_tasks()
        self._task = asyncio.create_task(self._checks.run_releases(self.stop))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        async with asyncio.timeout(10):
            await self._task
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == self._before


async def test_an_allow_holds_the_upper_bound_and_signs_exactly_what_the_store_decided():
    cases = UseCases()
    await cases.customer()
    placed = Grown("sidecar_holds_total", transition="placed")
    request = cases.request()
    decision = await cases.checks.check(request)
    assert isinstance(decision, Allow)
    assert decision.decision_id == request.decision_id
    assert decision.hold.hold_id == request.hold_id
    assert request.hold_id not in decision.decision_id
    assert decision.hold.amount_nano == cases.account.held == HOLD_NANO
    assert decision.remove_headers == ("authorization",)
    terms = cases.tokens.signed[decision.hold.token]
    assert terms.decided_at_ms == to_epoch_ms(cases.clock.now())
    assert terms.expires_at_ms == terms.decided_at_ms + TTL_MS
    assert (terms.bound, terms.request_id, terms.route) == (Bound.ESTIMATED, b"req-1", "^/ai/")
    assert placed.by == 1


async def test_a_warm_check_makes_one_store_call():
    cases = UseCases()
    await cases.customer()
    await cases.checks.check(cases.request(1))
    cases.balances.calls.clear()
    await cases.checks.check(cases.request(2))
    assert cases.balances.calls == ["place"]


async def test_a_denial_moves_no_counter():
    cases = UseCases(quota_policy(limit=99))
    await cases.customer()
    assert reason(await cases.checks.check(cases.request())) is DenyReason.QUOTA_EXCEEDED
    assert cases.account.held == 0
    assert set(cases.account.counters.counts.values()) <= {0}


async def test_credit_is_never_held_beyond_what_is_there_at_any_concurrency():
    cases = UseCases()
    await cases.customer()
    decisions = await asyncio.gather(*(cases.checks.check(cases.request(n)) for n in range(50)))
    assert sum(isinstance(decision, Allow) for decision in decisions) == CREDIT_NANO // HOLD_NANO
    assert cases.account.available == 0


async def test_a_repeat_is_the_same_decision_and_holds_once():
    cases = UseCases()
    await cases.customer()
    first = await cases.checks.check(cases.request())
    placed = Grown("sidecar_holds_total", transition="placed")
    assert await cases.checks.check(cases.request()) == first
    assert cases.account.held == HOLD_NANO
    assert placed.by == 0


async def test_a_repeat_stays_an_allow_when_the_numbers_have_changed_since():
    """A denial now would leave its hold open, and contradict an answer that may have arrived."""
    cases = UseCases(quota_policy())
    await cases.customer()
    assert isinstance(await cases.checks.check(cases.request()), Allow)
    cases.account.standing = StandingFact(standing=Standing.DELINQUENT)
    for name in cases.account.counters.counts:
        cases.account.counters.counts[name] += 1_000
    assert isinstance(await cases.checks.check(cases.request()), Allow)
    assert reason(await cases.checks.check(cases.request(2))) is DenyReason.INVOICE_OVERDUE


@pytest.mark.parametrize(
    "status",
    [
        PlaceStatus.CLOSED,
        PlaceStatus.MISMATCH,
        PlaceStatus.TOO_LATE,
        PlaceStatus.OUT_OF_BOUNDS,
    ],
)
async def test_a_hold_that_was_not_placed_is_never_an_allow(status: PlaceStatus):
    cases = UseCases(allowing_policy())
    await cases.customer()
    cases.balances.place_outcomes = [PlaceOutcome(status=status, instant_ms=1)]
    assert reason(await cases.checks.check(cases.request())) is DenyReason.STORE_UNAVAILABLE


async def test_a_captured_hold_is_not_allowed_again():
    cases = UseCases()
    await cases.customer()
    terms = await cases.hold()
    await cases.metering.capture(cases.report(terms), ANYONE)
    assert reason(await cases.checks.check(cases.request())) is DenyReason.STORE_UNAVAILABLE


async def test_a_repeat_for_another_path_is_not_allowed():
    cases = UseCases()
    await cases.customer()
    await cases.hold()
    other = cases.request(path="/ai/other")
    assert reason(await cases.checks.check(other)) is DenyReason.STORE_UNAVAILABLE


@pytest.mark.parametrize("status", [PlaceStatus.UNKNOWN_CREDENTIAL, PlaceStatus.NO_CUSTOMER])
async def test_a_credential_that_the_store_does_not_know_is_forgotten(status: PlaceStatus):
    cases = UseCases()
    await cases.customer()
    cases.balances.place_outcomes = [PlaceOutcome(status=status, instant_ms=1)]
    assert reason(await cases.checks.check(cases.request())) is DenyReason.UNKNOWN_CREDENTIAL
    assert cases.directory.forgotten == ["cus_1"]


async def test_an_unknown_key_asks_no_store_for_a_hold():
    cases = UseCases()
    await cases.customer()
    request = cases.request(headers={"authorization": ("Bearer sk-guess",)})
    assert reason(await cases.checks.check(request)) is DenyReason.UNKNOWN_CREDENTIAL
    assert cases.balances.calls == []


@pytest.mark.parametrize(
    "changes",
    [{"path": "/open"}, {"path": "/open", "headers": {}}, {"path": "//open?x=%00"}],
)
async def test_a_free_route_asks_for_nobody_and_no_store(changes: dict[str, object]):
    cases = UseCases()
    cases.state.away = True
    decision = await cases.checks.check(cases.request(**changes))
    assert isinstance(decision, Allow)
    assert decision.hold is None


@pytest.mark.parametrize(
    "path", ["", "ai", "/ai/%2fchat", "/ai\\chat", "/ai/%zz", "/" + "a" * 9_000]
)
async def test_a_path_that_servers_read_differently_is_refused(path: str):
    cases = UseCases()
    assert reason(await cases.checks.check(cases.request(path=path))) is DenyReason.INVALID_REQUEST


async def test_the_normalised_path_is_what_rules_match():
    cases = UseCases()
    await cases.customer()
    assert isinstance(await cases.checks.check(cases.request(path="/x/../%61i//chat?q")), Allow)
    refused = await cases.checks.check(cases.request(2, path="/ai/../admin"))
    assert (reason(refused), refused.rule) == (DenyReason.BLOCKED, "unmatched")


async def test_a_stale_copy_is_forgotten_and_the_check_planned_anew():
    cases = UseCases()
    await cases.customer()
    await cases.checks.check(cases.request(1))
    account = cases.account
    account.customer = replace(account.customer, plan="postpaid")
    account.revision += 1
    account.granted = 0
    decision = await cases.checks.check(cases.request(2))
    assert isinstance(decision, Allow), "the new plan asks for no credit"
    assert cases.directory.forgotten == ["cus_1"]
    assert cases.balances.placed[-1].terms.plan == "postpaid"


async def test_a_copy_that_stays_stale_ends_in_no_answer_after_three_plans():
    cases = UseCases(allowing_policy())
    await cases.customer()
    cases.balances.place_outcomes = [
        PlaceOutcome(status=PlaceStatus.STALE_FACTS, instant_ms=1) for _ in range(9)
    ]
    assert reason(await cases.checks.check(cases.request())) is DenyReason.STORE_UNAVAILABLE
    assert cases.balances.calls == ["place"] * 3


async def test_a_window_that_moved_is_planned_by_the_stores_clock():
    """The gateway's own clock may be behind for longer than a check lasts."""
    cases = UseCases(quota_policy())
    await cases.customer()
    behind = cases.clock.now()
    cases.clock.instant = datetime(2026, 2, 1, tzinfo=UTC)
    february = MONTH.at(cases.clock.now())
    cases.checks._clock = _Stopped(behind)
    decision = await cases.checks.check(
        cases.request(deadline=cases.clock.now() + timedelta(seconds=1))
    )
    assert isinstance(decision, Allow)
    assert [hold.counters[0].start_ms for hold in cases.balances.placed] == [
        MONTH.at(behind).start_ms,
        february.start_ms,
    ]
    assert cases.directory.forgotten == [], "the customer's facts were not at fault"


async def test_a_directory_that_is_away_is_no_answer_whatever_the_rules_say():
    cases = UseCases(allowing_policy())
    cases.state.away = True
    assert reason(await cases.checks.check(cases.request())) is DenyReason.STORE_UNAVAILABLE


async def test_no_published_policy_is_a_store_failure_and_no_crash():
    cases = UseCases()

    def nothing() -> Policy:
        raise StoreUnavailable("no policy is published yet")

    cases.policies.current = nothing
    with pytest.raises(StoreUnavailable):
        await cases.checks.check(cases.request())


async def test_a_failed_place_denies_and_the_hold_is_given_back_later():
    cases = UseCases()
    await cases.customer()
    cases.balances.lost["place"] = 1
    released = Grown("sidecar_holds_total", transition="released")
    assert reason(await cases.checks.check(cases.request())) is DenyReason.STORE_UNAVAILABLE
    assert cases.account.held == HOLD_NANO, "it was placed although nobody heard of it"
    async with Releasing(cases.checks):
        await until(lambda: cases.account.held == 0)
    assert released.by == 1


async def test_a_repeat_is_refused_while_its_hold_is_being_given_back():
    cases = UseCases(replace(make_policy(), version="v"))
    await cases.customer()
    cases.balances.lost["place"] = 1
    await cases.checks.check(cases.request())
    cases.balances.calls.clear()
    assert reason(await cases.checks.check(cases.request())) is DenyReason.STORE_UNAVAILABLE
    assert cases.balances.calls == [], "the store would have said: repeated, allow"
    async with Releasing(cases.checks):
        await until(lambda: cases.account.held == 0)
    assert reason(await cases.checks.check(cases.request())) is DenyReason.STORE_UNAVAILABLE
    assert cases.account.held == 0, "the tombstone beats a late place"


async def test_a_release_is_tried_until_the_store_answers():
    cases = UseCases()
    await cases.customer()
    cases.checks._releases._pause_seconds = 0
    decision = await cases.checks.check(cases.request())
    cases.balances.failures["release"] = [AWAY] * 5
    await cases.checks.abandon(decision)
    assert cases.account.held == HOLD_NANO
    async with Releasing(cases.checks):
        await until(lambda: cases.account.held == 0)
    assert cases.balances.calls.count("release") == 6
    assert cases.request().hold_id not in cases.checks._releases


async def test_one_damaged_hold_keeps_no_other_from_being_given_back():
    cases = UseCases()
    await cases.customer()
    cases.checks._releases._pause_seconds = 0
    bad, good = cases.request(1).hold_id, await cases.hold(2)
    release = cases.balances.release_hold

    async def refuse_one(customer_id: str, hold_id: str) -> bool:
        if hold_id == bad:
            raise AWAY
        return await release(customer_id, hold_id)

    cases.balances.release_hold = refuse_one
    cases.checks._releases.release_later("cus_1", bad)
    cases.checks._releases.release_later("cus_1", good.hold_id)
    async with Releasing(cases.checks):
        await until(lambda: cases.account.held == 0)
        assert bad in cases.checks._releases


async def test_a_hold_that_cannot_be_given_back_is_left_to_its_expiry():
    cases = UseCases()
    await cases.customer()
    cases.checks._releases._pause_seconds = 0
    cases.checks._releases._hold_ttl_seconds = 0
    cases.balances.failures["release"] = [AWAY] * 1_000
    cases.checks._releases.release_later("cus_1", cases.request().hold_id)
    async with Releasing(cases.checks):
        await until(lambda: cases.request().hold_id not in cases.checks._releases)
    assert cases.balances.calls == ["release"]


async def test_releases_that_wait_are_bounded():
    cases = UseCases()
    releases = cases.checks._releases
    releases._waiting = asyncio.Queue(3)
    for number in range(10):
        releases.release_later("cus_1", cases.request(number).hold_id)
        releases.release_later("cus_1", cases.request(number).hold_id)
    assert releases._waiting.qsize() == len(releases._ids) == 3


async def test_releases_that_are_cancelled_leave_no_task():
    cases = UseCases()
    before = asyncio.all_tasks()
    running = asyncio.create_task(cases.checks.run_releases(asyncio.Event()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_denial_is_nothing_to_abandon():
    cases = UseCases()
    await cases.checks.abandon(Deny(decision_id="d", reason=DenyReason.BLOCKED, rule="r"))
    await cases.checks.abandon(Allow(decision_id="d"))
    assert cases.balances.calls == []


async def test_a_rule_may_let_pass_while_the_store_is_away_and_the_usage_is_not_lost():
    cases = UseCases(allowing_policy())
    await cases.customer()
    cases.balances.failures["place"] = [AWAY]
    decision = await cases.checks.check(cases.request())
    assert isinstance(decision, Allow)
    terms = cases.tokens.signed[decision.hold.token]
    assert (terms.bound, terms.amount_nano) == (Bound.STORE_FAILURE, HOLD_NANO)
    result = await cases.metering.capture(cases.report(terms), ANYONE)
    assert (result.outcome.value, cases.account.used) == ("late", 7_000)


async def test_one_rule_that_denies_outweighs_those_that_let_pass():
    policy = allowing_policy()
    strict = Rule(name="strict", template=RuleTemplate.NO_CREDITS, match=(CHAT,))
    cases = UseCases(replace(policy, rules=(*policy.rules, strict)))
    await cases.customer()
    cases.balances.failures["place"] = [AWAY]
    assert reason(await cases.checks.check(cases.request())) is DenyReason.STORE_UNAVAILABLE


async def test_a_shadow_rule_is_counted_and_lets_pass():
    cases = UseCases(quota_policy(limit=99, mode=Mode.SHADOW))
    await cases.customer()
    counted = Grown("sidecar_shadow_denials_total", rule="tokens")
    assert isinstance(await cases.checks.check(cases.request()), Allow)
    assert counted.by == 1


async def test_what_the_body_makes_impossible_is_denied():
    cases = UseCases(reading_policy())
    await cases.customer()

    def refuse(_: object) -> RequestFacts:
        raise InvalidInput("max_tokens must be a whole number", field="max_tokens")

    cases.checks._read_facts = refuse
    decision = await cases.checks.check(cases.request())
    assert (reason(decision), decision.rule) == (DenyReason.INVALID_REQUEST, "body")


async def test_an_amount_beyond_any_balance_is_denied_and_not_named():
    cases = UseCases(reading_policy(), RequestFacts(input_bound=10**15))
    card = cases.policy.cards["prepaid"]
    dear = replace(card.lines[0], price=replace(card.lines[0].price, amount_nano=10**10))
    cards = {**cases.policy.cards, "prepaid": replace(card, lines=(dear,))}
    cases.policies.policy = replace(cases.policy, cards=cards)
    await cases.customer()
    decision = await cases.checks.check(cases.request())
    assert reason(decision) is DenyReason.INVALID_REQUEST
    assert not any(char.isdigit() for char in decision.detail)


async def test_what_the_store_cannot_keep_is_a_denial_and_no_crash():
    cases = UseCases()
    await cases.customer()
    cases.balances.failures["place"] = [InvalidInput("the amount 12345 nano is below 0")]
    decision = await cases.checks.check(cases.request())
    assert reason(decision) is DenyReason.INVALID_REQUEST
    assert "12345" not in decision.detail


async def test_a_plan_that_the_policy_lost_is_not_entitled():
    cases = UseCases()
    await cases.customer(plan="gone")
    decision = await cases.checks.check(cases.request())
    assert (reason(decision), decision.customer_id) == (DenyReason.NOT_ENTITLED, "cus_1")


async def test_a_model_without_a_price_is_denied():
    cases = UseCases(reading_policy(), RequestFacts(model="dear-model", input_bound=5))
    card = cases.policy.cards["prepaid"]
    named = replace(card.lines[0], models=("cheap-model",))
    cards = {**cases.policy.cards, "prepaid": replace(card, lines=(named,))}
    cases.policies.policy = replace(cases.policy, cards=cards)
    await cases.customer()
    assert reason(await cases.checks.check(cases.request())) is DenyReason.UNKNOWN_MODEL
    assert cases.balances.calls == []


async def test_a_cancelled_check_leaves_a_hold_that_can_be_abandoned():
    cases = UseCases()
    await cases.customer()
    cases.state.gate.clear()
    work = asyncio.create_task(cases.checks.check(cases.request()))
    await until(lambda: "place" in cases.balances.calls)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    cases.state.gate.set()
    await cases.checks.abandon_hold("cus_1", cases.request().hold_id)
    assert reason(await cases.checks.check(cases.request())) is DenyReason.STORE_UNAVAILABLE
    assert cases.account.held == 0


async def test_one_snapshot_serves_the_whole_check():
    cases = UseCases()
    await cases.customer()
    snapshots = iter([cases.policy])
    cases.policies.current = lambda: next(snapshots)
    cases.balances.place_outcomes = [PlaceOutcome(status=PlaceStatus.STALE_FACTS)]
    decision = await cases.checks.check(cases.request())
    assert isinstance(decision, Allow), "a second look would have raised StopIteration"


async def test_no_decision_shows_the_callers_key():
    cases = UseCases()
    await cases.customer()
    for request in (cases.request(), cases.request(2, path="/other"), cases.request(3, headers={})):
        assert KEY not in repr(await cases.checks.check(request))


class _Stopped:
    def __init__(self, instant: datetime) -> None:
        self._instant = instant

    def now(self) -> datetime:
        return self._instant
