"""The access loggers of the generated configuration: how usage leaves Envoy."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import betterproto2

from sidecar.inbound.envoy.attributes import (
    ABSENT,
    AI_USAGE_NAMESPACE,
    AUTHZ_NAMESPACE,
    HEADER_CHARS_MAX,
    LOG_NAME,
    METADATA_PREFIX,
    METER_NAMESPACE,
    RESPONSE_HEADER_PREFIX,
    SSE_MODEL_KEY,
    SSE_MODEL_NAMESPACE,
    SSE_USAGE_NAMESPACE,
    TOKENS_INPUT_HEADER,
    TOKENS_OUTPUT_HEADER,
    TOKENS_USED_HEADER,
    TOLD_BYTES_MAX,
    CheckMetadataKey,
    LogAttribute,
)
from sidecar.inbound.envoy.bootstrap_clusters import USAGE_CLUSTER, elsewhere
from sidecar.inbound.envoy.bootstrap_filters import gateway_metadata
from sidecar.inbound.envoy.bootstrap_messages import (
    AccessLog,
    AnyMessage,
    AnyValue,
    ApiVersion,
    BackoffStrategy,
    CommonGrpcAccessLogConfig,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    HttpGrpcAccessLogConfig,
    KeyValue,
    KeyValueList,
    OpenTelemetryAccessLogConfig,
    RetryPolicy,
)
from sidecar.inbound.envoy.bootstrap_options import (
    USAGE_BACKOFF_BASE,
    USAGE_RETRIES,
    EnvoyOptions,
    Transport,
)

OTLP_LOGGER: Final = "envoy.access_loggers.open_telemetry"
ALS_LOGGER: Final = "envoy.access_loggers.http_grpc"

BUFFER_FLUSH_INTERVAL: Final = timedelta(milliseconds=250)
"""What Envoy's own death loses."""

BUFFER_BYTES: Final = 16_384
"""A batch above 64 KiB cannot be retried; a single record may overshoot this."""


def _ai(field: str, *, cut: str = "") -> str:
    # Typed metadata has no formatter of its own; CEL reads it.
    return f"%CEL({_ai_path(field)}){cut}%"


def _ai_count(field: str) -> str:
    # CEL prints a count that is not there as 0, and what was not counted would cost nothing.
    path = _ai_path(field)
    return f"%CEL(has({path}) ? {path} : '{ABSENT}')%"


def _ai_path(field: str) -> str:
    return f"metadata.typed_filter_metadata['{AI_USAGE_NAMESPACE}'].{field}"


OTLP_FORMATS: Final[dict[LogAttribute, str]] = {
    LogAttribute.HOLD_ID: f"%DYNAMIC_METADATA({AUTHZ_NAMESPACE}:{CheckMetadataKey.HOLD_ID})%",
    LogAttribute.HOLD_TOKEN: f"%DYNAMIC_METADATA({AUTHZ_NAMESPACE}:{CheckMetadataKey.TOKEN})%",
    LogAttribute.LOG_TYPE: "%ACCESS_LOG_TYPE%",
    LogAttribute.DETAILS: "%RESPONSE_CODE_DETAILS%",
    LogAttribute.CODE: "%RESPONSE_CODE%",
    LogAttribute.GRPC_STATUS: "%GRPC_STATUS%",
    LogAttribute.ROUTE: "%ROUTE_NAME%",
    LogAttribute.METHOD: "%REQ(:METHOD):16%",
    LogAttribute.START: "%START_TIME(%s.%9f)%",
    LogAttribute.DURATION_MS: "%DURATION%",
    LogAttribute.CONNECTION: "%CONNECTION_ID%",
    LogAttribute.STREAM: "%STREAM_ID%",
    LogAttribute.REQUEST_ID: "%REQ(X-REQUEST-ID):64%",
    LogAttribute.CONTENT_TYPE: "%RESP(CONTENT-TYPE):64%",
    LogAttribute.ATTEMPTS: "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    LogAttribute.BYTES_RECEIVED: "%BYTES_RECEIVED%",
    LogAttribute.BYTES_SENT: "%BYTES_SENT%",
    LogAttribute.AI_INPUT: _ai_count("input_tokens"),
    LogAttribute.AI_OUTPUT: _ai_count("output_tokens"),
    LogAttribute.AI_CACHED: _ai_count("input_token_details.cached_tokens"),
    LogAttribute.AI_CACHE_CREATION: _ai_count("input_token_details.cache_creation_tokens"),
    LogAttribute.AI_REASONING: _ai_count("output_token_details.reasoning_tokens"),
    LogAttribute.AI_MODEL: _ai("model", cut=":128"),
    LogAttribute.AI_STATUS: _ai("extraction_status"),
    LogAttribute.SSE_USAGE: f"%DYNAMIC_METADATA({SSE_USAGE_NAMESPACE})%",
    LogAttribute.SSE_MODEL: f"%DYNAMIC_METADATA({SSE_MODEL_NAMESPACE}:{SSE_MODEL_KEY}):128%",
    LogAttribute.TOKENS_USED: f"%RESP({TOKENS_USED_HEADER.upper()}):20%",
    LogAttribute.TOKENS_INPUT: f"%RESP({TOKENS_INPUT_HEADER.upper()}):20%",
    LogAttribute.TOKENS_OUTPUT: f"%RESP({TOKENS_OUTPUT_HEADER.upper()}):20%",
}
"""
Envoy's format string of each attribute.

Whatever a caller or a provider can choose is cut (`:64`), and neither path nor user agent is
there: Envoy copies such strings unchecked.
"""


