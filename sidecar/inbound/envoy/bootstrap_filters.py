"""The HTTP filters of the generated configuration, in the order that requests meet them."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

import betterproto2

from sidecar.inbound.envoy.attributes import (
    AUTHZ_NAMESPACE,
    OWN_HEADER_PREFIX,
    SSE_MODEL_KEY,
    SSE_MODEL_NAMESPACE,
    SSE_USAGE_NAMESPACE,
)
from sidecar.inbound.envoy.bootstrap_clusters import AUTHZ_CLUSTER, elsewhere
from sidecar.inbound.envoy.bootstrap_messages import (
    AnyMessage,
    ApiVersion,
    BackoffStrategy,
    BufferSettings,
    Decompressor,
    DecompressorCommonDirectionConfig,
    DecompressorRequestDirectionConfig,
    EarlyHeaderMutation,
    ExtAuthz,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    Gzip,
    HeaderMutation,
    HeaderMutationRemoveOnMatch,
    HeaderMutationRules,
    HeaderValue,
    HttpFilter,
    HttpStatus,
    JsonContentParser,
    JsonContentParserRuleConfig,
    JsonToMetadata,
    JsonToMetadataKeyValuePair,
    JsonToMetadataMatchRules,
    JsonToMetadataRule,
    JsonToMetadataSelector,
    JsonToMetadataValueType,
    RegexMatcher,
    RetryPolicy,
    Router,
    RuntimeFeatureFlag,
    SseToMetadata,
    SseToMetadataProcessingRules,
    StatusCode,
    StringMatcher,
    Struct,
    TypedExtensionConfig,
    TypedStruct,
)
from sidecar.inbound.envoy.bootstrap_options import EnvoyOptions, LlmProtocol
from sidecar.inbound.extraction.token_usage import UsageKey
from sidecar.inbound.grpc.metadata import GATEWAY_HEADER, TOKEN_HEADER

AI_FILTER: Final = "envoy.filters.http.ai_protocol_manager"
SSE_FILTER: Final = "envoy.filters.http.sse_to_metadata"
JSON_FILTER: Final = "envoy.filters.http.json_to_metadata"
DECOMPRESSOR_FILTER: Final = "envoy.filters.http.decompressor"
ROUTER_FILTER: Final = "envoy.filters.http.router"

SSE_EVENT_BYTES_MAX: Final = 1_048_576
"""Envoy's default of 8 KiB loses the usage of a last event that carries the whole answer."""

AI_JSON_BYTES_MAX: Final = 10_485_760
"""The most that ai_protocol_manager takes; a longer JSON answer passes, but unread."""

USAGE_PATHS: Final[Sequence[tuple[tuple[str, ...], UsageKey]]] = (
    (("usage", "prompt_tokens"), UsageKey.PROMPT),
    (("usage", "completion_tokens"), UsageKey.COMPLETION),
    (("usage", "total_tokens"), UsageKey.TOTAL),
    (("usage", "prompt_tokens_details", "cached_tokens"), UsageKey.CACHED),
    (("usage", "completion_tokens_details", "reasoning_tokens"), UsageKey.REASONING),
    (("response", "usage", "input_tokens"), UsageKey.RESPONSE_INPUT),
    (("response", "usage", "output_tokens"), UsageKey.RESPONSE_OUTPUT),
    (
        ("response", "usage", "input_tokens_details", "cached_tokens"),
        UsageKey.RESPONSE_CACHED,
    ),
    (
        ("response", "usage", "output_tokens_details", "reasoning_tokens"),
        UsageKey.RESPONSE_REASONING,
    ),
    # message_start also has an output count, of the first token or so. It is left out: after a
    # client's abort it would look like a measured output of one.
    (("message", "usage", "input_tokens"), UsageKey.INPUT),
    (("message", "usage", "cache_read_input_tokens"), UsageKey.CACHE_READ),
    (("message", "usage", "cache_creation_input_tokens"), UsageKey.CACHE_CREATION),
    (("usage", "input_tokens"), UsageKey.INPUT),
    (("usage", "cache_read_input_tokens"), UsageKey.CACHE_READ),
    (("usage", "cache_creation_input_tokens"), UsageKey.CACHE_CREATION),
    (("usage", "output_tokens"), UsageKey.OUTPUT),
    (("usageMetadata", "promptTokenCount"), UsageKey.GEMINI_PROMPT),
    (("usageMetadata", "candidatesTokenCount"), UsageKey.GEMINI_CANDIDATES),
    (("usageMetadata", "thoughtsTokenCount"), UsageKey.GEMINI_THOUGHTS),
    (("usageMetadata", "cachedContentTokenCount"), UsageKey.GEMINI_CACHED),
)

