"""Secrets that live in files: made once with mode 0600, never shown in an error."""

import os
import re
import secrets
from pathlib import Path
from typing import Final

from sidecar.domain.errors import ConfigError

SECRET_FILE_BYTES_MAX: Final = 65_536
KEY_BYTES_MIN: Final = 16
KEY_BYTES_MAX: Final = 1_024
KEYS_MAX: Final = 64
FIRST_KEY_ID: Final = "k1"
_KEY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,32}")


def read_or_create_secret(path: Path, nbytes: int = 32) -> str:
    """
    Return the secret in a file; make the file first if it is not there.

    Two processes that start at once get the same secret: the file appears with its whole
    content or not at all, and the loser of the race reads the winner's.

    Args:
        path: The file. Its folder must exist.
        nbytes: Random bytes of a new secret, which is stored as base64url text.

    Raises:
        ConfigError: The file cannot be read or written, is empty, or is not one line of text.
    """
    if not path.exists():
        _create_exclusive(path, secrets.token_urlsafe(nbytes) + "\n")
    secret = _read_text(path).strip()
    if not secret:
        raise ConfigError(
            f"The secret file {path} is empty. Write the secret into it; "
            "a file that Sidecar made itself may be removed and is then made anew."
        )
    if not secret.isprintable():
        raise ConfigError(f"The secret file {path} must hold one line of printable text.")
    return secret


def read_key_file(path: Path) -> list[tuple[str, bytes]]:
    """
    Return the (id, key) pairs of a key file in the order of its lines: newest first.

    A line is `id:key`. The key is the UTF-8 text after the first colon as it stands: base64url or
    hex is not decoded, so any random text of at least 16 bytes will do. Blank lines and lines
    that begin with `#` do not count.

    Raises:
        ConfigError: The file cannot be used. The message names the line, never the key.
    """
    keys: list[tuple[str, bytes]] = []
    seen: set[str] = set()
    for number, raw_line in enumerate(_read_text(path).splitlines(), start=1):
        line = raw_line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{path} line {number}"
        key_id, colon, text = line.partition(":")
        key_id, key = key_id.strip(), text.strip().encode()
        if not colon or _KEY_ID.fullmatch(key_id) is None:
            raise ConfigError(
                f"{where}: expected `id:key`, the id being 1 to 32 letters, digits or any of . _ -"
            )
        if not KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX:
            raise ConfigError(
                f"{where}: the key has {len(key)} bytes; allowed are "
                f"{KEY_BYTES_MIN} to {KEY_BYTES_MAX}."
            )
        if key_id in seen:
            raise ConfigError(f"{where}: the id {key_id!r} stands in the file twice.")
        seen.add(key_id)
        keys.append((key_id, key))
    if not keys:
        raise ConfigError(f"The key file {path} holds no key; expected lines of the form `id:key`.")
    if len(keys) > KEYS_MAX:
        raise ConfigError(f"The key file {path} holds {len(keys)} keys; at most {KEYS_MAX} may be.")
    return keys


def create_key_file(path: Path, key_id: str = FIRST_KEY_ID) -> None:
    """
    Write a key file with one new 256-bit key. A file that is already there stays as it is.

    Raises:
        ConfigError: The id is not allowed or the file cannot be written.
    """
    if _KEY_ID.fullmatch(key_id) is None:
        raise ConfigError(f"{key_id!r} cannot be a key id: 1 to 32 letters, digits or any of . _ -")
    if not path.exists():
        _create_exclusive(path, f"{key_id}:{secrets.token_urlsafe(32)}\n")


def read_or_create_key_file(path: Path) -> list[tuple[str, bytes]]:
    """Return the keys of a key file as `read_key_file` does; make the file first if need be."""
    create_key_file(path)
    return read_key_file(path)


def _create_exclusive(path: Path, text: str) -> None:
    """Make a file of mode 0600 that appears complete, and leave one that is already there."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            # A link, unlike a rename, never replaces what another process wrote meanwhile.
            os.link(draft, path)
        except FileExistsError:
            return
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise ConfigError(f"Cannot create the secret file {path}: {error.strerror}.") from error


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_text(path: Path) -> str:
    """Read a small text file, with errors that do not quote it."""
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"Cannot read the secret file {path}: {error.strerror}.") from error
    if len(content) > SECRET_FILE_BYTES_MAX:
        raise ConfigError(
            f"The secret file {path} is larger than {SECRET_FILE_BYTES_MAX} bytes; "
            "is it the right file?"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        # Without `from`: the decoder's message would show bytes of the secret.
        raise ConfigError(f"The secret file {path} is not UTF-8 text.") from None
