"""The part of the policy's table that is about the tests beside rules."""

from sidecar.domain.decisions import DenyReason
from sidecar.domain.standing import Standing
from sidecar.domain.usage import QUANTITY_MAX
from sidecar.outbound.policy_files import texts
from sidecar.outbound.policy_files.records import Field, Json, ListOf, MapOf, Record
from sidecar.outbound.policy_files.scalars import Choice, Flag, Number, OrNothing
from sidecar.outbound.policy_files.schema_match import LABELS
from sidecar.outbound.policy_files.unions import Measure

TOKENS_MAX = 1_000_000_000
BODY_BYTES_MAX = 100_000_000
_SECONDS_MAX = 400 * 86_400

TEST_CUSTOMER = Record(
    name="test customer",
    doc="Who asks.",
    fields={
        "plan": Field(spec=texts.NAME, doc="The customer's plan.", required=True),
        "id": Field(spec=texts.FREE_NAME, doc="The customer's id.", default="cus_test"),
        "labels": LABELS,
        "team": Field(spec=texts.FREE_NAME, doc="The team's id."),
        "user": Field(spec=texts.FREE_NAME, doc="The user's id."),
        "key": Field(spec=texts.FREE_NAME, doc="The API key's id.", default="key_test"),
    },
)
_CREDITS = Record(
    name="given credits",
    doc="The customer's credit.",
    fields={
        "available": Field(spec=texts.BALANCE, doc="Available before the request.", required=True)
    },
)
_INVOICES = Record(
    name="given invoices",
    doc="The customer's unpaid invoices.",
    fields={
        "overdue_days": Field(
            spec=Number(0, 36_500), doc="For how long the oldest has been overdue."
        ),
        "amount": Field(spec=texts.BALANCE, doc="How much is overdue; absent: unknown."),
        "disputed": Field(spec=Flag(), doc="Whether it is disputed.", default=False),
    },
)
_COUNTER = Record(
    name="given counter",
    doc="How much is counted.",
    fields={
        "used": Field(
            spec=Measure(QUANTITY_MAX),
            doc="Used before the request; of money an amount in quotes.",
            required=True,
        )
    },
)
_COUNTERS = MapOf(key=texts.NAME, value=_COUNTER)
GIVEN = Record(
    name="given",
    doc="What the stores say.",
    fields={
        "customer": Field(spec=TEST_CUSTOMER, doc="Who asks."),
        "identified": Field(
            spec=Flag(), doc="false: no credential tells who asks; then without customer."
        ),
        "credits": Field(spec=_CREDITS, doc="Absent: more than enough."),
        "standing": Field(
            spec=Choice(tuple(Standing)), doc="The customer's standing.", default="good"
        ),
        "invoices": Field(spec=_INVOICES, doc="Absent: nothing is known of any."),
        "quotas": Field(spec=_COUNTERS, doc="Counters by quota; absent: 0."),
        "limits": Field(
            spec=_COUNTERS,
            doc="Counters by rule: of caps, rates (how much of the burst) and in-flight limits.",
        ),
        "at": Field(spec=texts.INSTANT, doc="When; absent: 2026-01-15T12:00:00Z."),
    },
)
TEST_REQUEST = Record(
    name="test request",
    doc="What is asked.",
    fields={
        "method": Field(spec=texts.METHOD, doc="HTTP method.", default="GET"),
        "path": Field(spec=texts.PATH, doc="Path as sent, with its query.", required=True),
        "host": Field(spec=texts.FREE_NAME, doc="Host, as the client names it."),
        "source_ip": Field(spec=texts.ADDRESS, doc="The caller's address."),
        "headers": Field(
            spec=MapOf(key=texts.HEADER_NAME, value=texts.PLAIN_HEADER_VALUE, size_max=100),
            doc="Request headers.",
        ),
        "context": Field(
            spec=MapOf(key=texts.FREE_NAME, value=texts.MEMBER_VALUE, size_max=100),
            doc="The gateway's context extensions.",
        ),
        "body": Field(spec=Json(), doc="JSON body."),
        "bytes": Field(spec=Number(0, BODY_BYTES_MAX), doc="Length of the body, where it matters."),
        "model": Field(spec=texts.FREE_NAME, doc="The LLM model that the body names."),
        "input": Field(spec=Number(0, TOKENS_MAX), doc="Most input tokens that the body promises."),
        "output": Field(
            spec=Number(0, TOKENS_MAX), doc="Most output tokens that the body promises."
        ),
    },
)
EXPECT = Record(
    name="expect",
    doc="What should come of it; keys that are absent are not compared.",
    fields={
        "allow": Field(spec=Flag(), doc="Whether the request may pass.", required=True),
        "code": Field(spec=Choice(tuple(DenyReason)), doc="The deny reason."),
        "rule": Field(spec=texts.FREE_NAME, doc="The rule that denies."),
        "status": Field(spec=Number(200, 599), doc="HTTP status of the denial."),
        "headers": Field(
            spec=MapOf(key=texts.HEADER_NAME, value=OrNothing(texts.PLAIN_HEADER_VALUE)),
            doc="Headers of the answer; null: must be absent.",
        ),
        "body": Field(spec=Json(), doc="The rule's own body, filled; null: an empty one."),
        "shadow": Field(
            spec=ListOf(texts.FREE_NAME, may_be_empty=True),
            doc="The rules that would deny and do not enforce, in any order.",
        ),
        "over": Field(
            spec=ListOf(texts.FREE_NAME, may_be_empty=True),
            doc="The soft limits that the request is beyond, in any order.",
        ),
        "retry_after": Field(
            spec=OrNothing(Number(0, _SECONDS_MAX)),
            doc="Seconds until a repeat would pass; null: none are told.",
        ),
    },
)
RULE_TEST = Record(
    name="test",
    doc="A test of the whole policy, beside the rule that it is about.",
    fields={
        "given": Field(spec=GIVEN, doc="What the stores say.", required=True),
        "request": Field(spec=TEST_REQUEST, doc="What is asked.", required=True),
        "expect": Field(spec=EXPECT, doc="What should come of it.", required=True),
    },
)
