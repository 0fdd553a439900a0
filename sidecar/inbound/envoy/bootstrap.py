"""The Envoy bootstrap that `sidecar envoy config` prints; docs/envoy.md says why it is so."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import betterproto2
import yaml

from sidecar.inbound.envoy.attributes import AUTHZ_NAMESPACE
from sidecar.inbound.envoy.bootstrap_clusters import address_message, build_clusters
from sidecar.inbound.envoy.bootstrap_filters import (
    AI_FILTER,
    ai_protocol_of_route,
    build_http_filters,
    drop_forged_headers,
    extraction_filter_names,
)
from sidecar.inbound.envoy.bootstrap_logs import BUFFER_FLUSH_INTERVAL, build_access_logs
from sidecar.inbound.envoy.bootstrap_messages import (
    Admin,
    AnyMessage,
    Bootstrap,
    BootstrapStaticResources,
    CheckSettings,
    CidrRange,
    ExtAuthzPerRoute,
    Filter,
    FilterChain,
    FilterConfig,
    HttpConnectionManager,
    HttpConnectionManagerHcmAccessLogOptions,
    HttpConnectionManagerInternalAddressConfig,
    HttpConnectionManagerPathWithEscapedSlashesAction,
    HttpProtocolOptions,
    Listener,
    Node,
    RegexMatcher,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    RouteMatchGrpcRouteMatchOptions,
    StringMatcher,
    VirtualHost,
)
from sidecar.inbound.envoy.bootstrap_options import (
    RETRIABLE_BODY_BYTES_MAX,
    Address,
    EnvoyOptions,
    EnvoyRoute,
    LlmProtocol,
    Transport,
    Upstream,
)

__all__ = [
    "Address",
    "EnvoyOptions",
    "EnvoyRoute",
    "LlmProtocol",
    "Transport",
    "Upstream",
    "build_bootstrap",
    "notes",
    "render_config",
    "render_yaml",
]

JSON_BUFFER_BYTES: Final = 16_777_216
"""json_to_metadata answers 500 to callers for any JSON body above the connection's buffer."""

_ADMIN_PATHS: Final = ("/ready", "/stats", "/server_info", "/listeners", "/clusters", "/memory")


def render_config(options: EnvoyOptions) -> str:
    """Give the whole file: the notes as comments, then the configuration."""
    return render_yaml(build_bootstrap(options), notes=notes(options))


def build_bootstrap(options: EnvoyOptions) -> Bootstrap:
    """Build one listener, the provider's clusters, and ours for checks and logs."""
    return Bootstrap(
        node=Node(id=options.node_id or options.gateway_id, cluster="sidecar"),
        admin=_admin(options.admin) if options.admin is not None else None,
        static_resources=BootstrapStaticResources(
            listeners=[_listener(options)], clusters=build_clusters(options)
        ),
    )


def render_yaml(bootstrap: Bootstrap, *, notes: Sequence[str] = ()) -> str:
    """Write the configuration as Envoy reads it, under the notes as comment lines."""
    document = bootstrap.to_dict(casing=betterproto2.Casing.SNAKE)
    comments = "".join(f"# {line}\n" if line else "#\n" for line in notes)
    return comments + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