def meter_formats(options: EnvoyOptions) -> Iterator[tuple[str, str]]:
    """
    Attributes for what meters read: response headers, and metadata of one namespace.

    OTLP carries text, so a number's type is read from its form; ALS keeps types.
    """
    for name in options.meter_headers:
        yield f"{RESPONSE_HEADER_PREFIX}{name}", f"%RESP({name.upper()}):{HEADER_CHARS_MAX}%"
    for path in options.meter_metadata:
        keys = path.replace(".", ":")
        yield (
            f"{METADATA_PREFIX}{path}",
            f"%DYNAMIC_METADATA({METER_NAMESPACE}:{keys}):{TOLD_BYTES_MAX}%",
        )


def build_access_logs(options: EnvoyOptions) -> list[AccessLog]:
    """Build the loggers that `options.transport` asks for."""
    logs = []
    if options.transport != Transport.ALS:
        logs.append(_access_log(OTLP_LOGGER, _otlp(options)))
    if options.transport != Transport.OTLP:
        logs.append(_access_log(ALS_LOGGER, _als(options)))
    return logs


def _access_log(name: str, config: betterproto2.Message) -> AccessLog:
    return AccessLog(name=name, typed_config=AnyMessage.pack(config))


def _otlp(options: EnvoyOptions) -> OpenTelemetryAccessLogConfig:
    return OpenTelemetryAccessLogConfig(
        log_name=LOG_NAME,
        grpc_service=GrpcService(
            envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=USAGE_CLUSTER),
            # Envoy 1.40 was seen to ignore this; a version that obeys must not cut the retries.
            timeout=options.usage_delay_max,
            retry_policy=RetryPolicy(
                retry_on="unavailable,connect-failure,reset,cancelled,resource-exhausted,"
                "deadline-exceeded",
                num_retries=USAGE_RETRIES,
                retry_back_off=BackoffStrategy(
                    base_interval=USAGE_BACKOFF_BASE, max_interval=options.usage_backoff_max
                ),
                **elsewhere(options.authz),
            ),
            initial_metadata=gateway_metadata(options),
        ),
        buffer_flush_interval=BUFFER_FLUSH_INTERVAL,
        buffer_size_bytes=BUFFER_BYTES,
        body=AnyValue(string_value="usage"),
        attributes=KeyValueList(
            values=[
                KeyValue(key=str(key), value=AnyValue(string_value=text))
                for key, text in (*OTLP_FORMATS.items(), *meter_formats(options))
            ]
        ),
    )


def _als(options: EnvoyOptions) -> HttpGrpcAccessLogConfig:
    return HttpGrpcAccessLogConfig(
        common_config=CommonGrpcAccessLogConfig(
            log_name=LOG_NAME,
            transport_api_version=ApiVersion.V3,
            grpc_service=GrpcService(
                envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=USAGE_CLUSTER),
                initial_metadata=gateway_metadata(options),
            ),
            buffer_flush_interval=BUFFER_FLUSH_INTERVAL,
            buffer_size_bytes=BUFFER_BYTES,
        ),
        additional_response_headers_to_log=[
            TOKENS_USED_HEADER,
            TOKENS_INPUT_HEADER,
            TOKENS_OUTPUT_HEADER,
            "content-type",
            *options.meter_headers,
        ],
    )
