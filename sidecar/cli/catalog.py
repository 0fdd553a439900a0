"""
`sidecar catalog plan` and `sidecar catalog apply`.

`plan` exits 0 without changes, 2 with changes, 1 where it could not tell or the policy wants
what the provider cannot have.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from sidecar.cli import catalog_import, catalog_models
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
from sidecar.domain.errors import SidecarError
from sidecar.services.cataloguing import Applied, Ending
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
    except SidecarError as error:
        # A configuration error ends other commands with 2, which says "changes" here.
        print(f"sidecar: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_ERROR) from None
    notes = (wanted if scope is None else wanted.only(scope)).notes
    if as_json:
        print(json.dumps(diff_json(diff, notes, version), indent=2))
    else:
        print(f"{account}; policy {version}")
        for line in diff_lines(diff, notes):
            print(line)
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
    as_json: AsJson = False,
) -> None:
    """Make Stripe's products, prices and meters what the policy says; safe to repeat."""
    settings = settings_from(config, roles="settlement")
    account, version, wanted, scope = _wanted(settings, policy, plans)
    if not yes and not _agreed(settings, account, wanted, scope):
        raise typer.Exit(EXIT_ERROR)

    def tell(change: Change) -> None:
        if not as_json:
            print(f"done: {change_line(change)}", flush=True)

    applied = run(_apply(settings, wanted, scope, replace_meters, tell))
    if as_json:
        print(json.dumps(_applied_json(applied, version), indent=2))
    else:
        _tell_end(applied)
    if applied.ending is Ending.UNAVAILABLE:
        raise typer.Exit(EXIT_UNAVAILABLE)
    if applied.ending is not Ending.DONE:
        raise typer.Exit(EXIT_ERROR)


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


def _agreed(
    settings: Settings, account: str, wanted: WantedCatalog, scope: frozenset[str] | None
) -> bool:
    """Show the changes on standard error and ask; nothing to change needs no answer."""
    diff = run(_diff(settings, wanted, scope))
    for line in diff_lines(diff, ()):
        print(line, file=sys.stderr)
    if diff.problems:
        return False
    return not diff.changes or typer.confirm(f"apply to {account}?", err=True)


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
