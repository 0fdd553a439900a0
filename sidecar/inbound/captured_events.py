"""A captured request and response in a file, as `sidecar meters test` reads it."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.errors import InvalidInput
from sidecar.domain.requests import AccessRequest, normalise_path
from sidecar.domain.usage import QUANTITY_MAX, TOKEN_KINDS, TokenUsage, UsageFacts, UsageReport
from sidecar.inbound.extraction.facts import bounded_json, whole_numbers
from sidecar.inbound.extraction.response_body import raw_usage, usage_of_body
from sidecar.services.meter_tests import TEST_HOLD, CapturedEvent

FILE_BYTES_MAX = 4_000_000
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

Count = Annotated[int, Field(ge=0, le=QUANTITY_MAX)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Request(_Part):
    method: str = "POST"
    path: str
    host: str = ""
    headers: dict[str, str] = {}
    source_ip: str = ""
    body: Any = None
    bytes: Count | None = None


class _Response(_Part):
    status: Annotated[int, Field(ge=100, le=599)] = 200
    headers: dict[str, str] = {}
    body: Any = None
    bytes: Count | None = None
    duration_ms: Count | None = None


class _Customer(_Part):
    id: str = "cus_test"
    plan: str = ""
    labels: dict[str, str] = {}
    team: str = ""
    user: str = ""
    key: str = ""


class _Event(_Part):
    request: _Request
    response: _Response = _Response()
    usage: dict[str, Any] | None = None
    metadata: dict[str, Any] = {}
    customer: _Customer = _Customer()
    model: str = ""
    route: str = ""


def read_captured_event(data: bytes) -> CapturedEvent:
    """
    Read an event file.

    Tokens are those of `usage` where it is given, in the normal form (input, output ...), else
    those of the provider's usage object in the response's body.

    Raises:
        InvalidInput: Naming the first part that cannot be used.
    """
    if len(data) > FILE_BYTES_MAX:
        raise InvalidInput(f"the event is larger than {FILE_BYTES_MAX} bytes")
    try:
        event = _Event.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the event"
        raise InvalidInput(f"{where}: {first['msg']}") from error
    body = None if event.request.body is None else _body_bytes(event.request.body)
    request = AccessRequest(
        edge="test",
        gateway_id="test",
        hold_id=TEST_HOLD,
        method=event.request.method,
        path=event.request.path,
        host=event.request.host,
        headers={name.lower(): (value,) for name, value in event.request.headers.items()},
        source=event.request.source_ip,
        body=body,
        received_at=_EPOCH,
        deadline=_EPOCH,
    )
    return CapturedEvent(
        request=request,
        path=normalise_path(request.path),
        customer=CustomerFacts(
            customer_id=event.customer.id,
            plan=event.customer.plan,
            currency="",
            revision=0,
            labels=event.customer.labels,
            team_id=event.customer.team,
            user_id=event.customer.user,
            credential_id=event.customer.key,
        ),
        asked_model=_model_of(event.request.body),
        report=_report(event, body),
    )


def _report(event: _Event, request_body: bytes | None) -> UsageReport:
    response = event.response
    if event.usage is None:
        usage, raw = usage_of_body(response.body).usage, raw_usage(response.body)
    else:
        raw = event.usage
        usage = TokenUsage(**{kind: raw[kind] for kind in TOKEN_KINDS if kind in raw})
    size = response.bytes
    if size is None and response.body is not None:
        size = len(_body_bytes(response.body))
    request_size = event.request.bytes
    if request_size is None:
        request_size = len(request_body or b"")
    return UsageReport(
        edge="test",
        gateway_id="test",
        received_at=_EPOCH,
        usage=usage,
        model=event.model or _model_of(response.body),
        status=response.status,
        duration_ms=response.duration_ms,
        request_bytes=request_size,
        response_bytes=size,
        route=event.route,
        facts=UsageFacts(
            raw=bounded_json(raw, field="usage"),
            headers={name.lower(): value for name, value in response.headers.items()},
            body=whole_numbers(response.body),
            metadata=bounded_json(event.metadata, field="metadata"),
        ),
    )


def _model_of(body: Any) -> str:
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) else ""


def _body_bytes(body: Any) -> bytes:
    """A text as it is; anything else as the JSON that it stands for."""
    text = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))
    return text.encode("utf-8", "replace")
