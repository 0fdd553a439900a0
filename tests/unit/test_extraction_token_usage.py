"""Each provider's counts, brought into the one normal form; what is no count is never zero."""

import json

import pytest

from sidecar.domain.errors import InvalidInput
from sidecar.domain.usage import QUANTITY_MAX, TokenUsage
from sidecar.inbound.extraction.text import printable
from sidecar.inbound.extraction.token_usage import (
    AiUsage,
    HeaderUsage,
    UsageSources,
    extract_usage,
)

AI = AiUsage(input="11", output="7", cached="4", cache_creation="0", reasoning="2", status="1")


def usage_of(**sources):
    return extract_usage(UsageSources(**sources)).usage


def sse(**counts):
    return usage_of(sse=json.dumps(counts))


def test_the_typed_usage_is_in_the_normal_form_already():
    expected = TokenUsage(input=11, output=7, cache_read=4, cache_creation=0, reasoning=2)
    assert usage_of(ai=AI) == expected


def test_openai_chat_includes_its_parts():
    found = sse(
        prompt_tokens=11, completion_tokens=7, total_tokens=18, cached_tokens=4, reasoning_tokens=2
    )
    assert found == TokenUsage(input=11, output=7, cache_read=4, reasoning=2, total=18)


def test_reasoning_beside_completion_is_added_where_the_total_shows_it():
    found = sse(prompt_tokens=10, completion_tokens=5, reasoning_tokens=90, total_tokens=105)
    assert (found.output, found.known_total) == (95, 105)
    inside = sse(prompt_tokens=10, completion_tokens=95, reasoning_tokens=90, total_tokens=105)
    assert inside.output == 95


def test_openai_responses():
    found = sse(
        response_input_tokens=20,
        response_output_tokens=9,
        response_cached_tokens=8,
        response_reasoning_tokens=3,
    )
    assert found == TokenUsage(input=20, output=9, cache_read=8, reasoning=3)


def test_anthropics_input_excludes_its_cache_counts():
    found = sse(
        input_tokens=11, output_tokens=7, cache_read_input_tokens=4, cache_creation_input_tokens=1
    )
    assert found == TokenUsage(input=16, output=7, cache_read=4, cache_creation=1)


def test_geminis_candidates_exclude_the_thoughts():
    found = sse(
        prompt_token_count=9,
        candidates_token_count=5,
        thoughts_token_count=30,
        cached_content_token_count=2,
    )
    assert found == TokenUsage(input=9, output=35, cache_read=2, reasoning=30)


def test_after_an_abort_a_part_stays_a_part():
    found = sse(input_tokens=11, cache_read_input_tokens=4)
    assert (found.input, found.output) == (15, None)


def test_embeddings_have_no_output():
    assert sse(prompt_tokens=8, total_tokens=8) == TokenUsage(input=8, output=0, total=8)
    assert usage_of(ai=AiUsage(input="8", total="8")).output == 0


def test_a_total_alone_is_no_kind():
    assert sse(total_tokens=18) == TokenUsage(total=18)
    assert sse(total_tokens=18).missing


def test_no_source_says_nothing():
    assert usage_of() == TokenUsage()
    assert sse() == TokenUsage()
    assert sse(usage_missing="sse_no_usage", model="m", prompt_tokens=None) == TokenUsage()


def test_a_double_that_is_whole_is_a_count():
    found = usage_of(sse={"prompt_tokens": 11.0, "completion_tokens": 7.0})
    assert (found.input, found.output) == (11, 7)
    assert type(found.input) is int


@pytest.mark.parametrize(
    "value",
    [
        *(-1, -1.0, 0.5, 1e300, float("inf"), float("nan"), 2.0**53 + 2, QUANTITY_MAX + 1),
        *("11", True, {}, [], ()),
    ],
)
def test_what_is_no_count_is_refused(value):
    with pytest.raises(InvalidInput):
        usage_of(sse={"prompt_tokens": value, "completion_tokens": 7})


@pytest.mark.parametrize("text", ["{", "[]", "7", '"x"', "{}x", "\x00", "[" * 9_000, '{"a":NaN}'])
def test_what_is_no_object_is_refused(text):
    with pytest.raises(InvalidInput):
        usage_of(sse=text)