def notes(options: EnvoyOptions) -> list[str]:
    """Say what can be lost when, and what the operator must see to; one line each."""
    lines = ["Written by `sidecar envoy config`; docs/envoy.md explains every setting."]
    if options.gateway_token is not None:
        lines.append("This file holds the gateway token: keep it readable by Envoy's user only.")
    if options.transport != Transport.ALS:
        window = options.retry_window.total_seconds()
        lines += [
            f"OTLP retry window: {window / 2:.1f} s on average, at most {window:.1f} s, while the",
            "sidecar refuses connections (the waits are random). Usage survives an outage shorter",
            "than that; after it a batch is lost and its holds become orphans, settled by policy.",
            f"One try may take {options.usage_backoff_max.total_seconds():g} s, the largest wait.",
        ]
    if options.transport != Transport.OTLP:
        lines += [
            "ALS is not acknowledged: whatever is on its way when the sidecar stops is lost, and",
            "Envoy counts it as written. Do not bill from it alone.",
        ]
    lines.append(
        f"Envoy's own end, graceful or not, loses the last {BUFFER_FLUSH_INTERVAL.total_seconds()}"
        " s of usage; those holds become orphans."
    )
    lines += _lifetime_notes(options)
    if options.body_bytes > RETRIABLE_BODY_BYTES_MAX:
        lines += [
            f"WARNING: a check with {options.body_bytes} bytes of body may exceed 64 KiB, and",
            "Envoy cannot retry such a check.",
        ]
    if options.json_to_metadata:
        lines += [
            "WARNING: json_to_metadata holds each JSON response back until it is complete, answers",
            f"500 above {JSON_BUFFER_BYTES} bytes although the provider has charged, and cannot",
            "stand beside the decompressor: a provider that compresses unasked is not metered.",
        ]
    if options.meters_untold:
        lines += [
            f"WARNING: {', '.join(options.meters_untold)}: these meters read the usage object or",
            "the body of a response, which Envoy does not log: here their values are missing.",
        ]
    lines += _identity_notes(options)
    remote = {*options.authz, *options.usage_addresses}
    plain = sorted(str(address) for address in remote if not address.is_local)
    if plain:
        lines += [
            f"WARNING: checks and logs go to {', '.join(plain)} unencrypted, the gateway token",
            "with them: use a unix socket, loopback or an encrypted network.",
        ]
    return lines


def _identity_notes(options: EnvoyOptions) -> list[str]:
    lines = []
    if options.metadata_namespaces:
        lines += [
            f"The policy reads callers from the metadata {', '.join(options.metadata_namespaces)}:",
            "put the filter that verifies them (jwt_authn) before ext_authz.",
        ]
    if options.identity_headers and options.keep_identity_headers:
        lines += [
            f"WARNING: callers are believed in {', '.join(options.identity_headers)}, and this",
            "listener passes them on: whoever reaches it directly can be any customer.",
        ]
    elif options.identity_headers:
        lines += [
            f"Callers' own copies of {', '.join(options.identity_headers)} are dropped: a filter",
            "before ext_authz has to set them, or --keep-identity-headers if one in front does.",
        ]
    return lines


def _lifetime_notes(options: EnvoyOptions) -> list[str]:
    ttl = options.hold_ttl.total_seconds()
    longest = options.stream_duration_max
    if longest is not None:
        return [
            f"No heartbeats: a request is cut after {longest.total_seconds():g} s, so that its",
            f"usage arrives within the hold TTL of {ttl:g} s.",
        ]
    interval = (options.flush_interval or timedelta(0)).total_seconds()
    return [
        f"Requests may last as long as they like: a heartbeat every {interval:g} s extends their",
        f"holds. The sidecar's hold TTL must be at least {ttl:g} s.",
    ]


def _admin(address: Address) -> Admin:
    # /config_dump shows the gateway token, /quitquitquit and /runtime_modify change the process.
    return Admin(
        address=address_message(address),
        allow_paths=[
            matcher
            for path in _ADMIN_PATHS
            for matcher in (StringMatcher(exact=path), StringMatcher(prefix=f"{path}?"))
        ]
        + [StringMatcher(prefix="/stats/")],
    )