MODEL_PATHS: Final[Sequence[tuple[str, ...]]] = (
    ("model",),
    ("message", "model"),
    ("response", "model"),
    ("modelVersion",),
)


def build_http_filters(options: EnvoyOptions) -> list[HttpFilter]:
    """Build the chain; responses pass it from the last to the first."""
    authz = _http_filter(AUTHZ_NAMESPACE, _ext_authz(options))
    sse = _http_filter(SSE_FILTER, _sse_to_metadata())
    router = _http_filter(ROUTER_FILTER, Router())
    if options.json_to_metadata:
        # It waits for a whole body that the decompressor never declares complete, so the two
        # together hang the caller (envoyproxy/envoy#29879).
        return [authz, _http_filter(JSON_FILTER, _json_to_metadata()), sse, router]
    return [
        authz,
        _http_filter(AI_FILTER, _ai_protocol_manager()),
        sse,
        _http_filter(DECOMPRESSOR_FILTER, _decompressor()),
        router,
    ]


def extraction_filter_names(options: EnvoyOptions) -> list[str]:
    """Name the filters that read responses, for routes that must not be read."""
    if options.json_to_metadata:
        return [JSON_FILTER, SSE_FILTER]
    return [AI_FILTER, SSE_FILTER, DECOMPRESSOR_FILTER]


def ai_protocol_of_route(protocol: LlmProtocol) -> AnyMessage:
    """Tell ai_protocol_manager what a route's answers look like, instead of letting it guess."""
    fields = {"response": {"llm_protocol": protocol.upper()}}
    return AnyMessage.pack(_ai_message("AiProtocolManagerPerRoute", fields))


def gateway_metadata(options: EnvoyOptions) -> list[HeaderValue]:
    """Build the gRPC metadata by which the gateway names and proves itself."""
    metadata = [HeaderValue(key=GATEWAY_HEADER, value=options.gateway_id)]
    if options.gateway_token is not None:
        metadata.append(HeaderValue(key=TOKEN_HEADER, value=options.gateway_token))
    return metadata


def drop_forged_headers(options: EnvoyOptions) -> TypedExtensionConfig:
    """
    Remove a client's copies of our headers, and of those that name it, before any filter runs.

    A route's `request_headers_to_remove` acts after the check, too late. A filter of the
    operator's own, before ext_authz, may set an identity header anew.
    """
    identity = () if options.keep_identity_headers else options.identity_headers
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=AnyMessage.pack(
            EarlyHeaderMutation(
                mutations=[
                    HeaderMutation(
                        remove_on_match=HeaderMutationRemoveOnMatch(
                            key_matcher=StringMatcher(prefix=OWN_HEADER_PREFIX)
                        )
                    ),
                    # Envoy's own mark that a check saw only part of the body.
                    HeaderMutation(remove="x-envoy-auth-partial-body"),
                    *(HeaderMutation(remove=name) for name in identity),
                ]
            )
        ),
    )


def _http_filter(name: str, config: betterproto2.Message) -> HttpFilter:
    return HttpFilter(name=name, typed_config=AnyMessage.pack(config))


def _ext_authz(options: EnvoyOptions) -> ExtAuthz:
    return ExtAuthz(
        transport_api_version=ApiVersion.V3,
        stat_prefix="credit",
        grpc_service=GrpcService(
            envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=AUTHZ_CLUSTER),
            timeout=options.check_timeout,
            retry_policy=RetryPolicy(
                retry_on="unavailable,connect-failure,reset",
                num_retries=3,
                retry_back_off=BackoffStrategy(
                    base_interval=timedelta(milliseconds=25),
                    # Envoy takes this for the limit of one try as well. Below the timeout it
                    # would cancel a slow check, whose hold is then given back, and ask again.
                    max_interval=options.check_timeout,
                ),
                **elsewhere(options.authz),
            ),
            initial_metadata=gateway_metadata(options),
        ),
        failure_mode_allow=False,
        # Here, not on the routes: a route's own setting loses pack_as_bytes, and a body that is no
        # UTF-8 would then be mangled. Routes without a price switch it off.
        with_request_body=_body_settings(options.body_bytes),
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
        # What jwt_authn verified, which the operator puts in front.
        metadata_context_namespaces=list(options.metadata_namespaces),
        decoder_header_mutation_rules=HeaderMutationRules(
            # Otherwise an allowing answer could send the request elsewhere after routing.
            disallow_expression=RegexMatcher(regex="^(:.*|host)$")
        ),
    )


