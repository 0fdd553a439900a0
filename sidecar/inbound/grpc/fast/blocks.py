"""
Header blocks: cut into fields that are looked up by their bytes, or read by the hpack library.

Source: RFC 7541, sections 4.2, 4.3 (table size), 5 (integers, strings), 6 (representations).

A block without a dynamic index, an insertion into the table or a new size of it other than 0
means the same whatever came before, so that its fields may be remembered. Whole blocks are
never remembered. Every other block goes to the library, as a whole and once.
"""

from typing import Final

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.huffman_table import decode_huffman

from sidecar.inbound.grpc.fast.fields import OPAQUE, STATIC, Field
from sidecar.inbound.grpc.fast.frames import Code, ConnectionFault
from sidecar.inbound.grpc.fast.limits import Limits

_STATIC_MAX: Final = len(STATIC) - 1
_TABLE_DEFAULT: Final = 4_096
_STRING_BYTES_MAX: Final = 0x7F + 0x3FFF
"""Longer strings, whose length takes more than three octets, are left to the library."""


class FieldCache:
    """Fields by the bytes they came in; forgets the older half when full."""

    def __init__(self, limits: Limits) -> None:
        self._half = max(1, limits.cached_fields_max // 2)
        self._bytes_max = limits.cached_field_bytes_max
        self._new: dict[bytes, Field] = {}
        self._old: dict[bytes, Field] = {}

    def find(self, raw: bytes, name_end: int) -> Field:
        """
        The field in a literal representation.

        Args:
            raw: The whole of it; its integers and strings are known to fit.
            name_end: Where the value's length begins.

        Raises:
            HPACKError: If a string is not Huffman-coded as it should be.
        """
        field = self._new.get(raw)
        if field is None:
            field = self._old.get(raw) or _read_literal(raw, name_end)
            if len(raw) <= self._bytes_max and field.name not in OPAQUE:
                if len(self._new) >= self._half:
                    self._old, self._new = self._new, {}
                self._new[raw] = field
        return field

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._new) + len(self._old)


class BlockReader:
    """The header blocks of one connection, in their order."""

    def __init__(self, cache: FieldCache, limits: Limits) -> None:
        self._cache = cache
        self._table_max = _TABLE_DEFAULT
        self._table = _TABLE_DEFAULT
        self._list_bytes_max = limits.header_list_bytes_max
        self._library: Decoder | None = None
        self.read_by_library = 0

    def forbid_table(self) -> None:
        """
        The peer has acknowledged that there is no dynamic table.

        RFC 9113, section 4.3.1, would have us refuse a next block that does not begin by
        setting the size to 0. A peer that goes on with its table costs no more than 4 KiB, and
        common ones do, so the table ends when the peer says so.
        """
        self._table_max = 0

    def read(self, block: bytes) -> list[Field]:
        """
        The fields of a block.

        Raises:
            ConnectionFault: If it cannot be decoded; the table may then be out of step.
        """
        start, sizes = self._size_updates(block)
        try:
            if not any(sizes):
                fields = self._slice(block, start, insertions=bool(sizes) or self._table == 0)
                if fields is not None:
                    if sizes and self._table:
                        self._table = 0
                        if self._library is not None:
                            self._library.header_table_size = 0
                    return fields
            return self._ask_library(block, sizes)
        except OversizedHeaderListError as error:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "the header list is too large") from error
        except (HPACKError, IndexError, ValueError) as error:
            raise ConnectionFault(Code.COMPRESSION_ERROR, "a header block is broken") from error

    def _size_updates(self, block: bytes) -> tuple[int, list[int]]:
        """Where the fields begin, and the table's sizes that stand before them (section 6.3)."""
        at = 0
        sizes: list[int] = []
        while at < len(block) and block[at] & 0xE0 == 0x20:
            size = block[at] & 0x1F
            at += 1
            if size == 0x1F:
                more, at = _long(block, at)
                size += more
            if at > len(block) or size > self._table_max:
                raise ConnectionFault(Code.COMPRESSION_ERROR, "a table size that was not offered")
            sizes.append(size)
        return at, sizes

    def _slice(  # noqa: C901, PLR0912  One pass over the octets: a call for each would double it.
        self, block: bytes, at: int, *, insertions: bool
    ) -> list[Field] | None:
        """The fields, or None if the block needs the library. A table of size 0 takes nothing."""
        find = self._cache.find
        fields: list[Field] = []
        append = fields.append
        end = len(block)
        size = 0
        try:
            while at < end:
                first = block[at]
                start = at
                at += 1
                if first >= 0x80:  # Section 6.1.
                    index = first & 0x7F
                    if not 0 < index <= _STATIC_MAX:
                        return None
                    field = STATIC[index]
                else:
                    if first < 0x20:  # Sections 6.2.2 and 6.2.3.
                        index = first & 0x0F
                        if index == 0x0F:
                            index += block[at]
                            at += 1
                    elif first >= 0x40 and insertions:  # Section 6.2.1.
                        index = first & 0x3F
                    else:
                        return None
                    if index > _STATIC_MAX:
                        return None
                    if index == 0:
                        length = block[at] & 0x7F
                        at += 1
                        if length == 0x7F:
                            more, at = _long(block, at)
                            length += more
                        at += length
                    name_end = at - start
                    length = block[at] & 0x7F
                    at += 1
                    if length == 0x7F:
                        more, at = _long(block, at)
                        length += more
                    at += length
                    if at > end or length > _STRING_BYTES_MAX:
                        return None
                    field = find(block[start:at], name_end)
                append(field)
                size += field.size
                if size > self._list_bytes_max:
                    raise OversizedHeaderListError
        except IndexError:
            return None
        return fields

    def _ask_library(self, block: bytes, sizes: list[int]) -> list[Field]:
        if self._library is None:
            self._library = Decoder(self._list_bytes_max)
            self._library.header_table_size = self._table
        self.read_by_library += 1
        pairs = self._library.decode(block, raw=True)
        if sizes:
            self._table = sizes[-1]
        return [Field(bytes(pair[0]), bytes(pair[1])) for pair in pairs]


def _long(block: bytes, at: int) -> tuple[int, int]:
    """What follows a full prefix (section 5.1), and where it ends: out of reach if too long."""
    value = shift = 0
    for octet in block[at : at + 3]:
        value |= (octet & 0x7F) << shift
        shift += 7
        at += 1
        if octet < 0x80:
            return value, at
    return 0, len(block) + 1


def _read_literal(raw: bytes, name_end: int) -> Field:
    """A literal of known parts; its name is in the static table or in itself."""
    index = raw[0] & (0x3F if raw[0] >= 0x40 else 0x0F)
    at = 1
    if raw[0] < 0x40 and index == 0x0F:
        index += raw[1]
        at = 2
    name = STATIC[index].name.encode() if index else _string(raw[at:name_end])
    coded = raw[name_end:]
    if coded[0] & 0x80 and name.decode("latin-1") in OPAQUE:
        return Field(name, _octets(coded), huffman=True)
    return Field(name, _string(coded))


def _string(coded: bytes) -> bytes:
    """A string literal (section 5.2)."""
    octets = _octets(coded)
    return decode_huffman(octets) if coded[0] & 0x80 else octets


def _octets(coded: bytes) -> bytes:
    if coded[0] & 0x7F < 0x7F:
        return coded[1:]
    return coded[_long(coded, 1)[1] :]
