"""Header and body templates: text with `{{variable}}` or `{{variable|default}}`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.domain.errors import InvalidInput

_HOLE = re.compile(r"\{\{\s*([a-z_.]+)\s*(?:\|\s*([^{}]*?)\s*)?\}\}")

VARIABLES = frozenset(
    {
        "credits.available",
        "credits.currency",
        "customer.id",
        "customer.plan",
        "quota.limit",
        "quota.name",
        "quota.remaining",
        "quota.reset_seconds",
        "quota.used",
        "quota.used_percent",
        "rule.name",
        "standing",
    }
)


@dataclass(frozen=True, slots=True)
class Template:
    """A text whose holes are filled when a decision is worded."""

    text: str

    def __post_init__(self) -> None:
        for name, _default in _HOLE.findall(self.text):
            if name not in VARIABLES:
                raise InvalidInput(
                    f"template variable {name!r} does not exist; "
                    f"there are {', '.join(sorted(VARIABLES))}",
                    field=name,
                )

    def render(self, values: Mapping[str, str]) -> str:
        """Fill the holes; a variable without a value takes its default, or nothing."""
        return _HOLE.sub(lambda hole: values.get(hole[1], hole[2] or ""), self.text)
