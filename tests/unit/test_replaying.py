"""What replay makes of changed rules, prices and plans."""

from dataclasses import replace
from typing import Any

import pytest
import re2
from fixtures.replay_world import CHAT, LEGACY, START, World, card, make_policy, rules, when

from sidecar.domain.counters import REQUESTS, Counter, CounterKind, Rate
from sidecar.domain.customers import CustomerFacts
from sidecar.domain.decision_records import BodyFacts, DecisionRecord, NumbersFrom, RecordedRequest
from sidecar.domain.holds import make_hold_id
from sidecar.domain.periods import CalendarUnit, CalendarWindow, to_epoch_ms
from sidecar.domain.policy import Policy
from sidecar.domain.replay_state import ReplayUsage
from sidecar.domain.replaying import How, Replay
from sidecar.domain.rules import Mode, Rule, RuleTemplate, Unidentified
from sidecar.domain.shadow_report import ShadowReport

START_MS = to_epoch_ms(START)
QUANTITIES = {"input": 1_000, "output": 1_000}
AMOUNT = 1_000 * 500 + 1_000 * 750
BLOCK = Rule(
    name="block", template=RuleTemplate.BLOCK, match=(CHAT,), unidentified=Unidentified.APPLY
)
PLAIN = make_policy(rules=())
VERSION = PLAIN.cards["pro"].version
CALLS_RULE = PLAIN.meters[-1]


