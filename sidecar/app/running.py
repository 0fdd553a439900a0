"""Where a running process's embedded stores are, so that commands beside it can ask them."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidecar.outbound.embedded import default_data_dir
from sidecar.settings import Settings

_NAME = "stores.json"


@contextmanager
def told(data_dir: Path, *, redis_url: str, postgres_dsn: str) -> Iterator[None]:
    """
    Tell where they are for as long as they run; readable by the data directory's owner only.

    A killed process leaves the file, and whoever believes it gets no answer.
    """
    path = data_dir / _NAME
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode=0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"redis_url": redis_url, "postgres_dsn": postgres_dsn}, file)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def with_running_stores(settings: Settings) -> Settings:
    """The settings, with the stores of a process that runs in the data directory filled in."""
    try:
        text = ((settings.data_dir or default_data_dir()) / _NAME).read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError):
        return settings  # Nothing runs there that tells.
    stated = {"redis_url": settings.redis_url, "postgres_dsn": settings.postgres_dsn}
    return settings.model_copy(
        update={name: found.get(name, "") for name, value in stated.items() if not value}
    )
