"""Which key a request presents; a doubtful one is nobody's."""

import pytest
from fixtures.use_cases import UseCases
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.identity import ApiKeySource
from sidecar.services.identity import (
    SECRET_BYTES_MAX,
    Presented,
    Unidentified,
    identify,
)

BOTH = (ApiKeySource(headers=("authorization", "x-api-key")),)
SECRET = "sk_super-secret"


def present(headers: dict[str, tuple[str, ...]], sources=BOTH) -> Presented | Unidentified:
    return identify(sources, UseCases().request(headers=headers))


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ({"authorization": ("Bearer abc",)}, "abc"),
        ({"authorization": ("bEaReR   abc  ",)}, "abc"),
        ({"authorization": ("Bearer a,b",)}, "a,b"),
        ({"x-api-key": (" abc ",)}, "abc"),
        ({"x-api-key": ("k" * SECRET_BYTES_MAX,)}, "k" * SECRET_BYTES_MAX),
    ],
)
def test_the_first_configured_header_that_is_there_is_the_callers(headers, secret):
    assert present(headers) == Presented(secret=secret, headers=tuple(headers))


def test_a_key_beside_the_used_one_is_hidden_from_the_upstream_too():
    found = present({"x-api-key": ("x",), "authorization": ("Bearer abc",)})
    assert found == Presented(secret="abc", headers=("authorization", "x-api-key"))


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({}, "no credential was presented"),
        ({"cookie": ("sk",)}, "no credential was presented"),
        ({"x-api-key": ("a", "b")}, "the x-api-key header is repeated"),
        ({"x-api-key": ("a", "a")}, "the x-api-key header is repeated"),
        ({"x-api-key": ("a,b",)}, "the x-api-key header is repeated"),
        ({"authorization": ("Bearer a", "Bearer a")}, "the authorization header is repeated"),
        ({"authorization": ("Bearer a, Bearer b",)}, "holds no usable key"),
        ({"authorization": ("Basic YTpi",)}, "holds no usable key"),
        ({"authorization": ("Bearer",)}, "holds no usable key"),
        ({"authorization": ("Bearer  ",)}, "holds no usable key"),
        ({"authorization": ("",)}, "holds no usable key"),
        ({"authorization": ("abc",)}, "holds no usable key"),
        ({"x-api-key": ("",)}, "holds no usable key"),
        ({"x-api-key": ("a b",)}, "holds no usable key"),
        ({"x-api-key": ("a\tb",)}, "holds no usable key"),
        ({"x-api-key": ("a\x00b",)}, "holds no usable key"),
        ({"x-api-key": ("schlüssel",)}, "holds no usable key"),
        ({"x-api-key": ("\udcff",)}, "holds no usable key"),
        ({"x-api-key": ("k" * (SECRET_BYTES_MAX + 1),)}, "holds no usable key"),
    ],
)
def test_what_is_doubtful_is_nobodys(headers, detail):
    found = present(headers)
    assert isinstance(found, Unidentified)
    assert detail in found.detail


def test_a_header_that_cannot_be_used_is_not_passed_over_for_the_next():
    found = present({"authorization": ("Basic YTpi",), "x-api-key": ("good",)})
    assert isinstance(found, Unidentified)


def test_a_source_may_leave_the_header_to_the_upstream():
    source = ApiKeySource(headers=("x-api-key",), remove=False)
    assert present({"x-api-key": ("abc",)}, (source,)) == Presented(secret="abc", headers=())


def test_sources_are_asked_in_their_order_and_none_means_nobody():
    first, second = ApiKeySource(headers=("x-a",)), ApiKeySource(headers=("x-b",))
    headers = {"x-a": ("a",), "x-b": ("b",)}
    assert present(headers, (second, first)) == Presented(secret="b", headers=("x-b", "x-a"))
    assert isinstance(present(headers, ()), Unidentified)


def test_a_presented_key_never_shows():
    found = present({"x-api-key": (SECRET,)})
    assert found.secret == SECRET
    assert SECRET not in f"{found} {found!r}"


@given(st.lists(st.text(max_size=40), max_size=3), st.sampled_from(["authorization", "x-api-key"]))
def test_any_header_is_a_usable_key_or_nobodys_and_is_never_shown(values, header):
    found = present({header: tuple(values)})
    if isinstance(found, Presented):
        assert found.secret.isascii()
        assert found.secret.isprintable()
        assert found.secret in values[0]
        assert len(values) == 1
    else:
        assert found.detail.isascii()
