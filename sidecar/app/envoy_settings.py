"""What `sidecar envoy config` writes, by the settings of the sidecar that Envoy will call."""

from datetime import timedelta

from sidecar.app.keys import load_secrets, read_secret
from sidecar.app.worker_settings import gateway_addresses
from sidecar.domain.identity import metadata_namespaces, trusted_headers
from sidecar.inbound.envoy.bootstrap_options import Address, EnvoyOptions, Transport, Upstream
from sidecar.inbound.envoy.policy_routes import (
    UPSTREAM,
    meter_headers,
    meter_metadata,
    meters_untold,
    policy_routes,
)
from sidecar.outbound.embedded import default_data_dir
from sidecar.outbound.policy_files.loader import load_policy
from sidecar.settings import EnvoyDefaults, Settings, is_local


def envoy_listener(settings: Settings) -> str:
    """
    Where an Envoy calls us: at the fast engine, if it is on and Envoy may be on this machine.

    A gateway that others may reach has its Envoy elsewhere for all we know.
    """
    if settings.grpc_fast_listen and is_local(settings.grpc_listen):
        return settings.grpc_fast_listen
    return settings.grpc_listen


def _addresses(settings: Settings, listen: str) -> tuple[Address, ...]:
    return tuple(Address.parse(address) for address in gateway_addresses(settings, listen))


def envoy_options(
    settings: Settings,
    defaults: EnvoyDefaults,
    *,
    admin: str | None = None,
    keep_identity_headers: bool = False,
) -> EnvoyOptions:
    """
    Options of the Envoy bootstrap: the policy's priced routes send their bodies to the check.

    Args:
        settings, defaults: As they were read.
        admin: Where Envoy's own admin listens, if it does.
        keep_identity_headers: Whether headers that the policy believes pass as they come.

    Raises:
        ConfigError: Policy, address or upstream cannot be used.
    """
    policy = load_policy(settings.policy_dir).policy
    token_file = settings.gateway_token_file
    if token_file is None:
        token_file = load_secrets(
            settings, settings.data_dir or default_data_dir()
        ).gateway_token_file
    token = read_secret(token_file) if token_file else None
    authz = defaults.authz or envoy_listener(settings)
    # The fast engine serves no streams, which Envoy's access log service is.
    streams = defaults.transport != Transport.OTLP
    usage = settings.grpc_listen if streams and not defaults.authz else authz
    return EnvoyOptions(
        listen=Address.parse(defaults.listen),
        upstreams=(Upstream.parse(defaults.upstream, name=UPSTREAM),),
        authz=_addresses(settings, authz),
        usage=_addresses(settings, usage),
        transport=defaults.transport,
        body_bytes=defaults.body_bytes,
        gateway_id=defaults.gateway_id,
        gateway_token=token,
        admin=Address.parse(admin) if admin else None,
        routes=policy_routes(policy),
        meter_headers=meter_headers(policy),
        meter_metadata=meter_metadata(policy),
        meters_untold=meters_untold(policy),
        hold_ttl=timedelta(seconds=settings.hold_ttl_seconds),
        check_timeout=timedelta(milliseconds=settings.check_timeout_ms),
        metadata_namespaces=metadata_namespaces(policy.identity),
        identity_headers=trusted_headers(policy.identity),
        keep_identity_headers=keep_identity_headers,
    )
