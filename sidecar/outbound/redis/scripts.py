"""The Lua scripts, each with the shared prelude at its head and the SHA-1 it is called by."""

import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Script:
    """One verb on one shard; KEYS, ARGV and reply are listed at the head of its file."""

    name: str
    source: bytes
    sha: str


def _load(name: str) -> Script:
    folder = resources.files(__package__) / "lua"
    source = b"\n".join((folder / f"{part}.lua").read_bytes() for part in ("prelude", name))
    # SHA-1 is what EVALSHA names a script by; nothing is secured with it.
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()
    return Script(name=name, source=source, sha=sha)


PLACE = _load("place")
RELEASE = _load("release")
EXTEND = _load("extend")
READ = _load("read")
RESERVE = _load("reserve")
CAPTURE = _load("capture")
DUE = _load("due")
ORPHAN = _load("orphan")
CUSTOMER = _load("customer")
CREDENTIAL = _load("credential")
STANDING = _load("standing")
GRANT = _load("grant")

ALL = (
    PLACE,
    RELEASE,
    EXTEND,
    READ,
    RESERVE,
    CAPTURE,
    DUE,
    ORPHAN,
    CUSTOMER,
    CREDENTIAL,
    STANDING,
    GRANT,
)
