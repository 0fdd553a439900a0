"""Recorded decisions of one process: the log, and what moves records to Postgres."""

from collections.abc import Awaitable, Callable

from sidecar.app.explaining import make_explanations
from sidecar.app.workers import Workers
from sidecar.outbound.postgres.decisions import PostgresDecisions
from sidecar.outbound.postgres.pool import Pool
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.decision_stream import RedisDecisionStream
from sidecar.outbound.redis.keys import Keyspace
from sidecar.services.decision_log import BufferedDecisionLog
from sidecar.services.decision_moving import DecisionMover
from sidecar.services.explanations import ExplanationService
from sidecar.services.ports import Balances, Directory, Policies
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

    def use_postgres(self, pool: Pool) -> None:
        """Make the table, and what fills it if this process settles."""
        self.table = PostgresDecisions(pool)
        if self._settings.has(Role.SETTLEMENT):
            days = self._settings.decision_retention_days
            self.mover = DecisionMover(self.stream, self.table, retention_days=days)

    def explanations(
        self, policies: Policies, directory: Directory, balances: Balances
    ) -> ExplanationService:
        """What explains decisions, by the stores that checks use."""
        return make_explanations(policies, directory, balances, self.table)

    def start(self, workers: Workers, *, after: Callable[[], Awaitable[None]], moves: bool) -> None:
        """Start the log's writer and, where it `moves`, the mover."""
        workers.start("decision_log", self.log.run, after=after)
        if moves and self.mover is not None:
            workers.start("decision_mover", self.mover.run, after=after)
