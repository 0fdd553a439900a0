"""
One connection to a server that many calls share: what one turn of the loop asks is one write.

A pool gives each call a connection of its own, a write, a timer and a stream to read from; for
one script that is most of a check's processor time. Here a call is packed by hiredis into the
turn's write, its reply is found by its place in the order, and one timer watches all deadlines.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.credentials import UsernamePasswordCredentialProvider
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004  The driver's, which callers of a pool get, too.
    InvalidResponse,
    MasterDownError,
    MovedError,
    NoScriptError,
    RedisError,
    ResponseError,
    TryAgainError,
)

UNANSWERED_MAX: Final = 8_192
"""Calls whose replies are awaited, or to be thrown away; more are refused."""
SILENT_SECONDS_MAX: Final = 0.5
"""After a call's end in which the server says nothing at all: then the connection is given up."""
_LAST_ROUNDS: Final = 4
"""Of the loop: where it is busy, a reply may lie in the socket when the time is up, unread."""
_NOTHING: Final = object()
_REFUSALS: Final[dict[str, Callable[[str], Exception]]] = {
    "ASK": AskError,
    "CLUSTERDOWN": ClusterDownError,
    "LOADING": BusyLoadingError,
    "MASTERDOWN": MasterDownError,
    "MOVED": MovedError,
    "NOSCRIPT": NoScriptError,
    "TRYAGAIN": TryAgainError,
}


class Pipeline:
    """
    The shared connection, opened by the first call and again by the first after it was lost.

    A call that is cancelled or out of time leaves its place in the order, so that no reply is
    taken for another's. Calls come back with a reply or the driver's errors, as from a pool.
    """

    def __init__(self, target: Callable[[], AbstractConnection], *, connect_seconds: float) -> None:
        """
        Describe it; opens nothing yet.

        Args:
            target: Makes a connection of redis-py, which is only asked where and who it is.
            connect_seconds: For opening and signing in.
        """
        self._target = target
        self._connect_seconds = connect_seconds
        self._line: _Line | None = None
        self._opening: asyncio.Task[_Line] | None = None

    async def ask(
        self, command: tuple[Any, ...], *, timeout_seconds: float, wait_seconds: float
    ) -> Any:
        """
        Send a command with all others of this turn; its reply, a refusal as its error.

        Args:
            command: Texts, bytes and integers.
            timeout_seconds: For the reply.
            wait_seconds: For a connection where none is open, before that.

        Raises:
            TimeoutError, RedisError, OSError: It may have been carried out or not.
        """
        line = await self._current(wait_seconds)
        try:
            return await line.ask(hiredis.pack_command(command), timeout_seconds)
        except ResponseError as refusal:
            return refusal

    async def ask_each(
        self, commands: Sequence[tuple[Any, ...]], *, timeout_seconds: float, wait_seconds: float
    ) -> list[Any]:
        """
        Send commands one behind the other, with all others of this turn.

        Args: As `ask`.

        Returns:
            For each its reply, or what `ask` would answer or raise for it: a refusal, or that it
            may have been carried out or not.

        Raises:
            TimeoutError, RedisError, OSError: There is no connection: none was sent.
        """
        line = await self._current(wait_seconds)
        packed = [hiredis.pack_command(command) for command in commands]
        return await line.ask_each(packed, timeout_seconds)

    async def aclose(self) -> None:
        """Close it; whoever waits for a reply gets ConnectionError."""
        if self._opening is not None:
            self._opening.cancel()
        if self._line is not None:
            self._line.hang_up("the connection was closed")
            self._line = None

    async def _current(self, wait_seconds: float) -> "_Line":
        """The open connection; a new one where it was lost, within that time."""
        line = self._line
        if line is None or line.lost:
            async with asyncio.timeout(wait_seconds):
                line = await self._open()
        return line

    async def _open(self) -> "_Line":
        """One caller at a time opens it; the others wait for the same."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    def _opened(self, opening: "asyncio.Task[_Line]") -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._line = opening.result()

    async def _connect(self) -> "_Line":
        target, loop = self._target(), asyncio.get_running_loop()
        line = _Line(loop)
        async with asyncio.timeout(self._connect_seconds):
            if isinstance(target, UnixDomainSocketConnection):
                await loop.create_unix_connection(lambda: line, target.path)
            else:
                assert isinstance(target, Connection)
                context = target.ssl_context.get() if isinstance(target, SSLConnection) else None
                await loop.create_connection(
                    lambda: line, target.host, int(target.port), ssl=context
                )
            try:
                await self._sign_in(line, target)
            except BaseException:
                line.hang_up("signing in failed")
                raise
        return line

    async def _sign_in(self, line: "_Line", target: AbstractConnection) -> None:
        provider = target.credential_provider
        if provider is None and (target.username or target.password):
            provider = UsernamePasswordCredentialProvider(target.username, target.password)
        greetings: list[tuple[Any, ...]] = []
        if provider is not None:
            greetings.append(("AUTH", *await provider.get_credentials_async()))
        if target.db:
            greetings.append(("SELECT", int(target.db)))
        for greeting in greetings:
            await line.ask(hiredis.pack_command(greeting), self._connect_seconds)


class _Answers:
    """
    Stands in the order once for each command of a batch, and has one future for all of them.

    Its commands stand side by side, so what it is given comes in their order.
    """

    __slots__ = ("_found", "_future", "_open")

    def __init__(self, future: "asyncio.Future[list[Any]]", count: int) -> None:
        self._future = future
        self._open = count
        self._found: list[Any] = []

    def done(self) -> bool:
        """Whether nobody waits for the rest."""
        return self._future.done()

    def set_result(self, reply: Any) -> None:
        """The next command's reply."""
        self._found.append(reply)
        self._open -= 1
        if not self._open:
            self._future.set_result(self._found)

    def set_exception(self, error: Exception) -> None:
        """Why the next command has none; the others have their own."""
        self.set_result(error)


