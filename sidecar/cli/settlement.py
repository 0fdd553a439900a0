"""`sidecar settle --once` and `sidecar report --once`."""

from typing import Annotated

import typer

from sidecar.cli.common import ConfigFile, run, settings_from
from sidecar.domain.errors import ConfigError

Once = Annotated[bool, typer.Option("--once", help="One round; `serve` runs them for good.")]


def settle(config: ConfigFile = None, once: Once = False) -> None:
    """Post what is on the streams to the ledger, then end."""
    from sidecar.app import settle_once

    _require_once(once)
    print(f"settled {run(settle_once(settings_from(config, roles='settlement')))} records")


def report(config: ConfigFile = None, once: Once = False) -> None:
    """Seal and send what is settled to the billing provider, then end."""
    from sidecar.app import report_once

    _require_once(once)
    print(f"reported {run(report_once(settings_from(config, roles='settlement')))} quantities")


def _require_once(once: bool) -> None:
    if not once:
        raise ConfigError("use --once here, or run `sidecar serve --roles settlement`")
