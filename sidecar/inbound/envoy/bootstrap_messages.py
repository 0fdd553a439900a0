"""Envoy's configuration messages, gathered in one place from envoy-data-plane."""

import warnings
from dataclasses import dataclass

import betterproto2

with warnings.catch_warnings():
    # The generated classes use a spelling of pydantic's validators that pydantic 2.12 deprecates,
    # and say so on import; nothing of ours can change that.
    warnings.simplefilter("ignore", DeprecationWarning)
    from envoy_data_plane.envoy.config.accesslog.v3 import (
        AccessLog,
    )
    from envoy_data_plane.envoy.config.bootstrap.v3 import (
        Admin,
        Bootstrap,
        BootstrapStaticResources,
    )
    from envoy_data_plane.envoy.config.cluster.v3 import (
        CircuitBreakers,
        CircuitBreakersThresholds,
        Cluster,
        ClusterDiscoveryType,
        ClusterDnsLookupFamily,
        ClusterLbPolicy,
        OutlierDetection,
    )
    from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
        HeaderMutation,
        HeaderMutationRemoveOnMatch,
        HeaderMutationRules,
    )
    from envoy_data_plane.envoy.config.core.v3 import (
        Address as AddressMessage,
    )
    from envoy_data_plane.envoy.config.core.v3 import (
        ApiVersion,
        BackoffStrategy,
        CidrRange,
        DataSource,
        GrpcService,
        GrpcServiceEnvoyGrpc,
        HeaderValue,
        Http1ProtocolOptions,
        Http2ProtocolOptions,
        HttpProtocolOptions,
        KeepaliveSettings,
        Node,
        Pipe,
        RetryPolicy,
        RetryPolicyRetryHostPredicate,
        RuntimeFeatureFlag,
        SocketAddress,
        TransportSocket,
        TypedExtensionConfig,
    )
    from envoy_data_plane.envoy.config.endpoint.v3 import (
        ClusterLoadAssignment,
        Endpoint,
        LbEndpoint,
        LocalityLbEndpoints,
    )
    from envoy_data_plane.envoy.config.listener.v3 import (
        Filter,
        FilterChain,
        Listener,
    )
    from envoy_data_plane.envoy.config.route.v3 import (
        FilterConfig,
        Route,
        RouteAction,
        RouteConfiguration,
        RouteMatch,
        RouteMatchGrpcRouteMatchOptions,
        VirtualHost,
    )
    from envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 import (
        CommonGrpcAccessLogConfig,
        HttpGrpcAccessLogConfig,
    )
    from envoy_data_plane.envoy.extensions.access_loggers.open_telemetry.v3 import (
        OpenTelemetryAccessLogConfig,
    )
    from envoy_data_plane.envoy.extensions.compression.gzip.decompressor.v3 import (
        Gzip,
    )
    from envoy_data_plane.envoy.extensions.content_parsers.json.v3 import (
        JsonContentParser,
        JsonContentParserRuleConfig,
    )
    from envoy_data_plane.envoy.extensions.filters.http.decompressor.v3 import (
        Decompressor,
        DecompressorCommonDirectionConfig,
        DecompressorRequestDirectionConfig,
    )
    from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import (
        BufferSettings,
        CheckSettings,
        ExtAuthz,
        ExtAuthzPerRoute,
    )
    from envoy_data_plane.envoy.extensions.filters.http.json_to_metadata.v3 import (
        JsonToMetadata,
        JsonToMetadataKeyValuePair,
        JsonToMetadataMatchRules,
        JsonToMetadataRule,
        JsonToMetadataSelector,
        JsonToMetadataValueType,
    )
    from envoy_data_plane.envoy.extensions.filters.http.router.v3 import (
        Router,
    )
    from envoy_data_plane.envoy.extensions.filters.http.sse_to_metadata.v3 import (
        SseToMetadata,
        SseToMetadataProcessingRules,
    )
    from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
        HttpConnectionManager,
        HttpConnectionManagerHcmAccessLogOptions,
        HttpConnectionManagerInternalAddressConfig,
        HttpConnectionManagerPathWithEscapedSlashesAction,
        HttpFilter,
    )
    from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
        HeaderMutation as EarlyHeaderMutation,
    )
    from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import (
        PreviousHostsPredicate,
    )
    from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
        CertificateValidationContext,
        CommonTlsContext,
        UpstreamTlsContext,
    )
    from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
        HttpProtocolOptions as UpstreamProtocolOptions,
    )
    from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
        HttpProtocolOptionsAutoHttpConfig,
        HttpProtocolOptionsExplicitHttpConfig,
    )
    from envoy_data_plane.envoy.type.matcher.v3 import (
        RegexMatcher,
        StringMatcher,
    )
    from envoy_data_plane.envoy.type.v3 import (
        HttpStatus,
        StatusCode,
    )
    from envoy_data_plane.google.protobuf import (
        Any as AnyMessage,
    )
    from envoy_data_plane.google.protobuf import (
        Struct,
    )
    from envoy_data_plane.message_pool import default_message_pool
    from envoy_data_plane.opentelemetry.proto.common.v1 import (
        AnyValue,
        KeyValue,
        KeyValueList,
    )

