"""
Header and body templates: text with `{{variable}}` or `{{variable|default}}`.

`{{"text"}}` stands for the text itself, so that two braces can be said. A variable that is a
number, such as `{{0}}`, is a value of the members' list that names the rule.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from sidecar.domain.errors import InvalidInput

_HOLE = re.compile(r'\{\{\s*(?:"([^"]*)"|([a-z0-9_.-]+)\s*(?:\|\s*([^{}]*?)\s*)?)\}\}')
_MEMBER_VALUE = re.compile(r"[0-9]{1,4}|values\.[a-z0-9_.-]{1,64}", re.ASCII)

_TEXTS_MAX: Final = 1_024
"""Templates whose parts are remembered."""

PLAIN_VARIABLES = frozenset(
    {
        "credits.currency",
        "customer.id",
        "customer.plan",
        "key.id",
        "request.model",
        "rule.name",
        "team.id",
        "user.id",
    }
)
"""Known before the store is asked."""

COUNTER_VARIABLES = frozenset(
    {"name", "limit", "remaining", "reset_seconds", "used", "used_percent"}
)
STORE_VARIABLES = frozenset(
    {"credits.available", "hold.amount", "invoices.overdue", "invoices.overdue_days", "standing"}
    | {f"{kind}.{name}" for kind in ("quota", "limit") for name in COUNTER_VARIABLES}
)
"""Known from the store's numbers. `quota.*` and `limit.*` are those of the rule's own counter."""

VARIABLES = PLAIN_VARIABLES | STORE_VARIABLES


class Values(Protocol):
    """Where the values of variables are looked up; a mapping will do."""

    def get(self, name: str, default: str, /) -> str:
        """The value of a variable, or the default where there is none."""


@dataclass(frozen=True, slots=True)
class Template:
    """A text whose holes are filled when a decision is worded."""

    text: str

    def __post_init__(self) -> None:
        for name in self.variables:
            if name not in VARIABLES and not _MEMBER_VALUE.fullmatch(name):
                raise InvalidInput(
                    f"template variable {name!r} does not exist; "
                    f"there are {', '.join(sorted(VARIABLES))}",
                    field=name,
                )

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that the text names."""
        return tuple(name for _, name, _ in _HOLE.findall(self.text) if name)

    @property
    def needs_store(self) -> bool:
        """Whether a variable is known from the store only."""
        return any(name in STORE_VARIABLES for name in self.variables)

    def render(self, values: Values) -> str:
        """Fill the holes; a variable without a value takes its default, or nothing."""
        return "".join(
            [
                part if isinstance(part, str) else values.get(part.name, part.default)
                for part in _parts(self.text)
            ]
        )


class _Hole(NamedTuple):
    name: str
    default: str


@lru_cache(maxsize=_TEXTS_MAX)
def _parts(text: str) -> tuple[str | _Hole, ...]:
    """What a template is made of, looked for once."""
    parts: list[str | _Hole] = []
    at = 0
    for found in _HOLE.finditer(text):
        literal, name, default = found.groups()
        parts += (
            text[at : found.start()],
            literal or "" if name is None else _Hole(name, default or ""),
        )
        at = found.end()
    return (*parts, text[at:])