def _listener(options: EnvoyOptions) -> Listener:
    manager = HttpConnectionManager(
        stat_prefix="sidecar",
        generate_request_id=True,
        preserve_external_request_id=False,
        use_remote_address=True,
        # Nobody is internal: such callers may choose x-request-id and drive retries with x-envoy-*
        # headers. No range at all would mean loopback and private networks, so one is named that
        # nobody can call from.
        internal_address_config=HttpConnectionManagerInternalAddressConfig(
            cidr_ranges=[CidrRange(address_prefix="255.255.255.255", prefix_len=32)]
        ),
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=(
            HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST
        ),
        early_header_mutation_extensions=[drop_forged_headers(options)],
        route_config=RouteConfiguration(
            name="sidecar",
            virtual_hosts=[
                VirtualHost(
                    name="all",
                    domains=["*"],
                    routes=[
                        route for entry in options.route_table for route in _routes(options, entry)
                    ],
                )
            ],
        ),
        http_filters=build_http_filters(options),
        access_log=build_access_logs(options),
    )
    if options.flush_interval is not None:
        manager.access_log_options = HttpConnectionManagerHcmAccessLogOptions(
            access_log_flush_interval=options.flush_interval
        )
    if options.stream_duration_max is not None:
        manager.common_http_protocol_options = HttpProtocolOptions(
            max_stream_duration=options.stream_duration_max
        )
    listener = Listener(
        name="sidecar",
        address=address_message(options.listen),
        filter_chains=[
            FilterChain(
                filters=[
                    Filter(
                        name="envoy.filters.network.http_connection_manager",
                        typed_config=AnyMessage.pack(manager),
                    )
                ]
            )
        ],
    )
    if options.json_to_metadata:
        listener.per_connection_buffer_limit_bytes = JSON_BUFFER_BYTES
    return listener


def _routes(options: EnvoyOptions, entry: EnvoyRoute) -> list[Route]:
    if not entry.priced or entry.streaming_upload:
        return [_route(options, entry, with_body=False)]
    # A gRPC stream may never end its first message: waiting for its body would hang it. The twin
    # has the same name, because usage is told apart by the route's name.
    grpc = _route(options, entry, with_body=False)
    if grpc.match is not None:
        grpc.match.grpc = RouteMatchGrpcRouteMatchOptions()
    return [grpc, _route(options, entry, with_body=True)]


def _route(options: EnvoyOptions, entry: EnvoyRoute, *, with_body: bool) -> Route:
    upstream = next(one for one in options.upstreams if one.name == entry.upstream)
    action = RouteAction(cluster=upstream.name, timeout=entry.timeout)
    if upstream.host_rewrite:
        action.host_rewrite_literal = upstream.host_rewrite
    return Route(
        name=entry.name,
        match=_match(entry),
        route=action,
        # Only gzip can be read here, so nothing compressed is asked for. A free route is not
        # read: its callers may have what they asked for.
        request_headers_to_remove=[] if entry.free else ["accept-encoding"],
        typed_per_filter_config=(
            _free_filters(options)
            if entry.free
            else _check_filters(options, entry, with_body=with_body)
        ),
    )


def _match(entry: EnvoyRoute) -> RouteMatch:
    if entry.path:
        return RouteMatch(path=entry.path)
    if entry.regex:
        return RouteMatch(safe_regex=RegexMatcher(regex=entry.regex))
    return RouteMatch(prefix=entry.prefix)


def _free_filters(options: EnvoyOptions) -> dict[str, AnyMessage]:
    # Tokens measured without a hold would raise the alarm for a route that lacks ext_authz.
    off = AnyMessage.pack(FilterConfig(disabled=True))
    filters = dict.fromkeys(extraction_filter_names(options), off)
    return {AUTHZ_NAMESPACE: AnyMessage.pack(ExtAuthzPerRoute(disabled=True)), **filters}


def _check_filters(
    options: EnvoyOptions, entry: EnvoyRoute, *, with_body: bool
) -> dict[str, AnyMessage]:
    settings = CheckSettings(context_extensions={**entry.context, "route": entry.name})
    if not with_body:
        settings.disable_request_body_buffering = True
    filters = {AUTHZ_NAMESPACE: AnyMessage.pack(ExtAuthzPerRoute(check_settings=settings))}
    if entry.protocol is not None and not options.json_to_metadata:
        filters[AI_FILTER] = ai_protocol_of_route(LlmProtocol(entry.protocol))
    return filters
