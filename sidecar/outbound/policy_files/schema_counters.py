"""The part of the policy's table that is about windows, quotas and other limits."""

from sidecar.domain.counters import Level
from sidecar.domain.periods import CalendarUnit
from sidecar.domain.usage import QUANTITY_MAX
from sidecar.domain.windows import EVERY_MAX
from sidecar.outbound.policy_files import texts
from sidecar.outbound.policy_files.records import Field, ListOf, Record
from sidecar.outbound.policy_files.scalars import Choice, Flag, Number
from sidecar.outbound.policy_files.unions import Measure, Variants

THRESHOLDS_MAX = 10
SLICES_MAX = 60
SLICES_DEFAULT = 24
MONEY_UNIT = "money"

_ZONE = Field(spec=texts.ZONE, doc="IANA time zone that the unit begins in.", default="UTC")
CALENDAR_WINDOW = Record(
    name="calendar window",
    doc="Calendar hours, days, weeks, months or years.",
    fields={
        "calendar": Field(
            spec=Choice(tuple(CalendarUnit)),
            doc="Calendar unit; weeks begin on Monday.",
            required=True,
        ),
        "tz": _ZONE,
    },
)
ROLLING_WINDOW = Record(
    name="rolling window",
    doc="The time just past, counted in slices.",
    fields={
        "rolling": Field(spec=texts.WINDOW_LENGTH, doc="How long.", required=True),
        "slices": Field(
            spec=Number(1, SLICES_MAX),
            doc="How many slices leave the window one by one; more are more exact.",
            default=SLICES_DEFAULT,
        ),
    },
)
FIXED_WINDOW = Record(
    name="fixed window",
    doc="Spans of one length, one after the other.",
    fields={
        "fixed": Field(spec=texts.WINDOW_LENGTH, doc="How long.", required=True),
        "anchor": Field(spec=texts.INSTANT, doc="When one begins; absent: 1970-01-01T00:00:00Z."),
    },
)
ANCHORED_WINDOW = Record(
    name="anchored window",
    doc="Every so many days, weeks, months or years from an instant, as billing periods are.",
    fields={
        "anchor": Field(spec=texts.INSTANT, doc="When one begins.", required=True),
        "every": Field(spec=Number(1, EVERY_MAX), doc="How many units.", default=1),
        "unit": Field(
            spec=Choice(tuple(unit for unit in CalendarUnit if unit is not CalendarUnit.HOUR)),
            doc="The unit; a month keeps the anchor's day, or its own last one.",
            required=True,
        ),
        "tz": _ZONE,
    },
)
WINDOW = Variants(
    name="window",
    kinds={
        "calendar": CALENDAR_WINDOW,
        "anchor": ANCHORED_WINDOW,
        "fixed": FIXED_WINDOW,
        "rolling": ROLLING_WINDOW,
    },
)
LIMIT = Measure(QUANTITY_MAX, 1)
EACH = Field(
    spec=Choice(tuple(Level)), doc="Who has a count of their own.", default=Level.CUSTOMER.value
)
QUOTA = Record(
    name="quota",
    doc="At most `limit` in each window, for each customer, team, user or key.",
    fields={
        "name": Field(spec=texts.NAME, doc="Unique among quotas.", required=True),
        "meter": Field(spec=texts.NAME, doc="The meter that it counts; or say `unit`."),
        "unit": Field(
            spec=Choice(("requests", "tokens", MONEY_UNIT)),
            doc="What it counts where that is no meter's quantity.",
        ),
        "currency": Field(spec=texts.CURRENCY, doc="With `unit: money`: whose money."),
        "limit": Field(
            spec=LIMIT, doc="In the meter's unit; of money an amount in quotes.", required=True
        ),
        "window": Field(spec=WINDOW, doc="When the count begins anew.", required=True),
        "hard": Field(
            spec=Flag(),
            doc="Whether it refuses beyond the limit even where its rules only warn.",
            default=True,
        ),
        "each": EACH,
        "thresholds": Field(
            spec=ListOf(texts.PERCENT),
            doc="Percentages of the limit, ascending; each is told once a window.",
        ),
    },
)
