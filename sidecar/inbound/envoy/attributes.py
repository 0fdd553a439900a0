"""Names that the generated Envoy configuration writes and the log receivers read."""

from enum import StrEnum
from typing import Final

AUTHZ_NAMESPACE: Final = "envoy.filters.http.ext_authz"
"""Every ext_authz filter writes here, whatever its name: believe only a signed hold token."""

SSE_USAGE_NAMESPACE: Final = "billing.usage"
"""Dynamic metadata that sse_to_metadata fills with numbers (keys: extraction.UsageKey)."""

SSE_MODEL_NAMESPACE: Final = "billing.model"
"""Dynamic metadata with the one key SSE_MODEL_KEY; apart, so that the numbers stay bounded."""

SSE_MODEL_KEY: Final = "model"

AI_USAGE_NAMESPACE: Final = "envoy.ai.token_usage"
"""Typed metadata (envoy.data.ai.v3.TokenUsage) of ai_protocol_manager."""

OWN_HEADER_PREFIX: Final = "x-sidecar-"
"""Request headers that only we set; a client's copies are dropped before the check."""

LOG_NAME: Final = "billing"
"""`log_name` of both loggers; other logs sent to the same receiver are not ours."""

ABSENT: Final = "-"
"""What Envoy's formatters print for a value that is not there."""

TOKENS_USED_HEADER: Final = "x-tokens-used"
TOKENS_INPUT_HEADER: Final = "x-tokens-input"
TOKENS_OUTPUT_HEADER: Final = "x-tokens-output"


METER_NAMESPACE: Final = "sidecar.metadata"
"""Dynamic metadata that meters read as `metadata.<path>`; any filter may write there."""

RESPONSE_HEADER_PREFIX: Final = "resp."
METADATA_PREFIX: Final = "meta."
"""Prefixes of the OTLP attributes that tell what meters name, before a header or a path."""

TOLD_MAX: Final = 32
TOLD_BYTES_MAX: Final = 256
"""Most headers, and most metadata paths, of one entry; and bytes of each."""

HEADER_CHARS_MAX: Final = 64
"""What is logged of a response header: an upstream may have copied it from its caller."""


class CheckMetadataKey(StrEnum):
    """Keys of a CheckResponse's dynamic_metadata, found again under AUTHZ_NAMESPACE in the log."""

    CUSTOMER_ID = "sidecar_customer_id"
    HOLD_ID = "sidecar_hold_id"
    DECISION_ID = "sidecar_decision_id"
    POLICY = "sidecar_policy"
    TOKEN = "sidecar_token"  # noqa: S105  The name of a key, not a secret.


class LogAttribute(StrEnum):
    """Attribute keys of one OTLP log record; every value is a string, ABSENT if missing."""

    HOLD_ID = "hold_id"
    HOLD_TOKEN = "hold_token"  # noqa: S105  The name of a key, not a secret.
    LOG_TYPE = "log_type"
    DETAILS = "details"
    CODE = "code"
    GRPC_STATUS = "grpc_status"
    ROUTE = "route"
    METHOD = "method"
    START = "start"
    DURATION_MS = "duration_ms"
    CONNECTION = "conn"
    STREAM = "stream"
    REQUEST_ID = "request_id"
    CONTENT_TYPE = "ctype"
    ATTEMPTS = "attempts"
    BYTES_RECEIVED = "rx"
    BYTES_SENT = "tx"
    AI_INPUT = "ai_input"
    AI_OUTPUT = "ai_output"
    AI_CACHED = "ai_cached"
    AI_CACHE_CREATION = "ai_cache_creation"
    AI_REASONING = "ai_reasoning"
    AI_MODEL = "ai_model"
    AI_STATUS = "ai_status"
    SSE_USAGE = "sse_usage"
    SSE_MODEL = "sse_model"
    TOKENS_USED = "tokens_used"
    TOKENS_INPUT = "tokens_input"
    TOKENS_OUTPUT = "tokens_output"
