"""A map of texts to bytes that takes a tenth of what a dictionary of objects does."""

import math
import secrets
from collections.abc import Callable
from hashlib import blake2b
from struct import Struct
from typing import Final

_DIGEST_BYTES: Final = 16
_HEAD: Final = Struct("<16sdBI")
"""A digest of the key, when the entry ends, whether it was used lately, the value's length."""
_BEHIND_DIGEST: Final = Struct("<dBI")
_USED: Final = 24
_PAGE_ENTRIES: Final = 12
"""How many a page has on average before one more page is made."""
_PAGES_LOOKED_AT: Final = 4
"""By one eviction at most, so that no check waits for a walk through all of them."""
# Of this process, so that nobody can choose keys that meet on one page.
_SALT: Final = secrets.token_bytes(blake2b.SALT_SIZE)


class CompactMap:
    """
    Bytes by text, bounded, each for a while; most of what is forgotten early was not used lately.

    A key is kept as 128 bits of its hash: two keys of the same hash, which nobody will meet,
    would be one. Entries lie behind one another in pages, each a bytearray; a key's hash names
    its page (linear hashing, so that pages are added one by one, and no check waits for all to
    be moved). Too many are bounded as by a clock: page by page the first entry goes that was not
    asked for since the hand last came by.
    """

    def __init__(self, entries_max: int, seconds: float, monotonic: Callable[[], float]) -> None:
        """
        Begin empty.

        Args:
            entries_max: Most entries.
            seconds: How long each is kept.
            monotonic: Seconds of a clock that never runs backwards.
        """
        self._entries_max = entries_max
        self._seconds = seconds
        self._monotonic = monotonic
        self.clear()

    def get(self, key: str) -> bytes | None:
        """The value, unless it was dropped, is too old or had to go."""
        digest = _digest(key)
        # As `_page_of`, whose call would be a tenth of this.
        number = hash(digest)
        at = number & self._mask
        page = self._pages[at if at >= self._unsplit else number & (2 * self._mask + 1)]
        at = page.find(digest)
        if at < 0:
            return None
        ends, used, length = _BEHIND_DIGEST.unpack_from(page, at + _DIGEST_BYTES)
        first = at + _HEAD.size
        if ends <= self._monotonic():
            del page[at : first + length]
            self._count -= 1
            return None
        if not used:
            page[at + _USED] = 1
        return bytes(page[first : first + length])

    def put(self, key: str, value: bytes, seconds_max: float = math.inf) -> None:
        """Keep a value for as long as any, or for `seconds_max` if that is shorter."""
        digest = _digest(key)
        self._drop(digest)
        ends = self._monotonic() + min(self._seconds, seconds_max)
        page = self._pages[self._page_of(digest)]
        page += _HEAD.pack(digest, ends, 0, len(value)) + value
        self._count += 1
        if self._count > self._entries_max:
            self._evict(digest)
        elif self._count > _PAGE_ENTRIES * len(self._pages):
            self._split()

    def drop(self, key: str) -> None:
        """Forget one."""
        self._drop(_digest(key))

    def clear(self) -> None:
        """Forget all."""
        self._pages = [bytearray()]
        self._count = 0
        # Pages from here on up to the mask are still to be split in two.
        self._unsplit = self._mask = self._hand = 0

    def __len__(self) -> int:
        return self._count

    def _page_of(self, digest: bytes) -> int:
        number = hash(digest)
        at = number & self._mask
        return at if at >= self._unsplit else number & (2 * self._mask + 1)

    def _drop(self, digest: bytes) -> None:
        page = self._pages[self._page_of(digest)]
        at = page.find(digest)
        if at >= 0:
            del page[at : _end_of(page, at)]
            self._count -= 1

    def _split(self) -> None:
        """Make one more page, and move what belongs there from the one that is next in turn."""
        before, number = self._pages[self._unsplit], self._unsplit
        self._pages.append(bytearray())
        self._unsplit += 1
        if self._unsplit > self._mask:
            self._mask, self._unsplit = 2 * self._mask + 1, 0
        parts: dict[int, bytearray] = {number: bytearray(), len(self._pages) - 1: bytearray()}
        at = 0
        while at < len(before):
            end = _end_of(before, at)
            parts[self._page_of(bytes(before[at : at + _DIGEST_BYTES]))] += before[at:end]
            at = end
        for number, part in parts.items():
            # A copy has no room to grow into, and most will not for long.
            self._pages[number] = bytearray(bytes(part))

    def _evict(self, newest: bytes) -> None:
        """Forget one that was not used since the last time; not the newest."""
        looked_at = 0
        while True:
            page = self._pages[self._hand]
            self._hand = (self._hand + 1) % len(self._pages)
            looked_at += 1
            victim = _first_unused(page, newest)
            if victim < 0 and looked_at >= _PAGES_LOOKED_AT:
                victim = _first_but(page, newest)
            if victim >= 0:
                del page[victim : _end_of(page, victim)]
                self._count -= 1
                return


def _digest(key: str) -> bytes:
    text = key.encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=_DIGEST_BYTES, salt=_SALT).digest()


def _end_of(page: bytearray, at: int) -> int:
    _, _, length = _BEHIND_DIGEST.unpack_from(page, at + _DIGEST_BYTES)
    return at + _HEAD.size + int(length)


def _first_unused(page: bytearray, newest: bytes) -> int:
    """Where the first one begins that was not used, or -1; those before it count as not used."""
    at = 0
    while at < len(page):
        if page[at + _USED]:
            page[at + _USED] = 0
        elif not page.startswith(newest, at):
            return at
        at = _end_of(page, at)
    return -1


def _first_but(page: bytearray, newest: bytes) -> int:
    at = _end_of(page, 0) if page.startswith(newest) else 0
    return at if at < len(page) else -1
