"""What a running process tells of its embedded stores, and who believes it."""

import stat
from pathlib import Path

import pytest

from sidecar.app.running import told, with_running_stores
from sidecar.settings import Settings

STORES = {"redis_url": "unix:///run/redis.sock", "postgres_dsn": "postgresql:///sidecar"}


def settings(folder: Path, **changes: object) -> Settings:
    return Settings(data_dir=folder, **changes)


def test_a_command_finds_the_stores_of_the_process_beside_it(tmp_path: Path):
    with told(tmp_path, **STORES):
        found = with_running_stores(settings(tmp_path))
        mode = stat.S_IMODE((tmp_path / "stores.json").stat().st_mode)
    assert (found.redis_url, found.postgres_dsn) == tuple(STORES.values())
    assert mode == 0o600
    after = with_running_stores(settings(tmp_path))
    assert (after.redis_url, after.postgres_dsn) == ("", "")


def test_what_the_settings_name_is_not_replaced(tmp_path: Path):
    own = settings(tmp_path, redis_url="redis://mine:6379/0")
    with told(tmp_path, **STORES):
        found = with_running_stores(own)
    assert (found.redis_url, found.postgres_dsn) == (own.redis_url, STORES["postgres_dsn"])


@pytest.mark.parametrize("text", ["", "no json", "{"])
def test_what_cannot_be_read_tells_nothing(tmp_path: Path, text: str):
    (tmp_path / "stores.json").write_text(text)
    assert with_running_stores(settings(tmp_path)).postgres_dsn == ""


def test_the_file_is_gone_when_the_process_fails(tmp_path: Path):
    with pytest.raises(RuntimeError), told(tmp_path, **STORES):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
