"""`sidecar rebuild`."""

from typing import Annotated

import typer

from sidecar.cli.common import ConfigFile, run, settings_from

Shards = Annotated[
    list[int] | None, typer.Option("--shard", help="A shard; may be repeated. All if left out.")
]
Force = Annotated[bool, typer.Option("--force", help="Also shards that have lost nothing.")]


def rebuild(config: ConfigFile = None, shard: Shards = None, force: Force = False) -> None:
    """Make shards of a Redis that lost its data anew from the ledger, then end."""
    from sidecar.app import rebuild_shards

    settings = settings_from(config, roles="settlement")
    made = run(rebuild_shards(settings, shard or (), force=force))
    print(f"rebuilt {made} shards")
