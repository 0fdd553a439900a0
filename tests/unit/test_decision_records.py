"""What a record keeps of a request, and what it never does."""

import json
from dataclasses import replace

import pytest
import re2
from fixtures.replay_world import SECRET, START, World, make_policy, when
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.customers import NOBODY, CustomerFacts
from sidecar.domain.decision_records import (
    DecisionRecord,
    NumbersFrom,
    RecordedRequest,
    Stage,
    decode_record,
    encode_record,
    readable,
)
from sidecar.domain.decisions import Allow, Deny, DenyReason
from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import make_hold_id
from sidecar.domain.identity import ApiKeySource, HeaderSource, JwtSource
from sidecar.domain.judging import judge
from sidecar.domain.matching import Match
from sidecar.domain.planning import CheckPlan, Refusal, plan_check, plan_unidentified
from sidecar.domain.policy_reads import KnownReads, reads_of
from sidecar.domain.recorded_view import (
    Unrecorded,
    planned_at,
    rebuild_facts,
    rebuild_view,
    recorded_numbers,
)
from sidecar.domain.recording import NO_CREDENTIAL, make_record
from sidecar.domain.requests import AccessRequest, RequestFacts
from sidecar.domain.rules import Mode, Rule, RuleTemplate
from sidecar.services.decision_log import record_of
from sidecar.services.ports import MadeDecision

ANY = re2.compile(".")


def block(**match: object) -> Rule:
    return Rule(name="block", template=RuleTemplate.BLOCK, match=(Match(**match),))


def request(**changes: object) -> AccessRequest:
    fields = {
        "edge": "envoy",
        "gateway_id": "gw",
        "hold_id": make_hold_id(1_769_896_800, b"x" * 16),
        "method": "POST",
        "path": "/ai/chat?tier=gold",
        "headers": {"x-tier": ("gold",)},
        "received_at": START,
        "deadline": START,
        "host": "api.example.com",
        "source": "192.0.2.1",
        "body": b'{"model": "gpt", "stream": true, "user": {"id": "u1"}}',
    }
    return AccessRequest(**(fields | changes))


def recorded(policy, asked: AccessRequest) -> DecisionRecord:
    made = MadeDecision(
        policy=policy,
        request=asked,
        decision=Deny(decision_id="d", reason=DenyReason.BLOCKED, rule="block"),
        now=START,
        view=policy.view(asked, asked.path.partition("?")[0]),
    )
    return record_of(made, KnownReads())


def test_a_policys_reads_are_found_in_matches_and_conditions():
    condition = when(
        'request.headers["x-plan"] == "a" && request.body.user.id == "b" && request.bytes > 1'
    )
    policy = make_policy(
        rules=(
            block(headers=(("x-tier", ANY),), query=(("q", ANY),), context=(("zone", ANY),)),
            replace(block(body=(("stream", ANY),)), name="two", when=condition),
            replace(block(headers=(("x-draft", ANY),)), name="draft", mode=Mode.DRAFT),
        ),
        free=(Match(headers=(("x-free", ANY),)),),
        identity=(
            ApiKeySource(headers=("x-our-key",)),
            JwtSource(),
            HeaderSource(customer="x-customer", user="x-user"),
        ),
    )
    reads = reads_of(policy)
    assert reads.headers == {"x-tier", "x-plan", "x-free"}
    assert (reads.query, reads.context) == ({"q"}, {"zone"})
    assert reads.body == {"stream", "user.id"}
    assert reads.conditions == {"two": {"headers.x-plan", "body.user.id"}}
    assert reads.withheld >= {"x-our-key", "authorization", "cookie", "x-customer", "x-user"}
    known = KnownReads()
    assert known.of(policy) is known.of(policy)


