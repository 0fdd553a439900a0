"""The part of the policy's table that is about rules: what they match, say and are tested by."""

from sidecar.domain.decisions import DenyReason
from sidecar.domain.rules import Mode, OnStoreFailure, RuleTemplate
from sidecar.domain.standing import Standing
from sidecar.domain.usage import QUANTITY_MAX
from sidecar.outbound.policy_files import texts
from sidecar.outbound.policy_files.records import Field, Json, ListOf, MapOf, Record
from sidecar.outbound.policy_files.scalars import Choice, Flag, Number, OrNothing

TOKENS_MAX = 1_000_000_000

MATCH_FIELDS = {
    "routes": Field(
        spec=ListOf(texts.PATTERN),
        doc="RE2 patterns, one of which is found in the normalised path; absent: any path.",
    ),
    "methods": Field(spec=ListOf(texts.METHOD), doc="HTTP methods; absent: any."),
}
_HEADERS_FIELD = Field(
    spec=MapOf(key=texts.HEADER_NAME, value=texts.HEADER_PATTERN, size_max=20),
    doc="RE2 pattern per request header; all of them have to be found. Clients choose headers.",
)

MATCH = Record(
    name="match",
    doc="Which requests: OR inside a list, AND across keys.",
    fields={**MATCH_FIELDS, "headers": _HEADERS_FIELD},
)
CUSTOMERS = Record(
    name="customers",
    doc="Which customers a rule is for; AND across keys.",
    fields={
        "plans": Field(spec=ListOf(texts.NAME), doc="On one of these plans."),
        "labels": Field(
            spec=MapOf(key=texts.FREE_NAME, value=texts.LABEL, size_max=50),
            doc="With all of these labels.",
        ),
        "ids": Field(spec=ListOf(texts.FREE_NAME), doc="One of these customers."),
        "except": Field(spec=ListOf(texts.FREE_NAME), doc="None of these customers; wins."),
    },
)
_ANSWER_HEADERS = MapOf(key=texts.ANSWER_HEADER, value=texts.HEADER_VALUE, size_max=50)
DENY = Record(
    name="deny",
    doc="The rule's own words for its denial.",
    fields={
        "status": Field(spec=Number(400, 599), doc="HTTP status; absent: the reason's own."),
        "headers": Field(spec=_ANSWER_HEADERS, doc="Response headers; values may be templates."),
        "body": Field(
            spec=Json(texts.parse_template),
            doc="JSON body; texts may be templates; absent: problem+json.",
        ),
    },
)
WARN = Record(
    name="warn",
    doc="What an allowed response carries.",
    fields={
        "headers": Field(
            spec=_ANSWER_HEADERS, doc="Response headers; values may be templates.", required=True
        )
    },
)
TEST_CUSTOMER = Record(
    name="test customer",
    doc="Who asks.",
    fields={
        "plan": Field(spec=texts.NAME, doc="The customer's plan.", required=True),
        "id": Field(spec=texts.FREE_NAME, doc="The customer's id.", default="cus_test"),
        "labels": CUSTOMERS.fields["labels"],
    },
)
GIVEN = Record(
    name="given",
    doc="What the stores say.",
    fields={
        "customer": Field(spec=TEST_CUSTOMER, doc="Who asks.", required=True),
        "credits": Field(
            spec=Record(
                name="given credits",
                doc="The customer's credit.",
                fields={
                    "available": Field(
                        spec=texts.BALANCE, doc="Available before the request.", required=True
                    )
                },
            ),
            doc="Absent: more than enough.",
        ),
        "standing": Field(
            spec=Choice(tuple(Standing)), doc="The customer's standing.", default="good"
        ),
        "quotas": Field(
            spec=MapOf(
                key=texts.NAME,
                value=Record(
                    name="given quota",
                    doc="A quota's counter.",
                    fields={
                        "used": Field(
                            spec=Number(0, QUANTITY_MAX),
                            doc="Used before the request.",
                            required=True,
                        )
                    },
                ),
            ),
            doc="Counters by quota; absent: 0.",
        ),
    },
)
TEST_REQUEST = Record(
    name="test request",
    doc="What is asked.",
    fields={
        "method": Field(spec=texts.METHOD, doc="HTTP method.", default="GET"),
        "path": Field(spec=texts.PATH, doc="Path as sent.", required=True),
        "headers": Field(
            spec=MapOf(key=texts.HEADER_NAME, value=texts.PLAIN_HEADER_VALUE, size_max=100),
            doc="Request headers.",
        ),
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
        "status": Field(spec=Number(400, 599), doc="HTTP status of the denial."),
        "headers": Field(
            spec=MapOf(key=texts.HEADER_NAME, value=OrNothing(texts.PLAIN_HEADER_VALUE)),
            doc="Headers of the answer; null: must be absent.",
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
RULE = Record(
    name="rule",
    doc="A rule; the first enforcing denial from the top decides.",
    fields={
        "name": Field(
            spec=texts.NAME, doc="Unique among rules; part of every denial.", required=True
        ),
        "template": Field(
            spec=Choice(
                tuple(RuleTemplate),
                later=(
                    "spend-cap",
                    "rate-limit",
                    "in-flight-limit",
                    "require-plan",
                    "block",
                    "headers",
                ),
            ),
            doc="What the rule watches.",
            required=True,
        ),
        "match": Field(spec=MATCH, doc="Which requests; absent: all."),
        "customers": Field(spec=CUSTOMERS, doc="Which customers; absent: all."),
        "mode": Field(
            spec=Choice(tuple(Mode), later=("percent",)),
            doc="draft: ignored; shadow: counted only; enforce: bites.",
            default="enforce",
        ),
        "on_store_failure": Field(
            spec=Choice(tuple(OnStoreFailure), later=("stale", "allotment")),
            doc="What the rule wants when the store gives no answer in time.",
            default="deny",
        ),
        "quota": Field(spec=texts.NAME, doc="Template quota: which quota."),
        "at": Field(
            spec=texts.PERCENT, doc="Template quota: warn from here on instead of denying at 100%."
        ),
        "deny": Field(spec=DENY, doc="The rule's own words for its denial."),
        "warn": Field(spec=WARN, doc="With `at`: headers to add from there on."),
        "tests": Field(spec=ListOf(RULE_TEST), doc="Run by `sidecar rules test`."),
    },
    later=frozenset(
        {
            "burst",
            "currency",
            "except_disputed",
            "features",
            "grace",
            "limit",
            "minimum",
            "per",
            "plans",
            "unidentified",
            "unit",
            "users",
            "when",
            "window",
        }
    ),
)
