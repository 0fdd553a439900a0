"""Bodies of the gateway role: a check and its decision, usage and what became of it."""

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from sidecar.domain.decisions import DenyReason
from sidecar.domain.usage import QUANTITY_MAX
from sidecar.inbound.http.field_types import Instant, RequestModel, ResponseModel, Text256
from sidecar.services.metering import UsageOutcome

EVENTS_MAX = 1_000
_BASE64 = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def _read_values(value: Any) -> Any:
    """One value or a list of them, as a tuple."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ValueError("must be a string or a list of strings")


HeaderValues = Annotated[
    tuple[str, ...],
    BeforeValidator(_read_values),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Count = Annotated[int, Field(ge=0, le=QUANTITY_MAX)]


class ConsumerBody(RequestModel):
    """Kong's authenticated consumer; a field that it has not is null or absent."""

    id: str | None = None
    custom_id: str | None = None
    username: str | None = None


class CheckBody(RequestModel):
    """
    The request that a gateway asks about.

    What the end client controls (path, headers, body) is not refused here but denied by the
    check: a gateway acts on the decision, not on the check call's own status.
    """

    method: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
    path: Annotated[str, Field(description="As sent, with its query.")]
    host: str = ""
    headers: Annotated[
        dict[str, HeaderValues],
        Field(
            default_factory=dict,
            description="Name to value, or to all values of a repeated header in order.",
        ),
    ]
    source_ip: Annotated[
        str,
        Field(max_length=64),
        WithJsonSchema(
            {
                "anyOf": [
                    {"const": ""},
                    {"type": "string", "format": "ipv4"},
                    {"type": "string", "format": "ipv6"},
                ]
            }
        ),
    ] = ""
    body: Annotated[str | None, Field(description="The body as text.")] = None
    body_base64: Annotated[
        str | None,
        Field(pattern=_BASE64, description="The body's bytes; not beside `body`."),
    ] = None
    consumer: Annotated[
        ConsumerBody | None,
        Field(description="Whom the gateway authenticated; never copied from a client."),
    ] = None
    client_certificate_san: Annotated[
        str,
        Field(description="Subject alternative name of a client certificate that it verified."),
    ] = ""


class CheckAnswer(ResponseModel):
    """
    The decision. Only `allow: true` lets the request pass.

    On a denial `status`, `headers` and `body` are the answer for the client; on an allow
    `headers` are to be added to the response. `hold_id` and `hold_token` go back with the
    usage and to nobody else.
    """

    allow: bool
    status: int
    headers: dict[str, str]
    body: Annotated[Any, Field(description="The answer's body: any JSON value, null for none.")]
    hold_id: str | None
    hold_token: str | None
    decision_id: str
    rule: str | None
    code: DenyReason | None


class TokenCounts(RequestModel):
    """
    Token counts; null or absent is "the provider did not say".

    `input` includes the cache kinds, `output` includes reasoning. `total` is for providers
    that tell only the sum.
    """

    input: Count | None = None
    output: Count | None = None
    cache_read: Count | None = None
    cache_creation: Count | None = None
    reasoning: Count | None = None
    total: Count | None = None


class UsageCounts(TokenCounts):
    """
    Token counts, and the provider's own numbers.

    Meters read all of it as `usage.raw.<path>`; as JSON it has at most 8 KiB.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, hide_input_in_errors=True)


class RequestTold(RequestModel):
    """What the sender knows of the request; meters read it as `request.<name>`."""

    bytes: Count | None = None


class ResponseTold(RequestModel):
    """
    What the sender knows of the response; meters read it as `response.<name>`.

    `body` need hold only what meters read; as JSON it has at most 8 KiB.
    """

    headers: Annotated[
        dict[
            Annotated[str, Field(min_length=1, max_length=100)],
            Annotated[str, Field(max_length=256)],
        ],
        Field(default_factory=dict, max_length=32),
    ]
    body: Annotated[Any, WithJsonSchema({})] = None
    bytes: Count | None = None
    duration_ms: Count | None = None


class UsageItem(RequestModel):
    """
    One finished request.

    `hold_token` or `hold_id` names its hold. Without either it is unheld: `customer_id` and
    `id` are needed, and a sender with the scope usage:unheld.
    """

    hold_token: Annotated[str | None, Field(max_length=8_192, pattern=r"^[!-~]*$")] = None
    hold_id: Annotated[str | None, Field(pattern=r"^[0-9a-f]{40}$")] = None
    customer_id: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")] = None
    id: Text256 | None = None
    model: Text256 | None = None
    usage: UsageCounts = UsageCounts()
    request: RequestTold = RequestTold()
    response: Annotated[ResponseTold, Field(default_factory=ResponseTold)]
    metadata: Annotated[dict[str, Any], Field(default_factory=dict)]
    status: Annotated[int, Field(ge=100, le=599)] = 200
    occurred_at: Instant | None = None


class UsageBatch(RequestModel):
    """A batch; each event is judged by itself."""

    events: Annotated[
        list[Any],
        Field(min_length=1, max_length=EVENTS_MAX),
        WithJsonSchema(
            {
                "type": "array",
                "minItems": 1,
                "maxItems": EVENTS_MAX,
                "items": {"$ref": "#/components/schemas/UsageItem"},
            }
        ),
    ]


class UsageItemResult(ResponseModel):
    """
    What became of one event, in the order sent.

    `id` is the hold's id, for unheld usage the sender's own. A `rejected` event will never be
    accepted as it is; `quarantined` usage is kept for people.
    """

    id: str
    outcome: UsageOutcome
    amount_nano: int
    reason: str


class UsageResults(ResponseModel):
    """The answer to a batch."""

    results: list[UsageItemResult]
