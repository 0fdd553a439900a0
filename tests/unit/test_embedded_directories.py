import os
import pwd
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from sidecar.domain.errors import ConfigError
from sidecar.outbound.embedded.directories import (
    Account,
    blocking_directory,
    default_data_dir,
    ensure_directory,
    fits_socket,
    is_readable,
    remove_short_directory,
    short_directory,
    unprivileged_account,
)
from sidecar.outbound.embedded.directory_lock import _is_alive
from sidecar.outbound.embedded.postgres_data import remove_stale_pid_file

STRANGER = Account(name="stranger", uid=54_321, gid=54_321)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")


def test_root_gets_a_data_directory_that_others_can_walk_to(monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("XDG_STATE_HOME", "/root/state")
    assert default_data_dir() == Path("/var/lib/sidecar")
    assert blocking_directory(default_data_dir(), STRANGER) is None


def test_an_ordinary_user_gets_a_data_directory_below_the_home(monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_data_dir() == Path("/home/ann/.local/state/sidecar")
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    assert default_data_dir() == Path("/home/ann/.local/state/sidecar")
    monkeypatch.setenv("XDG_STATE_HOME", "/srv/state")
    assert default_data_dir() == Path("/srv/state/sidecar")


def test_the_account_for_postgres_exists_and_is_not_root() -> None:
    account = unprivileged_account()
    assert pwd.getpwnam(account.name).pw_uid == account.uid > 0
    for name in ("root", "no-such-user"):
        with pytest.raises(ConfigError, match=name):
            unprivileged_account(name)


def test_the_outermost_closed_directory_is_named() -> None:
    # Not pytest's folder, which is closed itself.
    with tempfile.TemporaryDirectory() as name:
        base = Path(name).resolve()
        base.chmod(0o711)
        outer, inner = base / "outer", base / "outer" / "inner"
        inner.mkdir(parents=True)
        for directory in (outer, inner):
            directory.chmod(0o700)
        owner = Account(name="owner", uid=os.geteuid(), gid=os.getegid())
        member = Account(name="member", uid=STRANGER.uid, gid=inner.stat().st_gid)
        assert blocking_directory(inner / "file", owner) is None
        assert blocking_directory(inner / "file", STRANGER) == outer
        outer.chmod(0o711)
        assert blocking_directory(inner / "file", STRANGER) == inner
        inner.chmod(0o710)
        assert blocking_directory(inner / "file", STRANGER) == inner
        assert blocking_directory(inner / "file", member) is None


def test_a_file_is_readable_by_whom_its_mode_names() -> None:
    python = Path("/bin/sh")
    assert is_readable(python, STRANGER)
    assert not is_readable(Path("/etc/shadow"), STRANGER)


def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    ensure_directory(tmp_path, mode=0o700)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750
    ensure_directory(tmp_path / "a" / "b", mode=0o711)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o711
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="SIDECAR_DATA_DIR"):
        ensure_directory(tmp_path / "file", mode=0o700)


def test_a_socket_path_has_at_most_107_bytes(monkeypatch) -> None:
    monkeypatch.setattr("sidecar.outbound.embedded.directories.SOCKET_PATH_BYTES_MAX", 107)
    assert fits_socket(Path("/" + "d" * 95), "redis.sock")
    assert not fits_socket(Path("/" + "d" * 96), "redis.sock")
    assert not fits_socket(Path("/" + "\u00e4" * 48), "redis.sock")


def test_a_short_directory_goes_at_the_end_or_at_the_next_start(tmp_path: Path) -> None:
    with short_directory(tmp_path, account=None) as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        (path / "run").mkdir()
    assert not path.exists()
    assert list(tmp_path.iterdir()) == []
    path.mkdir()  # As after a kill.
    (tmp_path / "short-directory").write_text(f"{path}\n")
    remove_short_directory(tmp_path)
    assert not path.exists()
    (tmp_path / "precious").mkdir()
    (tmp_path / "short-directory").write_text(f"{tmp_path / 'precious'}\n")
    remove_short_directory(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]


@linux_only
def test_a_lock_file_whose_process_serves_nothing_is_removed(tmp_path: Path) -> None:
    pid_file = tmp_path / "postmaster.pid"
    zombie = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    for pid in (os.getpid(), zombie):  # An id that came again; one that nobody collects.
        pid_file.write_text(f"{pid}\n/somewhere\n")
        remove_stale_pid_file(pid_file, tmp_path)
        assert not pid_file.exists()
    os.waitpid(zombie, 0)


@linux_only
def test_a_process_that_nobody_collects_does_not_count_as_alive() -> None:
    assert _is_alive(os.getpid())
    zombie = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    assert not _is_alive(zombie)
    os.waitpid(zombie, 0)
    assert not _is_alive(zombie)
