"""
The gRPC server behind one small interface: handlers take bytes and return bytes.

No handler knows which server runs it, so a faster engine can serve the unary methods later
without a change to any of them.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Of one message, either way."""


class GrpcStatus(IntEnum):
    """Status codes that handlers use. Source: https://grpc.io/docs/guides/status-codes/."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class GrpcError(Exception):
    """Ends a call with a status. The message goes to the caller: no secrets, no internals."""

    def __init__(self, code: GrpcStatus, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """
    What an engine knows of one call.

    `deadline` is an instant of time.monotonic(), or None if the caller set none. Metadata
    names are lower case; of a repeated name the first value counts. If the caller gives up,
    the handler's task is cancelled.
    """

    deadline: float | None = None
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    peer: str = ""

    def seconds_left(self) -> float | None:
        """Until the caller stops waiting; negative if it has, None if it waits for ever."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def text(self, name: str) -> str | None:
        """A metadata value that is text, or None."""
        value = self.metadata.get(name)
        return value if isinstance(value, str) else None


UnaryHandler = Callable[[bytes, Call], Awaitable[bytes]]
"""Answers one message; raises GrpcError or StoreUnavailable (which becomes UNAVAILABLE)."""

StreamHandler = Callable[[AsyncIterator[bytes], Call], Awaitable[bytes]]
"""Reads a stream to its end, then answers. The stream ends early when the server stops."""


@dataclass(frozen=True, slots=True)
class UnaryMethod:
    """One message in, one out; `path` as in "/package.Service/Method"."""

    path: str
    handler: UnaryHandler


@dataclass(frozen=True, slots=True)
class StreamMethod:
    """Many messages in, one out."""

    path: str
    handler: StreamHandler


Method = UnaryMethod | StreamMethod


class Engine(Protocol):
    """A gRPC server that has been given its methods and its address."""

    async def start(self) -> str:
        """
        Listen; returns the address it got, in the form that it was given.

        Raises:
            ConfigError: If the address cannot be listened on.
        """

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, let those in progress end, cancel what is left after the grace."""
