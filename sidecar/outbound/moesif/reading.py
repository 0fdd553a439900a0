"""Foreign JSON files: bounded, and with errors that say where and what."""

import json
import stat
from pathlib import Path
from typing import Any, NoReturn

from sidecar.domain.errors import ConfigError

FILE_BYTES_MAX = 50_000_000
DEPTH_MAX = 100


def read_json(path: Path) -> Any:
    """
    One file's JSON value.

    Raises:
        ConfigError: If it cannot be read, is too large or is not JSON: the file, what was
            found, what is allowed.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path}: found no regular file; allowed: a JSON file")
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: found more than {FILE_BYTES_MAX} bytes; allowed: at most that")
    return _parse(path, data)


def read_rules(path: Path) -> list[Any]:
    """
    The rules as an agent receives them.

    Raises:
        ConfigError: If it is no list.
    """
    value = read_json(path)
    if not isinstance(value, list):
        raise ConfigError(f"{path}: found {kind_of(value)}; allowed: a list of rules")
    return value


def read_config(path: Path) -> dict[str, Any]:
    """
    The configuration as an agent receives it.

    Raises:
        ConfigError: If it is no object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ConfigError(
            f"{path}: found {kind_of(value)}; allowed: an object with user_rules and company_rules"
        )
    return value


def kind_of(value: Any) -> str:
    """What a JSON value is, in a message's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "an object"


def truthy(value: Any) -> bool:
    """Whether JavaScript takes a JSON value as true: empty lists and objects are."""
    return isinstance(value, list | dict) or bool(value)


def _parse(path: Path, data: bytes) -> Any:
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
        # JSON can name half of a character, which no text file can hold.
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: found bytes that are not UTF-8; allowed: JSON") from error
    except UnicodeEncodeError as error:
        raise ConfigError(f"{path}: found half of a surrogate pair; allowed: Unicode") from error
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}:{error.lineno}:{error.colno}: found {error.msg.lower()}; allowed: JSON"
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{path}: found values nested too deep; allowed: JSON") from error
    except ValueError as error:
        raise ConfigError(f"{path}: found {error}; allowed: JSON") from error
    if _is_deeper(value, DEPTH_MAX):
        raise ConfigError(f"{path}: found values nested deeper than {DEPTH_MAX}; allowed: less")
    return value


def _is_deeper(value: Any, depth_max: int) -> bool:
    level = [value]
    for _ in range(depth_max + 1):
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no JSON")
