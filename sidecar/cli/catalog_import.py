"""`sidecar catalog import`: plans of other catalogs, as policy files."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sidecar.cli.catalog_text import printable
from sidecar.cli.common import ConfigFile, run, settings_from
from sidecar.domain.catalog import FoundCatalog
from sidecar.domain.catalog_import import ImportedCatalog, import_catalog
from sidecar.settings import Settings

CatalogFile = Annotated[
    Path, typer.Argument(help="Plans with their prices, as Moesif's catalog API gives them.")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="The folder to write into.")]

app = typer.Typer(help="Plans of other catalogs, as policy files.", no_args_is_help=True)


@app.command("stripe")
def import_stripe(output: Output, config: ConfigFile = None) -> None:
    """Turn the products, prices and meters of the Stripe account into plans."""
    found = run(_found(settings_from(config, roles="settlement")))
    _write(import_catalog(found), "Stripe", output)


@app.command("moesif")
def import_moesif(catalog: CatalogFile, output: Output) -> None:
    """Turn plans and prices of Moesif's catalog into plans."""
    from sidecar.outbound.moesif.catalog import read_catalog

    _write(import_catalog(read_catalog(catalog), hints=False), f"Moesif ({catalog.name})", output)


async def _found(settings: Settings) -> FoundCatalog:
    from sidecar.app.cataloguing import stripe_catalog

    async with stripe_catalog(settings) as catalog:
        return await catalog.read()


def _write(imported: ImportedCatalog, origin: str, output: Path) -> None:
    """Write the files, tell what they do not say, and see that they load."""
    from sidecar.outbound.catalog_files import PLANS_FILE, write_catalog
    from sidecar.outbound.policy_files.loader import load_policy

    write_catalog(imported, origin, output)
    for finding in imported.findings:
        kind = "NOT IMPORTED" if finding.lost else "assumed"
        print(printable(f"{kind}: {finding}"), file=sys.stderr)
    loaded = load_policy(output)
    print(
        f"{output / PLANS_FILE}: {len(loaded.policy.cards)} plans in the folder, "
        f"{len(imported.plans)} imported, {len(imported.lost)} objects not"
    )
    if imported.lost:
        raise typer.Exit(1)
