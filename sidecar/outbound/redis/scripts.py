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


PLACE = _load("place", "counters", "takes", "book", "burning")
RELEASE = _load("release", "counters", "book", "burning")
EXTEND = _load("extend")
READ = _load("read")
RESERVE = _load("reserve")
CAPTURE = _load("capture", "counters", "book", "burning")
DUE = _load("due")
ORPHAN = _load("orphan", "counters", "book", "burning")
STALE = _load("stale")
PRUNE = _load("prune", "counters", "book")
CUSTOMER = _load("customer", "counters", "book")
CREDENTIAL = _load("credential")
STANDING = _load("standing")
GRANT = _load("grant", "counters", "book")
WITHDRAW = _load("withdraw", "counters", "book")
AUDIT = _load("audit", "counters", "book")
MEND = _load("mend", "counters", "book")
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
    WITHDRAW,
    AUDIT,
    MEND,
    SETTLED,
)
