import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sidecar.domain.errors import ConfigError
from sidecar.outbound.embedded.secret_files import (
    KEYS_MAX,
    SECRET_FILE_BYTES_MAX,
    create_key_file,
    read_key_file,
    read_or_create_key_file,
    read_or_create_secret,
)

SECRET_TEXT = "correct-horse-battery-staple"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_new_secret_is_private_and_read_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "admin-token"
    secret = read_or_create_secret(path)
    assert len(secret) >= 43  # 256 bits in base64url
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_or_create_secret(path) == secret
    assert [entry.name for entry in tmp_path.iterdir()] == ["admin-token"]


def test_two_secrets_differ(tmp_path: Path) -> None:
    assert read_or_create_secret(tmp_path / "a") != read_or_create_secret(tmp_path / "b")


def test_callers_that_race_get_one_secret(tmp_path: Path) -> None:
    for attempt in range(30):
        path = tmp_path / f"secret-{attempt}"
        with ThreadPoolExecutor(8) as pool:
            secrets = set(pool.map(read_or_create_secret, [path] * 8))
        assert len(secrets) == 1


def test_a_given_secret_is_stripped_and_its_mode_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "token", f"  {SECRET_TEXT}\r\n")
    path.chmod(0o640)  # As Kubernetes mounts it.
    assert read_or_create_secret(path) == SECRET_TEXT
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b" \n", "is empty"),
        (f"{SECRET_TEXT}\nsecond line\n".encode(), "one line"),
        (SECRET_TEXT.encode() + b"\xff", "not UTF-8"),
        (b"x" * (SECRET_FILE_BYTES_MAX + 1), "larger than"),
    ],
)
def test_an_unusable_secret_is_refused_without_being_shown(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = write(tmp_path / "token", content)
    with pytest.raises(ConfigError, match=says) as caught:
        read_or_create_secret(path)
    assert str(path) in str(caught.value)
    assert SECRET_TEXT not in str(caught.value)
    assert caught.value.__cause__ is None
    assert path.read_bytes() == content


def test_a_secret_without_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "missing" / "token"))):
        read_or_create_secret(tmp_path / "missing" / "token")


def test_keys_come_in_the_order_of_their_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path / "keys",
        "# newest first\n\n 2026-11 : bbbbbbbbbbbbbbbb:with:colons \n"
        "k1:\u00e4\u00e4\u00e4\u00e4aaaaaaaa\n",
    )
    assert read_key_file(path) == [
        ("2026-11", b"bbbbbbbbbbbbbbbb:with:colons"),
        ("k1", "\u00e4\u00e4\u00e4\u00e4aaaaaaaa".encode()),
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"k1:{SECRET_TEXT}\n{SECRET_TEXT}\n", "line 2: expected `id:key`"),
        (f"bad id:{SECRET_TEXT}\n", "line 1: expected `id:key`"),
        (f":{SECRET_TEXT}\n", "line 1: expected `id:key`"),
        (f"{'i' * 33}:{SECRET_TEXT}\n", "line 1: expected `id:key`"),
        ("\n# one\nk1:correct-horse\n", "line 3: the key has 13 bytes"),
        (f"k1:{SECRET_TEXT * 50}\n", "line 1: the key has 1400 bytes"),
        (f"k1:{SECRET_TEXT}\nk1:other-{SECRET_TEXT}\n", "line 2: the id 'k1'"),
        ("# nothing\n", "holds no key"),
        ("".join(f"k{n}:{SECRET_TEXT}\n" for n in range(KEYS_MAX + 1)), "at most 64"),
    ],
)
def test_a_bad_key_file_is_refused_by_line_without_showing_a_key(
    tmp_path: Path, content: str, says: str
) -> None:
    path = write(tmp_path / "keys", content)
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        read_key_file(path)
    assert str(path) in str(caught.value)
    assert "correct-horse" not in str(caught.value)


def test_a_missing_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_key_file(tmp_path / "keys")


def test_a_created_key_file_is_private_readable_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    create_key_file(path)
    keys = read_key_file(path)
    assert [key_id for key_id, _ in keys] == ["k1"]
    assert len(keys[0][1]) == 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    create_key_file(path, "k2")
    assert read_or_create_key_file(path) == keys


def test_a_bad_key_id_is_refused_before_a_file_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'a:b'"):
        create_key_file(tmp_path / "keys", "a:b")
    assert not (tmp_path / "keys").exists()
