"""UsageService/Ingest: the same as POST /v1/usage, for applications that speak gRPC."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from sidecar import telemetry
from sidecar.domain.errors import InvalidInput
from sidecar.domain.periods import from_epoch_ms
from sidecar.domain.usage import TOKEN_KINDS, TokenUsage, UsageReport
from sidecar.inbound.extraction.text import printable
from sidecar.inbound.grpc.engine import Call, GrpcError, GrpcStatus, UnaryMethod
from sidecar.inbound.grpc.metadata import FindPrincipal, authenticate, gateway_id
from sidecar.services.hold_terms import MeterPrincipal
from sidecar.services.metering import UsageOutcome, UsageResult
from sidecar.services.ports import Clock
from sidecar.wire import usage_event_pb2 as event_wire
from sidecar.wire import usage_service_pb2 as wire

INGEST_PATH: Final = "/sidecar.v1.UsageService/Ingest"
EDGE: Final = "ingest"
EVENTS_MAX: Final = 1_000

_TOKEN_BYTES_MAX: Final = 8_192
_ID_BYTES_MAX: Final = 256
_CUSTOMER_BYTES_MAX: Final = 64
_STATUS_MIN, _STATUS_MAX = 100, 599
_STATUS_OK: Final = 200
_INSTANT_MS_MAX: Final = 2**32 * 1_000
_OUTCOMES: Final = {
    UsageOutcome.CAPTURED: wire.IngestResult.CAPTURED,
    UsageOutcome.DUPLICATE: wire.IngestResult.DUPLICATE,
    UsageOutcome.LATE: wire.IngestResult.LATE,
    # Taken and charged at most once, as late usage is; the message has no word of its own for it.
    UsageOutcome.CLAIMED: wire.IngestResult.LATE,
    UsageOutcome.UNHELD: wire.IngestResult.UNHELD,
    UsageOutcome.QUARANTINED: wire.IngestResult.QUARANTINED,
    UsageOutcome.REJECTED: wire.IngestResult.REJECTED,
}


class Capturing(Protocol):
    """What this edge needs of services.metering.MeteringService."""

    async def capture_all(
        self, reports: Sequence[UsageReport], principal: MeterPrincipal
    ) -> list[UsageResult]:
        """Capture a batch, one result for each report; may raise StoreUnavailable."""


class IngestHandler:
    """Captures what applications report."""

    def __init__(self, *, metering: Capturing, clock: Clock, find_principal: FindPrincipal) -> None:
        """
        Wire the handler.

        Args:
            metering, clock: Ports.
            find_principal: Every sender must be one, wherever this listens.
        """
        self._metering = metering
        self._clock = clock
        self._find_principal = find_principal

    def methods(self) -> tuple[UnaryMethod, ...]:
        """The methods to serve."""
        return (UnaryMethod(INGEST_PATH, self.ingest),)

    async def ingest(self, data: bytes, call: Call) -> bytes:
        """
        Capture a batch; a bad event is rejected alone. Safe to repeat as a whole.

        Raises:
            GrpcError: UNAUTHENTICATED, INVALID_ARGUMENT.
            StoreUnavailable: Repeat the batch.
        """
        try:
            principal = authenticate(call, self._find_principal)
        except GrpcError:
            telemetry.USAGE_EVENTS.labels(EDGE, "unauthenticated").inc()
            raise
        gateway, now = gateway_id(call, default=EDGE), self._clock.now()
        events = _decode(data)
        parsed: list[UsageReport | UsageResult] = []
        for event in events:
            try:
                parsed.append(_report(event, gateway, now))
            except InvalidInput as error:
                rejected = UsageResult(id="", outcome=UsageOutcome.REJECTED, reason=str(error))
                parsed.append(rejected)
        reports = [item for item in parsed if isinstance(item, UsageReport)]
        captured = iter(await self._metering.capture_all(reports, principal))
        telemetry.USAGE_EVENTS.labels(EDGE, "rejected").inc(len(parsed) - len(reports))
        response = wire.IngestResponse()
        for event, item in zip(events, parsed, strict=True):
            result = item if isinstance(item, UsageResult) else next(captured)
            response.results.append(_word(event, result))
        return response.SerializeToString()


def _decode(data: bytes) -> Sequence[wire.IngestEvent]:
    try:
        events = wire.IngestRequest.FromString(data).events
    except DecodeError as error:
        raise GrpcError(GrpcStatus.INVALID_ARGUMENT, "the message is no IngestRequest") from error
    if len(events) > EVENTS_MAX:
        raise GrpcError(GrpcStatus.INVALID_ARGUMENT, f"a batch has at most {EVENTS_MAX} events")
    return events


def _report(event: wire.IngestEvent, gateway: str, now: datetime) -> UsageReport:
    usage = _usage(event.usage)
    unheld = event.unheld
    if event.WhichOneof("subject") is None:
        raise InvalidInput("an event needs hold_token, hold_id or unheld", field="hold_token")
    if event.occurred_at_ms and not 0 < event.occurred_at_ms <= _INSTANT_MS_MAX:
        raise InvalidInput("occurred_at_ms is no instant", field="occurred_at_ms")
    return UsageReport(
        edge=EDGE,
        gateway_id=gateway,
        received_at=now,
        usage=usage,
        hold_token=_text(event.hold_token, "hold_token", _TOKEN_BYTES_MAX),
        hold_id=_text(event.hold_id, "hold_id", _ID_BYTES_MAX),
        customer_id=_text(unheld.customer_id, "customer_id", _CUSTOMER_BYTES_MAX),
        event_id=_text(unheld.id, "id", _ID_BYTES_MAX),
        model=printable(event.model),
        status=_status(event, usage),
        # "Now" would give a repeat of unheld usage another id; the service asks for it there.
        occurred_at=from_epoch_ms(event.occurred_at_ms) if event.occurred_at_ms else None,
    )


def _usage(usage: event_wire.Usage) -> TokenUsage:
    return TokenUsage(
        **{kind: getattr(usage, kind) for kind in TOKEN_KINDS if usage.HasField(kind)}
    )


def _status(event: wire.IngestEvent, usage: TokenUsage) -> int | None:
    """0 is "there was none"; yet a response that counted tokens was there, and went well."""
    if event.status == 0:
        return None if usage.missing and usage.total is None else _STATUS_OK
    if not _STATUS_MIN <= event.status <= _STATUS_MAX:
        raise InvalidInput("status is no HTTP status", field="status")
    return event.status


def _text(value: bytes, name: str, bytes_max: int) -> str:
    if len(value) > bytes_max:
        raise InvalidInput(f"{name} has more than {bytes_max} bytes", field=name)
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(f"{name} is not UTF-8", field=name) from None
    if not text.isprintable():
        raise InvalidInput(f"{name} holds what cannot be printed", field=name)
    return text


def _word(event: wire.IngestEvent, result: UsageResult) -> wire.IngestResult:
    # A sender knows unheld usage by its own id, and a rejected event by what it sent.
    own = event.unheld.id or event.hold_id
    return wire.IngestResult(
        id=own[:_ID_BYTES_MAX] or result.id.encode(),
        outcome=_OUTCOMES[result.outcome],
        amount_nano=result.amount_nano,
        reason=result.reason,
    )
