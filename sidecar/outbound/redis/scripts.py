"""
The Lua scripts, each with what it shares at its head and the SHA-1 it is called by.

Around every script stands the same guard: a shard without an epoch has lost its data (or was
never opened), so the script says so and does nothing. In a cluster the same goes for a shard that
finds itself on another node than the one it was noted to live on: a replica that took over, which
may lack the last writes, or a slot that has moved (`ShardHomes` tells them apart). Every other
answer comes with the shard's epoch and the number of its last write, by which `ShardWatch` sees a
store that went back. What the caller knew of both comes as the last two arguments:
on a shard that is behind it nothing is decided.
"""

import hashlib
from dataclasses import dataclass, replace
from importlib import resources

_HEAD = b"local life\nlocal function decide()\n"
_GUARDED = b"""
end
local shard = KEYS[%d]
local known_seq, known_epoch = tonumber(table.remove(ARGV)), tonumber(table.remove(ARGV))
life = redis.call('HMGET', shard, 'epoch', 'seq', 'home', 'clock')
if not life[1] then return { '0', '0', '0' } end
if life[3] and life[3] ~= redis.call('CLUSTER', 'MYID') then return { '0', '1', '1' } end
local found = life[2] or '0'
local epoch, seq = tonumber(life[1]), tonumber(found)
if epoch < known_epoch or (epoch == known_epoch and seq < known_seq) then
  return { life[1], found, found }
end
local answer = decide()
-- `commit` has raised it.
return { life[1], found, life[2] or '0', answer }
"""
# While a shard is being rebuilt it has no epoch. What fills it names the epoch that it fills it
# for, so that a writer that was given up and replaced writes nothing more.
_BUILDING = b"""
end
local shard = KEYS[%d]
if redis.call('HGET', shard, 'building') ~= ARGV[1] then return 'superseded' end
return decide()
"""


@dataclass(frozen=True, slots=True)
class Script:
    """
    One verb on one shard; KEYS, ARGV and reply are listed at the head of its file.

    `shard_key` is where in KEYS the shard's hash stands. `guarded` scripts answer with the
    shard's epoch, and its seq as they found and as they left it, before what their file says.
    `frequent` ones are what checks and usage wait for, and what the sweep asks each shard all the
    time: they share a connection, so they are short.
    """

    name: str
    source: bytes
    sha: str
    shard_key: int = 1
    guarded: bool = True
    frequent: bool = False


def _load(
    name: str, *shared: str, shard_key: int = 1, guarded: bool = True, frequent: bool = False
) -> Script:
    body = _read("prelude", *shared, name)
    tail = _GUARDED if guarded else _BUILDING
    script = _script(name, _HEAD + body + tail % (shard_key + 1), shard_key, guarded=guarded)
    return replace(script, frequent=frequent)


def _read(*parts: str) -> bytes:
    folder = resources.files(__package__) / "lua"
    return b"\n".join((folder / f"{part}.lua").read_bytes() for part in parts)


def _script(name: str, source: bytes, shard_key: int, *, guarded: bool) -> Script:
    # SHA-1 is what EVALSHA names a script by; nothing is secured with it.
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()
    return Script(name=name, source=source, sha=sha, shard_key=shard_key, guarded=guarded)


# Each execution makes every function of its script anew: what a frequent one does not call is not
# in it.
_ENDING = ("endings", "counters", "recounting", "book", "burning")

_DEMANDING = ("counters", "takes", "book", "setting_aside", "demanding")

PLACE = _load("place", *_DEMANDING, frequent=True)
ALLOT = _load("allot", *_DEMANDING, "blocks", frequent=True)
REGISTER = _load("register", *_ENDING, "blocks", frequent=True)
RELEASE = _load("release", *_ENDING, "blocks")
EXTEND = _load("extend")
RESTORE = _load("restore", "endings", "counters", "recounting", "book", "setting_aside", "claims")
READ = _load("read", "endings")
RESERVE = _load("reserve", "endings", "claims", frequent=True)
CAPTURE = _load("capture", *_ENDING, "setting_aside", "claims", frequent=True)
CLAIM = _load("claim", "endings", "claims")
ASIDE = _load("aside", shard_key=0)
DUE = _load("due", shard_key=0, frequent=True)
ORPHAN = _load("orphan", *_ENDING, "blocks")
STALE = _load("stale", shard_key=0, frequent=True)
PRUNE = _load("prune", "counters", "book")
CUSTOMER = _load("customer", "counters", "book")
CREDENTIAL = _load("credential")
STANDING = _load("standing")
GRANT = _load("grant", "counters", "book")
WITHDRAW = _load("withdraw", "counters", "book")
AUDIT = _load("audit", "counters", "book")
MEND = _load("mend", "counters", "book")
MARKERS = _load("markers", "endings", "claims", shard_key=0, guarded=False)
OPEN = _load("open", shard_key=0, guarded=False)
CLOSE = _script("close", _read("close"), 0, guarded=False)
# Sent whole: many at a time, and rarely.
LOOK = _script("look", _read("look"), 0, guarded=False)
HOME = _script("home", _read("home"), 0, guarded=False)
SETTLED = _load("settled", shard_key=0)

ALL = (
    PLACE,
    ALLOT,
    REGISTER,
    RELEASE,
    EXTEND,
    RESTORE,
    READ,
    RESERVE,
    CAPTURE,
    CLAIM,
    ASIDE,
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
    MARKERS,
    OPEN,
    CLOSE,
    SETTLED,
)
