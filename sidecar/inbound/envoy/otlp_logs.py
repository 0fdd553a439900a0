"""
OTLP logs: Envoy's OpenTelemetry access logger, acknowledged only after capture.

An answer other than OK makes Envoy send the whole batch again (UNAVAILABLE) or drop it (any
other status), so a bad record never fails its batch, and only the store's silence does.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from operator import itemgetter
from typing import Any, Final

from google.protobuf.message import DecodeError

from sidecar.domain.errors import InvalidInput
from sidecar.domain.periods import from_epoch_ms
from sidecar.domain.usage import NO_FACTS, QUANTITY_MAX, UsageFacts, check_quantity
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

_Values = dict[str, str | None]
"""By LogAttribute: its text, or None where it is absent."""

_KEYS: Final = {key.value.encode(): key.value for key in LogAttribute}
_NOTHING: Final[_Values] = dict.fromkeys(_KEYS.values())
_ABSENT_BYTES: Final = ABSENT.encode()
_TOLD_PREFIXES: Final = (RESPONSE_HEADER_PREFIX.encode(), METADATA_PREFIX.encode())


def _picker(*names: LogAttribute) -> Callable[[_Values], tuple[Any, ...]]:
    """The values of these names, all by one call."""
    return itemgetter(*(name.value for name in names))


_PICK: Final = _picker(
    LogAttribute.START,
    LogAttribute.CODE,
    LogAttribute.DURATION_MS,
    LogAttribute.BYTES_RECEIVED,
    LogAttribute.BYTES_SENT,
    LogAttribute.ROUTE,
    LogAttribute.REQUEST_ID,
)
_PICK_AI: Final = _picker(
    LogAttribute.AI_INPUT,
    LogAttribute.AI_OUTPUT,
    LogAttribute.AI_CACHED,
    LogAttribute.AI_CACHE_CREATION,
    LogAttribute.AI_REASONING,
    LogAttribute.AI_STATUS,
)
_PICK_HEADERS: Final = _picker(
    LogAttribute.TOKENS_USED, LogAttribute.TOKENS_INPUT, LogAttribute.TOKENS_OUTPUT
)
_PICK_REST: Final = _picker(LogAttribute.SSE_USAGE, LogAttribute.AI_MODEL, LogAttribute.SSE_MODEL)
_PICK_FACTS: Final = _picker(LogAttribute.CONNECTION, LogAttribute.START, LogAttribute.STREAM)
_PICK_HOLD: Final = _picker(LogAttribute.LOG_TYPE, LogAttribute.DETAILS, LogAttribute.HOLD_TOKEN)


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
    values = _NOTHING.copy()
    told: list[wire.KeyValue] = []
    problem = ""
    for row in record.attributes:
        key = row.key
        name = _KEYS.get(key)
        if name is None:
            if key.startswith(_TOLD_PREFIXES):
                told.append(row)
            continue
        if values[name] is not None:
            continue
        value = row.value
        raw = value.string_value
        if raw == _ABSENT_BYTES:
            continue
        try:
            # Nearly every attribute is a short text in UTF-8.
            text = raw.decode() if 0 < len(raw) <= _VALUE_BYTES_MAX else _text(value)
        except UnicodeDecodeError:
            text = raw.decode("utf-8", "replace")
        except InvalidInput as error:
            problem = str(error)
            continue
        if text:
            values[name] = text
    try:
        return _entry(values, problem, _told(told) if told else NO_FACTS)
    except InvalidInput as error:
        # The hold is still known, so the usage is set aside rather than lost.
        log_type, details, token = _PICK_HOLD(values)
        return LogEntry(
            log_type=_log_type(log_type),
            details=(details or "")[:_VALUE_BYTES_MAX],
            hold_token=token or "",
            facts=_facts(values),
            problem=str(error),
        )


def _entry(values: _Values, problem: str, told: UsageFacts) -> LogEntry:
    start, code, duration, received, sent, route, request_id = _PICK(values)
    log_type, details, token = _PICK_HOLD(values)
    status = _whole(code, "code")
    if status is not None and status > _HTTP_STATUS_MAX:
        raise InvalidInput("code is no HTTP status", field="code")
    return LogEntry(
        started_at=_instant(_whole((start or "").partition(".")[0] or None, "start")),
        status=status or None,  # 0 is Envoy's word for no response.
        duration_ms=_whole(duration, "duration_ms"),
        request_bytes=_whole(received, "rx"),
        response_bytes=_whole(sent, "tx"),
        log_type=_log_type(log_type),
        details=details or "",
        hold_token=token or "",
        sources=_sources(values),
        route=printable(route) if route else "",
        request_id=request_id.encode()[:128] if request_id else b"",
        facts=_facts(values),
        response=told,
        problem=problem,
    )


def _told(rows: Iterable[wire.KeyValue]) -> UsageFacts:
    """What meters asked the log to tell besides tokens: response headers and metadata."""
    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for row in rows:
        for prefix, into in (
            (RESPONSE_HEADER_PREFIX.encode(), headers),
            (METADATA_PREFIX.encode(), metadata),
        ):
            if row.key.startswith(prefix) and len(into) < TOLD_MAX:
                text = row.value.string_value[:TOLD_BYTES_MAX].decode("utf-8", "replace")
                if text not in ("", ABSENT):
                    into[row.key.removeprefix(prefix).decode("utf-8", "replace")] = text
    return make_facts(headers, metadata)


def _sources(values: _Values) -> UsageSources:
    ai_input, ai_output, cached, cache_creation, reasoning, ai_status = _PICK_AI(values)
    total, given_input, given_output = _PICK_HEADERS(values)
    sse, ai_model, sse_model = _PICK_REST(values)
    return UsageSources(
        ai=AiUsage(
            input=ai_input,
            output=ai_output,
            cached=cached,
            cache_creation=cache_creation,
            reasoning=reasoning,
            status=ai_status,
        ),
        headers=HeaderUsage(total=total, input=given_input, output=given_output),
        sse=sse,
        ai_model=ai_model,
        sse_model=sse_model,
    )


def _facts(values: _Values) -> tuple[bytes, ...]:
    return tuple([text.encode() if text else b"" for text in _PICK_FACTS(values)])


def _log_type(name: str | None) -> str:
    if name is None:
        return "NotSet"
    return name if name in LOG_TYPES else "other"


def _text(value: wire.AnyValue) -> str:
    """An attribute as text; Envoy sends nothing else, other senders may send integers."""
    if len(value.string_value) > _VALUE_BYTES_MAX:
        raise InvalidInput(f"an attribute has more than {_VALUE_BYTES_MAX} bytes")
    match value.WhichOneof("value"):
        case None:
            return ""
        case "string_value":
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
    if value <= QUANTITY_MAX:
        return value
    check_quantity(value, field=name)
    return value


def _instant(second: int | None) -> datetime | None:
    if second is None:
        return None
    if second > _SECOND_MAX:
        raise InvalidInput("start is no instant", field="start")
    return from_epoch_ms(second * 1_000)
