"""
One stream, and the memory of those that are over.

Source: RFC 9113, section 5.1.
"""

from typing import TYPE_CHECKING, Any

from sidecar.inbound.grpc.fast.requests import Head

if TYPE_CHECKING:
    import asyncio

    from sidecar.inbound.grpc.engine import UnaryMethod


class Stream:
    """
    A request that is being received, handled or answered.

    `open_there` says whether the peer may still send; `answered` that nothing but what waits
    in `rest` goes out any more; `refusal` is the answer that waits for the request's end.
    """

    __slots__ = (
        "answered",
        "body",
        "deadline",
        "head",
        "id",
        "method",
        "open_there",
        "opened_at",
        "receive_window",
        "received",
        "refusal",
        "rest",
        "rest_trailers",
        "send_window",
        "stalled_at",
        "task",
    )

    def __init__(
        self, stream_id: int, head: Head, now: float, *, send_window: int, receive_window: int
    ) -> None:
        self.id = stream_id
        self.head = head
        self.opened_at = now
        self.send_window = send_window
        self.receive_window = receive_window
        self.method: UnaryMethod | None = None
        self.deadline: float | None = None
        self.open_there = True
        self.answered = False
        self.body = bytearray()
        self.received = 0
        self.refusal: tuple[bytes, bytes] | None = None
        self.rest = memoryview(b"")
        self.rest_trailers: bytes | None = None
        self.stalled_at = 0.0
        self.task: asyncio.Task[Any] | None = None


class ClosedStreams:
    """The last streams that ended, and whether what still comes for one is to be passed over."""

    __slots__ = ("_half", "_new", "_old")

    def __init__(self, most: int) -> None:
        self._half = max(1, most // 2)
        self._new: dict[int, bool] = {}
        self._old: dict[int, bool] = {}

    def add(self, stream_id: int, *, ignores: bool) -> None:
        """
        Remember one; the oldest are forgotten.

        Args:
            stream_id: The stream.
            ignores: Whether we ended it, so that the peer may not know yet.
        """
        if len(self._new) >= self._half:
            self._old, self._new = self._new, {}
        self._new[stream_id] = ignores

    def find(self, stream_id: int) -> bool | None:
        """Whether it ignores what comes; None if it is not remembered."""
        found = self._new.get(stream_id)
        return self._old.get(stream_id) if found is None else found
