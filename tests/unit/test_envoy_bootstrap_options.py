"""What an operator may ask of the Envoy configuration, and what is refused."""

from datetime import timedelta
from typing import Any

import pytest

from sidecar.domain.errors import ConfigError
from sidecar.inbound.envoy.bootstrap_options import Address, EnvoyOptions, EnvoyRoute, Upstream


def options(**changes: Any) -> EnvoyOptions:
    values: dict[str, Any] = {
        "listen": Address.parse("127.0.0.1:10000"),
        "upstreams": (Upstream.parse("http://127.0.0.1:9999"),),
        "authz": (Address.parse("127.0.0.1:9001"),),
    }
    return EnvoyOptions(**{**values, **changes})


def test_the_defaults_agree_with_each_other() -> None:
    assert options().usage_addresses == options().authz
    assert options().stream_duration_max is None
    assert options().retry_window == timedelta(seconds=18.4)
    assert options(transport="als").retry_window == timedelta(0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transport": "kafka"}, "expected one of otlp, als, both"),
        ({"authz": ()}, "at least one address"),
        ({"upstreams": ()}, "at least one is needed"),
        ({"upstreams": (Upstream.parse("http://a"), Upstream.parse("http://b"))}, "same name"),
        ({"body_bytes": -1}, "expected 0 to"),
        ({"gateway_id": "two words"}, "gateway id"),
        ({"node_id": "a/b"}, "node id"),
        ({"gateway_token": "with space"}, "printable"),
        ({"listen": Address.parse("localhost:80")}, "binds to an IP address"),
        ({"authz": (Address.parse("name:1"), Address.parse("127.0.0.1:1"))}, "cannot be mixed"),
        ({"hold_ttl": timedelta(seconds=60)}, "holds expire under live requests"),
        ({"flush_interval": timedelta(0)}, "at least 1 second"),
        ({"usage_backoff_max": timedelta(milliseconds=1)}, r"at least 0\.2 s"),
        ({"routes": (EnvoyRoute(name="a", prefix="/", upstream="nowhere"),)}, "unknown upstream"),
        ({"routes": (EnvoyRoute(name="a", prefix="/", upstream="upstream"),) * 2}, "same name"),
    ],
)
def test_contradicting_options_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        options(**changes)


def test_a_refused_token_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as error:
        options(gateway_token="hunter2 hunter2")
    assert "hunter2" not in str(error.value)
    assert "hunter2" not in repr(options(gateway_token="hunter2"))


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="colour"):
        options(colour="red")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prefix": "/", "path": "/"}, "exactly one"),
        ({}, "exactly one"),
        ({"prefix": "v1"}, "start with a slash"),
        ({"prefix": "/", "priced": True, "free": True}, "exclude each other"),
        ({"prefix": "/", "protocol": "morse"}, "expected one of openai_chat_completions"),
        ({"prefix": "/", "timeout": timedelta(seconds=-1)}, "negative"),
    ],
)
def test_a_contradicting_route_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EnvoyRoute(name="route", upstream="upstream", **fields)


def test_our_own_cluster_names_are_taken() -> None:
    with pytest.raises(ConfigError, match="taken"):
        Upstream.parse("http://host", name="authz")


@pytest.mark.parametrize("text", ["127.0.0.1:8080", "[::1]:80", "sidecar:9001", "unix:/run/a.sock"])
def test_an_address_prints_as_it_was_read(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        ":80",
        "host:0",
        "host:65536",
        "host:\u0663",
        "ho st:80",
        "::1:80",
        "[::1:80",
        "[host]:80",
        "unix:relative",
        "unix:/" + "a" * 107,
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Address.parse(text)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host",
        "http://",
        "https://host/v1",
        "https://host?x=1",
        "http://host:99999",
        "host:80",
    ],
)
def test_what_is_no_upstream_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Upstream.parse(url)


def test_a_password_in_an_upstream_url_is_refused_unseen() -> None:
    with pytest.raises(ConfigError) as error:
        Upstream.parse("https://me:hunter2@host")
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "host_rewrite"),
    [
        ("http://backend:8000", ""),
        ("https://api.openai.com", "api.openai.com"),
        ("https://api.openai.com:8443/", "api.openai.com:8443"),
        ("https://[::1]", "[::1]"),
    ],
)
def test_only_an_https_upstream_is_called_by_its_own_name(url: str, host_rewrite: str) -> None:
    upstream = Upstream.parse(url)
    assert upstream.host_rewrite == host_rewrite
    assert upstream.tls is bool(host_rewrite)
