"""`sidecar rules`: what can be asked of rules, and made of them, before they bite."""

import typer

from sidecar.cli import rules_explain, rules_lint, rules_moesif, rules_replay, rules_tests

app = typer.Typer(
    help="Look into rules, test them, and try them before they bite.", no_args_is_help=True
)
app.command("lint")(rules_lint.lint)
app.command("test")(rules_tests.run_tests_of_rules)
app.command("explain")(rules_explain.explain)
rules_replay.add_commands(app)
importing = typer.Typer(help="Rules of other products.", no_args_is_help=True)
app.add_typer(importing, name="import")
importing.command("moesif")(rules_moesif.import_moesif)
app.command("conformance")(rules_moesif.conformance)


@importing.callback()
def _group() -> None:
    """Keep `moesif` a subcommand although it is the only one."""