def record(number: int, **changes: Any) -> DecisionRecord:
    """A placed hold of 1,000 tokens in and out; the customer has 10,000,000 nano before it."""
    fields = {
        "hold_id": make_hold_id(START_MS // 1_000, number.to_bytes(16)),
        "instant_ms": START_MS + number * 1_000,
        "epoch": 1,
        "seq": number,
        "policy_version": "before",
        "price_version": VERSION,
        "customer_id": "cus_1",
        "plan": "pro",
        "currency": "USD",
        "revision": 1,
        "request": RecordedRequest(method="POST", path="/ai/chat"),
        "facts": BodyFacts(model="gpt", input_bound=1_000, output_bound=1_000),
        "ask": "hold",
        "amount_nano": AMOUNT,
        "quantities": QUANTITIES,
        "credit_required": True,
        "numbers_from": NumbersFrom.STORE,
        "available_nano": 10_000_000 - AMOUNT,
        "placed": True,
        "allow": True,
    }
    return DecisionRecord(**(fields | changes))


def denial(number: int, **changes: Any) -> DecisionRecord:
    fields = {
        "placed": False,
        "allow": False,
        "denied": True,
        "failed_credit": True,
        "available_nano": AMOUNT - 1,
        "code": "no_available_credits",
        "rule": "prepaid-credit",
    }
    return record(number, **(fields | changes))


def usage(number: int, *, after_ms: int = 500, **changes: Any) -> ReplayUsage:
    """Half of what was held."""
    fields = {
        "customer_id": "cus_1",
        "hold_id": record(number).hold_id,
        "at_ms": START_MS + number * 1_000 + after_ms,
        "kind": "capture",
        "currency": "USD",
        "amount_nano": AMOUNT // 2,
        "plan": "pro",
        "price_version": VERSION,
        "model": "gpt",
        "occurred_ms": START_MS + number * 1_000,
        "tokens": 1_000,
        "quantities": {"input": 500, "output": 500},
    }
    return ReplayUsage(**(fields | changes))


def with_rules(*new: Rule, **changes: Any) -> Policy:
    return make_policy(version="after", rules=new, **changes)


def test_the_same_policy_changes_nothing():
    replay = Replay(PLAIN)
    assert replay.take_record(record(1)).how is How.REPRODUCED
    replay.take_usage(usage(1))
    assert replay.take_record(denial(2)).how is How.REPRODUCED
    assert replay.report.revenue_changes() == []


def test_a_request_that_is_now_refused_gives_back_its_hold_at_once_and_its_amount_later():
    """The second was refused for want of credit; without the first it has enough."""
    only_first = replace(
        BLOCK,
        when=when("request.bytes == 7"),
    )
    replay = Replay(with_rules(only_first))
    first = record(1, request=RecordedRequest(method="POST", path="/ai/chat", body_bytes=7))
    out = replay.take_record(first)
    assert (out.how, out.now.code, out.now.rule) == (How.FLIPPED, "blocked", "block")
    state = replay._states["cus_1"]
    assert state.more_nano == AMOUNT
    # The recorded hold ends and half of it is captured; now neither was taken.
    replay.take_usage(usage(1))
    assert state.more_nano == AMOUNT // 2
    again = replay.take_record(denial(2))
    assert (again.how, again.now.allow) == (How.FLIPPED, True)
    assert state.more_nano == AMOUNT // 2 - AMOUNT
    report = replay.report
    assert (report.to_deny, report.to_allow) == (1, 1)
    assert report.refused_held["USD"] == AMOUNT
    assert report.refused_captured["USD"] == AMOUNT // 2
    assert report.flips[0].captured_nano == AMOUNT // 2
    assert report.first_denial is report.flips[0]
    assert report.admitted_held["USD"] == AMOUNT
    assert report.flips[1].estimated
    assert report.revenue_changes() == [("cus_1", "USD", AMOUNT - AMOUNT // 2)]


def test_a_request_that_now_passes_takes_credit_from_those_after_it():
    """A cheaper plan lets a refused request pass; the next one then finds too little."""
    cheap = replace(PLAIN.cards["pro"], lines=PLAIN.cards["pro"].lines[:1])
    replay = Replay(make_policy(rules=(), cards={"pro": cheap}))
    assert replay.take_record(denial(1, available_nano=600_000)).now.allow
    second = replay.take_record(denial(2, available_nano=600_000))
    assert not second.now.allow
    assert second.how is How.REPRODUCED


def test_dearer_prices_hold_more_and_rate_recorded_quantities_anew():
    dear = card("pro", 1_000)
    replay = Replay(make_policy(rules=(), cards={"pro": dear}))
    assert replay.take_record(record(1)).how is How.REPRODUCED
    replay.take_usage(usage(1))
    # 500 x 1,000 for input; output at 3,000 per 2 on a running total of its own.
    assert replay.report.revenue_changes() == [
        ("cus_1", "USD", 500 * 1_000 + 500 * 1_500 - AMOUNT // 2)
    ]
    # Recorded as just enough; the dearer capture before it has taken more.
    enough = record(2, available_nano=0)
    assert replay.take_record(enough).now.code == "no_available_credits"
    assert replay.report.refused_held["USD"] == AMOUNT


def test_a_running_total_is_the_replays_own_and_rounds_once():
    dear = card("pro", 1)
    replay = Replay(make_policy(rules=(), cards={"pro": dear}))
    for number in (1, 2):
        replay.take_record(record(number))
        replay.take_usage(usage(number, quantities={"output": 1}, amount_nano=0))
    # 3 nano for 2 units: the first costs 2, the second 1.
    assert replay.report.revenue_after["cus_1", "USD"] == 3


def test_a_correction_is_rated_as_a_difference():
    dear = replace(card("pro", 1_000), lines=card("pro", 1_000).lines[:1])
    replay = Replay(make_policy(rules=(), cards={"pro": dear}))
    replay.take_record(record(1))
    replay.take_usage(usage(1, quantities={"input": 500}, amount_nano=250_000))
    correction = usage(
        1, after_ms=900, kind="correction:1", quantities={"input": -100}, amount_nano=-50_000
    )
    replay.take_usage(correction)
    assert replay.report.revenue_after["cus_1", "USD"] == 400_000
    assert replay._states["cus_1"].more_nano == -200_000


def test_a_counter_that_did_not_exist_starts_at_zero_and_counts_what_was_recorded():
    counter = Counter(
        name="day",
        kind=CounterKind.WINDOW,
        measure="input",
        limit=1_600,
        window=CalendarWindow(unit=CalendarUnit.DAY),
    )
    rule = Rule(name="daily", template=RuleTemplate.QUOTA, match=(CHAT,), counter=counter)
    replay = Replay(with_rules(rule))
    assert replay.take_record(record(1)).now.allow
    replay.take_usage(usage(1))
    # 500 were used; 1,000 more fit. Then 1,500 are taken, and no more fit.
    assert replay.take_record(record(2)).now.allow
    third = replay.take_record(record(3))
    assert (third.now.code, third.now.rule) == ("quota_exceeded", "daily")
    assert third.now.retry_after_seconds > 0
    # At midnight it starts anew.
    tomorrow = START_MS + 3 * 3_600_000
    assert replay.take_record(record(4, instant_ms=tomorrow)).now.allow


def test_a_new_rate_limit_is_simulated():
    counter = Counter(
        name="pace",
        kind=CounterKind.RATE,
        measure=REQUESTS,
        limit=1,
        rate=Rate(per_ms=10_000, burst=2),
    )
    rule = Rule(name="pace", template=RuleTemplate.RATE_LIMIT, match=(CHAT,), counter=counter)
    replay = Replay(with_rules(rule))
    words = [replay.take_record(record(number)).now for number in range(4)]
    assert [word.allow for word in words] == [True, True, False, False]
    assert [word.retry_after_seconds for word in words[2:]] == [8, 7]
    assert replay.take_record(record(11)).now.allow


def test_an_existing_counters_new_limit_is_judged_by_the_recorded_use():
    tighter = tuple(
        replace(rule, counter=replace(rule.counter, limit=rule.counter.limit // 4))
        if rule.name in ("month", "nearly")
        else rule
        for rule in rules()
    )
    replay = Replay(make_policy(rules=tighter, version="after"))
    for event in World(5).events(3_000):
        if isinstance(event, DecisionRecord):
            replay.take_record(event)
        else:
            replay.take_usage(event)
    report = replay.report
    assert report.denied_by_rule["month"] > 10
    assert not report.unjudged
    assert report.revenue_changes()


def test_a_fact_that_was_not_recorded_is_counted_and_never_guessed():
    tier = re2.compile("^gold$")
    rule = replace(BLOCK, match=(replace(CHAT, headers=(("x-tier", tier),)),))
    replay = Replay(with_rules(rule))
    out = replay.take_record(record(1))
    assert (out.how, out.reason) == (How.UNJUDGED, "header x-tier was not recorded")
    assert out.now.allow
    known = RecordedRequest(method="POST", path="/ai/chat", headers={"x-tier": ["gold"]})
    assert replay.take_record(record(2, request=known)).now.rule == "block"
    absent = RecordedRequest(method="POST", path="/ai/chat", headers={"x-tier": None})
    assert replay.take_record(record(3, request=absent)).now.allow
    assert replay.report.unjudged == {"header x-tier was not recorded": 1}
    assert replay.report.decisions == 3


@pytest.mark.parametrize(
    ("match", "reason"),
    [
        ({"query": (("tier", re2.compile("x")),)}, "query parameter tier was not recorded"),
        ({"context": (("zone", re2.compile("x")),)}, "context zone was not recorded"),
        ({"body": (("user.id", re2.compile("x")),)}, "body field user was not recorded"),
    ],
)
def test_each_part_of_a_request_says_what_is_missing(match: dict[str, Any], reason: str):
    replay = Replay(with_rules(replace(BLOCK, match=(replace(CHAT, **match),))))
    assert replay.take_record(record(1)).reason == reason


def test_a_rule_of_another_route_needs_no_unrecorded_fact():
    match = replace(LEGACY, headers=(("x-tier", re2.compile("x")),))
    replay = Replay(with_rules(replace(BLOCK, match=(match,))))
    assert replay.take_record(record(1)).how is How.REPRODUCED


def test_a_condition_over_what_was_not_recorded_cannot_be_judged():
    reads_url = replace(BLOCK, when=when("request.url != ''"))
    replay = Replay(with_rules(reads_url))
    assert replay.take_record(record(1)).reason == "url was not recorded"


def test_a_policy_that_reads_bodies_cannot_judge_where_none_was_read():
    replay = Replay(PLAIN)
    out = replay.take_record(record(1, facts=None))
    assert out.reason == "the body's model and bounds were not recorded"


def test_a_path_that_was_cut_cannot_be_matched():
    cut = RecordedRequest(method="POST", path="/ai/chat", path_cut=True)
    assert Replay(PLAIN).take_record(record(1, request=cut)).how is How.UNJUDGED


def test_what_was_decided_without_the_store_stands():
    replay = Replay(with_rules(BLOCK))
    away = record(1, numbers_from=NumbersFrom.AWAY, placed=False)
    assert replay.take_record(away).how is How.KEPT
    assert replay.report.kept == 1


def test_a_request_whose_blocking_rule_is_gone_is_judged_by_the_newest_numbers_before_it():
    blocked = {
        "numbers_from": NumbersFrom.NOT_ASKED,
        "placed": False,
        "allow": False,
        "code": "blocked",
        "rule": "block",
        "available_nano": 0,
    }
    replay = Replay(PLAIN)
    unknown = replay.take_record(record(1, **blocked))
    assert unknown.reason == "the customer's balance was not recorded"
    replay.take_record(record(2))
    assert replay.take_record(record(3, **blocked)).now.allow
    assert replay.report.from_older_numbers == 1


def test_a_route_that_becomes_free_passes():
    replay = Replay(make_policy(rules=(), free=(CHAT,)))
    assert replay.take_record(denial(1)).now.allow


def test_a_plan_that_is_gone_refuses_and_its_usage_is_not_rated():
    replay = Replay(make_policy(rules=(), cards={"free": card("free", 1)}))
    out = replay.take_record(record(1))
    assert (out.now.code, out.now.rule) == ("not_entitled", "plan")
    replay.take_usage(usage(1))
    assert replay.report.unrated == {"plan pro is not part of the policy": 1}
    assert replay.report.revenue_after["cus_1", "USD"] == 0


def test_a_meter_that_was_not_counted_is_told_and_not_taken_for_zero():
    extra = replace(CALLS_RULE, match=(CHAT,))
    dear = card("pro", 1_000)
    policy = make_policy(rules=(), cards={"pro": dear}, meters=(*PLAIN.meters, extra))
    replay = Replay(policy)
    # Enough for the dearer hold.
    replay.take_record(record(1))
    replay.take_usage(usage(1))
    assert replay.report.unrated == {"meter calls was not counted": 1}
    assert replay.report.revenue_changes() == []


def test_usage_of_a_hold_from_before_the_replay_is_rated_too():
    dear = card("pro", 1_000)
    replay = Replay(make_policy(rules=(), cards={"pro": dear}))
    replay.take_usage(usage(9, quantities={"input": 500}, amount_nano=250_000))
    assert replay.report.revenue_changes() == [("cus_1", "USD", 250_000)]
    assert replay._states["cus_1"].more_nano == -250_000


def test_a_shadow_rule_reports_customers_money_and_disagreement():
    report = ShadowReport()
    report.take_record(record(1, shadow=("strict",)))
    report.take_usage(usage(1))
    report.take_record(denial(2, shadow=("strict",)))
    report.take_record(record(3, customer_id="cus_2"))
    (rule,) = report.as_json()["rules"]
    assert (rule["would_deny"], rule["allowed_live"], rule["denied_live"]) == (2, 1, 1)
    assert (rule["customers"], rule["by_customer"]) == (1, {"cus_1": 2})
    assert rule["held"]["USD"]["amount_nano"] == AMOUNT
    assert rule["captured"]["USD"]["amount_nano"] == AMOUNT // 2
    assert rule["denied_live_by_rule"] == {"prepaid-credit": 1}


def test_a_rule_that_turns_to_shadow_changes_words_only():
    enforced = record(1, placed=False, allow=False, code="blocked", rule="block", denied=False)
    enforced = replace_record(enforced, numbers_from=NumbersFrom.NOT_ASKED)
    shadowed = replace(BLOCK, mode=Mode.SHADOW)
    replay = Replay(with_rules(shadowed))
    replay.take_record(record(0, shadow=("block",)))
    out = replay.take_record(enforced)
    assert out.now.allow
    assert out.now.shadow == ("block",)
    assert replay.report.reproduced == 1


def replace_record(old: DecisionRecord, **changes: Any) -> DecisionRecord:
    fields = {name: getattr(old, name) for name in old.__struct_fields__}
    return DecisionRecord(**(fields | changes))


def test_the_customer_is_as_the_check_knew_them():
    made = record(1, labels={"tier": "gold"}, team_id="t", user_id="u", credential_id="k")
    assert made.customer == CustomerFacts(
        customer_id="cus_1",
        plan="pro",
        currency="USD",
        revision=1,
        labels={"tier": "gold"},
        team_id="t",
        user_id="u",
        credential_id="k",
    )


def test_holds_are_forgotten_once_no_usage_is_to_come():
    replay = Replay(PLAIN)
    hours = [record(number, instant_ms=START_MS + number * 3_600_000) for number in range(20)]
    for one in hours:
        replay.take_record(one)
        replay.take_usage(usage(1, hold_id=one.hold_id, at_ms=one.instant_ms + 5))
    assert len(replay._states["cus_1"].holds) == 2
    assert replay.report.reproduced == 20