def _body_settings(body_bytes: int) -> BufferSettings | None:
    if body_bytes == 0:
        return None
    return BufferSettings(
        max_request_bytes=body_bytes, allow_partial_message=True, pack_as_bytes=True
    )


def _ai_protocol_manager() -> TypedStruct:
    token_usage = {
        "include_unconfigured_routes": True,
        "limits": {
            "max_json_body_size": AI_JSON_BYTES_MAX,
            "max_sse_event_size": SSE_EVENT_BYTES_MAX,
            # The default fails a stream of some 50,000 events, and reports its tokens as 0.
            "max_parsed_sse_events": 4_294_967_295,
        },
    }
    return _ai_message("AiProtocolManager", {"response_handling": {"token_usage": token_usage}})


def _ai_message(name: str, fields: Mapping[str, object]) -> TypedStruct:
    package = "envoy.extensions.filters.http.ai_protocol_manager.v3"
    return TypedStruct(
        type_url=f"type.googleapis.com/{package}.{name}", value=Struct.from_dict(fields)
    )


def _sse_to_metadata() -> SseToMetadata:
    parser = JsonContentParser(
        rules=[
            *(JsonContentParserRuleConfig(rule=rule) for rule in _usage_rules()),
            # The first answer wins: nothing after it is worth parsing for the model.
            *(
                JsonContentParserRuleConfig(rule=rule, stop_processing_after_matches=1)
                for rule in _model_rules()
            ),
        ]
    )
    return SseToMetadata(
        response_rules=SseToMetadataProcessingRules(
            max_event_size=SSE_EVENT_BYTES_MAX,
            content_parser=TypedExtensionConfig(
                name="envoy.content_parsers.json", typed_config=AnyMessage.pack(parser)
            ),
        )
    )


def _json_to_metadata() -> JsonToMetadata:
    # No on_error: it would fire for every response of another content type.
    return JsonToMetadata(
        response_rules=JsonToMetadataMatchRules(
            rules=[*_usage_rules(), *_model_rules()],
            allow_content_types_regex=RegexMatcher(regex="application/json( *;.*)?"),
        )
    )


def _usage_rules() -> list[JsonToMetadataRule]:
    return [
        _rule(path, SSE_USAGE_NAMESPACE, key, JsonToMetadataValueType.NUMBER)
        for path, key in USAGE_PATHS
    ]


def _model_rules() -> list[JsonToMetadataRule]:
    return [
        _rule(path, SSE_MODEL_NAMESPACE, SSE_MODEL_KEY, JsonToMetadataValueType.STRING)
        for path in MODEL_PATHS
    ]


def _rule(
    path: Sequence[str], namespace: str, key: str, value_type: JsonToMetadataValueType
) -> JsonToMetadataRule:
    return JsonToMetadataRule(
        selectors=[JsonToMetadataSelector(key=part) for part in path],
        # No on_missing: denials, direct answers and free routes would carry it as well.
        on_present=JsonToMetadataKeyValuePair(
            metadata_namespace=namespace, key=str(key), type=value_type
        ),
    )


def _decompressor() -> Decompressor:
    return Decompressor(
        decompressor_library=TypedExtensionConfig(
            name="gzip", typed_config=AnyMessage.pack(Gzip())
        ),
        # Requests pass as they came.
        request_direction_config=DecompressorRequestDirectionConfig(
            common_config=DecompressorCommonDirectionConfig(
                enabled=RuntimeFeatureFlag(
                    default_value=False,
                    runtime_key="sidecar.decompress_requests",
                )
            )
        ),
    )
