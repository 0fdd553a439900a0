"""The path that rules match: whatever is sent, one form, and no way around a rule."""

import string
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.errors import InvalidInput
from sidecar.domain.requests import PATH_BYTES_MAX, normalise_path

UNRESERVED = string.ascii_letters + string.digits + "-._~"
SEGMENTS = st.lists(st.text(UNRESERVED, min_size=1, max_size=8).filter(lambda s: s.strip(".")))
PIECES = st.sampled_from(
    ["/", "//", "/.", "/./", "/..", "/../", "a", "admin", "%61", "%2E", "%2e%2e", "%7e", "%20",
     "%C3%A9", "%2F", "%5c", "%00", "\\", "?x=/../y", "#/z", "%", "%4", "%zz", ";v=1", "+", ":"]
)  # fmt: skip
PATHS = st.lists(PIECES, max_size=12).map(lambda pieces: "/" + "".join(pieces))


def normalised(path: str) -> str | None:
    try:
        return normalise_path(path)
    except InvalidInput:
        return None


@given(PATHS)
def test_normalising_twice_changes_nothing(path: str) -> None:
    once = normalised(path)
    if once is not None:
        assert normalise_path(once) == once


@given(PATHS)
def test_no_normal_path_has_dots_empty_segments_or_a_query(path: str) -> None:
    once = normalised(path)
    if once is None:
        return
    assert once.startswith("/")
    assert not {"?", "#", "\\"} & set(once)
    inner = once.removeprefix("/").removesuffix("/").split("/")
    assert not {".", ".."} & set(inner)
    assert once == "/" or "" not in inner


@given(PATHS)
def test_decoding_a_normal_path_finds_no_hidden_separator_or_dots(path: str) -> None:
    once = normalised(path)
    if once is None:
        return
    decoded = unquote(once, errors="replace")
    assert decoded.count("/") == once.count("/")
    assert not {".", ".."} & set(decoded.split("/"))
    assert "\\" not in decoded
    assert "\0" not in decoded


@given(SEGMENTS, st.data())
def test_each_spelling_of_a_path_is_the_same_path(segments: list[str], data: st.DataObject) -> None:
    plain = "/" + "/".join(segments)
    spelled = "".join(
        data.draw(st.sampled_from([f"%{ord(letter):02x}", f"%{ord(letter):02X}", letter]))
        if letter != "/"
        else data.draw(st.sampled_from(["/", "//", "/./", "/x/../", "/%2e/", "/y/%2E./"]))
        for letter in plain
    )
    query = data.draw(st.sampled_from(["", "?a=b", "?/../%2f\\", "#f"]))
    assert normalise_path(spelled + query) == plain


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/", "/"),
        ("/ai/chat", "/ai/chat"),
        ("/ai/chat/", "/ai/chat/"),
        ("/ai/../admin", "/admin"),
        ("/../../etc", "/etc"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/%61i/ch%41t?x=1", "/ai/chAt"),
        ("/a%3fb", "/a%3Fb"),
        ("/a%252e", "/a%252e"),
    ],
)
def test_known_paths(path: str, normal: str) -> None:
    assert normalise_path(path) == normal


@pytest.mark.parametrize(
    "path",
    ["", "ai", "*", "http://h/a", "/a%2Fb", "/a%2fb", "/a%5C", "/a\\b", "/a%00", "/a\0", "/%",
     "/%4", "/%zz", "/" + "a" * PATH_BYTES_MAX],
)  # fmt: skip
def test_paths_that_servers_read_differently_are_refused(path: str) -> None:
    with pytest.raises(InvalidInput):
        normalise_path(path)


def test_a_query_may_hold_anything() -> None:
    assert normalise_path("/a?%2f%zz\\\0") == "/a"
