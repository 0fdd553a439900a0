"""
OTLP logs: Envoy's OpenTelemetry access logger, acknowledged only after capture.

An answer other than OK makes Envoy send the whole batch again (UNAVAILABLE) or drop it (any
other status), so a bad record never fails its batch, and only the store's silence does.
"""

import asyncio
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from google.protobuf.message import DecodeError

from sidecar.domain.errors import InvalidInput
from sidecar.domain.periods import from_epoch_ms
from sidecar.domain.usage import UsageFacts, check_quantity
from sidecar.inbound.envoy.attributes import (
    ABSENT,
    LOG_NAME,
    METADATA_PREFIX,
    RESPONSE_HEADER_PREFIX,
    TOLD_BYTES_MAX,
    TOLD_MAX,
    LogAttribute,
)
from sidecar.inbound.envoy.log_entries import (
    LOG_TYPES,
    OTHER_LOG,
    LogEntry,
    LogIntake,
    Sender,
)
from sidecar.inbound.extraction.facts import make_facts
from sidecar.inbound.extraction.text import printable
from sidecar.inbound.extraction.token_usage import AiUsage, HeaderUsage, UsageSources
from sidecar.inbound.grpc.engine import Call, GrpcError, GrpcStatus, UnaryMethod
from sidecar.inbound.grpc.metadata import FindPrincipal, authenticate, gateway_id
from sidecar.wire import otlp_logs_pb2 as wire

EXPORT_PATH: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

RECORDS_MAX: Final = 10_000
"""Of one batch; Envoy's has some twenty."""

_VALUE_BYTES_MAX: Final = 16_384
_DIGITS_MAX: Final = 19
_HTTP_STATUS_MAX: Final = 999
_SECOND_MAX: Final = 2**32
_RECORDS_A_TURN: Final = 64
"""Records that are read before checks that wait get their turn."""

_KEYS: Final[Mapping[bytes, LogAttribute]] = {key.value.encode(): key for key in LogAttribute}


class OtlpLogsHandler:
    """Meters what Envoy's access log says of each request."""

    def __init__(self, *, intake: LogIntake, find_principal: FindPrincipal) -> None:
        """
        Wire the handler.

        Args:
            intake: With the edge "otlp".
            find_principal: Every sender must be one, wherever this listens.
        """
        self._intake = intake
        self._find_principal = find_principal

    def methods(self) -> tuple[UnaryMethod, ...]:
        """The methods to serve."""
        return (UnaryMethod(EXPORT_PATH, self.export),)

    async def export(self, data: bytes, call: Call) -> bytes:
        """
        Take one batch; safe to repeat and to cancel.

        Raises:
            GrpcError: UNAUTHENTICATED, INVALID_ARGUMENT (no OTLP), or UNAVAILABLE if the store
                gave no answer for some record: send the batch again.
        """
        try:
            principal = authenticate(call, self._find_principal)
        except GrpcError:
            self._intake.count("unauthenticated")
            raise
        sender = Sender(principal=principal, gateway_id=gateway_id(call))
        try:
            request = wire.ExportLogsServiceRequest.FromString(data)
        except DecodeError as error:
            self._intake.count("malformed")
            raise GrpcError(
                GrpcStatus.INVALID_ARGUMENT, "the message is no ExportLogsServiceRequest"
            ) from error
        entries: list[LogEntry] = []
        for entry in _entries(request):
            if len(entries) == RECORDS_MAX:
                self._intake.count("malformed")
                raise GrpcError(
                    GrpcStatus.INVALID_ARGUMENT, f"a batch has at most {RECORDS_MAX} records"
                )
            entries.append(entry)
            if len(entries) % _RECORDS_A_TURN == 0:
                await asyncio.sleep(0)
        if await self._intake.take(entries, sender):
            raise GrpcError(GrpcStatus.UNAVAILABLE, "the store did not answer in time")
        return wire.ExportLogsServiceResponse().SerializeToString()


def _entries(request: wire.ExportLogsServiceRequest) -> Iterator[LogEntry]:
    for of_resource in request.resource_logs:
        ours = _is_ours(of_resource.resource)
        for of_scope in of_resource.scope_logs:
            for record in of_scope.log_records:
                yield read_record(record) if ours else LogEntry(log_type=OTHER_LOG)


def _is_ours(resource: wire.Resource) -> bool:
    """Whether the log has our name, or none (Envoy's built-in labels can be switched off)."""
    for row in resource.attributes:
        if row.key == b"log_name":
            return row.value.string_value == LOG_NAME.encode()
    return True