class _Line(asyncio.Protocol):
    """An open connection: replies come in the order of the calls."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lost = False
        self._loop = loop
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=_refusal, notEnoughData=_NOTHING
        )
        self._asked: deque[tuple[asyncio.Future[Any] | _Answers, float]] = deque()
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_at = math.inf
        self._heard_at = loop.time()
        self._reason = "the server closed the connection"

    def ask(self, packed: bytes, timeout_seconds: float) -> "asyncio.Future[Any]":
        """Put a packed command into this turn's write; the reply, or the error, to come."""
        future = self._loop.create_future()
        self._send([packed], future, timeout_seconds)
        return future

    def ask_each(
        self, packed: Sequence[bytes], timeout_seconds: float
    ) -> "asyncio.Future[list[Any]]":
        """Put packed commands into this turn's write; each one's reply or error, to come."""
        future = self._loop.create_future()
        if packed:
            self._send(packed, _Answers(future, len(packed)), timeout_seconds)
        else:
            future.set_result([])
        return future

    def _send(
        self,
        packed: Sequence[bytes],
        waiting: "asyncio.Future[Any] | _Answers",
        timeout_seconds: float,
    ) -> None:
        if self.lost:
            raise ConnectionError(self._reason)
        if len(self._asked) + len(packed) > UNANSWERED_MAX:
            raise TimeoutError
        deadline = self._loop.time() + timeout_seconds
        self._asked.extend([(waiting, deadline)] * len(packed))
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.extend(packed)
        if deadline < self._timer_at:
            self._arm(deadline)

    def hang_up(self, reason: str) -> None:
        """End it at once, with everything that waits."""
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()
        self._fail()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _NOTHING:
                future, _ = self._asked.popleft()
                if future.done():
                    continue  # Nobody waits for it any more.
                if isinstance(reply, RedisError):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        except (InvalidResponse, IndexError):
            self.hang_up("the server said what is no reply")

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._reason = f"the connection was lost: {type(exc).__name__}"
        self._fail()

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self._transport is not None and not self.lost:
            # A server that does not read is bounded by UNANSWERED_MAX, and given up soon.
            self._transport.write(b"".join(outgoing))

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._sweep, _LAST_ROUNDS)

    def _sweep(self, rounds: int) -> None:
        """End the calls whose time is up; then wait for the next of them."""
        if rounds:
            self._timer = self._loop.call_soon(self._sweep, rounds - 1)
            return
        self._timer, self._timer_at, now, nearest = None, math.inf, self._loop.time(), math.inf
        for future, deadline in self._asked:
            if future.done():
                continue
            if deadline <= now:
                future.set_exception(TimeoutError())
            else:
                nearest = min(nearest, deadline)
        if not self._asked:
            return
        give_up_at = max(self._asked[0][1], self._heard_at) + SILENT_SECONDS_MAX
        if give_up_at <= now:
            self.hang_up("the server does not answer")
        else:
            self._arm(min(nearest, give_up_at))

    def _fail(self) -> None:
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
        asked, self._asked = self._asked, deque()
        for future, _ in asked:
            if not future.done():
                future.set_exception(ConnectionError(self._reason))


def _refusal(text: str) -> Exception:
    """The error that redis-py has for a refusal that somebody here tells from others."""
    kind, _, rest = text.partition(" ")
    known = _REFUSALS.get(kind)
    return ResponseError(text) if known is None else known(rest)