def test_an_endless_object_is_refused():
    with pytest.raises(InvalidInput):
        usage_of(sse=json.dumps({"a": "x" * 20_000}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "+1",
        "-1",
        "1.0",
        "1e3",
        "0x1",
        "\u0661",
        "1,2",
        str(QUANTITY_MAX + 1),
        "9" * 21,
    ],
)
def test_a_header_or_attribute_is_digits_and_nothing_else(text):
    with pytest.raises(InvalidInput):
        usage_of(headers=HeaderUsage(total=text))
    with pytest.raises(InvalidInput):
        usage_of(ai=AiUsage(input=text, output="1"))


def test_parts_above_their_whole_are_refused():
    with pytest.raises(InvalidInput):
        usage_of(ai=AiUsage(input="1", output="1", cached="2"))
    with pytest.raises(InvalidInput):
        sse(prompt_tokens=8, total_tokens=7)


def test_headers_are_marked_and_need_nothing_else_to_speak():
    found = extract_usage(UsageSources(headers=HeaderUsage(total="18")))
    assert found.from_header
    assert found.usage == TokenUsage(total=18)
    with_other = extract_usage(UsageSources(ai=AI, headers=HeaderUsage(total="9")))
    assert not with_other.from_header
    assert with_other.usage.input == 11


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (HeaderUsage(input="11", output="7"), TokenUsage(input=11, output=7)),
        (HeaderUsage(total="18", input="11"), TokenUsage(input=11, output=7, total=18)),
        (HeaderUsage(total="18", output="7"), TokenUsage(input=11, output=7, total=18)),
        (HeaderUsage(total="18", input="11", output="7"), TokenUsage(input=11, output=7, total=18)),
        (HeaderUsage(input="11"), TokenUsage(input=11)),
    ],
)
def test_headers_complete_each_other(headers, expected):
    assert usage_of(headers=headers) == expected


@pytest.mark.parametrize(
    "headers",
    [
        HeaderUsage(total="5", input="6"),
        HeaderUsage(total="18", input="6", output="6"),
        HeaderUsage(total="10", input="6", output="6"),
    ],
)
def test_headers_that_contradict_each_other_are_refused(headers):
    with pytest.raises(InvalidInput):
        usage_of(headers=headers)


def test_the_typed_usage_beats_the_copied_numbers():
    copied = {"prompt_tokens": 1, "completion_tokens": 1}
    assert usage_of(ai=AI, sse=copied).input == 11


def test_the_copied_numbers_fill_in_where_the_typed_usage_has_only_a_part_or_failed():
    copied = {"prompt_tokens": 12, "completion_tokens": 8}
    for ai in (
        AiUsage(),
        AiUsage(input="11", status="2"),
        AiUsage(input="1", output="1", status="3"),
    ):
        found = usage_of(ai=ai, sse=copied)
        assert (found.input, found.output) == (12, 8)


def test_a_typed_part_beats_a_copied_part():
    found = usage_of(ai=AiUsage(input="11", status="2"), sse={"prompt_tokens": 12})
    assert found == TokenUsage(input=11)


def test_a_source_that_is_not_needed_cannot_spoil_the_usage():
    found = extract_usage(UsageSources(ai=AI, sse="{", headers=HeaderUsage(total="x")))
    assert found.usage.input == 11


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (b"gpt-4o-mini", "gpt-4o-mini"),
        (b"a\x00b\r\nc", "a?b??c"),
        (b"\xff", "?"),
        (b"m" * 300, "m" * 128),
        ("é" * 100, "é" * 64),
        ("\ud800x", "?x"),
        (None, ""),
    ],
)
def test_a_model_is_printable_and_short(model, expected):
    found = UsageSources(ai_model=model).model
    assert found == expected
    assert len(found.encode()) <= 128


def test_a_cut_never_splits_a_character():
    assert printable("a" + "é" * 64, 4) == "aé"


def test_the_typed_model_beats_the_copied_one():
    assert UsageSources(ai_model="a", sse_model="b").model == "a"
    assert UsageSources(ai_model=b"", sse_model="b").model == "b"
