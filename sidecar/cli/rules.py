"""`sidecar rules ...`: one module per group of commands."""

import typer

from sidecar.cli import rules_replay

app = typer.Typer(help="Try rules before they bite.", no_args_is_help=True)
rules_replay.add_commands(app)
