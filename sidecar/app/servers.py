"""The listeners of a gateway, made of the edges and what they call."""

import secrets
from contextlib import AsyncExitStack

from sidecar.app.data_plane import DataPlane
from sidecar.domain.errors import ConfigError
from sidecar.inbound.envoy.access_log import AccessLogHandler
from sidecar.inbound.envoy.authz import CheckHandler
from sidecar.inbound.envoy.log_entries import LogIntake
from sidecar.inbound.envoy.otlp_logs import OtlpLogsHandler
from sidecar.inbound.grpc.fast.engine import FastEngine
from sidecar.inbound.grpc.grpcio_engine import GrpcioEngine
from sidecar.inbound.grpc.health import HealthHandler
from sidecar.inbound.http.apps import gateway_app
from sidecar.inbound.http.listening import serve
from sidecar.inbound.ingest import IngestHandler
from sidecar.inbound.principals import (
    GatewayTokens,
    load_gateway_tokens,
)
from sidecar.services.hold_terms import MeterPrincipal
from sidecar.settings import is_local

GRPC_SERVICES = (
    "envoy.service.auth.v3.Authorization",
    "envoy.service.accesslog.v3.AccessLogService",
    "opentelemetry.proto.collector.logs.v1.LogsService",
    "sidecar.v1.UsageService",
)


def new_id(prefix: str) -> str:
    """A fresh id with a prefix such as "crd"."""
    return f"{prefix}_{secrets.token_hex(12)}"


class Servers:
    """Starts listeners; each is stopped by the exit stack that it was started on."""

    def __init__(self, parts: DataPlane) -> None:
        """Take the parts that the listeners serve. Raises ConfigError for a bad token file."""
        self._app = parts
        self._hosts = frozenset(parts.settings.hosts)
        token_file = parts.secrets.gateway_token_file
        self._gateway_tokens: GatewayTokens | None = (
            load_gateway_tokens(token_file) if token_file is not None else None
        )

    async def start_grpc(self, stack: AsyncExitStack) -> tuple[str, str]:
        """
        Serve checks, logs, usage and health over gRPC.

        Returns:
            The address, and that of the fast engine: "" where there is none.
        """
        app = self._app
        settings = app.settings
        check = CheckHandler(
            checks=app.checks,
            digests=app.digests,
            clock=app.clock,
            find_principal=self._find_principal,
            checks_open=is_local(settings.grpc_listen),
            wait_seconds_max=settings.check_timeout_ms / 1_000,
        )
        otlp = OtlpLogsHandler(intake=self._intake("otlp"), find_principal=self._find_principal)
        als = AccessLogHandler(intake=self._intake("als"), find_principal=self._find_principal)
        ingest = IngestHandler(
            metering=app.metering, clock=app.clock, find_principal=self._find_principal
        )
        health = HealthHandler(ready=app.problems, services=GRPC_SERVICES)
        unary = [*check.methods(), *otlp.methods(), *ingest.methods(), *health.methods()]
        engine = GrpcioEngine([*unary, *als.methods()], listen=settings.grpc_listen)
        # Last in, first out: the engine refuses new calls, then what it began is drained.
        stack.push_async_callback(check.drain, settings.drain_seconds)
        stack.push_async_callback(als.drain, settings.drain_seconds)
        address = await engine.start()
        stack.push_async_callback(engine.stop, settings.drain_seconds)
        if not settings.grpc_fast_listen:
            return address, ""
        fast = FastEngine(unary, listen=settings.grpc_fast_listen)
        try:
            fast_address = await fast.start()
        except ConfigError as error:
            # On by itself, so that whoever never wrote it has to hear its name.
            raise ConfigError(
                f"grpc_fast_listen: {error}; give it another address, or `off` to do without"
            ) from error
        stack.push_async_callback(fast.stop, settings.drain_seconds)
        return address, fast_address

    async def start_http(self, stack: AsyncExitStack, *, shared_port: bool = False) -> str:
        """
        Serve checks and usage over HTTP; returns the address.

        Args:
            stack: Closes it.
            shared_port: Whether other workers serve at the same port.
        """
        app = self._app
        gateway = gateway_app(
            listen=app.settings.http_listen,
            checks=app.checks,
            metering=app.metering,
            clock=app.clock,
            tokens=self._gateway_tokens,
            ready=app.problems,
            new_id=new_id,
            hosts=self._hosts,
            check_deadline_ms=app.settings.check_timeout_ms,
        )
        return await stack.enter_async_context(
            serve(
                gateway,
                app.settings.http_listen,
                shutdown_seconds=app.settings.drain_seconds,
                shared_port=shared_port,
            )
        )

    def _intake(self, edge: str) -> LogIntake:
        app = self._app
        return LogIntake(
            edge=edge,
            metering=app.metering,
            quarantine=app.quarantine,
            tokens=app.tokens,
            digests=app.digests,
            clock=app.clock,
        )

    def _find_principal(self, token: str) -> MeterPrincipal | None:
        return None if self._gateway_tokens is None else self._gateway_tokens.find(token)
