"""
ALS: Envoy's gRPC access log, one stream for each of its worker threads.

Nothing is acknowledged, so what the store does not take in time is lost here and counted;
its hold becomes an orphan, which the sweep settles by policy. OTLP has no such gap.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from sidecar.domain.errors import InvalidInput
from sidecar.domain.periods import from_epoch_ms
from sidecar.domain.usage import UsageFacts, check_quantity
from sidecar.inbound.envoy.attributes import (
    AI_USAGE_NAMESPACE,
    AUTHZ_NAMESPACE,
    HEADER_CHARS_MAX,
    METER_NAMESPACE,
    SSE_MODEL_KEY,
    SSE_MODEL_NAMESPACE,
    SSE_USAGE_NAMESPACE,
    TOKENS_INPUT_HEADER,
    TOKENS_OUTPUT_HEADER,
    TOKENS_USED_HEADER,
    TOLD_MAX,
    CheckMetadataKey,
)
from sidecar.inbound.envoy.log_entries import LOG_TYPES, LogEntry, LogIntake, Sender
from sidecar.inbound.extraction.facts import METADATA_DEPTH_MAX, make_facts
from sidecar.inbound.extraction.text import printable
from sidecar.inbound.extraction.token_usage import AiUsage, HeaderUsage, UsageKey, UsageSources
from sidecar.inbound.grpc.call_tasks import CallTasks
from sidecar.inbound.grpc.engine import Call, GrpcError, StreamMethod
from sidecar.inbound.grpc.metadata import FindPrincipal, authenticate, gateway_id
from sidecar.wire import envoy_access_log_pb2 as wire
from sidecar.wire import envoy_core_pb2 as core
from sidecar.wire import envoy_token_usage_pb2 as token_usage

STREAM_PATH: Final = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"

RETRY_PAUSES_SECONDS: Final = (0.1, 0.2, 0.4, 0.8)
"""How long the store may be silent before entries are given up, besides the calls' own time."""

_ENTRIES_A_TURN: Final = 64
_SECOND_MAX: Final = 2**32
_TOKEN_USAGE_TYPE: Final = b"envoy.data.ai.v3.TokenUsage"


class AccessLogHandler:
    """Meters what Envoy streams, as it arrives."""

    def __init__(
        self,
        *,
        intake: LogIntake,
        find_principal: FindPrincipal,
        batches_max: int = 256,
        retry_pauses_seconds: Sequence[float] = RETRY_PAUSES_SECONDS,
    ) -> None:
        """
        Wire the handler.

        Args:
            intake: With the edge "als".
            find_principal: Every sender must be one, wherever this listens.
            batches_max: Messages under way over all streams; a stream has one at a time, so
                that a slow store slows Envoy down rather than filling this process.
            retry_pauses_seconds: Before each repeat of what the store did not answer.
        """
        self._intake = intake
        self._find_principal = find_principal
        self._pauses = tuple(retry_pauses_seconds)
        self._tasks = CallTasks("access_log", batches_max)

    def methods(self) -> tuple[StreamMethod, ...]:
        """The methods to serve."""
        return (StreamMethod(STREAM_PATH, self.stream),)

    async def stream(self, messages: AsyncIterator[bytes], call: Call) -> bytes:
        """
        Take a stream to its end. What was received is taken even if the stream breaks.

        Raises:
            GrpcError: UNAUTHENTICATED, or RESOURCE_EXHAUSTED with too many streams at work.
        """
        try:
            principal = authenticate(call, self._find_principal)
        except GrpcError:
            self._intake.count("unauthenticated")
            raise
        sender = Sender(principal=principal, gateway_id=gateway_id(call))
        async for data in messages:
            try:
                message = wire.StreamAccessLogsMessage.FromString(data)
            except DecodeError:
                self._intake.count("malformed")
                continue
            try:
                task = self._tasks.start(self._take(message, sender))
            except GrpcError:
                self._intake.count("overloaded", len(message.http_logs.log_entry))
                raise
            await asyncio.shield(task)
        return wire.StreamAccessLogsResponse().SerializeToString()

    async def drain(self, grace_seconds: float) -> None:
        """Finish the batches under way; call it after the server has stopped."""
        await self._tasks.drain(grace_seconds)

    async def _take(self, message: wire.StreamAccessLogsMessage, sender: Sender) -> None:
        left: list[LogEntry] = []
        for number, entry in enumerate(message.http_logs.log_entry, start=1):
            left.append(read_entry(entry))
            if number % _ENTRIES_A_TURN == 0:
                await asyncio.sleep(0)
        left = await self._intake.take(left, sender)
        for pause in self._pauses:
            if not left:
                return
            await asyncio.sleep(pause)
            left = await self._intake.take(left, sender)
        if left:
            self._intake.count("store_unavailable", len(left))


def read_entry(entry: wire.HttpAccessLogEntry) -> LogEntry:
    """Bring one entry into the normal form; never raises, a bad part becomes `problem`."""
    common = entry.common_properties
    metadata = _metadata(common.metadata, AUTHZ_NAMESPACE)
    token = metadata.get(CheckMetadataKey.TOKEN)
    number = common.access_log_type
    name = wire.AccessLogType.Name(number) if number in wire.AccessLogType.values() else "other"
    problem = ""
    sources = UsageSources()
    told = UsageFacts()
    started_at = None
    try:
        sources = _sources(entry)
        told = _told(entry)
        started_at = _instant(common.start_time.seconds)
    except (InvalidInput, DecodeError) as error:
        problem = str(error) or "the typed token usage cannot be read"
    return LogEntry(
        log_type=name if name in LOG_TYPES else "other",
        details=entry.response.response_code_details.decode("utf-8", "replace"),
        hold_token=token if isinstance(token, str) else "",
        sources=sources,
        status=entry.response.response_code.value or None,
        started_at=started_at,
        duration_ms=_milliseconds(common.duration),
        request_bytes=_bounded(entry.request.request_body_bytes),
        response_bytes=_bounded(entry.response.response_body_bytes),
        route=printable(common.route_name),
        request_id=entry.request.request_id[:128],
        facts=_facts(common),
        response=told,
        problem=problem,
    )


