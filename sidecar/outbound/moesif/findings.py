"""What an import has to tell: constructs that agents read differently, and what was lost."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Construct:
    """A construct of the rule format: what it is, who differs on it, and what is done here."""

    title: str
    agents: str
    here: str


CONSTRUCTS: Mapping[str, Construct] = {
    "pattern-case": Construct(
        title="Letters in a pattern",
        agents="LiteLLM, Java and .NET ignore case; Node, Python, Kong and Go do not",
        here="case counts",
    ),
    "pattern-lua": Construct(
        title="Regular expression that is no Lua pattern",
        agents="Kong reads it as a Lua pattern: no `|`, `\\d`, `{n}`; `-` repeats and `%` escapes",
        here="read as a regular expression",
    ),
    "pattern-part": Construct(
        title="Pattern for a part of the value",
        agents="Django needs the whole value to match; the others search in it",
        here="searched in the value",
    ),
    "pattern-invalid": Construct(
        title="Pattern that JavaScript refuses",
        agents="Node never matches it; Python, Go, Java and .NET may take it (inline flags)",
        here="never matches",
    ),
    "pattern-unsupported": Construct(
        title="Pattern that RE2 cannot do",
        agents="Node, Python, Java and .NET take look-around and references; Go and Kong do not",
        here="never matches",
    ),
    "pattern-rewritten": Construct(
        title="Pattern that RE2 reads differently",
        agents="engines disagree on escapes, classes and lone braces",
        here="rewritten, so that RE2 finds what JavaScript finds",
    ),
    "pattern-value": Construct(
        title="Pattern that is no text",
        agents="Node makes a text of it; others fail or never match",
        here="made a text as in Node",
    ),
    "route-query": Construct(
        title="`request.route` with a query, a host or an anchor",
        agents="the query is part of it in Node, the whole URL in Python; Kong, LiteLLM, Go, Java "
        "and .NET see the path only",
        here="the normalised path only",
    ),
    "ip-path": Construct(
        title="The caller's address",
        agents="`request.ip` in Node and Python, `request.ip_address` in Django, Kong, Go, Java "
        "and .NET; each ignores the other's name",
        here="both names are the caller's address",
    ),
    "uri-path": Construct(
        title="`request.uri`",
        agents="no agent knows it; an unknown path matches in LiteLLM",
        here="the full URL with its query",
    ),
    "header-path": Construct(
        title="A request header in a condition",
        agents="unknown to Django, Kong and Go; LiteLLM then always matches",
        here="the header, whatever its case; a missing one never matches",
    ),
    "body-path": Construct(
        title="A field of the request's body in a condition",
        agents="Django and Kong know GraphQL's two fields only; LiteLLM always matches",
        here="a top-level field; its value as JavaScript writes it; in a body that cannot be read "
        "for certain, a rule that blocks takes the condition as met",
    ),
    "unknown-path": Construct(
        title="A path that no request has",
        agents='Node tries the pattern on "undefined", LiteLLM always matches, Go tries ""',
        here="never matches",
    ),
    "response-path": Construct(
        title="A condition on the response",
        agents="there is no response yet when rules are applied; Node tries the pattern on "
        '"undefined", LiteLLM always matches',
        here="never matches",
    ),
    "missing-value": Construct(
        title="Pattern that an absent value satisfies in some agents",
        agents='Node tries it on "undefined", Go on ""; LiteLLM always matches',
        here="a missing value never matches",
    ),
    "empty-conditions": Construct(
        title="A group without conditions",
        agents="matches in Node, LiteLLM and Go; never in Python, Django, Kong, Java and .NET",
        here="matches every request",
    ),
    "or-groups": Construct(
        title="Several groups of conditions",
        agents=".NET gives up at the first condition that fails; the others try each group",
        here="any group is enough",
    ),
    "several-rules": Construct(
        title="Several blocking rules for the same caller",
        agents="the last wins in Node, Python and Django, the first in LiteLLM, Go, Java and "
        ".NET, any in Kong",
        here="the last wins",
    ),
    "headers-only": Construct(
        title="A rule that does not block",
        agents="Django, Kong and LiteLLM ignore it; Java and .NET ignore it for users and "
        "companies, and block by it as a regex rule; in Go its answer may replace a denial's",
        here="adds its headers, denied or not",
    ),
    "not-matching": Construct(
        title="`applied_to: not_matching`",
        agents="Django applies it to the cohort itself; Java and .NET only to entities without "
        "any entry; Go to callers without an id too",
        here="applies to identified callers outside the cohort",
    ),
    "unidentified": Construct(
        title="`applied_to_unidentified`",
        agents="Django ignores it; Node does not look at `applied_to` and values then",
        here="applies to callers without an id, with no values",
    ),
    "kong-company": Construct(
        title="A company rule",
        agents="Kong 2.0.6 to 2.1.2 does not apply it unless `config.debug` is on",
        here="applied",
    ),
    "unknown-rule": Construct(
        title="A rule in the configuration that is not among the rules of its type",
        agents="Python answers HTTP 500; the others skip it",
        here="skipped",
    ),
    "cohort-order": Construct(
        title="Conditions on a rule that is not an entity's last",
        agents="Python skips the entity's later rules once one does not match",
        here="each rule is tried",
    ),
    "repeated-entry": Construct(
        title="A rule twice in an entity's list",
        agents="Node takes the values of the first entry and the place of the last",
        here="as in Node",
    ),
    "repeated-id": Construct(
        title="Several rules with one `_id`",
        agents="Node keeps the last for identified callers and all for others; Kong keeps one",
        here="as in Node",
    ),
    "array-template": Construct(
        title="A list in the body of a rule with variables",
        agents="Python and Django fail (HTTP 500); LiteLLM leaves it as it is",
        here="templates inside lists are filled",
    ),
    "number-value": Construct(
        title="A value for a template that is no text",
        agents="Python applies half of the rule and answers HTTP 500; the others print it",
        here="printed as JavaScript prints it",
    ),
    "empty-value": Construct(
        title='A value for a template that is empty, 0, false or ""',
        agents="Node prints the default or UNKNOWN, others print it",
        here="the default, else UNKNOWN",
    ),
    "missing-template-value": Construct(
        title="A template without a value",
        agents="UNKNOWN in Node, Python and Kong; Django writes an error text; LiteLLM, Go, Java "
        "and .NET leave the braces",
        here="the default, else UNKNOWN",
    ),
    "template-default": Construct(
        title="A template with a default",
        agents="Node alone knows `{{name|default}}`",
        here="the default stands where there is no value",
    ),
    "header-template": Construct(
        title="A template in a header",
        agents="LiteLLM does not fill it",
        here="filled",
    ),
    "content-type": Construct(
        title="`Content-Type` in a blocking rule",
        agents="Node always answers application/json",
        here="left out: a denial with a body is application/json",
    ),
    "status": Construct(
        title="A status that is missing or no number",
        agents="Node passes it on as it is; Python fails on a status that it has no name for",
        here="a number in a text is read; without one the denial is 403",
    ),
    "state": Construct(
        title="`state`",
        agents="no agent reads it: what is delivered is enforced",
        here="ignored; take out rules that should be off, or set `mode: draft`",
    ),
    "priority": Construct(
        title="`priority`", agents="no agent reads it", here="ignored; the order of the list counts"
    ),
    "plans": Construct(
        title="`plans` (a quota rule)",
        agents="Moesif counts and ships who is over; no agent counts",
        here="who was over when the configuration was saved; a `quota` rule counts itself",
    ),
    "empty-id": Construct(
        title="An entity whose id is empty",
        agents="Node and Python take it as identified, Go as unidentified",
        here="kept under a name that no caller has; an empty id is nobody to the sidecar",
    ),
    "rule-type": Construct(
        title="A rule of an unknown type", agents="ignored by all agents", here="left out"
    ),
    "never": Construct(
        title="A rule whose conditions can never be met",
        agents="depends on the construct that is named beside it",
        here="left out",
    ),
    "configuration": Construct(
        title="A setting of the configuration beside cohorts",
        agents="sampling and bot blocking happen in the agents or at Moesif",
        here="left out",
    ),
    "not-imported": Construct(
        title="What cannot be said here", agents="-", here="left out; the command exits with 1"
    ),
}
"""By code, in the order of the documentation."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Finding:
    """One construct at one rule; `detail` shows it. `rule` is empty for the whole import."""

    rule: str
    name: str
    code: str
    detail: str

    @property
    def lost(self) -> bool:
        """Whether something could not be imported."""
        return self.code in ("not-imported", "pattern-unsupported")

    def __str__(self) -> str:
        construct = CONSTRUCTS[self.code]
        at = f"rule {self.rule}" if self.rule else "import"
        named = f" ({self.name})" if self.name and self.name != self.rule else ""
        agents = "" if construct.agents == "-" else f" Agents: {construct.agents}."
        return f"{at}{named}: [{self.code}] {self.detail}.{agents} Here: {construct.here}."


@dataclass(slots=True)
class Findings:
    """Collects findings, each once, in the order in which they were found."""

    found: dict[Finding, None] = field(default_factory=dict)

    def note(self, code: str, detail: str, *, rule: str = "", name: str = "") -> None:
        """Add one; `code` is a key of CONSTRUCTS."""
        assert code in CONSTRUCTS
        self.found.setdefault(Finding(rule=rule, name=name, code=code, detail=detail))


SHOWN_MAX = 60


def shown(value: object) -> str:
    """A foreign value in a message: quoted and cut."""
    text = repr(value)
    return text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "..."