__all__ = [
    "AccessLog",
    "AddressMessage",
    "Admin",
    "AnyMessage",
    "AnyValue",
    "ApiVersion",
    "BackoffStrategy",
    "Bootstrap",
    "BootstrapStaticResources",
    "BufferSettings",
    "CertificateValidationContext",
    "CheckSettings",
    "CidrRange",
    "CircuitBreakers",
    "CircuitBreakersThresholds",
    "Cluster",
    "ClusterDiscoveryType",
    "ClusterDnsLookupFamily",
    "ClusterLbPolicy",
    "ClusterLoadAssignment",
    "CommonGrpcAccessLogConfig",
    "CommonTlsContext",
    "DataSource",
    "Decompressor",
    "DecompressorCommonDirectionConfig",
    "DecompressorRequestDirectionConfig",
    "EarlyHeaderMutation",
    "Endpoint",
    "ExtAuthz",
    "ExtAuthzPerRoute",
    "Filter",
    "FilterChain",
    "FilterConfig",
    "GrpcService",
    "GrpcServiceEnvoyGrpc",
    "Gzip",
    "HeaderMutation",
    "HeaderMutationRemoveOnMatch",
    "HeaderMutationRules",
    "HeaderValue",
    "Http1ProtocolOptions",
    "Http2ProtocolOptions",
    "HttpConnectionManager",
    "HttpConnectionManagerHcmAccessLogOptions",
    "HttpConnectionManagerInternalAddressConfig",
    "HttpConnectionManagerPathWithEscapedSlashesAction",
    "HttpFilter",
    "HttpGrpcAccessLogConfig",
    "HttpProtocolOptions",
    "HttpProtocolOptionsAutoHttpConfig",
    "HttpProtocolOptionsExplicitHttpConfig",
    "HttpStatus",
    "JsonContentParser",
    "JsonContentParserRuleConfig",
    "JsonToMetadata",
    "JsonToMetadataKeyValuePair",
    "JsonToMetadataMatchRules",
    "JsonToMetadataRule",
    "JsonToMetadataSelector",
    "JsonToMetadataValueType",
    "KeepaliveSettings",
    "KeyValue",
    "KeyValueList",
    "LbEndpoint",
    "Listener",
    "LocalityLbEndpoints",
    "Node",
    "OpenTelemetryAccessLogConfig",
    "OutlierDetection",
    "Pipe",
    "PreviousHostsPredicate",
    "RegexMatcher",
    "RetryPolicy",
    "RetryPolicyRetryHostPredicate",
    "Route",
    "RouteAction",
    "RouteConfiguration",
    "RouteMatch",
    "RouteMatchGrpcRouteMatchOptions",
    "Router",
    "RuntimeFeatureFlag",
    "SocketAddress",
    "SseToMetadata",
    "SseToMetadataProcessingRules",
    "StatusCode",
    "StringMatcher",
    "Struct",
    "TransportSocket",
    "TypedExtensionConfig",
    "TypedStruct",
    "UpstreamProtocolOptions",
    "UpstreamTlsContext",
    "VirtualHost",
]


@dataclass(eq=False, repr=False)
class TypedStruct(betterproto2.Message):
    """
    `xds.type.v3.TypedStruct`: a message given by name and JSON.

    envoy-data-plane 2.2 carries neither this nor the fields that Envoy 1.40 gave
    AiProtocolManager (its class is empty), so that one filter travels as a struct and Envoy
    itself checks the fields.
    """

    type_url: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    value: Struct | None = betterproto2.field(  # noqa: RUF009  betterproto2's way.
        2, betterproto2.TYPE_MESSAGE, optional=True
    )


default_message_pool.register_message("xds.type.v3", "TypedStruct", TypedStruct)
