"""The part of the policy's table that says which requests and which callers are meant."""

from sidecar.domain.decisions import Dialect
from sidecar.domain.rules import Members
from sidecar.outbound.policy_files import texts
from sidecar.outbound.policy_files.records import Field, ListOf, MapOf, Record
from sidecar.outbound.policy_files.scalars import Choice, Number
from sidecar.outbound.policy_files.unions import OneOrMany

CONDITIONS_MAX = 20
"""Headers, parameters or fields that one match asks for."""

MATCH_FIELDS = {
    "routes": Field(
        spec=ListOf(texts.PATTERN),
        doc="RE2 patterns, one of which is found in the normalised path; absent: any path.",
    ),
    "methods": Field(spec=ListOf(texts.METHOD), doc="HTTP methods; absent: any."),
}
MATCH = Record(
    name="match",
    doc="Which requests: OR inside a list, AND across keys.",
    fields={
        **MATCH_FIELDS,
        "hosts": Field(
            spec=ListOf(texts.HOST_PATTERN),
            doc="RE2 patterns, one of which is found in the host: lower case, without port.",
        ),
        "headers": Field(
            spec=MapOf(key=texts.HEADER_NAME, value=texts.VALUE_PATTERN, size_max=CONDITIONS_MAX),
            doc="RE2 pattern per request header; all have to be found. Clients choose headers.",
        ),
        "query": Field(
            spec=MapOf(key=texts.FREE_NAME, value=texts.VALUE_PATTERN, size_max=CONDITIONS_MAX),
            doc="RE2 pattern per parameter of the query, decoded; all have to be found.",
        ),
        "sources": Field(
            spec=ListOf(texts.NETWORK), doc="Networks or addresses, one of which the caller is in."
        ),
        "body": Field(
            spec=MapOf(key=texts.BODY_PATH, value=texts.VALUE_PATTERN, size_max=CONDITIONS_MAX),
            doc="RE2 pattern per field of the JSON body, dots going inwards; all have to be found.",
        ),
        "context": Field(
            spec=MapOf(key=texts.FREE_NAME, value=texts.VALUE_PATTERN, size_max=CONDITIONS_MAX),
            doc="RE2 pattern per entry of the gateway's context extensions; all have to be found.",
        ),
    },
)
MATCHES = OneOrMany(MATCH)
METER_MATCH = Record(
    name="meter match",
    doc="Which requests a meter counts.",
    fields={
        **MATCH.fields,
        "status": Field(
            spec=ListOf(Number(100, 599)),
            doc="HTTP statuses of the response that count; others count as 0; absent: any.",
        ),
    },
)
FREE = Record(
    name="free route",
    doc="Requests that cost nothing and ask for no credential.",
    fields={
        "routes": Field(
            spec=ListOf(texts.PATTERN),
            doc="RE2 patterns, one of which is found in the normalised path.",
            required=True,
        ),
        "methods": MATCH_FIELDS["methods"],
    },
)
DIALECT = Choice(tuple(Dialect))
ERRORS = Record(
    name="errors entry",
    doc="Whose error format the callers of some routes expect; the first that matches counts.",
    fields={
        "match": Field(spec=MATCHES, doc="Which requests; absent: all."),
        "dialect": Field(spec=DIALECT, doc="Whose error format.", required=True),
    },
)

_MEMBERS = Field(
    spec=Choice(tuple(Members)),
    doc="listed: only those whose list under `members` names the rule; unlisted: all others.",
)
LABELS = Field(
    spec=MapOf(key=texts.FREE_NAME, value=texts.LABEL, size_max=50),
    doc="With all of these labels.",
)
CUSTOMERS = Record(
    name="customers",
    doc="Which customers a rule is for; AND across keys.",
    fields={
        "plans": Field(spec=ListOf(texts.NAME), doc="On one of these plans."),
        "labels": LABELS,
        "ids": Field(spec=ListOf(texts.FREE_NAME), doc="One of these customers."),
        "except": Field(spec=ListOf(texts.FREE_NAME), doc="None of these customers; wins."),
        "members": _MEMBERS,
    },
)
USERS = Record(
    name="users",
    doc="Which users of customers a rule is for; AND across keys.",
    fields={
        "ids": Field(spec=ListOf(texts.FREE_NAME), doc="One of these users."),
        "teams": Field(spec=ListOf(texts.FREE_NAME), doc="In one of these teams."),
        "except": Field(spec=ListOf(texts.FREE_NAME), doc="None of these users; wins."),
        "members": _MEMBERS,
    },
)
