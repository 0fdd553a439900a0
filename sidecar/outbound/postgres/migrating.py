"""
Migrations: alembic revisions whose content is plain SQL, forward only.

Alembic orders the revisions and writes them as one script (its offline mode); asyncpg runs the
script. So migrations need no second driver, and read the DSN exactly as the pool does.
"""

from io import StringIO
from pathlib import Path
from typing import Final

import asyncpg
from alembic import command, op
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from sidecar.domain.errors import ConfigError
from sidecar.outbound.postgres.pool import Connection, translate_errors

_DIRECTORY: Final = Path(__file__).parent / "migrations"
# Any constant will do, as long as every version of ours asks for the same one.
_LOCK: Final = 5_163_002_710
_CONNECT_SECONDS_MAX: Final = 10.0


async def migrate(dsn: str) -> list[str]:
    """
    Bring the schema to the newest revision, in one transaction: all of it or nothing.

    Safe to call from several processes at once; the others wait and find nothing to do.

    Returns:
        The revisions that were applied, oldest first; empty if the schema was up to date.

    Raises:
        StoreUnavailable: Postgres did not answer; nothing was applied.
        ConfigError: The DSN cannot be used, the role may not change the schema, or the schema
            is newer than this version.
    """
    with translate_errors():
        connection = await asyncpg.connect(dsn, timeout=_CONNECT_SECONDS_MAX)
        try:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
                current = await _current_revision(connection)
                revisions = _revisions_after(current)
                if revisions:
                    await connection.execute(_script(current))
            return revisions
        finally:
            await connection.close()


async def schema_status(dsn: str) -> tuple[str | None, str]:
    """
    Tell the schema's revision (None if there is none) and the newest one.

    Raises:
        StoreUnavailable: Postgres did not answer.
        ConfigError: The DSN cannot be used.
    """
    with translate_errors():
        connection = await asyncpg.connect(dsn, timeout=_CONNECT_SECONDS_MAX)
        try:
            current = await _current_revision(connection)
        finally:
            await connection.close()
    head = _revisions().get_current_head()
    assert head is not None
    return current, head


def run_sql_file(path: Path) -> None:
    """Put a file into the script as it stands; called by the revisions."""
    # Not op.execute, which takes `:name` for a parameter and doubles percent signs.
    op.get_context().impl.static_output(path.read_text(encoding="utf-8"))


async def _current_revision(connection: Connection) -> str | None:
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None
    revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
    return revision


def _revisions() -> ScriptDirectory:
    return ScriptDirectory(str(_DIRECTORY))


def _revisions_after(current: str | None) -> list[str]:
    try:
        newest_first = [
            script.revision for script in _revisions().iterate_revisions("head", current or "base")
        ]
    except CommandError as error:
        raise ConfigError(
            f"the schema's revision {current!r} is not known to this version; it is newer"
        ) from error
    return newest_first[::-1]


def _script(current: str | None) -> str:
    output = StringIO()
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(_DIRECTORY).replace("%", "%%"))
    command.upgrade(config, f"{current}:head" if current else "head", sql=True)
    return output.getvalue()
