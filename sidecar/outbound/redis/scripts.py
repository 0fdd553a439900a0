"""The Lua scripts, each with what it shares at its head and the SHA-1 it is called by."""

import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Script:
    """One verb on one shard; KEYS, ARGV and reply are listed at the head of its file."""

    name: str
    source: bytes
    sha: str


def _load(name: str, *shared: str) -> Script:
    folder = resources.files(__package__) / "lua"
    parts = ("prelude", *shared, name)
    source = b"\n".join((folder / f"{part}.lua").read_bytes() for part in parts)
    # SHA-1 is what EVALSHA names a script by; nothing is secured with it.
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()
    return Script(name=name, source=source, sha=sha)


PLACE = _load("place", "counters", "takes")
RELEASE = _load("release", "counters")
EXTEND = _load("extend")
READ = _load("read")
RESERVE = _load("reserve")
CAPTURE = _load("capture", "counters")
DUE = _load("due")
ORPHAN = _load("orphan", "counters")
STALE = _load("stale")
PRUNE = _load("prune", "counters")
CUSTOMER = _load("customer")
CREDENTIAL = _load("credential")
STANDING = _load("standing")
GRANT = _load("grant")
SETTLED = _load("settled")

ALL = (
    PLACE,
    RELEASE,
    EXTEND,
    READ,
    RESERVE,
    CAPTURE,
    DUE,
    ORPHAN,
    STALE,
    PRUNE,
    CUSTOMER,
    CREDENTIAL,
    STANDING,
    GRANT,
    SETTLED,
)