def read_record(record: wire.LogRecord) -> LogEntry:
    """Bring one record into the normal form; never raises, a bad part becomes `problem`."""
    values: dict[LogAttribute, str] = {}
    problem = ""
    for row in record.attributes:
        key = _KEYS.get(row.key)
        if key is None or key in values:
            continue
        try:
            text = _text(row.value)
        except InvalidInput as error:
            problem = str(error)
            continue
        if text not in ("", ABSENT):
            values[key] = text
    try:
        return _entry(values, problem, _told(record))
    except InvalidInput as error:
        # The hold is still known, so the usage is set aside rather than lost.
        return LogEntry(
            log_type=_log_type(values),
            details=values.get(LogAttribute.DETAILS, "")[:_VALUE_BYTES_MAX],
            hold_token=values.get(LogAttribute.HOLD_TOKEN, ""),
            facts=_facts(values),
            problem=str(error),
        )


def _entry(values: Mapping[LogAttribute, str], problem: str, told: UsageFacts) -> LogEntry:
    start = values.get(LogAttribute.START, "")
    second = _whole(start.partition(".")[0] or None, LogAttribute.START)
    status = _whole(values.get(LogAttribute.CODE), LogAttribute.CODE)
    if status is not None and status > _HTTP_STATUS_MAX:
        raise InvalidInput("code is no HTTP status", field="code")
    return LogEntry(
        log_type=_log_type(values),
        details=values.get(LogAttribute.DETAILS, ""),
        hold_token=values.get(LogAttribute.HOLD_TOKEN, ""),
        sources=_sources(values),
        status=status or None,  # 0 is Envoy's word for no response.
        started_at=_instant(second),
        duration_ms=_whole(values.get(LogAttribute.DURATION_MS), "duration_ms"),
        request_bytes=_whole(values.get(LogAttribute.BYTES_RECEIVED), "rx"),
        response_bytes=_whole(values.get(LogAttribute.BYTES_SENT), "tx"),
        route=printable(values.get(LogAttribute.ROUTE, "")),
        request_id=values.get(LogAttribute.REQUEST_ID, "").encode()[:128],
        facts=_facts(values),
        response=told,
        problem=problem,
    )


def _told(record: wire.LogRecord) -> UsageFacts:
    """What meters asked the log to tell besides tokens: response headers and metadata."""
    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for row in record.attributes:
        for prefix, into in (
            (RESPONSE_HEADER_PREFIX.encode(), headers),
            (METADATA_PREFIX.encode(), metadata),
        ):
            if row.key.startswith(prefix) and len(into) < TOLD_MAX:
                text = row.value.string_value[:TOLD_BYTES_MAX].decode("utf-8", "replace")
                if text not in ("", ABSENT):
                    into[row.key.removeprefix(prefix).decode("utf-8", "replace")] = text
    return make_facts(headers, metadata)


def _sources(values: Mapping[LogAttribute, str]) -> UsageSources:
    return UsageSources(
        ai=AiUsage(
            input=values.get(LogAttribute.AI_INPUT),
            output=values.get(LogAttribute.AI_OUTPUT),
            cached=values.get(LogAttribute.AI_CACHED),
            cache_creation=values.get(LogAttribute.AI_CACHE_CREATION),
            reasoning=values.get(LogAttribute.AI_REASONING),
            status=values.get(LogAttribute.AI_STATUS),
        ),
        sse=values.get(LogAttribute.SSE_USAGE),
        headers=HeaderUsage(
            total=values.get(LogAttribute.TOKENS_USED),
            input=values.get(LogAttribute.TOKENS_INPUT),
            output=values.get(LogAttribute.TOKENS_OUTPUT),
        ),
        ai_model=values.get(LogAttribute.AI_MODEL),
        sse_model=values.get(LogAttribute.SSE_MODEL),
    )


def _facts(values: Mapping[LogAttribute, str]) -> tuple[bytes, ...]:
    names = (LogAttribute.CONNECTION, LogAttribute.START, LogAttribute.STREAM)
    return tuple(values.get(name, "").encode() for name in names)


def _log_type(values: Mapping[LogAttribute, str]) -> str:
    name = values.get(LogAttribute.LOG_TYPE, "NotSet")
    return name if name in LOG_TYPES else "other"


def _text(value: wire.AnyValue) -> str:
    """An attribute as text; Envoy sends nothing else, other senders may send integers."""
    match value.WhichOneof("value"):
        case None:
            return ""
        case "string_value":
            if len(value.string_value) > _VALUE_BYTES_MAX:
                raise InvalidInput(f"an attribute has more than {_VALUE_BYTES_MAX} bytes")
            return value.string_value.decode("utf-8", "replace")
        case "int_value":
            return str(value.int_value)
    raise InvalidInput("an attribute is neither text nor a whole number")


def _whole(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    if len(text) > _DIGITS_MAX or not text.isascii() or not text.isdigit():
        raise InvalidInput(f"{name} is no whole number", field=name)
    value = int(text)
    check_quantity(value, field=name)
    return value


def _instant(second: int | None) -> datetime | None:
    if second is None:
        return None
    if second > _SECOND_MAX:
        raise InvalidInput("start is no instant", field="start")
    return from_epoch_ms(second * 1_000)
