"""`sidecar rules`: what can be asked of rules, and made of them, before they bite."""

import typer

from sidecar.cli import rules_moesif, rules_replay

app = typer.Typer(help="Rules of a policy.", no_args_is_help=True)
importing = typer.Typer(help="Rules of other products.", no_args_is_help=True)
app.add_typer(importing, name="import")
importing.command("moesif")(rules_moesif.import_moesif)
app.command("conformance")(rules_moesif.conformance)
rules_replay.add_commands(app)


@importing.callback()
def _group() -> None:
    """Keep `moesif` a subcommand although it is the only one."""
