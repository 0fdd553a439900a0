"""What several commands share: reading settings, running on the fast loop."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from sidecar import telemetry
from sidecar.settings import Settings, load_settings

T = TypeVar("T")

ConfigFile = Annotated[
    Path | None,
    typer.Option("-c", "--config", help="A sidecar.yaml; the environment wins over it."),
]


def settings_from(path: Path | None, **overrides: Any) -> Settings:
    """
    Settings of the command line, the environment and the file; logs go to standard error.

    Raises:
        ConfigError: With each problem.
    """
    settings = load_settings(path, overrides=overrides)
    telemetry.setup_logging(settings.log_level)
    return settings


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end, on uvloop where it exists (it does not on Windows)."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)
