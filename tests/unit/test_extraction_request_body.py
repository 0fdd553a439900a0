"""A bound is given only where no response can exceed it; an odd body is never an exception."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from sidecar.domain.errors import InvalidInput
from sidecar.domain.requests import AccessRequest, RequestFacts
from sidecar.domain.usage import QUANTITY_MAX
from sidecar.inbound.extraction.request_body import TOOL_PROMPT_TOKENS, read_request_facts

NOW = datetime(2026, 1, 31, tzinfo=UTC)
UNREAD = RequestFacts(unread=True)
MESSAGES = [{"role": "user", "content": "hello"}]
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def request_of(body, *, path="/v1/chat/completions", complete=True, headers=None):
    return AccessRequest(
        edge="envoy",
        gateway_id="g",
        hold_id="0" * 40,
        method="POST",
        path=path,
        headers={name: (value,) for name, value in (headers or {}).items()},
        received_at=NOW,
        deadline=NOW + timedelta(seconds=1),
        body=body,
        body_complete=complete,
    )


def facts_of(body, **changes):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_request_facts(request_of(raw, **changes))


def chat(**fields):
    return {"model": "m", "messages": MESSAGES} | fields


def size_of(body):
    return len(json.dumps(body).encode())


def test_a_chat_of_text_is_bounded_by_its_bytes_and_its_limit():
    body = chat(max_tokens=50)
    expected = RequestFacts(model="m", input_bound=size_of(body), output_bound=50)
    assert facts_of(body) == expected


def test_a_responses_call_and_an_anthropic_message():
    responses = {"model": "m", "input": "hello", "max_output_tokens": 9, "instructions": "be kind"}
    assert facts_of(responses).input_bound == size_of(responses)
    assert facts_of(responses).output_bound == 9
    anthropic = chat(system=[{"type": "text", "text": "x"}], max_tokens=8, stop_sequences=["\n"])
    assert facts_of(anthropic).input_bound == size_of(anthropic)
    assert facts_of(anthropic).output_bound == 8


def test_embeddings_have_no_output_but_only_at_their_own_path():
    body = {"model": "e", "input": ["a", "b"]}
    assert facts_of(body, path="/v1/embeddings?x=1").output_bound == 0
    assert facts_of(body, path="/v1/embeddings").input_bound == size_of(body)
    assert facts_of(body, path="/v1/responses?/embeddings").output_bound is None
    assert facts_of(chat(input="x"), path="/v1/embeddings").output_bound is None


def test_the_largest_limit_counts():
    assert facts_of(chat(max_tokens=5, max_completion_tokens=9)).output_bound == 9
    assert facts_of(chat(max_tokens=5, max_completion_tokens=None)).output_bound == 5
    assert facts_of(chat()).output_bound is None


def test_a_limit_of_another_kind_of_call_bounds_nothing():
    assert facts_of(chat(max_output_tokens=5)).output_bound is None
    assert facts_of({"model": "m", "input": "x", "max_tokens": 5}).output_bound is None
    both = chat(input="x", max_tokens=5)
    assert facts_of(both).output_bound is None
    assert facts_of(both | {"max_output_tokens": 7}).output_bound == 7


@pytest.mark.parametrize(
    ("fields", "choices"),
    [
        ({"n": 3}, 3),
        ({"best_of": 4}, 4),
        ({"n": 2, "best_of": 3}, 6),
        ({"n": None}, 1),
        ({}, 1),
    ],
)
def test_each_answer_asked_for_costs_its_limit(fields, choices):
    found = facts_of(chat(max_tokens=10, **fields))
    assert (found.choices, found.output_bound) == (choices, 10 * choices)


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2], [3]], 3), ([], 1)],
)
def test_each_prompt_of_a_batch_is_answered(prompt, choices):
    found = facts_of({"model": "m", "prompt": prompt, "max_tokens": 10})
    assert found.output_bound == 10 * choices


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
@pytest.mark.parametrize("value", [-1, 1.0, 1e3, True, False, "5", [], {}, QUANTITY_MAX + 1])
def test_a_limit_that_is_no_whole_number_is_named(field, value):
    with pytest.raises(InvalidInput) as caught:
        facts_of(chat(**{field: value}))
    assert caught.value.field == field


@pytest.mark.parametrize("field", ["n", "best_of"])
@pytest.mark.parametrize("value", [0, -1, 1_025, 2.0, True, "2"])
def test_a_multiplier_out_of_range_is_named(field, value):
    with pytest.raises(InvalidInput) as caught:
        facts_of(chat(max_tokens=1, **{field: value}))
    assert caught.value.field == field


def test_a_limit_of_zero_is_a_limit():
    assert facts_of(chat(max_tokens=0)).output_bound == 0


def test_a_product_out_of_range_is_refused():
    with pytest.raises(InvalidInput):
        facts_of(chat(max_tokens=QUANTITY_MAX, n=2))


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://a/b.png"}},
        {"type": "input_image", "file_id": "file-1"},
        {"type": "input_audio", "input_audio": {"data": "AA=="}},
        {"type": "input_file", "file_url": "https://a/b.pdf"},
        {"type": "document", "source": {"type": "url", "url": "https://a"}},
        {"type": "image", "source": {"type": "base64", "data": "AA=="}},
        {"type": "text", "text": "x", "image_url": "https://a"},
        {"type": ["text"], "text": "x"},
        {"id": "msg_1"},
        {"type": "item_reference", "id": "msg_1"},
        {"type": "reasoning", "id": "rs_1"},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": {}}]},
    ],
)
def test_what_is_not_text_gives_no_input_bound(part):
    found = facts_of(chat(messages=[{"role": "user", "content": [part]}], max_tokens=5))
    assert (found.model, found.input_bound, found.output_bound) == ("m", None, 5)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "user", "content": "x", "name": "bob"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"url":1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "x"},
        {
            "role": "assistant",
            "content": [
                {
                    "type": "tool_use",
                    "id": "t",
                    "name": "f",
                    "input": {"url": "https://a", "type": "image"},
                }
            ],
        },
        {"type": "function_call_output", "call_id": "c", "output": "x"},
        {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "x", "annotations": [{"type": "url_citation"}]}
            ],
        },
    ],
)
def test_what_is_text_keeps_the_input_bound(message):
    body = chat(messages=[message])
    assert facts_of(body).input_bound == size_of(body)


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"web_search_options": {}},
        {"mcp_servers": [{}]},
        {"file_ids": ["f"]},
        {"file_id": "f"},
        {"image_url": "https://a/b.png"},
        {"documents": [{"url": "https://a"}]},
        {"contents": [{"parts": [{"fileData": {"fileUri": "https://a"}}]}]},
        {"systemInstruction": {"parts": [{"inlineData": {"data": "AA=="}}]}},
        {"enable_search": True},
        {"prompt": {"id": "pmpt_1", "version": "2"}},
        {"tools": [{"type": "web_search"}]},
        {"tools": [FUNCTION, {"type": "web_search_20250305", "name": "web_search"}]},
        {"tools": [{"type": "mcp", "server_url": "https://a"}]},
        {"tools": ["x"]},
        {"tools": {"a": 1}},
    ],
)
def test_what_brings_more_than_the_body_shows_gives_no_input_bound(fields):
    assert facts_of(chat(max_tokens=5, **fields)).input_bound is None


def test_absent_and_null_are_the_same():
    body = chat(previous_response_id=None, tools=None, conversation=None)
    assert facts_of(body).input_bound == size_of(body)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [FUNCTION]},
        {"tools": [{"name": "f", "input_schema": {"properties": {"url": {"type": "image"}}}}]},
        {"response_format": {"type": "json_schema"}},
    ],
)
def test_tools_and_schemas_add_the_providers_own_prompt(fields):
    body = chat(**fields)
    assert facts_of(body).input_bound == size_of(body) + TOOL_PROMPT_TOKENS


def test_parts_of_text_are_text():
    body = {"model": "m", "contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
    body["systemInstruction"] = {"parts": [{"text": "be kind"}]}
    assert facts_of(body).input_bound == size_of(body)


def test_a_key_that_nobody_knows_changes_nothing():
    body = chat(max_tokens=5, script={"usage": {"prompt_tokens": 3}})
    assert facts_of(body).input_bound == size_of(body)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","model":"big","max_tokens":5}',
        b'{"model":"m","n":1,"N":50,"max_tokens":5}',
        b'{"model":"m","models":["big"],"max_tokens":5}',
    ],
)
def test_what_decides_and_could_be_read_in_another_way_leaves_nothing_certain(raw):
    assert facts_of(raw) == UNREAD


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","n":2,"max_tokens":5,"max_tokens":5000}',
        b'{"model":"m","n":2,"max_token\xc5\xbf":5000,"max_tokens":5}',
    ],
)
def test_a_limit_that_stands_twice_is_none_and_the_model_stays(raw):
    assert facts_of(raw) == RequestFacts(model="m", choices=2)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","messages":[],"messages":[{"content":"x"}],"max_tokens":5}',
        b'{"model":"m","messages":[{"type":"image","type":"text","text":"x"}],"max_tokens":5}',
        b'{"model":"m","Previous_Response_Id":"r","input":"x"}',
        b'{"model":"m","Messages":[{"content":[{"type":"image"}]}],"max_tokens":5}',
        b'{"model":"m","Contents":[{"parts":[{"fileData":{}}]}],"max_tokens":5}',
    ],
)
def test_any_other_repeat_leaves_the_model_and_no_bounds(raw):
    assert facts_of(raw) == RequestFacts(model="m")


def test_a_repeat_keeps_the_number_of_answers():
    assert facts_of(b'{"model":"m","n":7,"user":"a","user":"b"}') == RequestFacts(
        model="m", choices=7
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"null",
        b"[]",
        b"7",
        b'"x"',
        b"{",
        b'{"model":"m"}x',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"not json",
        b'{"model":NaN}',
        b'{"n":Infinity}',
        b'{"a":' + b"9" * 5_000 + b"}",
        b"[" * 30_000,
        b'{"a":' * 10_000,
        '{"model":"m"}'.encode("utf-16"),
        b"\x1f\x8b\x08\x00",
    ],
)
def test_a_body_that_is_no_json_object_is_unread(raw):
    assert facts_of(raw) == UNREAD


def test_a_cut_body_is_unread_since_its_end_may_say_otherwise():
    assert facts_of(chat(max_tokens=5), complete=False) == UNREAD
    assert read_request_facts(request_of(None, complete=False)) == UNREAD


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "GZIP"])
def test_a_compressed_body_is_unread(encoding):
    headers = {"content-encoding": encoding}
    assert facts_of(chat(max_tokens=5), headers=headers) == UNREAD


def test_identity_is_no_compression():
    assert facts_of(chat(max_tokens=5), headers={"content-encoding": "identity"}).output_bound == 5


@pytest.mark.parametrize("body", [None, b""])
def test_no_body_says_nothing(body):
    assert read_request_facts(request_of(body)) == RequestFacts()


@pytest.mark.parametrize("model", [None, 5, ["m"], {"m": 1}])
def test_a_model_that_is_no_text_is_none(model):
    assert facts_of(chat(model=model, max_tokens=5)).model == ""


def test_a_model_is_printable_and_short():
    assert facts_of(chat(model="a\nb" + "c" * 200)).model == "a?b" + "c" * 125
    assert facts_of(b'{"model":"\\ud800"}').model == "?"


def test_content_without_end_is_no_text():
    content = "x"
    for _ in range(40):
        content = [content]
    assert facts_of(chat(messages=content)).input_bound is None
