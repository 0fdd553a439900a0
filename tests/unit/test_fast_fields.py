"""Header blocks: sliced where that is safe, else read by the library, and always the same."""

import pytest
from fixtures.fast_checks import check_blocks
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from sidecar.inbound.grpc.fast.blocks import BlockReader, FieldCache
from sidecar.inbound.grpc.fast.fields import Kind, Metadata
from sidecar.inbound.grpc.fast.frames import Code, ConnectionFault
from sidecar.inbound.grpc.fast.limits import Limits


def reader(**limits):
    bounds = Limits(**limits)
    return BlockReader(FieldCache(bounds), bounds)


def pairs(fields):
    return [(field.name, field.value) for field in fields]


def refused(block, found=None):
    with pytest.raises(ConnectionFault) as caught:
        (found or reader()).read(block)
    return caught.value.code


def stateless():
    encoder = Encoder()
    encoder.header_table_size = 0
    return encoder


def test_a_stateless_block_is_sliced_and_its_fields_are_found_again():
    found, encoder = reader(), stateless()
    fields = [(":method", "POST"), (":path", "/a"), ("x-token", "s3cret"), ("empty", "")]
    first = found.read(encoder.encode(fields))
    again = found.read(encoder.encode(fields))
    assert pairs(first) == pairs(again) == fields
    assert all(a is b for a, b in zip(first, again, strict=True))
    assert found.read_by_library == 0


def test_a_block_with_a_table_goes_to_the_library_once_and_its_fields_are_not_mixed_up():
    """A cache of whole blocks would give the second caller the first one's header."""
    found, encoder = reader(), Encoder()
    for value in ("one", "two", "one", "three"):
        assert pairs(found.read(encoder.encode([("x-user", value)]))) == [("x-user", value)]
    found.forbid_table()
    encoder.header_table_size = 0
    assert pairs(found.read(encoder.encode([("x-user", "one")]))) == [("x-user", "one")]
    before = found.read_by_library
    assert pairs(found.read(encoder.encode([("x-user", "two")]))) == [("x-user", "two")]
    assert found.read_by_library == before
    # What was in the table is gone for the library too.
    assert refused(b"\xbe", found) is Code.COMPRESSION_ERROR


def test_an_update_to_nothing_and_back_empties_the_librarys_table():
    found, encoder = reader(), Encoder()
    found.read(encoder.encode([("x-user", "one")]))
    assert refused(b"\x20\x3f\xe1\x1f\xbe", found) is Code.COMPRESSION_ERROR


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # Index 0.
        b"\xff\xff\x01",  # Beyond both tables.
        b"\x82\x21",  # A size update after a field.
        b"\x3f\xe2\x1f",  # 4,097.
        b"\x3f\xff\xff\xff\xff\xff\xff\xff",  # An integer without end.
        b"\x00\x01a",  # No value.
        b"\x00\x05a\x01b",  # A name that is cut off.
        b"\x0f",
        b"\x00\x7f\xff\xff\xff\xff\xff",
        b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff",  # Padding of more than 7 bits.
        b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90",  # Padding of zeros.
        b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x50\x9f\xff\xff\xff\xfc",  # With EOS.
    ],
)
def test_a_broken_block_is_a_compression_error(block):
    assert refused(block) is Code.COMPRESSION_ERROR


def test_no_table_may_be_asked_for_when_none_is_offered():
    found = reader()
    found.forbid_table()
    assert found.read(b"\x20\x82")[0].value == "GET"
    assert refused(b"\x21\x82", found) is Code.COMPRESSION_ERROR


def test_insertions_into_a_table_of_size_0_need_no_library():
    found = reader()
    found.read(b"\x20")
    assert pairs(found.read(b"\x40\x01a\x01b")) == [("a", "b")]
    assert found.read_by_library == 0


def test_opaque_values_are_decoded_when_somebody_reads_them_and_never_remembered():
    cache = FieldCache(Limits())
    found = BlockReader(cache, Limits())
    block = stateless().encode([("traceparent", "00-abc-def-01")], huffman=True)
    (field,) = found.read(block)[-1:]
    assert field._huffman
    assert field.value == "00-abc-def-01"
    assert len(cache) == 0


def test_a_list_that_is_too_large_is_refused_in_both_ways():
    many = [("x", "y" * 50)] * 20
    assert refused(stateless().encode(many), reader(header_list_bytes_max=1_000)) == 0xB
    assert refused(Encoder().encode(many), reader(header_list_bytes_max=1_000)) == 0xB


def test_the_cache_is_bounded():
    cache = FieldCache(Limits(cached_fields_max=10, cached_field_bytes_max=50))
    found, encoder = BlockReader(cache, Limits()), stateless()
    for number in range(100):
        found.read(encoder.encode([("x", f"{number}")]))
        found.read(encoder.encode([("long", f"{number}" * 60)]))
    assert len(cache) <= 10


def test_metadata_is_what_a_handler_may_read():
    fields = [
        (":method", "POST"),
        ("te", "trailers"),
        ("content-type", "application/grpc+proto"),
        ("grpc-timeout", "500m"),
        ("x-bin", "/w"),
        ("y-bin", "?"),
        ("x", "1"),
        ("x", "2"),
        ("content-length", "12"),
    ]
    read = reader().read(stateless().encode(fields))
    by_name = {field.name: field for field in read}
    assert by_name["grpc-timeout"].number == 0.5
    assert by_name["content-type"].kind is Kind.CONTENT_TYPE
    metadata = Metadata(read)
    assert dict(metadata) == {"x-bin": b"\xff", "y-bin": b"", "x": "1", "content-length": "12"}
    assert (metadata.get("te"), metadata.get("x"), len(metadata)) == (None, "1", 4)
    with pytest.raises(KeyError):
        metadata[":method"]


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=200)
LISTS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


@given(st.lists(st.tuples(LISTS, st.booleans()), max_size=6), st.sampled_from([0, 64, 4_096]))
def test_whatever_an_encoder_makes_is_read_back(blocks, table):
    found, encoder = reader(), Encoder()
    encoder.header_table_size = table
    for fields, huffman in blocks:
        read = found.read(encoder.encode(fields, huffman=huffman))
        assert [(field.name, field._octets()) for field in read] == [
            (name, value.encode()) for name, value in fields
        ]


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_bytes_are_read_as_the_library_reads_them_or_refused(blocks):
    check_blocks(blocks)
