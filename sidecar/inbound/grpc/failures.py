"""What a caller is told of a handler's exception, and what is logged of it."""

import traceback

from sidecar import telemetry
from sidecar.domain.errors import StoreUnavailable
from sidecar.inbound.grpc.engine import GrpcError, GrpcStatus

_STACK_FRAMES = 6


def failure_of(path: str, error: Exception) -> tuple[GrpcStatus, str]:
    """
    Status and message for the caller; what nobody foresaw is INTERNAL, without words.

    Args:
        path: The method, for the log.
        error: What its handler raised.
    """
    if isinstance(error, GrpcError):
        return error.code, error.message
    if isinstance(error, StoreUnavailable):
        return GrpcStatus.UNAVAILABLE, "the store did not answer in time"
    telemetry.WORKER_FAILURES.labels("grpc_call").inc()
    telemetry.get_logger().error(
        "grpc_call_failed",
        method=path,
        error=type(error).__name__,
        # Frames only: an exception's own words may quote a request.
        frames=traceback.format_tb(error.__traceback__)[-_STACK_FRAMES:],
    )
    return GrpcStatus.INTERNAL, "internal error"
