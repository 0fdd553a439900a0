"""
Header and body templates: text with `{{variable}}` or `{{variable|default}}`.

`{{"text"}}` stands for the text itself, so that two braces can be said. A variable that is a
number, such as `{{0}}`, is a value of the members' list that names the rule.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.domain.errors import InvalidInput

_HOLE = re.compile(r'\{\{\s*(?:"([^"]*)"|([a-z0-9_.-]+)\s*(?:\|\s*([^{}]*?)\s*)?)\}\}')
_MEMBER_VALUE = re.compile(r"[0-9]{1,4}|values\.[a-z0-9_.-]{1,64}", re.ASCII)

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

    def render(self, values: Mapping[str, str]) -> str:
        """Fill the holes; a variable without a value takes its default, or nothing."""

        def fill(hole: re.Match[str]) -> str:
            literal, name, default = hole.groups()
            return literal if literal is not None else values.get(name, default or "")

        return _HOLE.sub(fill, self.text)