def _facts(common: wire.AccessLogCommon) -> tuple[bytes, ...]:
    """ALS knows no connection id; the peer's address and port stand in for it."""
    peer = common.downstream_remote_address.socket_address
    start = common.start_time
    return (
        b"%s:%d" % (peer.address, peer.port_value),
        b"%d.%09d" % (start.seconds, start.nanos),
        common.stream_id,
    )


def _sources(entry: wire.HttpAccessLogEntry) -> UsageSources:
    metadata = entry.common_properties.metadata
    ai, ai_model = _ai_usage(metadata)
    headers: dict[bytes, str] = {}
    for row in entry.response.response_headers:
        headers.setdefault(row.key, row.value.decode("utf-8", "replace"))
    numbers = _metadata(metadata, SSE_USAGE_NAMESPACE)
    model = _metadata(metadata, SSE_MODEL_NAMESPACE).get(SSE_MODEL_KEY)
    return UsageSources(
        ai=ai,
        sse={key: numbers[key] for key in UsageKey if key in numbers} or None,
        headers=HeaderUsage(
            total=headers.get(TOKENS_USED_HEADER.encode()) or None,
            input=headers.get(TOKENS_INPUT_HEADER.encode()) or None,
            output=headers.get(TOKENS_OUTPUT_HEADER.encode()) or None,
        ),
        ai_model=ai_model,
        sse_model=model if isinstance(model, str) else None,
    )


def _told(entry: wire.HttpAccessLogEntry) -> UsageFacts:
    """
    Response headers that Envoy was told to log, and the whole namespace for meters.

    Metadata keeps its types here: ALS sends values, where OTLP sends their text.
    """
    headers = {
        row.key.decode("utf-8", "replace"): row.value[:HEADER_CHARS_MAX].decode("utf-8", "replace")
        for row in entry.response.response_headers[:TOLD_MAX]
        if row.value
    }
    for space in entry.common_properties.metadata.filter_metadata:
        if space.key == METER_NAMESPACE.encode():
            return make_facts(headers, {}, nested=_struct(space.value, METADATA_DEPTH_MAX))
    return make_facts(headers, {})


def _struct(struct: core.Struct, depth: int) -> dict[str, object]:
    return {
        field.key.decode("utf-8", "replace"): value
        for field in struct.fields[:TOLD_MAX]
        if (value := _deep(field.value, depth)) is not None
    }


def _deep(value: core.Value, depth: int) -> object:
    if value.WhichOneof("kind") == "struct_value":
        if depth <= 1:
            return None
        return _struct(core.Struct.FromString(value.struct_value), depth - 1)
    plain = _value(value)
    return None if isinstance(plain, tuple) else plain


def _ai_usage(metadata: core.Metadata) -> tuple[AiUsage, bytes | None]:
    for row in metadata.typed_filter_metadata:
        if row.key != AI_USAGE_NAMESPACE.encode() or not row.value.type_url.endswith(
            _TOKEN_USAGE_TYPE
        ):
            continue
        usage = token_usage.TokenUsage.FromString(row.value.value)
        inputs, outputs = usage.input_token_details, usage.output_token_details
        return AiUsage(
            input=_wrapped(usage, "input_tokens"),
            output=_wrapped(usage, "output_tokens"),
            cached=_wrapped(inputs, "cached_tokens"),
            cache_creation=_wrapped(inputs, "cache_creation_tokens"),
            reasoning=_wrapped(outputs, "reasoning_tokens"),
            total=_wrapped(usage, "total_tokens"),
            status=str(usage.extraction_status),
        ), usage.model
    return AiUsage(), None


def _wrapped(
    message: token_usage.TokenUsage
    | token_usage.InputTokenDetails
    | token_usage.OutputTokenDetails,
    name: str,
) -> str | None:
    """A wrapped number as digits; None if it is absent, which is not 0."""
    return str(getattr(message, name).value) if message.HasField(name) else None


def _metadata(metadata: core.Metadata, namespace: str) -> dict[str, object]:
    """One namespace's top-level values; a nested value is there, but is neither text nor number."""
    for row in metadata.filter_metadata:
        if row.key == namespace.encode():
            return {
                field.key.decode("utf-8", "replace"): value
                for field in row.value.fields
                if (value := _value(field.value)) is not None
            }
    return {}


def _value(value: core.Value) -> object:
    match value.WhichOneof("kind"):
        case "number_value":
            return value.number_value
        case "string_value":
            return value.string_value.decode("utf-8", "replace")
        case "bool_value":
            return value.bool_value
        case "struct_value" | "list_value":
            return ()
    return None


def _milliseconds(duration: Duration) -> int:
    return _bounded(max(0, duration.seconds * 1_000 + duration.nanos // 1_000_000))


def _bounded(value: int) -> int:
    """A size as it is, or 0 where Envoy cannot have counted it."""
    try:
        check_quantity(value, field="size")
    except InvalidInput:
        return 0
    return value


def _instant(second: int) -> datetime | None:
    return from_epoch_ms(second * 1_000) if 0 < second <= _SECOND_MAX else None
