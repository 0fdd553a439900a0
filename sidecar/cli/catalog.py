"""`sidecar catalog`."""

import typer

from sidecar.cli import catalog_models

app = typer.Typer(help="Plans and prices, here and at providers.", no_args_is_help=True)
import_app = typer.Typer(help="Take prices over from elsewhere.", no_args_is_help=True)
app.add_typer(import_app, name="import")
import_app.command("models")(catalog_models.import_models)


@import_app.callback()
def _group() -> None:
    """Keep `models` a subcommand although it is the only one."""
