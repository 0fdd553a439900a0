"""`sidecar serve`, and `sidecar worker`, which a supervisor starts."""

import gc
import socket
import sys
from typing import Annotated

import typer

from sidecar.cli.common import ConfigFile, run, settings_from

Roles = Annotated[
    str | None, typer.Option(help="gateway, settlement, admin: any, with commas between.")
]

app = typer.Typer(
    name="sidecar",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command("serve")
def serve(
    config: ConfigFile = None,
    roles: Roles = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that serve the gateway role side by side.")
    ] = None,
) -> None:
    """Run the chosen roles until a signal; embedded stores start and stop with it."""
    gc.disable()  # Not among modules on their way in: it is a twentieth of the start.
    from sidecar.app import serve_until_signal, supervise

    gc.enable()
    settings = settings_from(config, roles=roles, workers=workers)
    if settings.workers == 1:
        run(serve_until_signal(settings))
        return
    command = [sys.executable, "-m", "sidecar", "worker", "--workers", str(settings.workers)]
    command += ["--config", str(config)] if config else []
    command += ["--roles", roles] if roles else []
    run(supervise(settings, command))


@app.command("worker")
def worker(
    number: Annotated[int, typer.Option(help="Of this worker, from 0.")],
    channel: Annotated[int, typer.Option(help="The descriptor of the line to the supervisor.")],
    workers: Annotated[int, typer.Option(help="How many there are.")],
    config: ConfigFile = None,
    roles: Roles = None,
) -> None:
    """Serve as one of several workers; only `serve --workers` starts it."""
    gc.disable()  # As above.
    from sidecar.app import serve_as_worker

    gc.enable()
    settings = settings_from(config, roles=roles, workers=workers)
    run(serve_as_worker(settings, number, socket.socket(fileno=channel)))
