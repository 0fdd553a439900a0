"""Types of fields in bodies and queries: bounded, strict, and the same in the OpenAPI document."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from sidecar.domain.errors import InvalidInput
from sidecar.domain.grants import PRIORITY_MAX
from sidecar.domain.money import parse_currency
from sidecar.domain.windows import EVERY_MAX
from sidecar.services.accounts import LABELS_MAX, OVERLAP_MAX

T = TypeVar("T")

_INSTANT = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII
)
_OVERLAP = re.compile(r"0|(?P<count>\d{1,7})(?P<unit>[smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_WHOLE = re.compile(r"\d{1,9}", re.ASCII)
_AMOUNT = re.compile(r"\d{1,10}(\.\d{1,9})?", re.ASCII)
_LABEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,62}$"
_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
INSTANT_MIN = datetime(2000, 1, 1, tzinfo=UTC)
INSTANT_MAX = datetime(2100, 1, 1, tzinfo=UTC)
"""A hold id keeps its second in 32 bits; far outside these years a clock is wrong anyway."""


class RequestModel(BaseModel):
    """What a caller sends: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class QueryModel(BaseModel):
    """Parameters of a query; they arrive as text."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ResponseModel(BaseModel):
    """What we answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def checked(parse: Callable[[T], T]) -> Callable[[T], T]:
    """A domain parser as a validator: its InvalidInput becomes the field's error."""

    def check(value: T) -> T:
        try:
            return parse(value)
        except InvalidInput as error:
            raise ValueError(str(error)) from error

    return check


def _read_instant(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    match = _INSTANT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be an RFC 3339 instant with a zone, such as 2026-01-31T12:00:00Z")
    day, clock, fraction, zone = match.groups()
    try:
        # Sub-microseconds are cut: no store keeps them.
        instant = datetime.fromisoformat(f"{day}T{clock}{(fraction or '')[:7]}{zone.upper()}")
        instant = instant.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("is no instant of the calendar") from error
    if not INSTANT_MIN <= instant < INSTANT_MAX:
        raise ValueError(f"must lie in the years {INSTANT_MIN.year} to {INSTANT_MAX.year - 1}")
    return instant


def format_instant(instant: datetime) -> str:
    """RFC 3339 in UTC, as short as the instant allows."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _read_overlap(value: Any) -> Any:
    match = _OVERLAP.fullmatch(value) if isinstance(value, str) else None
    seconds = 0
    if match is not None and match["count"] is not None:
        seconds = int(match["count"]) * _SECONDS[match["unit"]]
    if match is None or seconds > OVERLAP_MAX.total_seconds():
        raise ValueError(
            f'must be "0" or a whole number and s, m, h or d such as "24h", '
            f"at most {OVERLAP_MAX.days}d"
        )
    return timedelta(seconds=seconds)


def _check_amount_text(text: str) -> str:
    if not _AMOUNT.fullmatch(text):
        raise ValueError(
            'must be a decimal such as "12.50": no sign, '
            "at most 10 digits before and 9 after the point"
        )
    return text


def _whole_double(value: Any) -> Any:
    """JSON does not tell 3 from 3.0; its schema's integer is either."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read_whole(value: Any) -> Any:
    if isinstance(value, str):
        if not _WHOLE.fullmatch(value):
            raise ValueError("must be a whole number")
        return int(value)
    return value


# Printable text: no control characters, since Postgres text holds no NUL and logs are lines.
Text128 = Annotated[str, Field(max_length=128, pattern=_PRINTABLE)]
Text256 = Annotated[str, Field(max_length=256, pattern=_PRINTABLE)]
Text500 = Annotated[str, Field(max_length=500, pattern=_PRINTABLE)]
CustomerId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")]
PlanName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Currency = Annotated[
    str,
    AfterValidator(checked(parse_currency)),
    WithJsonSchema({"type": "string", "pattern": r"^([A-Z]{3}|credits)$"}),
]
Labels = Annotated[
    dict[
        Annotated[str, Field(pattern=_LABEL_NAME)],
        Text256,
    ],
    Field(max_length=LABELS_MAX),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": LABELS_MAX,
            "propertyNames": {"pattern": _LABEL_NAME},
            "additionalProperties": {
                "type": "string",
                "maxLength": 256,
                "pattern": _PRINTABLE,
            },
        }
    ),
]
Instant = Annotated[
    datetime,
    BeforeValidator(_read_instant),
    PlainSerializer(format_instant, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "description": "RFC 3339 with a zone, in the years 2000 to 2099.",
        }
    ),
]
AmountText = Annotated[
    str,
    AfterValidator(_check_amount_text),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": rf"^{_AMOUNT.pattern}$",
            "description": 'A decimal string such as "12.50": at most 9 decimals.',
        }
    ),
]
SignedAmountText = Annotated[str, Field(pattern=r"^-?\d{1,10}(\.\d{2,9})$")]
NanoInt = Annotated[
    int, Field(description="The same amount as an integer of 1e-9 of the currency's major unit.")
]
Overlap = Annotated[
    timedelta,
    BeforeValidator(_read_overlap),
    PlainSerializer(lambda overlap: f"{int(overlap.total_seconds())}s", return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(0|\d{1,7}[smhd])$",
            "description": f'"0", or a whole number and s, m, h or d; at most {OVERLAP_MAX.days}d.',
        }
    ),
]
# The bounds stand first: behind a validator they are left out of the documents.
OverdueDays = Annotated[int, Field(ge=0, le=36_500), BeforeValidator(_whole_double)]
Priority = Annotated[int, Field(ge=0, le=PRIORITY_MAX), BeforeValidator(_whole_double)]
Every = Annotated[int, Field(ge=1, le=EVERY_MAX), BeforeValidator(_whole_double)]
ZoneName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9_+/-]+$",
        description="An IANA time zone such as Europe/Berlin.",
    ),
]
PageLimit = Annotated[int, Field(ge=1, le=200), BeforeValidator(_read_whole)]
Cursor = Annotated[
    str,
    Field(
        min_length=1,
        max_length=256,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="`next` of the page before; opaque.",
    ),
]
