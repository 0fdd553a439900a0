"""`sidecar decisions export`."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.cli.common import ConfigFile, run, settings_from
from sidecar.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.services.decision_ports import DecisionTable
    from sidecar.services.replaying import Events
    from sidecar.settings import Settings

Since = Annotated[
    str, typer.Option(help="From when on: a span such as 30m, 12h or 2d, or an RFC 3339 instant.")
]
Until = Annotated[
    str, typer.Option(help="Up to, and without, this instant; a span counts back from now.")
]
Customer = Annotated[str, typer.Option(help="Of one customer only.")]
LogFile = Annotated[Path | None, typer.Option("--log", help="An export instead of the database.")]
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_STATEMENT_SECONDS_MAX = 600.0

app = typer.Typer(help="Recorded decisions.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `export` a subcommand although it is the only one."""


@app.command("export")
def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    config: ConfigFile = None,
    since: Since = "1d",
    until: Until = "",
    customer: Customer = "",
) -> None:
    """Write decisions and usage as JSON lines, for `rules replay --log` elsewhere."""
    from sidecar.outbound.decision_files import write_events

    settings = settings_from(config)
    begin, end = read_span(since, until)

    async def write() -> tuple[int, int]:
        async with open_events(settings, None, begin, end, customer) as events:
            return await write_events(output, events)

    decisions, usages = run(write())
    print(f"{output}: {decisions} decisions, {usages} usage events")


@asynccontextmanager
async def open_events(
    settings: "Settings", log: Path | None, since: datetime, until: datetime, customer: str
) -> "AsyncIterator[Events]":
    """Events of an export, or of the database that the settings name."""
    from sidecar.outbound.decision_files import read_events
    from sidecar.services.replaying import recorded_events

    if log is not None:
        yield _within(read_events(log), since, until, customer)
        return
    async with open_table(settings) as table:
        yield recorded_events(table, since=since, until=until, customer_id=customer)


@asynccontextmanager
async def open_table(settings: "Settings") -> "AsyncIterator[DecisionTable]":
    """The table of records. Raises ConfigError where the settings name no database."""
    from sidecar.app.running import with_running_stores
    from sidecar.outbound.postgres.decisions import PostgresDecisions
    from sidecar.outbound.postgres.pool import open_pool

    postgres_dsn = with_running_stores(settings).postgres_dsn
    if not postgres_dsn:
        raise ConfigError(
            "SIDECAR_POSTGRES_DSN is not set, and no `sidecar serve` runs an embedded Postgres in "
            "the data directory; or name an export with --log"
        )
    pool = await open_pool(
        postgres_dsn,
        size_max=2,
        command_timeout_seconds=_STATEMENT_SECONDS_MAX,
        application_name="sidecar-replay",
    )
    try:
        yield PostgresDecisions(pool)
    finally:
        await pool.close()


def read_span(since: str, until: str) -> tuple[datetime, datetime]:
    """
    The instants that two options name.

    Raises:
        ConfigError: One is neither a span nor an instant, or nothing lies between them.
    """
    from sidecar.app.parts import SystemClock

    now = SystemClock().now()
    begin = _instant(since, now, "--since")
    end = _instant(until, now, "--until") if until else now
    if begin >= end:
        raise ConfigError("nothing lies between --since and --until")
    return begin, end


def _instant(text: str, now: datetime, option: str) -> datetime:
    number, unit = text[:-1], text[-1:]
    if number.isdecimal() and unit in _UNITS and len(number) < 7:  # noqa: PLR2004  Of any unit.
        return now - timedelta(**{_UNITS[unit]: int(number)})
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise ConfigError(
            f"{option} {text[:40]!r} is neither a span (30m, 12h, 2d) nor an RFC 3339 instant"
        )
    return instant.astimezone(UTC)


async def _within(events: "Events", since: datetime, until: datetime, customer: str) -> "Events":
    """Those of an export that the options ask for."""
    from sidecar.domain.decision_records import DecisionRecord
    from sidecar.domain.periods import to_epoch_ms

    begin, end = to_epoch_ms(since), to_epoch_ms(until)
    async for event in events:
        at_ms = event.instant_ms if isinstance(event, DecisionRecord) else event.at_ms
        if begin <= at_ms < end and customer in ("", event.customer_id):
            yield event
