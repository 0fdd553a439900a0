"""grpc.health.v1: serving only while nothing stands in the way. Watch is not offered."""

from collections.abc import Callable, Sequence

from google.protobuf.message import DecodeError

from sidecar.inbound.grpc.engine import Call, GrpcError, GrpcStatus, UnaryMethod
from sidecar.wire import grpc_health_pb2 as wire

HEALTH_PATH = "/grpc.health.v1.Health/Check"

Ready = Callable[[], Sequence[str]]
"""Problems that keep this process from serving; empty if it is ready."""


class HealthHandler:
    """Answers whether the server as a whole, or one of its services, can do its work."""

    def __init__(self, *, ready: Ready, services: Sequence[str]) -> None:
        """
        Take the readiness of the process; every service shares it.

        Args:
            ready: Asked at each call.
            services: Full names, such as "envoy.service.auth.v3.Authorization".
        """
        self._ready = ready
        self._services = frozenset(name.encode() for name in services) | {b""}

    def methods(self) -> tuple[UnaryMethod, ...]:
        """The methods to serve."""
        return (UnaryMethod(HEALTH_PATH, self.check),)

    async def check(self, data: bytes, _call: Call) -> bytes:
        """Answer one question. Raises GrpcError NOT_FOUND for an unknown service."""
        try:
            service = wire.HealthCheckRequest.FromString(data).service
        except DecodeError as error:
            raise GrpcError(
                GrpcStatus.INVALID_ARGUMENT, "the message is no HealthCheckRequest"
            ) from error
        if service not in self._services:
            raise GrpcError(GrpcStatus.NOT_FOUND, "no such service")
        status = (
            wire.HealthCheckResponse.NOT_SERVING
            if self._ready()
            else wire.HealthCheckResponse.SERVING
        )
        return wire.HealthCheckResponse(status=status).SerializeToString()
