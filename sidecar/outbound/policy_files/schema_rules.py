"""The part of the policy's table that is about rules and the lists of their members."""

from sidecar.domain.rules import Mode, OnStoreFailure, RuleTemplate, Unidentified
from sidecar.domain.usage import QUANTITY_MAX
from sidecar.outbound.policy_files import texts
from sidecar.outbound.policy_files.records import Field, Json, ListOf, MapOf, Record
from sidecar.outbound.policy_files.scalars import Choice, Flag, Number, Sendable
from sidecar.outbound.policy_files.schema_counters import EACH, LIMIT, WINDOW
from sidecar.outbound.policy_files.schema_match import CUSTOMERS, DIALECT, MATCHES, USERS
from sidecar.outbound.policy_files.schema_tests import RULE_TEST
from sidecar.outbound.policy_files.unions import WordOr

MEMBER_RULES_MAX = 100

_ANSWER_HEADERS = Sendable(
    MapOf(key=texts.ANSWER_HEADER, value=texts.HEADER_VALUE, size_max=50),
    otherwise=MapOf(key=texts.ANY_TEXT, value=texts.ANY_TEMPLATE),
)
DENY = Record(
    name="deny",
    doc="The rule's own words for its denial.",
    fields={
        "status": Field(
            spec=Sendable(Number(200, 599), otherwise=Number(-texts.UNBOUNDED, texts.UNBOUNDED)),
            doc="HTTP status, not 204, 205 or 304; absent: the reason's own.",
        ),
        "headers": Field(spec=_ANSWER_HEADERS, doc="Response headers; values may be templates."),
        "body": Field(
            spec=Sendable(
                Json(texts.parse_template),
                otherwise=Json(texts.parse_template, bytes_max=texts.UNBOUNDED, any_number=True),
            ),
            doc="JSON body; texts may be templates; null: no body; absent: by `dialect`.",
        ),
        "dialect": Field(
            spec=DIALECT, doc="Whose error format the body has; absent: the route's, by `errors`."
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
MODE = WordOr(
    word=Choice(tuple(mode for mode in Mode if mode is not Mode.PERCENT)),
    record=Record(
        name="mode by percent",
        doc="Enforce for a share of customers, always the same ones; shadow for the rest.",
        fields={
            "percent": Field(spec=Number(1, 99), doc="Share of customers.", required=True),
        },
    ),
    example="{percent: 10}",
)
ON_STORE_FAILURE = WordOr(
    word=Choice((OnStoreFailure.DENY, OnStoreFailure.ALLOW), later=("allotment",)),
    record=Record(
        name="stale numbers",
        doc="Decide by the numbers that this process saw last.",
        fields={
            "stale": Field(spec=texts.STALE, doc="How old they may be; 1s to 1h.", required=True)
        },
    ),
    example="{stale: 30s}",
)
_NAMES = ListOf(texts.NAME)
_TEMPLATE_FIELDS = {
    "grace": Field(
        spec=texts.GRACE, doc="Unpaid invoices: refuse once one has been overdue for so long."
    ),
    "minimum": Field(
        spec=texts.AMOUNT, doc="Unpaid invoices: overdue amounts below this do not refuse."
    ),
    "except_disputed": Field(
        spec=Flag(), doc="Unpaid invoices: disputed ones do not refuse; absent: false."
    ),
    "quota": Field(spec=texts.NAME, doc="Template quota: which quota."),
    "at": Field(
        spec=texts.PERCENT,
        doc="Quota and cap: warn from here on instead of denying at 100%.",
    ),
    "limit": Field(
        spec=LIMIT, doc="Cap: an amount in quotes; rate and in-flight limit: a whole number."
    ),
    "currency": Field(spec=texts.CURRENCY, doc="Cap: of its limit."),
    "window": Field(spec=WINDOW, doc="Cap: when the sum begins anew."),
    "each": Field(spec=EACH.spec, doc="Cap, rate, in-flight limit: who has a count of their own."),
    "unit": Field(
        spec=Choice(("requests", "tokens")), doc="Rate: what is counted; absent: requests."
    ),
    "per": Field(spec=texts.RATE_SPAN, doc="Rate: the time that `limit` is for."),
    "burst": Field(
        spec=Number(1, QUANTITY_MAX), doc="Rate: how many may come at once; absent: `limit`."
    ),
    "plans": Field(spec=_NAMES, doc="Require-plan: one of these plans."),
    "features": Field(spec=_NAMES, doc="Require-plan: a plan with all of these features."),
}
RULE = Record(
    name="rule",
    doc="A rule; the first enforcing denial from the top decides.",
    fields={
        "name": Field(
            spec=texts.NAME, doc="Unique among rules; part of every denial.", required=True
        ),
        "template": Field(
            spec=Choice(tuple(RuleTemplate)), doc="What the rule watches.", required=True
        ),
        "match": Field(spec=MATCHES, doc="Which requests, any of a list; absent: all."),
        "customers": Field(spec=CUSTOMERS, doc="Which customers; absent: all."),
        "users": Field(spec=USERS, doc="Which of their users; absent: users do not matter."),
        "unidentified": Field(
            spec=Choice(tuple(Unidentified)),
            doc="What the rule means for callers that it cannot tell.",
        ),
        "when": Field(spec=texts.CONDITION, doc="A condition in CEL; absent: always."),
        "mode": Field(
            spec=MODE,
            doc="draft: ignored; shadow: counted only; percent: bites for some; enforce: for all.",
            default="enforce",
        ),
        "on_store_failure": Field(
            spec=ON_STORE_FAILURE,
            doc="What the rule wants when the store gives no answer in time.",
            default="deny",
        ),
        **_TEMPLATE_FIELDS,
        "deny": Field(spec=DENY, doc="The rule's own words for its denial."),
        "warn": Field(spec=WARN, doc="Headers to add, with `at` from there on."),
        "tests": Field(spec=ListOf(RULE_TEST), doc="Run by `sidecar rules test`."),
    },
)
MEMBERSHIP = WordOr(
    word=texts.NAME,
    record=Record(
        name="member's rule",
        doc="A rule and the member's own values for its templates.",
        fields={
            "rule": Field(spec=texts.NAME, doc="The rule.", required=True),
            "values": Field(
                spec=Sendable(
                    MapOf(key=texts.MEMBER_VALUE_NAME, value=texts.MEMBER_VALUE, size_max=100),
                    otherwise=MapOf(key=texts.MEMBER_VALUE_NAME, value=texts.ANY_TEXT),
                ),
                doc="By number, as in {{0}}, or by name, as in {{values.tier}}.",
            ),
        },
    ),
    example='{rule: NAME, values: {"0": Pro}}',
)
_LISTS = Sendable(
    MapOf(key=texts.FREE_NAME, value=ListOf(MEMBERSHIP)),
    otherwise=MapOf(key=texts.ANY_TEXT, value=ListOf(MEMBERSHIP)),
)
MEMBERS = Record(
    name="members",
    doc="Which rules are for which customers and users, each in the order of evaluation.",
    fields={
        "customers": Field(spec=_LISTS, doc="Lists of rules by customer."),
        "users": Field(spec=_LISTS, doc="Lists of rules by user."),
    },
)