def test_only_facts_that_the_policy_reads_are_kept_with_those_that_were_absent():
    policy = make_policy(
        rules=(
            block(
                headers=(("x-tier", ANY), ("x-none", ANY)),
                query=(("tier", ANY),),
                body=(("user.id", ANY), ("stream", ANY), ("absent", ANY), ("user", ANY)),
            ),
        )
    )
    kept = recorded(policy, request()).request
    assert kept.headers == {"x-tier": ["gold"], "x-none": None}
    assert kept.query == {"tier": ["gold"]}
    assert kept.body == {"user.id": "u1", "stream": True, "absent": None, "user": None}
    assert kept.path == "/ai/chat"
    assert kept.body_bytes == len(request().body)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": ("Bearer abc",)},
        {"x-api-key": (SECRET,)},
        {"cookie": ("a=b",)},
        {"x-session-token": ("abc",)},
        {"x-tier": (f"Bearer {SECRET}",)},
        {"x-tier": (SECRET,)},
        {"x-tier": ("x" * 300,)},
        {"x-tier": ("\ud800",)},
    ],
)
def test_a_header_that_may_be_a_credential_is_withheld_even_if_a_rule_reads_it(headers):
    (name,) = headers
    policy = make_policy(rules=(block(headers=((name, ANY),)),))
    record = recorded(policy, request(headers=headers))
    assert record.request.headers == {}
    assert record.request.withheld == (f"headers.{name}",)
    with pytest.raises(Unrecorded, match=f"header {name} was not recorded"):
        policy.rules_for(rebuild_view(record, policy, reads_of(policy)), NOBODY)


@pytest.mark.parametrize(
    "path", ["messages", "prompt", "input.text", "system", "instructions", "a.content.b"]
)
def test_what_a_person_wrote_is_never_kept(path: str):
    body: object = "short"
    for name in reversed(path.split(".")):
        body = {name: body}
    policy = make_policy(rules=(block(body=((path, ANY),)),))
    record = recorded(policy, request(body=json.dumps(body).encode()))
    assert record.request.body == {}
    assert record.request.withheld == (f"body.{path}",)


TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@given(
    names=st.lists(st.sampled_from(["x-a", "authorization", "cookie", "x-api-key", "x-b"])),
    prefix=TEXT,
    body_names=st.lists(
        st.sampled_from(["messages", "prompt", "input", "model", "note", "user", "system"])
    ),
)
def test_secrets_that_are_planted_anywhere_are_in_no_record(
    names: list[str], prefix: str, body_names: list[str]
):
    """Whatever a policy reads, and wherever a key, a prompt or a completion stands."""
    policy = make_policy(
        rules=(
            block(
                headers=tuple((name, ANY) for name in dict.fromkeys(names)),
                query=(("key", ANY), ("tier", ANY)),
                body=tuple((name, ANY) for name in dict.fromkeys(body_names)),
                context=(("route", ANY),),
            ),
        )
    )
    planted = f"{prefix} {SECRET}"
    asked = request(
        path=f"/ai/chat?tier={SECRET}&key=k&other={SECRET}",
        headers=dict.fromkeys(
            ["x-a", "x-b", "x-c", "authorization", "cookie", "x-api-key"], (planted,)
        ),
        body=json.dumps(dict.fromkeys(["messages", "note", "user", "model"], planted)).encode(),
        context={"route": planted, "other": planted},
    )
    encoded = encode_record(recorded(policy, asked))
    assert SECRET.encode() not in encoded


def test_a_path_that_nobody_can_read_is_not_kept():
    made = MadeDecision(
        policy=make_policy(),
        request=request(path=f"/%00/{SECRET}"),
        decision=Deny(decision_id="d", reason=DenyReason.INVALID_REQUEST, rule="path"),
        now=START,
    )
    record = record_of(made, KnownReads())
    assert (record.stage, record.request.path) == (Stage.PATH, "")


def test_the_words_for_no_credential_are_those_that_the_plan_says():
    policy = make_policy()
    refusal = plan_unidentified(policy, policy.view(request(), "/ai/chat"), START)
    assert isinstance(refusal, Refusal)
    assert refusal.detail == NO_CREDENTIAL


