"""`sidecar demo`."""

import sys
from typing import Annotated

import typer

from sidecar.cli.common import run


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End after the story; else a terminal may go on trying.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; logs go to standard error.")
    ] = False,
    upstream: Annotated[
        str, typer.Option(help="A real OpenAI-shaped upstream instead of the demo's own.")
    ] = "",
) -> None:
    """Show the whole path on real parts: Envoy, Redis, Postgres, and a Stripe stand-in."""
    from sidecar import telemetry
    from sidecar.demo.run import run_demo

    telemetry.setup_logging("warning")
    keep = sys.stdout.isatty() and not once and not as_json
    agreed = run(run_demo(as_json=as_json, keep=keep, upstream=upstream))
    if not agreed:
        raise typer.Exit(1)
