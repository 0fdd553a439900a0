"""
`sidecar catalog plan` and `sidecar catalog apply`.

`plan` exits 0 without changes, 2 with changes, 1 where it could not tell or the policy wants
what the provider cannot have.
"""

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from sidecar.cli import catalog_import, catalog_models
from sidecar.cli.catalog_moves import (
    move_json,
    move_line,
    move_lines,
    moved_json,
    moved_lines,
)
from sidecar.cli.catalog_text import (
    change_json,
    change_line,
    diff_json,
    diff_lines,
    problem_json,
)
from sidecar.cli.common import ConfigFile, run, settings_from
from sidecar.domain.catalog import WantedCatalog
from sidecar.domain.catalog_changes import CatalogDiff, Change
from sidecar.domain.catalog_moves import Move
from sidecar.domain.errors import ConfigError, ProviderRefused, SidecarError
from sidecar.services.cataloguing import Applied, Ending
from sidecar.services.moving_subscriptions import Moved
from sidecar.settings import Settings

EXIT_ERROR = 1
EXIT_CHANGES = 2
EXIT_UNAVAILABLE = 3

PolicyDir = Annotated[
    Path | None, typer.Option("--policy", help="The policy's folder; absent: the settings' one.")
]
Plans = Annotated[
    list[str] | None, typer.Option("--plan", help="Only this plan; may be given several times.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
ReplaceMeters = Annotated[
    bool,
    typer.Option(
        "--replace-meters",
        help="Archive meters that misfit, and with them what they have not invoiced.",
    ),
]

MoveSubscriptions = Annotated[
    bool,
    typer.Option(
        "--move-subscriptions",
        help="Then put subscriptions from prices that were replaced on the new ones, at once and "
        "without proration.",
    ),
]
WithinHours = Annotated[
    float | None,
    typer.Option(
        "--within-hours",
        min=0,
        help="Move only those whose running period began so many hours ago at most.",
    ),
]

app = typer.Typer(
    help="What plans cost, at the billing provider and in the policy.", no_args_is_help=True
)
app.add_typer(catalog_import.app, name="import")
catalog_import.app.command("models")(catalog_models.import_models)


@app.command("plan")
def plan(
    config: ConfigFile = None,
    policy: PolicyDir = None,
    plans: Plans = None,
    as_json: AsJson = False,
) -> None:
    """Show what would change at Stripe; exit 0 for nothing, 2 for changes, 1 for an error."""
    try:
        settings = settings_from(config, roles="settlement")
        account, version, wanted, scope = _wanted(settings, policy, plans)
        diff = run(_diff(settings, wanted, scope))
        moves, unread = run(_moves(settings, wanted, scope))
    except SidecarError as error:
        # A configuration error ends other commands with 2, which says "changes" here.
        print(f"sidecar: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_ERROR) from None
    notes = (wanted if scope is None else wanted.only(scope)).notes
    if as_json:
        shown = diff_json(diff, notes, version) | {"moves": [move_json(move) for move in moves]}
        print(json.dumps(shown, indent=2))
    else:
        print(f"{account}; policy {version}")
        for line in (*diff_lines(diff, notes), *move_lines(moves)):
            print(line)
    if unread:
        print(f"sidecar: subscriptions cannot be read: {unread}", file=sys.stderr)
    if diff.problems:
        raise typer.Exit(EXIT_ERROR)
    if diff.changes:
        raise typer.Exit(EXIT_CHANGES)


@app.command("apply")
def apply(
    config: ConfigFile = None,
    policy: PolicyDir = None,
    plans: Plans = None,
    yes: Yes = False,
    replace_meters: ReplaceMeters = False,
    move_subscriptions: MoveSubscriptions = False,
    within_hours: WithinHours = None,
    as_json: AsJson = False,
) -> None:
    """Make Stripe's products, prices and meters what the policy says; safe to repeat."""
    settings = settings_from(config, roles="settlement")
    account, version, wanted, scope = _wanted(settings, policy, plans)
    if not yes and not _agreed(settings, account, wanted, scope, moves=move_subscriptions):
        raise typer.Exit(EXIT_ERROR)
    within = None if within_hours is None else timedelta(hours=within_hours)

    def tell(change: Change) -> None:
        if not as_json:
            print(f"done: {change_line(change)}", flush=True)

    def tell_move(move: Move) -> None:
        if not as_json:
            print(f"done: {move_line(move)}", flush=True)

    applied = run(_apply(settings, wanted, scope, replace_meters, tell))
    moved = None
    if move_subscriptions and applied.ending is Ending.DONE:
        moved = run(_move(settings, wanted, scope, within, tell_move))
    if as_json:
        shown = _applied_json(applied, version)
        print(json.dumps(shown | ({"moved": moved_json(moved)} if moved else {}), indent=2))
    else:
        _tell_end(applied)
        for line in moved_lines(moved) if moved else ():
            print(line)
    raise typer.Exit(_exit_code(applied, moved))


def _exit_code(applied: Applied, moved: Moved | None) -> int:
    if applied.ending is Ending.UNAVAILABLE or (moved and moved.unavailable):
        return EXIT_UNAVAILABLE
    if applied.ending is not Ending.DONE or (moved and moved.refused):
        return EXIT_ERROR
    return 0


def _wanted(
    settings: Settings, directory: Path | None, plans: list[str] | None
) -> tuple[str, str, WantedCatalog, frozenset[str] | None]:
    """The account's name, the policy's version, its wish, and the plans to look at."""
    from sidecar.app.cataloguing import account_name, load_wanted

    scope = frozenset(plans) if plans else None
    policy, wanted = load_wanted(settings, directory, scope)
    return account_name(settings), policy.version, wanted, scope


async def _diff(
    settings: Settings, wanted: WantedCatalog, scope: frozenset[str] | None
) -> CatalogDiff:
    from sidecar.app.cataloguing import cataloguer_for

    async with cataloguer_for(settings) as cataloguer:
        return await cataloguer.plan(wanted, scope)


async def _apply(
    settings: Settings,
    wanted: WantedCatalog,
    scope: frozenset[str] | None,
    replace_meters: bool,
    tell: Callable[[Change], None],
) -> Applied:
    from sidecar.app.cataloguing import cataloguer_for

    async with cataloguer_for(settings) as cataloguer:
        return await cataloguer.apply(wanted, scope, replace_meters=replace_meters, told=tell)


async def _moves(
    settings: Settings, wanted: WantedCatalog, scope: frozenset[str] | None
) -> tuple[tuple[Move, ...], str]:
    """What would be moved, and why that cannot be told."""
    from sidecar.app.cataloguing import mover_for

    try:
        async with mover_for(settings) as mover:
            return await mover.plan(wanted if scope is None else wanted.only(scope)), ""
    except (ConfigError, ProviderRefused) as error:
        # A key for the catalog alone need not read subscriptions.
        return (), str(error)


async def _move(
    settings: Settings,
    wanted: WantedCatalog,
    scope: frozenset[str] | None,
    within: timedelta | None,
    tell: Callable[[Move], None],
) -> Moved:
    from sidecar.app.cataloguing import mover_for

    async with mover_for(settings) as mover:
        scoped = wanted if scope is None else wanted.only(scope)
        return await mover.move(scoped, within=within, told=tell)


def _agreed(
    settings: Settings,
    account: str,
    wanted: WantedCatalog,
    scope: frozenset[str] | None,
    *,
    moves: bool,
) -> bool:
    """Show the changes on standard error and ask; nothing to change needs no answer."""
    diff = run(_diff(settings, wanted, scope))
    found, unread = run(_moves(settings, wanted, scope)) if moves else ((), "")
    for line in (*diff_lines(diff, ()), *move_lines(found)):
        print(line, file=sys.stderr)
    if diff.problems or unread:
        print(unread, file=sys.stderr)
        return False
    return not (diff.changes or found) or typer.confirm(f"apply to {account}?", err=True)


def _tell_end(applied: Applied) -> None:
    for problem in applied.problems:
        print(f"! {problem}", file=sys.stderr)
    if applied.ending is Ending.DONE:
        print(f"{len(applied.done)} changes done; the catalog is what the policy says")
        return
    at = f" at {change_line(applied.stopped_at)}" if applied.stopped_at else ""
    print(
        f"stopped after {len(applied.done)} changes{at}: {applied.detail}; "
        "what was done stays, and a repeat goes on from there",
        file=sys.stderr,
    )


def _applied_json(applied: Applied, version: str) -> dict[str, object]:
    return {
        "policy_version": version,
        "ending": applied.ending.value,
        "done": [change_json(change) for change in applied.done],
        "problems": [problem_json(problem) for problem in applied.problems],
        "stopped_at": change_json(applied.stopped_at) if applied.stopped_at else None,
        "detail": applied.detail or None,
    }
