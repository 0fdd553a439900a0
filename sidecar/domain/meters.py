"""
Meters: which requests count, which quantity of them, and how quantities join.

Sums and counts are additive: the quantity of two requests is the sum of theirs, whatever the
order, so they can be held, priced, put into quotas and reported one request at a time. A
maximum, a number of distinct values and a latest value are not: what one more request adds to
them depends on all others of the same window, and a correction would change what others had
been charged. So those are worked out when they are asked for, from what was stored.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from sidecar.domain.errors import InvalidInput
from sidecar.domain.meter_values import (
    BOUNDED_VALUES,
    MeterValue,
    metadata_paths,
    noted_at_check,
    parse_value,
    response_headers,
)
from sidecar.domain.usage import OnMissing

GROUP_BY_MAX: Final = 4
GROUP_VALUE_CHARS_MAX: Final = 64
GROUPS_MAX: Final = 1_000
"""Distinct groups of one customer, meter and window; the rest are joined under "other"."""

_LABEL_PREFIX: Final = "label:"
_PLAIN_GROUPS: Final = ("model", "route", "user", "team", "key", "response.status")
_GROUP: Final = re.compile(
    "|".join(re.escape(name) for name in _PLAIN_GROUPS)
    + r"|metadata(?:\.[A-Za-z_][A-Za-z0-9_]*)+|label:[A-Za-z0-9_.:/-]{1,64}",
    re.ASCII,
)


class Aggregation(StrEnum):
    """How the quantities of many requests join."""

    SUM = "sum"
    COUNT = "count"
    MAX = "max"
    UNIQUE = "unique"
    LATEST = "latest"

    @property
    def additive(self) -> bool:
        """Whether the quantities of two requests add up."""
        return self in (Aggregation.SUM, Aggregation.COUNT)


def check_group(text: str) -> str:
    """
    Refuse what usage cannot be grouped by.

    Raises:
        InvalidInput: Naming what is allowed.
    """
    if _GROUP.fullmatch(text) is None:
        raise InvalidInput(
            f"{text[:80]!r} is nothing to group by; allowed: {', '.join(_PLAIN_GROUPS)}, "
            "metadata.<path> and label:<name>"
        )
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """
    Which events count, and which quantity of them.

    `value` is a built-in name, a path or an expression; `statuses` is empty for all. Which
    requests it matches is decided at the check and carried by the hold. `max_quantity` is the
    most that one request can use, where nothing else bounds it; 0 says that nothing does.
    """

    name: str
    value: str
    statuses: frozenset[int] = frozenset()
    on_missing: OnMissing = OnMissing.CAPTURE_ESTIMATE
    reported: bool = True
    aggregation: Aggregation = Aggregation.SUM
    group_by: tuple[str, ...] = ()
    max_quantity: int = 0

    @property
    def parsed(self) -> MeterValue:
        """The value, compiled. Raises InvalidInput if it cannot be."""
        return parse_value(self.value)

    @property
    def bounded(self) -> bool:
        """Whether a request's quantity has an upper bound before it is answered."""
        return (
            self.aggregation is Aggregation.COUNT
            or self.value in BOUNDED_VALUES
            or self.max_quantity > 0
        )

    @property
    def request_facts(self) -> frozenset[str]:
        """What a hold has to note of the request for this meter, by dotted names."""
        return _request_facts(self.value, self.group_by)

    @property
    def response_headers(self) -> frozenset[str]:
        """Response headers that it reads."""
        return response_headers(self.parsed.reads)

    @property
    def metadata_paths(self) -> frozenset[str]:
        """Paths of the metadata that it reads or groups by."""
        return metadata_paths(self.parsed.reads | frozenset(self.group_by))

    def describe(self) -> dict[str, object]:
        """
        Content for the price version.

        What has its default is left out, so that cards of older versions keep their name.
        """
        content: dict[str, object] = {
            "value": self.value,
            "statuses": sorted(self.statuses),
            "on_missing": self.on_missing.value,
            "reported": self.reported,
        }
        if self.aggregation is not Aggregation.SUM:
            content["aggregation"] = self.aggregation.value
        if self.group_by:
            content["group_by"] = list(self.group_by)
        if self.max_quantity:
            content["max"] = self.max_quantity
        return content


@lru_cache(maxsize=4_096)
def _request_facts(value: str, group_by: tuple[str, ...]) -> frozenset[str]:
    """Asked for by every check, of each meter that matches."""
    return noted_at_check(parse_value(value).reads) | {
        f"customer.labels.{group.removeprefix(_LABEL_PREFIX)}"
        for group in group_by
        if group.startswith(_LABEL_PREFIX)
    }


def parse_meter(name: str, content: dict[str, object]) -> Meter:
    """
    Rebuild a meter from what `describe` said; its expression is compiled at once.

    Raises:
        InvalidInput: If this version cannot read its value.
        KeyError, TypeError, ValueError: If it is not what `describe` says.
    """
    meter = Meter(
        name=name,
        value=str(content["value"]),
        statuses=frozenset(content["statuses"]),  # type: ignore[call-overload]
        on_missing=OnMissing(str(content["on_missing"])),
        reported=bool(content["reported"]),
        aggregation=Aggregation(str(content.get("aggregation", Aggregation.SUM.value))),
        group_by=tuple(content.get("group_by", ())),  # type: ignore[arg-type]
        max_quantity=int(str(content.get("max", 0))),
    )
    parse_value(meter.value)
    return meter
