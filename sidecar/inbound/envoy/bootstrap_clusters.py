"""The clusters of the generated configuration: the providers, the checks, the logs."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from sidecar.inbound.envoy.bootstrap_messages import (
    AddressMessage,
    AnyMessage,
    CertificateValidationContext,
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterDiscoveryType,
    ClusterDnsLookupFamily,
    ClusterLbPolicy,
    ClusterLoadAssignment,
    CommonTlsContext,
    DataSource,
    Endpoint,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptionsAutoHttpConfig,
    HttpProtocolOptionsExplicitHttpConfig,
    KeepaliveSettings,
    LbEndpoint,
    LocalityLbEndpoints,
    OutlierDetection,
    Pipe,
    PreviousHostsPredicate,
    RetryPolicyRetryHostPredicate,
    SocketAddress,
    TransportSocket,
    UpstreamProtocolOptions,
    UpstreamTlsContext,
)
from sidecar.inbound.envoy.bootstrap_options import Address, EnvoyOptions, Upstream

AUTHZ_CLUSTER = "authz"
USAGE_CLUSTER = "usage"

_OTHER_HOST_ATTEMPTS: Final = 5
_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def build_clusters(options: EnvoyOptions) -> list[Cluster]:
    """Build one cluster per upstream, then `authz` and `usage`."""
    return [
        *(_upstream_cluster(upstream) for upstream in options.upstreams),
        _grpc_cluster(AUTHZ_CLUSTER, options.authz),
        _grpc_cluster(USAGE_CLUSTER, options.usage_addresses),
    ]


def address_message(address: Address) -> AddressMessage:
    """Turn an address into Envoy's message."""
    if address.is_unix:
        return AddressMessage(pipe=Pipe(path=address.path))
    return AddressMessage(
        socket_address=SocketAddress(address=address.host, port_value=address.port)
    )


def _upstream_cluster(upstream: Upstream) -> Cluster:
    cluster = Cluster(
        name=upstream.name,
        type=ClusterDiscoveryType.LOGICAL_DNS
        if upstream.address.is_name
        else ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=5 if upstream.tls else 1),
        load_assignment=_assignment(upstream.name, [upstream.address]),
        # An LLM answers for minutes, so many requests are open at a modest rate; Envoy's own
        # default of 1024 would answer 503 after the hold was placed.
        circuit_breakers=_circuit_breakers(max_retries=None),
    )
    if upstream.address.is_name:
        cluster.dns_lookup_family = ClusterDnsLookupFamily.ALL
    if upstream.tls:
        cluster.transport_socket = _tls_socket(upstream)
        # HTTP/2 where the provider offers it by ALPN.
        cluster.typed_extension_protocol_options = {
            _PROTOCOL_OPTIONS: AnyMessage.pack(
                UpstreamProtocolOptions(
                    auto_config=HttpProtocolOptionsAutoHttpConfig(
                        http_protocol_options=Http1ProtocolOptions(),
                        http2_protocol_options=Http2ProtocolOptions(),
                    )
                )
            )
        }
    return cluster


def _tls_socket(upstream: Upstream) -> TransportSocket:
    context = UpstreamTlsContext(
        sni=upstream.sni,
        # Without this any certificate of any host under the same authorities would do.
        auto_sni_san_validation=True,
        common_tls_context=CommonTlsContext(
            validation_context=CertificateValidationContext(
                trusted_ca=DataSource(filename=upstream.ca_file)
            )
        ),
    )
    return TransportSocket(
        name="envoy.transport_sockets.tls", typed_config=AnyMessage.pack(context)
    )


def _grpc_cluster(name: str, addresses: Sequence[Address]) -> Cluster:
    named = any(address.is_name for address in addresses)
    cluster = Cluster(
        name=name,
        type=ClusterDiscoveryType.STRICT_DNS if named else ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(milliseconds=250),
        # One Envoy holds few connections; this spreads the calls of each over all workers.
        lb_policy=ClusterLbPolicy.LEAST_REQUEST,
        load_assignment=_assignment(name, addresses),
        # The default of three parallel retries drops logs as soon as a few batches wait.
        circuit_breakers=_circuit_breakers(max_retries=1_000),
        typed_extension_protocol_options={
            _PROTOCOL_OPTIONS: AnyMessage.pack(
                UpstreamProtocolOptions(
                    explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                        http2_protocol_options=Http2ProtocolOptions(
                            # Finds a frozen peer; without it calls wait for their timeout.
                            connection_keepalive=KeepaliveSettings(
                                interval=timedelta(seconds=5), timeout=timedelta(seconds=2)
                            )
                        )
                    )
                )
            )
        },
    )
    if named:
        cluster.dns_lookup_family = ClusterDnsLookupFamily.ALL
    if len(addresses) > 1:
        cluster.outlier_detection = _outlier_detection()
    return cluster


def elsewhere(addresses: Sequence[Address]) -> dict[str, Any]:
    """What a retry policy needs so that a call is repeated at another worker, if there is one."""
    if len(addresses) == 1:
        return {}
    return {
        "retry_host_predicate": [
            RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=AnyMessage.pack(PreviousHostsPredicate()),
            )
        ],
        "host_selection_retry_max_attempts": _OTHER_HOST_ATTEMPTS,
    }


def _outlier_detection() -> OutlierDetection:
    """
    Send nothing for a while to a worker that cannot be connected to.

    It refuses at once and so always has the fewest calls under way, which LEAST_REQUEST likes.
    Envoy's own rule, five errors in a row, counts a store that is away as well; it can keep calls
    from half of the workers at most, for a second.
    """
    return OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=1,
        enforcing_consecutive_local_origin_failure=100,
        enforcing_local_origin_success_rate=0,
        enforcing_consecutive_gateway_failure=0,
        enforcing_success_rate=0,
        interval=timedelta(milliseconds=500),
        base_ejection_time=timedelta(seconds=1),
        max_ejection_time=timedelta(seconds=5),
        max_ejection_percent=50,
    )


def _assignment(name: str, addresses: Sequence[Address]) -> ClusterLoadAssignment:
    endpoints = [
        LbEndpoint(endpoint=Endpoint(address=address_message(address))) for address in addresses
    ]
    return ClusterLoadAssignment(
        cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=endpoints)]
    )


def _circuit_breakers(*, max_retries: int | None) -> CircuitBreakers:
    return CircuitBreakers(
        thresholds=[
            CircuitBreakersThresholds(
                max_connections=10_000,
                max_pending_requests=10_000,
                max_requests=10_000,
                max_retries=max_retries,
            )
        ]
    )
