"""All commands; one module per noun."""

import typer

from sidecar import __version__
from sidecar.cli import (
    catalog,
    config,
    credentials,
    credits,  # noqa: A004  The command's noun; the shell's builtin is not used here.
    customers,
    decisions,
    envoy,
    holds,
    invoices,
    ledger,
    meters,
    notify,
    providers,
    reports,
    rules,
    webhooks,
)
from sidecar.cli.demo import demo
from sidecar.cli.doctor import doctor
from sidecar.cli.migrate import migrate
from sidecar.cli.rebuild import rebuild
from sidecar.cli.reconcile import reconcile
from sidecar.cli.serve import serve, worker
from sidecar.cli.settlement import report, settle
from sidecar.cli.trace import trace

app = typer.Typer(
    name="sidecar",
    help="A policy server beside Envoy or Kong that turns an API into a paid API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo)
app.command("serve")(serve)
app.command("worker")(worker)
app.command("migrate")(migrate)
app.command("doctor")(doctor)
app.command("settle")(settle)
app.command("report")(report)
app.command("rebuild")(rebuild)
app.command("reconcile")(reconcile)
app.command("trace")(trace)
app.add_typer(catalog.app, name="catalog")
app.add_typer(config.app, name="config")
app.add_typer(rules.app, name="rules")
app.add_typer(decisions.app, name="decisions")
app.add_typer(envoy.app, name="envoy")
app.add_typer(ledger.app, name="ledger")
app.add_typer(meters.app, name="meters")
app.add_typer(customers.app, name="customers")
app.add_typer(credentials.app, name="credentials")
app.add_typer(credits.app, name="credits")
app.add_typer(holds.app, name="holds")
app.add_typer(notify.app, name="notify")
app.add_typer(reports.app, name="reports")
app.add_typer(invoices.app, name="invoices")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(providers.app, name="providers")
app.add_typer(providers.collections, name="collections")


@app.command("version")
def version() -> None:
    """Print the version."""
    print(__version__)
