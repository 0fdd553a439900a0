"""The process's secrets: read from files, or made where the stores are our own."""

from dataclasses import dataclass
from pathlib import Path

from sidecar.domain.errors import ConfigError
from sidecar.outbound.embedded import (
    read_key_file,
    read_or_create_key_file,
    read_or_create_secret,
)
from sidecar.outbound.keyed_hashes import KeyRing
from sidecar.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Where the process's secrets are; in embedded mode they are made in the data directory."""

    ring: KeyRing
    gateway_token_file: Path | None
    admin_token_file: Path | None


def load_secrets(settings: Settings, data_dir: Path) -> Secrets:
    """Read the secrets, or make them where the stores are our own. Raises ConfigError."""
    gateway_file, admin_file = settings.gateway_token_file, settings.admin_token_file
    if settings.embedded:
        _make_data_dir(data_dir)
        if gateway_file is None:
            gateway_file = data_dir / "gateway-token"
            read_or_create_secret(gateway_file)
        if admin_file is None:
            admin_file = data_dir / "admin-token"
            read_or_create_secret(admin_file)
    if settings.secret_keys_file is not None:
        keys = read_key_file(settings.secret_keys_file)
    elif settings.embedded:
        keys = read_or_create_key_file(data_dir / "secret-keys")
    else:
        raise ConfigError("SIDECAR_SECRET_KEYS_FILE is needed with external stores")
    return Secrets(ring=KeyRing(keys), gateway_token_file=gateway_file, admin_token_file=admin_file)


def read_secret(path: Path) -> str:
    """
    A secret file's first word; lines that begin with # do not count.

    So it reads token files too, whose options follow the token. Raises ConfigError without
    showing any of it.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path}: cannot be read") from None
    words = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if not words:
        raise ConfigError(f"{path}: holds no secret")
    return words[0]


def _make_data_dir(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the data directory {path} cannot be made: {error.strerror}; "
            "set SIDECAR_DATA_DIR to one that this user may write to"
        ) from error
