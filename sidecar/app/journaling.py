"""The gateway's journal in one process: whether there is one, and what reads and feeds it."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from sidecar import telemetry
from sidecar.app.workers import Workers
from sidecar.outbound.journal import FileJournal
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.keys import Keyspace
from sidecar.outbound.redis.shard_marks import RedisShardMarks
from sidecar.services.journal_replay import JournalReplay
from sidecar.services.journal_watch import JournalWatch
from sidecar.services.ports import Balances, Quarantine
from sidecar.settings import JournalMode, Role, Settings


def journal_folder(settings: Settings, data_dir: Path) -> Path | None:
    """Where the journal is, or None without one."""
    if not settings.has(Role.GATEWAY) or settings.journal is JournalMode.OFF:
        return None
    if settings.journal_dir is not None:
        return settings.journal_dir
    wanted = settings.embedded or settings.journal is JournalMode.ON
    return data_dir / "journal" if wanted else None


class Journaling:
    """`journal` and `replay` are None where there is no journal."""

    def __init__(self) -> None:
        """Begin without one."""
        self.journal: FileJournal | None = None
        self.replay: JournalReplay | None = None
        self._watch: JournalWatch | None = None

    async def open(
        self, stack: AsyncExitStack, settings: Settings, data_dir: Path, keyspace: Keyspace
    ) -> None:
        """Open the journal, if there is to be one; the stack closes it. Raises ConfigError."""
        folder = journal_folder(settings, data_dir)
        if folder is None:
            if settings.has(Role.GATEWAY):
                telemetry.get_logger().info("journal_off", mode=settings.journal.value)
            return
        self.journal = await stack.enter_async_context(
            FileJournal(
                folder,
                shard_of=keyspace.shard_of,
                segment_bytes=settings.journal_segment_bytes,
                bytes_max=settings.journal_bytes_max,
                queue_max=settings.journal_queue_max,
            )
        )

    def connect(
        self,
        connection: RedisConnection,
        keyspace: Keyspace,
        balances: Balances,
        quarantine: Quarantine,
    ) -> None:
        """Make what asks the store about the journal's records."""
        if self.journal is None:
            return
        marks = RedisShardMarks(connection, keyspace)
        self._watch = JournalWatch(self.journal, marks)
        self.replay = JournalReplay(
            journal=self.journal, marks=marks, balances=balances, quarantine=quarantine
        )

    @property
    def behind(self) -> frozenset[int]:
        """Shards that have lost captures of this journal, until they were replayed."""
        return frozenset() if self._watch is None else self._watch.behind

    def start(self, workers: Workers, *, after: Callable[[], Awaitable[None]]) -> None:
        """Begin to forget what is settled, once the store is known to be ours."""
        if self._watch is not None:
            workers.start("journal_watch", self._watch.run, after=after)
