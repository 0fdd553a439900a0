"""The table's part about meters."""

from sidecar.domain.meters import GROUP_BY_MAX, Aggregation, check_group
from sidecar.domain.usage import QUANTITY_MAX, OnMissing
from sidecar.outbound.policy_files import texts
from sidecar.outbound.policy_files.records import Field, ListOf, Record
from sidecar.outbound.policy_files.scalars import Choice, Flag, Number, Text
from sidecar.outbound.policy_files.schema_match import METER_MATCH
from sidecar.outbound.policy_files.unions import OneOrMany

EXPRESSION_BYTES_MAX = 1_024

VALUE = Text(
    what="a built-in value such as usage.input, a path such as usage.raw.seconds, or an expression",
    length_max=EXPRESSION_BYTES_MAX,
)
GROUP = Text(
    what=f"something to group by; at most {GROUP_BY_MAX}", length_max=200, parse=check_group
)

METER = Record(
    name="meter",
    doc="Which requests count, and which quantity of them.",
    fields={
        "name": Field(
            spec=texts.NAME,
            doc="Unique among meters; the billing provider's event name.",
            required=True,
        ),
        "match": Field(spec=OneOrMany(METER_MATCH), doc="Which requests; absent: all."),
        "value": Field(
            spec=VALUE,
            doc="The quantity of one request: a built-in value, a path or a CEL expression; "
            "left out for aggregation: count.",
        ),
        "aggregation": Field(
            spec=Choice(tuple(Aggregation)),
            doc="How quantities join; only sum and count can be priced or have a quota.",
            default="sum",
        ),
        "group_by": Field(
            spec=ListOf(GROUP),
            doc="What usage is told apart by when it is queried: model, route, user, team, key, "
            "response.status, metadata.<path>, label:<name>; at most 4.",
        ),
        "max": Field(
            spec=Number(1, QUANTITY_MAX),
            doc="The most that one request can use, where nothing else bounds it; "
            "a prepaid plan needs it.",
        ),
        "on_missing": Field(
            spec=Choice(tuple(OnMissing)),
            doc="What counts where a response leaves the value out.",
            default="capture-estimate",
        ),
        "report": Field(spec=Flag(), doc="Whether the billing provider is told.", default=True),
        "report_every": Field(
            spec=texts.DURATION, doc="How long usage gathers before it is reported; absent: 5m."
        ),
    },
)
