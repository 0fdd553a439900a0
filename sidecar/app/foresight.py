"""Recorded decisions of one process: the log, and what moves records to Postgres."""

from collections.abc import Awaitable, Callable

from sidecar.app.workers import Workers
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.decision_stream import RedisDecisionStream
from sidecar.outbound.redis.keys import Keyspace
from sidecar.services.decision_log import BufferedDecisionLog
from sidecar.services.decision_moving import DecisionMover
from sidecar.services.decision_ports import DecisionTable
from sidecar.settings import Role, Settings


class Foresight:
    """Makes the parts that keep decisions and starts their workers."""

    def __init__(self, settings: Settings, redis: RedisConnection, keyspace: Keyspace) -> None:
        """Take what the log writes to."""
        self._settings = settings
        self.stream = RedisDecisionStream(redis, keyspace, length_max=settings.decision_stream_max)
        self.log = BufferedDecisionLog(
            self.stream,
            buffer_max=settings.decision_log_buffer,
            explain_sample=settings.decision_explain_sample,
        )
        self.mover: DecisionMover | None = None

    def use_table(self, table: DecisionTable) -> None:
        """Take the table, and make what fills it if this process settles."""
        self.table = table
        if self._settings.has(Role.SETTLEMENT):
            days = self._settings.decision_retention_days
            self.mover = DecisionMover(self.stream, table, retention_days=days)

    def start(self, workers: Workers, *, after: Callable[[], Awaitable[None]], moves: bool) -> None:
        """Start the log's writer and, where it `moves`, the mover."""
        workers.start("decision_log", self.log.run, after=after)
        if moves and self.mover is not None:
            workers.start("decision_mover", self.mover.run, after=after)
