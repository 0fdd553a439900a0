"""What expressions may read: each variable's name, kind and one line of explanation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sidecar.domain.errors import InvalidInput
from sidecar.domain.nearest import name_list, unknown


class Kind(StrEnum):
    """What a variable holds."""

    STRING = "string"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    STRING_MAP = "map of strings"
    DYNAMIC = "any JSON"
    RECORD_MAP = "map of records"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """
    One variable.

    `fields` are the members of a RECORD_MAP's records, all whole numbers. Keys of a map with
    `lower_keys` are lower case, as header names are.
    """

    kind: Kind
    doc: str
    fields: tuple[str, ...] = ()
    lower_keys: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableTable:
    """The variables that one kind of expression may read, by their dotted names."""

    name: str
    variables: Mapping[str, Variable] = field(hash=False)
    roots: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        roots = frozenset(name.split(".", maxsplit=1)[0] for name in self.variables)
        object.__setattr__(self, "roots", roots)

    def resolve(self, path: tuple[str | int, ...]) -> tuple[Variable, int]:
        """
        The variable that a path begins with, and how many of its segments name it.

        Raises:
            InvalidInput: If there is none, or it has no such member.
        """
        for length in (2, 1):
            variable = self.variables.get(dotted(path[:length]))
            if variable is not None:
                _check_members(path, length, variable)
                return variable, length
        raise InvalidInput(self._unknown(path))

    def _unknown(self, path: tuple[str | int, ...]) -> str:
        root = str(path[0])
        members = [name for name in self.variables if name.startswith(f"{root}.")]
        if members and len(path) == 1:
            return f"{root} is a group, not a value; name one of: {name_list(members)}"
        return unknown("variable", dotted(path[:2]), members or self.variables)


def dotted(path: tuple[str | int, ...]) -> str:
    """A path as one name."""
    return ".".join(str(segment) for segment in path)


def _check_members(path: tuple[str | int, ...], length: int, variable: Variable) -> None:
    name, members = dotted(path[:length]), path[length:]
    if variable.kind is Kind.DYNAMIC:
        return
    if variable.kind is Kind.RECORD_MAP:
        _check_record(name, members, variable)
    elif variable.kind is Kind.STRING_MAP:
        if members and not isinstance(members[0], str):
            raise InvalidInput(f"{name} has text keys; found the number {members[0]}")
        if len(members) > 1:
            value = dotted(path[: length + 1])
            raise InvalidInput(f"{value[:80]} is a string and has no member {members[1]!r}")
        if members and variable.lower_keys and members[0] != str(members[0]).lower():
            lower = str(members[0]).lower()
            raise InvalidInput(
                f"names in {name} are lower case; found {members[0]!r}, write {lower!r}"
            )
    elif members:
        raise InvalidInput(f"{name} is a {variable.kind} and has no member {members[0]!r}")


def _check_record(name: str, members: tuple[str | int, ...], variable: Variable) -> None:
    wanted = " and ".join(
        part for part, there in (("an entry", members), ("a field", members[1:])) if not there
    )
    if wanted:
        raise InvalidInput(
            f'{dotted((name, *members))} needs {wanted}, written out, such as {name}["name"].'
            f"{variable.fields[0]}; fields: {name_list(variable.fields)}"
        )
    if not isinstance(members[0], str):
        raise InvalidInput(f"{name} has text keys; found the number {members[0]}")
    if members[1] not in variable.fields:
        raise InvalidInput(unknown(f"field of {name}", str(members[1]), variable.fields))
    if len(members) > 2:  # noqa: PLR2004  An entry and a field.
        raise InvalidInput(f"{dotted((name, *members[:2]))} is an integer and has no members")


def _text(doc: str) -> Variable:
    return Variable(kind=Kind.STRING, doc=doc)


def _number(doc: str) -> Variable:
    return Variable(kind=Kind.INTEGER, doc=doc)


def _labels(doc: str, *, lower_keys: bool = False) -> Variable:
    return Variable(kind=Kind.STRING_MAP, doc=doc, lower_keys=lower_keys)


def _json(doc: str) -> Variable:
    return Variable(kind=Kind.DYNAMIC, doc=doc)


_CALLER = {
    "customer.id": _text("Who pays."),
    "customer.plan": _text("The customer's plan."),
    "customer.labels": _labels('The customer\'s labels; a label that is not set reads as "".'),
    "user.id": _text('The user within the customer, or "".'),
    "team.id": _text('The team within the customer, or "".'),
    "key.id": _text('The API key\'s id, or "" where another credential was used.'),
}
_REQUEST = {
    "request.method": _text("The method, in capitals."),
    "request.path": _text("The normalised path, without the query."),
    "request.host": _text("The host that the caller asked for."),
    "request.model": _text('The model that the body names, or "".'),
    "request.headers": _labels(
        'Header values by lower-case name; one that is absent reads as "".', lower_keys=True
    ),
}

RULE_VARIABLES = VariableTable(
    name="rule",
    variables={
        **_REQUEST,
        "request.url": _text("The path with its query, as sent."),
        "request.source_ip": _text("The caller's address."),
        "request.query": _labels('Query parameters by name; one that is absent reads as "".'),
        "request.context": _labels('What the gateway adds; a key that is absent reads as "".'),
        "request.body": _json("The parsed JSON body."),
        "request.fields": _labels(
            "The JSON body's top-level fields as text, whatever their type; one that is absent "
            'reads as "". In a body that cannot be read for certain it cannot be told.'
        ),
        "request.time": Variable(kind=Kind.TIMESTAMP, doc="When the request was received, in UTC."),
        "request.bytes": _number("The body's length in bytes."),
        "request.input_tokens": _number("The most input tokens that the request can use."),
        "request.output_tokens": _number("The most output tokens that the request can use."),
        **_CALLER,
        "customer.currency": _text("The customer's currency."),
        "hold.amount_nano": _number("What the request would hold, in nano."),
        "credits.available_nano": _number("Credits not yet used or held, in nano."),
        "quotas": Variable(
            kind=Kind.RECORD_MAP,
            doc="Quotas by name; one without use reads as zeros.",
            fields=("used", "limit", "remaining", "used_percent"),
        ),
        "invoices.standing": _text("How the customer stands with its invoices."),
        "invoices.overdue_nano": _number("What is overdue, in nano."),
        "invoices.overdue_seconds": _number("How long the oldest overdue invoice is overdue."),
        "invoices.disputed": Variable(kind=Kind.BOOLEAN, doc="Whether a payment is disputed."),
    },
)
"""What a rule's `when:` may read."""

METER_VARIABLES = VariableTable(
    name="meter",
    variables={
        "usage.input": _number("Input units, such as tokens."),
        "usage.output": _number("Output units."),
        "usage.total": _number("All units."),
        "usage.cache_read": _number("Input units that a cache answered."),
        "usage.cache_creation": _number("Input units written to a cache."),
        "usage.reasoning": _number("Output units spent on reasoning."),
        "usage.raw": _json("The usage object as the provider sent it."),
        **_REQUEST,
        "request.bytes": _number("The request body's length in bytes."),
        "response.status": _number("The response's status code."),
        "response.headers": _labels(
            'Header values by lower-case name; one that is absent reads as "".', lower_keys=True
        ),
        "response.bytes": _number("The response body's length in bytes."),
        "response.body": _json("The parsed JSON body of the response."),
        "response.duration_ms": _number("Milliseconds from request to end of response."),
        "metadata": _json("What the event's sender added."),
        **_CALLER,
    },
)
"""What a meter's `value:` may read."""

_TABLES = {table.name: table for table in (RULE_VARIABLES, METER_VARIABLES)}


def known_table(name: str) -> VariableTable:
    """One of the tables above, by its name."""
    return _TABLES[name]