def test_an_unusable_credential_is_told_from_none():
    policy = make_policy()
    view = policy.view(request(), "/ai/chat")

    def stage(reason: DenyReason, rule: str, detail: str) -> Stage:
        deny = Deny(decision_id="d", reason=reason, rule=rule, detail=detail)
        made = MadeDecision(policy=policy, request=request(), decision=deny, now=START, view=view)
        return record_of(made, KnownReads()).stage

    unidentified = DenyReason.UNIDENTIFIED
    assert stage(unidentified, "identity", "no credential was presented") is Stage.RULES
    assert stage(unidentified, "identity", "two credentials were presented") is Stage.IDENTITY
    assert stage(DenyReason.UNKNOWN_CREDENTIAL, "identity", "") is Stage.IDENTITY
    assert stage(DenyReason.INVALID_REQUEST, "body", "") is Stage.BODY
    assert stage(DenyReason.INVALID_REQUEST, "request", "") is Stage.STORE


def test_a_record_reads_back_as_it_was_written():
    for event in World(3).events(300):
        if isinstance(event, DecisionRecord):
            assert decode_record(encode_record(event)) == event


def test_a_plain_policys_record_is_small():
    """Two counters, a body's facts, labels: what most checks have."""
    sizes = [
        len(encode_record(event))
        for event in World(4).events(500)
        if isinstance(event, DecisionRecord) and len(event.takes) == 2
    ]
    assert sizes
    assert sum(sizes) / len(sizes) < 800


@pytest.mark.parametrize(
    "damage",
    [b"", b"[]", b'{"h":5}', b'{"v":2,"h":"x","t":1,"r":{"m":"GET"}}', b"\xff", b"[" * 100_000],
)
def test_a_damaged_record_is_refused(damage: bytes):
    with pytest.raises(InvalidInput):
        decode_record(damage)


def test_a_record_that_is_too_long_or_cannot_be_encoded_is_refused():
    fields = {"hold_id": "0" * 40, "instant_ms": 1, "request": RecordedRequest(method="GET")}
    with pytest.raises(InvalidInput):
        encode_record(DecisionRecord(**fields, labels={"a": "x" * 20_000}))
    with pytest.raises(InvalidInput):
        encode_record(DecisionRecord(**fields, gateway_id="\ud800"))


def test_people_read_long_names_and_no_hold_id():
    record = recorded(make_policy(), request())
    shown = readable(record)
    assert shown["decision_id"] == record.decision_id
    assert shown["request"]["method"] == "POST"
    assert record.hold_id not in json.dumps(shown)


def test_an_allow_without_the_store_says_so():
    policy, customer = (
        make_policy(),
        CustomerFacts(customer_id="cus_1", plan="pro", currency="USD", revision=1),
    )
    record = make_record(
        reads_of(policy),
        policy,
        request(),
        Allow(decision_id="d"),
        1,
        view=policy.view(request(), "/ai/chat"),
        customer=customer,
        facts=RequestFacts(model="gpt"),
    )
    assert record.allow
    assert not record.placed
    assert record.numbers_from is NumbersFrom.NOT_ASKED
    assert record.facts.model == "gpt"


def test_a_record_alone_rebuilds_what_the_rules_judged():
    policy, judged = make_policy(), 0
    reads = reads_of(policy)
    for event in World(11).made(400):
        if not isinstance(event, MadeDecision) or event.plan is None or not event.customer.plan:
            continue
        record = decode_record(encode_record(record_of(event, KnownReads())))
        view = rebuild_view(record, policy, reads)
        facts = rebuild_facts(record, policy, view)
        plan = plan_check(policy, view, record.customer, facts, planned_at(record))
        assert isinstance(plan, CheckPlan)
        assert plan.counters == event.plan.counters
        numbers = recorded_numbers(record)
        assert numbers == event.numbers
        assert judge(plan, numbers, record.customer) == event.judgement
        judged += 1
    assert judged > 200
