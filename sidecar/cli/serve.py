"""`sidecar serve`."""

from typing import Annotated

import typer

from sidecar.cli.common import ConfigFile, run, settings_from


def serve(
    config: ConfigFile = None,
    roles: Annotated[
        str | None, typer.Option(help="gateway, settlement, admin: any, with commas between.")
    ] = None,
) -> None:
    """Run the chosen roles until a signal; embedded stores start and stop with it."""
    from sidecar.app import serve_until_signal

    run(serve_until_signal(settings_from(config, roles=roles)))
