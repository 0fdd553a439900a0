"""Bodies and queries about meters; names of parameters are OpenMeter's."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from sidecar.domain.meters import GROUP_BY_MAX, Meter
from sidecar.inbound.http.field_types import Instant, QueryModel, ResponseModel
from sidecar.services.meter_queries import MeterRow, WindowSize

LIST_MAX = 100
_TEXT_MAX = 400
_FILTER_MAX = 100
_LIST = r"^[A-Za-z0-9_.:/,-]*$"
_GROUP = r"[A-Za-z0-9_.:/-]{1,80}"
_FILTER = re.compile(rf"filterGroupBy\[({_GROUP})\]", re.ASCII)


def _read_list(value: Any) -> Any:
    """Values separated by commas, as a tuple without repeats."""
    if not isinstance(value, str):
        return value
    if len(value) > _TEXT_MAX:
        raise ValueError(f"is longer than {_TEXT_MAX} characters")
    parts = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
    if len(parts) > LIST_MAX:
        raise ValueError(f"has {len(parts)} values, at most {LIST_MAX}")
    return parts


TextList = Annotated[
    tuple[str, ...],
    BeforeValidator(_read_list),
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": _TEXT_MAX,
            "pattern": _LIST,
            "description": "Values separated by commas.",
        }
    ),
]
Zone = Annotated[str, Field(min_length=1, max_length=64, description="An IANA time zone.")]


_QueryInstant = Annotated[
    Instant,
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "pattern": r"^20[0-9]{2}-",
            "description": "RFC 3339 with a zone, in the years 2000 to 2099.",
        }
    ),
]


class MeterQueryParameters(QueryModel):
    """
    Which usage, and how it is cut.

    `from` and `to` default to this month so far. `filterGroupBy[NAME]=a,b` keeps what has one of
    the values.
    """

    subject: TextList = ()
    from_: Annotated[_QueryInstant | None, Field(alias="from")] = None
    to: _QueryInstant | None = None
    windowSize: WindowSize | None = None  # noqa: N815  OpenMeter's name.
    windowTimeZone: Zone = "UTC"  # noqa: N815  OpenMeter's name.
    groupBy: TextList = ()  # noqa: N815  OpenMeter's name.
    filterGroupBy: Annotated[  # noqa: N815  OpenMeter's name.
        dict[str, tuple[str, ...]],
        Field(default_factory=dict),
        WithJsonSchema(
            {
                "type": "object",
                "propertyNames": {"pattern": f"^{_GROUP}$"},
                "additionalProperties": {"type": "string", "maxLength": _FILTER_MAX},
                "maxProperties": GROUP_BY_MAX,
            }
        ),
    ]

    @model_validator(mode="before")
    @classmethod
    def _fold_filters(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        folded: dict[str, Any] = {}
        filters: dict[str, Any] = {}
        for name, value in data.items():
            found = _FILTER.fullmatch(name)
            if found is None:
                folded[name] = value
            else:
                filters[found[1]] = _read_list(value)
        return {**folded, "filterGroupBy": filters} if filters else folded


class MeterAnswer(ResponseModel):
    """A meter of the policy in force."""

    name: str
    aggregation: str
    value: str
    group_by: list[str]
    status: list[int]
    on_missing: str
    max: int | None
    additive: bool

    @classmethod
    def of(cls, meter: Meter) -> "MeterAnswer":
        """From the policy's."""
        return cls(
            name=meter.name,
            aggregation=meter.aggregation.value,
            value=meter.value,
            group_by=list(meter.group_by),
            status=sorted(meter.statuses),
            on_missing=meter.on_missing.value,
            max=meter.max_quantity or None,
            additive=meter.aggregation.additive,
        )


class MeterList(ResponseModel):
    """All meters, by name."""

    items: list[MeterAnswer]


class MeterRowAnswer(ResponseModel):
    """What was used in one window, [windowStart, windowEnd), and group."""

    value: int
    windowStart: Instant  # noqa: N815  OpenMeter's name.
    windowEnd: Instant  # noqa: N815  OpenMeter's name.
    subject: str | None
    groupBy: dict[str, str]  # noqa: N815  OpenMeter's name.

    @classmethod
    def of(cls, row: MeterRow) -> "MeterRowAnswer":
        """From the service's."""
        return cls(
            value=row.value,
            windowStart=row.window_start,
            windowEnd=row.window_end,
            subject=row.subject or None,
            groupBy=dict(row.groups),
        )


class MeterQueryAnswer(ResponseModel):
    """Rows by window, subject and group; what has no usage has no row."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    meter: str
    aggregation: str
    from_: Annotated[Instant, Field(alias="from")]
    to: Instant
    windowSize: str | None  # noqa: N815  OpenMeter's name.
    data: list[MeterRowAnswer]
