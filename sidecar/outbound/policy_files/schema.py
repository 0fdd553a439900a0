"""
The table of a policy file: every key, its kind, what it is for, its default.

The loader reads by it, editors complete by the JSON Schema made from it, and the reference
is tested against it.
"""

import json
from typing import Any

from sidecar.domain.rules import EstimateFrom
from sidecar.outbound.policy_files import texts
from sidecar.outbound.policy_files.records import Field, ListOf, MapOf, Record
from sidecar.outbound.policy_files.scalars import Choice, Flag, Number
from sidecar.outbound.policy_files.schema_counters import QUOTA
from sidecar.outbound.policy_files.schema_identity import HEADER, IDENTITY
from sidecar.outbound.policy_files.schema_match import ERRORS, FREE, MATCHES
from sidecar.outbound.policy_files.schema_meters import METER
from sidecar.outbound.policy_files.schema_prices import DATED_VERSION, PLAN
from sidecar.outbound.policy_files.schema_rules import MEMBERS, RULE
from sidecar.outbound.policy_files.schema_tests import TOKENS_MAX

ESTIMATE_DEFAULT = Record(
    name="estimate default",
    doc="Token counts to hold where the request promises no bound.",
    fields={
        "input": Field(spec=Number(0, TOKENS_MAX), doc="Input tokens.", required=True),
        "output": Field(spec=Number(0, TOKENS_MAX), doc="Output tokens.", required=True),
    },
)
STATED_HEADERS = Record(
    name="stated bounds",
    doc="Headers that state the most tokens of a request, in plain digits.",
    fields={
        "input": Field(spec=HEADER, doc="The header with the most input tokens."),
        "output": Field(spec=HEADER, doc="The header with the most output tokens."),
    },
)
STATED_MAX = Record(
    name="most of stated bounds",
    doc="The largest counts that headers may state.",
    fields={
        "input": Field(spec=Number(1, TOKENS_MAX), doc="Input tokens."),
        "output": Field(spec=Number(1, TOKENS_MAX), doc="Output tokens."),
    },
)
ESTIMATE = Record(
    name="estimate",
    doc="How usage is bounded before it is known; the first that matches counts.",
    fields={
        "match": Field(spec=MATCHES, doc="Which requests; absent: all."),
        "from": Field(
            spec=Choice(tuple(EstimateFrom)),
            doc="body: read bounds from an LLM request's JSON; header: from `headers`; "
            "none: always the default.",
            default="body",
        ),
        "headers": Field(
            spec=STATED_HEADERS, doc="With from: header: which header states which bound."
        ),
        "max": Field(
            spec=STATED_MAX,
            doc="With from: header: a larger count is refused; absent: 1000000000.",
        ),
        "trusted": Field(
            spec=Flag(),
            doc="With from: header: whether no caller can set the headers; absent: false.",
        ),
        "default": Field(
            spec=ESTIMATE_DEFAULT, doc="Used where the request promises no bound.", required=True
        ),
    },
)
MODEL = Record(
    name="model limits",
    doc="The most tokens that a model takes and gives.",
    fields={
        "max_output": Field(spec=Number(1, TOKENS_MAX), doc="Output tokens of one choice."),
        "max_input": Field(spec=Number(1, TOKENS_MAX), doc="Input tokens."),
    },
)
POLICY = Record(
    name="policy",
    doc="Sidecar's policy. All *.yaml files of the folder are one policy; lists are joined.",
    fields={
        "identity": Field(
            spec=ListOf(IDENTITY, may_be_empty=True),
            doc="Where a caller's identity is read from, in order.",
        ),
        "estimates": Field(
            spec=ListOf(ESTIMATE, may_be_empty=True),
            doc="Upper bounds of usage before it is known.",
        ),
        "models": Field(spec=MapOf(key=texts.FREE_NAME, value=MODEL), doc="Limits of LLM models."),
        "unmatched": Field(
            spec=Choice(("deny", "allow")),
            doc="What happens to requests that no rule and no price covers; absent: deny.",
        ),
        "free": Field(
            spec=ListOf(FREE, may_be_empty=True), doc="Routes that cost nothing and ask for nobody."
        ),
        "rules": Field(
            spec=ListOf(RULE, may_be_empty=True), doc="Rules, evaluated from top to bottom."
        ),
        "quotas": Field(
            spec=ListOf(QUOTA, may_be_empty=True), doc="Quotas; a rule has to name each."
        ),
        "members": Field(spec=MEMBERS, doc="Lists of the rules that are for each member."),
        "errors": Field(
            spec=ListOf(ERRORS, may_be_empty=True), doc="Error formats of routes, in order."
        ),
        "meters": Field(spec=ListOf(METER, may_be_empty=True), doc="Meters."),
        "versions": Field(
            spec=ListOf(DATED_VERSION, may_be_empty=True),
            doc="Prices of plans from later instants on.",
        ),
        "plans": Field(spec=ListOf(PLAN, may_be_empty=True), doc="Plans."),
    },
)
SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"


def policy_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one policy file."""
    defs: dict[str, dict[str, Any]] = {}
    root = POLICY.definition(defs)
    return {
        "$schema": SCHEMA_ID,
        "title": "Sidecar policy",
        **root,
        "$defs": dict(sorted(defs.items())),
    }


def policy_schema_text() -> str:
    """The same as the text of config/policy.schema.json."""
    return json.dumps(policy_schema(), indent=2) + "\n"
