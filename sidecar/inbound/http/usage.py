"""POST /v1/usage: what requests really used, event by event."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from pydantic import ValidationError

from sidecar import telemetry
from sidecar.domain.errors import InvalidInput
from sidecar.domain.usage import TOKEN_KINDS, TokenUsage, UsageFacts, UsageReport
from sidecar.inbound.extraction.facts import bounded_json
from sidecar.inbound.http.authentication import gateway_id
from sidecar.inbound.http.bodies import field_errors
from sidecar.inbound.http.edge import EDGE, GATEWAY
from sidecar.inbound.http.gateway_models import (
    UsageBatch,
    UsageItem,
    UsageItemResult,
    UsageResults,
)
from sidecar.inbound.http.routing import Answer, Call
from sidecar.services.hold_terms import MeterPrincipal
from sidecar.services.metering import UsageOutcome, UsageResult

EDGE_NAME = "http"
_ID_LENGTH_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rejected:
    """An event that cannot become a report."""

    id: str
    reason: str


async def post_usage(call: Call) -> Answer:
    """
    Capture a batch; an event that cannot be used is rejected, its neighbours go on.

    A client that goes away does not stop a capture that has begun. Safe to repeat as a whole:
    what was captured before is answered as duplicate.

    Raises:
        StoreUnavailable: Repeat the batch.
    """
    assert isinstance(call.body, UsageBatch)
    assert isinstance(call.principal, MeterPrincipal)
    gateway = call.request.app[GATEWAY]
    name, now = gateway_id(call.request, call.principal), gateway.clock.now()
    parsed = [_parse(item, name, now) for item in call.body.events]
    reports = [item for item in parsed if isinstance(item, UsageReport)]
    results = await call.request.app[EDGE].finishing.run(
        gateway.metering.capture_all(reports, call.principal)
    )
    telemetry.USAGE_EVENTS.labels(EDGE_NAME, UsageOutcome.REJECTED.value).inc(
        len(parsed) - len(reports)
    )
    return Answer(status=HTTPStatus.ACCEPTED, body=UsageResults(results=_merge(parsed, results)))


def _parse(item: object, gateway_name: str, now: datetime) -> UsageReport | _Rejected:
    try:
        event = UsageItem.model_validate(item)
        _refuse_misspelt(event)
        counts = {kind: getattr(event.usage, kind) for kind in TOKEN_KINDS}
        usage = TokenUsage(**counts)
        facts = _facts(event)
    except ValidationError as error:
        wrong = field_errors(error, UsageItem)
        reason = "; ".join(f"{part.field}: {part.message}" for part in wrong[:3])
        return _Rejected(id=_shown_id(item), reason=reason)
    except InvalidInput as error:
        return _Rejected(id=_shown_id(item), reason=str(error))
    return UsageReport(
        edge=EDGE_NAME,
        gateway_id=gateway_name,
        received_at=now,
        usage=usage,
        hold_token=event.hold_token or "",
        hold_id=event.hold_id or "",
        customer_id=event.customer_id or "",
        event_id=event.id or "",
        model=event.model or "",
        status=event.status,
        occurred_at=event.occurred_at,
        duration_ms=event.response.duration_ms,
        request_bytes=event.request.bytes,
        response_bytes=event.response.bytes,
        facts=facts,
    )


def _refuse_misspelt(event: UsageItem) -> None:
    """A count under a name that is nearly one of ours would be taken for one that is missing."""
    for name in event.usage.model_extra or {}:
        near = difflib.get_close_matches(name[:64], TOKEN_KINDS, n=1, cutoff=0.8)
        if near:
            raise InvalidInput(
                f"usage.{name[:64]}: is not a known field; allowed: {', '.join(TOKEN_KINDS)} and "
                f"names that meters read as usage.raw; did you mean {near[0]}?",
                field="usage",
            )


def _facts(event: UsageItem) -> UsageFacts:
    """What meters may read besides tokens. Raises InvalidInput for what is too large."""
    raw = event.usage.model_dump(exclude_unset=True)
    return UsageFacts(
        raw=bounded_json(raw, field="usage") or None,
        headers={name.lower(): value for name, value in event.response.headers.items()},
        body=bounded_json(event.response.body, field="response.body"),
        metadata=bounded_json(event.metadata, field="metadata"),
    )


def _merge(
    parsed: Sequence[UsageReport | _Rejected], results: Sequence[UsageResult]
) -> list[UsageItemResult]:
    """One result per event, in the order sent."""
    captured = iter(results)
    return [
        UsageItemResult(
            id=item.id, outcome=UsageOutcome.REJECTED, amount_nano=0, reason=item.reason
        )
        if isinstance(item, _Rejected)
        else _word(item, next(captured))
        for item in parsed
    ]


def _word(report: UsageReport, result: UsageResult) -> UsageItemResult:
    # Unheld usage is known to its sender by the sender's own id.
    unheld = not report.hold_id and not report.hold_token
    return UsageItemResult(
        id=report.event_id if unheld else result.id,
        outcome=result.outcome,
        amount_nano=result.amount_nano,
        reason=result.reason,
    )


def _shown_id(item: object) -> str:
    """The id that a sender can find a rejected event by."""
    if not isinstance(item, dict):
        return ""
    for name in ("hold_id", "id"):
        if isinstance(item.get(name), str):
            return str(item[name])[:_ID_LENGTH_MAX]
    return ""
