"""Every bound of the fast engine, by name."""

from dataclasses import dataclass

from sidecar.inbound.grpc.engine import MESSAGE_BYTES_MAX

MESSAGE_HEAD_BYTES = 5
"""A message's compression flag and length, before the message itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    What one connection may cost, unless it says "of the engine".

    Streams and messages are told to the peer in SETTINGS; whoever keeps to the protocol meets
    none of the others.
    """

    streams_max: int = 1_024
    message_bytes_max: int = MESSAGE_BYTES_MAX
    keepalive_seconds: float = 30.0

    connections_max: int = 1_024
    """Of the engine; one more is closed at once."""

    header_block_bytes_max: int = 32_768
    header_list_bytes_max: int = 32_768
    """As SETTINGS_MAX_HEADER_LIST_SIZE counts: names, values and 32 for each field."""

    continuations_max: int = 32
    connection_window_bytes: int = 8 * 1024 * 1024
    buffered_bytes_max: int = 32 * 1024 * 1024
    """Of requests that are not complete yet; a call that exceeds it is refused."""

    discarded_bytes_max: int = 65_536
    """Of a request that is no gRPC call, before its answer stops waiting for its end."""

    output_bytes_high: int = 262_144
    """Of output that the peer has not read; above it we read nothing more from the peer."""

    output_bytes_max: int = 64 * 1024 * 1024
    """Of output and of answers that wait for windows; above it the connection is cut."""

    rapid_resets_max: int = 1_000
    rapid_resets_a_second: float = 100.0
    rapid_seconds: float = 0.1
    """A peer's reset is rapid if it comes this soon. Resets that we send all count."""

    chores_max: int = 10_000
    chores_a_second: float = 1_000.0
    chores_a_call: float = 8.0
    """Frames that bring no call forward: empty or tiny DATA, PING, SETTINGS, PRIORITY and such."""

    tiny_data_bytes: int = 64
    """DATA that does not end its stream and has less than this is a chore."""

    handshake_seconds: float = 10.0
    header_block_seconds: float = 10.0
    request_seconds: float = 60.0
    """From a call's headers to its end."""

    stall_seconds: float = 30.0
    """How long a peer may leave output unread, or an answer without a window."""

    ping_seconds: float = 10.0
    """How long a peer may take to answer a keepalive PING."""

    drain_ping_seconds: float = 1.0
    """Between the two GOAWAYs, where the peer does not answer the PING between them."""

    close_seconds: float = 2.0
    """How long a connection that has ended may take to send its last bytes."""

    sweep_seconds: float = 0.05
    """How often the times above and the calls' deadlines are looked at."""

    cached_fields_max: int = 1_024
    cached_field_bytes_max: int = 512
    """Of the engine: header fields whose bytes are remembered with their meaning."""


class Budget:
    """A token bucket: `spend` is false once more was spent than time and `earn` gave back."""

    __slots__ = ("_a_second", "_at", "_left", "_most")

    def __init__(self, most: float, a_second: float, now: float) -> None:
        self._most = most
        self._a_second = a_second
        self._left = most
        self._at = now

    def earn(self, amount: float) -> None:
        """Give some back, up to the most."""
        self._left = min(self._most, self._left + amount)

    def spend(self, now: float) -> bool:
        """Take one; whether there was one."""
        self._left = min(self._most, self._left + (now - self._at) * self._a_second) - 1.0
        self._at = now
        return self._left >= 0.0
