"""Bodies as rules see them: nobody evades a rule by the way a body is sent."""

import json
from dataclasses import replace
from typing import Any

import pytest
import re2
from fixtures.policy_parts import request, view_of

from sidecar.domain.matching import Match
from sidecar.domain.request_body import PARTS_MAX, UNREADABLE, has_many_parts, read_body
from sidecar.inbound.extraction.request_body import read_request_facts

_JSON = "application/json"


def read(body: bytes, *types: str, **headers: tuple[str, ...]) -> Any:
    """What rules see of a body that was sent with these types."""
    asked = request()
    named = {name.replace("_", "-"): values for name, values in headers.items()}
    if types:
        named["content-type"] = types
    return read_body(replace(asked, headers={**asked.headers, **named}, body=body))


@pytest.mark.parametrize(
    "types",
    [(), ("",), ("text/plain",), ("TEXT/PLAIN; charset=utf-8",), ("text/plain", _JSON), ("x",)],
)
def test_json_is_json_whatever_type_the_caller_gives_it(types: tuple[str, ...]) -> None:
    assert read(b' {"stream": true}', *types) == {"stream": True}


@pytest.mark.parametrize(
    "body", [b"stream=true", b"{ user { id } }", b'--x\r\n{"stream": true}', b"\x00\x01"]
)
def test_a_body_of_another_type_that_is_no_json_has_no_fields(body: bytes) -> None:
    assert read(body, "application/octet-stream") is None


@pytest.mark.parametrize(
    ("body", "types"),
    [
        (b'{"a": 1, "a": 2}', ("text/plain",)),
        (b'{"model": "cheap", "Model": "dear"}', (_JSON,)),
        (b'{"a": NaN}', (_JSON,)),
        ('{"a": 1}'.encode("utf-16"), (_JSON,)),
        (b'{"a": 1}', ("application/json; charset=utf-7",)),
        (b'{"a": 1}', ('text/plain;Charset = "UTF-7"',)),
        (b'{"a": 1}', (_JSON, "text/plain; charset=utf-7")),
        (b"[" + b"[]," * PARTS_MAX + b"[]]", (_JSON,)),
    ],
)
def test_a_body_that_servers_may_read_in_two_ways_is_unreadable(
    body: bytes, types: tuple[str, ...]
) -> None:
    assert read(body, *types) is UNREADABLE


def test_a_compressed_body_is_unreadable_and_an_identity_is_not_compressed() -> None:
    assert read(b"\x1f\x8b", _JSON, content_encoding=("gzip",)) is UNREADABLE
    assert read(b"{}", _JSON, content_encoding=("identity",)) == {}


def test_half_of_a_surrogate_pair_fits_a_condition_rather_than_failing_the_check() -> None:
    asked = replace(request(), body=b'{"model": "\\ud800"}')
    match = Match(body=(("model", re2.compile("^dear$")),))

    assert match.accepts(view_of(asked))


def test_parts_are_counted_outside_of_texts_only() -> None:
    code = json.dumps({"prompt": '{["a\\"b\\\\"]},' * PARTS_MAX}).encode()
    assert not has_many_parts(code)
    assert has_many_parts(b'{"a": [' + b'"",' * PARTS_MAX + b'""]}')
    assert has_many_parts(b'["\\\\",' + b"{}," * PARTS_MAX + b"0]")


def test_the_estimate_trusts_no_body_of_another_charset_or_of_too_many_parts() -> None:
    other = request(**{"content-type": "application/json; charset=utf-7"})
    many = b'{"model": "m", "x": [' + b"[]," * PARTS_MAX + b"0]}"

    assert read_request_facts(replace(other, body=b'{"model": "m"}')).unread
    assert read_request_facts(replace(request(), body=many)).unread
    assert not read_request_facts(replace(request(), body=b'{"model": "m"}')).unread
