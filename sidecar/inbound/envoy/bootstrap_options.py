"""What an operator may choose about the generated Envoy configuration."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final, Self
from urllib.parse import urlsplit

from sidecar.domain.errors import ConfigError

BODY_BYTES_MAX: Final = 1_048_576
"""More than Envoy's default connection buffer would never be filled."""

RETRIABLE_BODY_BYTES_MAX: Final = 49_152
"""Above 64 KiB of CheckRequest Envoy cannot retry; the rest is left for headers."""

UNIX_PATH_BYTES_MAX: Final = 107
"""Linux: sun_path has 108 bytes, one of them the final NUL."""

CHECK_TIMEOUT: Final = timedelta(milliseconds=500)
"""Over all tries of one check; Envoy's own default is 200 ms."""

USAGE_RETRIES: Final = 20
USAGE_BACKOFF_BASE: Final = timedelta(milliseconds=200)

DEFAULT_CA_FILE: Final = "/etc/ssl/certs/ca-certificates.crt"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,512}")
_RESERVED_NAMES: Final = frozenset({"authz", "usage"})


class Transport(StrEnum):
    """How usage leaves Envoy: acknowledged OTLP logs, the lossy access log service, or both."""

    OTLP = "otlp"
    ALS = "als"
    BOTH = "both"


class LlmProtocol(StrEnum):
    """The shapes of answer that ai_protocol_manager reads; Envoy's names in lower case."""

    OPENAI_CHAT_COMPLETIONS = "openai_chat_completions"
    OPENAI_RESPONSES = "openai_responses"
    ANTHROPIC_MESSAGES = "anthropic_messages"
    GEMINI_GENERATE_CONTENT = "gemini_generate_content"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A TCP host and port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read `127.0.0.1:8080`, `[::1]:80`, `name:80` or `unix:/path`.

        Raises:
            ConfigError: If it is none of these.
        """
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path.startswith("/") or "\0" in path:
                raise ConfigError(f"address {text!r}: a unix socket needs an absolute path")
            if len(path.encode()) > UNIX_PATH_BYTES_MAX:
                raise ConfigError(
                    f"address {text!r}: the path is longer than {UNIX_PATH_BYTES_MAX} bytes"
                )
            return cls(path=path)
        host, separator, port_text = text.rpartition(":")
        if not separator or not port_text.isascii() or not port_text.isdigit():
            raise ConfigError(f"address {text!r}: expected HOST:PORT, [IPV6]:PORT or unix:PATH")
        port = int(port_text[:6])
        if not 0 < port < 65536:  # noqa: PLR2004  The range of a TCP port.
            raise ConfigError(f"address {text!r}: the port must be 1 to 65535")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if bracketed != (":" in host) or not (_is_ip(host) or _HOST.fullmatch(host)):
            raise ConfigError(f"address {text!r}: {host!r} is no host name or IP address")
        return cls(host=host, port=port)

    @property
    def is_unix(self) -> bool:
        """Whether this is a unix socket."""
        return bool(self.path)

    @property
    def is_name(self) -> bool:
        """Whether the host must be resolved by DNS."""
        return not self.is_unix and not _is_ip(self.host)

    @property
    def is_local(self) -> bool:
        """Whether bytes sent there stay on this machine."""
        if self.is_unix or self.host == "localhost":
            return True
        return _is_ip(self.host) and ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        """Give the text that `parse` reads."""
        if self.is_unix:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """
    The provider behind the gateway.

    `host_rewrite` is the Host header sent to it; empty keeps the caller's. With `tls` the
    certificate must be signed by `ca_file` and name `sni`.
    """

    name: str
    address: Address
    tls: bool = False
    sni: str = ""
    host_rewrite: str = ""
    ca_file: str = DEFAULT_CA_FILE

    def __post_init__(self) -> None:
        _require_name("upstream", self.name)
        if self.name in _RESERVED_NAMES:
            raise ConfigError(f"upstream {self.name!r}: the name is taken by our own clusters")
        if self.tls and not self.sni:
            raise ConfigError(f"upstream {self.name!r}: tls needs the server name to verify")

    @classmethod
    def parse(cls, url: str, *, name: str = "upstream", ca_file: str = DEFAULT_CA_FILE) -> Self:
        """
        Read `http://127.0.0.1:9999`, `https://api.openai.com` or `unix:/path`.

        https verifies the certificate, sends SNI and rewrites the Host header; http keeps it.

        Raises:
            ConfigError: If the URL has a user, a path, a query, or another scheme.
        """
        if url.startswith("unix:"):
            return cls(name=name, address=Address.parse(url))
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ConfigError("upstream: the URL cannot be read") from error
        if parts.username is not None or parts.password is not None:
            # The message leaves the URL out: it may carry a password.
            raise ConfigError("upstream: a URL with a user or password is not allowed")
        if parts.scheme not in {"http", "https"} or not host:
            raise ConfigError(f"upstream {url!r}: expected http://HOST[:PORT] or https://HOST")
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise ConfigError(f"upstream {url!r}: a path or query is not allowed; route by path")
        tls = parts.scheme == "https"
        standard_port = 443 if tls else 80
        port = standard_port if port is None else port
        shown_host = f"[{host}]" if ":" in host else host
        address = Address.parse(f"{shown_host}:{port}")
        authority = shown_host if port == standard_port else f"{shown_host}:{port}"
        return cls(
            name=name,
            address=address,
            tls=tls,
            sni=host if tls else "",
            host_rewrite=authority if tls else "",
            ca_file=ca_file,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyRoute:
    """
    Requests that one rule of the route table catches; the first match wins.

    Exactly one of `prefix`, `path` and `regex` (RE2, whole path without query). `priced` sends
    the request's body with the check, unless `streaming_upload`. `free` asks no check and reads
    no usage. `timeout` zero means none, because a stream may take minutes. `context` is what the
    check is told about the route; callers cannot set it. `protocol` None lets Envoy guess from
    each answer; that fails for embeddings and for servers that leave `object` out.
    """

    name: str
    upstream: str
    prefix: str = ""
    path: str = ""
    regex: str = ""
    priced: bool = False
    streaming_upload: bool = False
    free: bool = False
    timeout: timedelta = timedelta(0)
    context: Mapping[str, str] = field(default_factory=dict)
    protocol: LlmProtocol | str | None = None

    def __post_init__(self) -> None:
        _require_name("route", self.name)
        matchers = [text for text in (self.prefix, self.path, self.regex) if text]
        if len(matchers) != 1:
            raise ConfigError(f"route {self.name!r}: give exactly one of prefix, path and regex")
        if not self.regex and not matchers[0].startswith("/"):
            raise ConfigError(f"route {self.name!r}: {matchers[0]!r} must start with a slash")
        if self.priced and self.free:
            raise ConfigError(f"route {self.name!r}: priced and free exclude each other")
        if self.protocol is not None and self.protocol not in set(LlmProtocol):
            allowed = ", ".join(LlmProtocol)
            raise ConfigError(
                f"route {self.name!r}: protocol {self.protocol!r}: expected one of {allowed}"
            )
        if self.timeout < timedelta(0):
            raise ConfigError(f"route {self.name!r}: the timeout is negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyOptions:
    """
    Everything `build_bootstrap` needs.

    `routes` empty means that everything is priced and goes to the first upstream. `usage` empty
    means where the checks go. `gateway_token` is written into the result. `body_bytes` 0
    sends no body with any check. `flush_interval` None turns heartbeats off and so caps a stream's
    duration (`stream_duration_max`). `check_timeout` is over all tries of one check.
    `usage_backoff_max` is the longest wait between two tries to deliver logs and the limit of one.
    `meter_headers` and `meter_metadata` are what the logs tell for meters, names and paths;
    `meters_untold` read what no log tells.
    `metadata_namespaces` reach the check. Callers' own `identity_headers` are dropped, unless kept.

    Raises:
        ConfigError: If the choices contradict each other.
    """

    listen: Address
    upstreams: tuple[Upstream, ...]
    authz: tuple[Address, ...]
    usage: tuple[Address, ...] = ()
    transport: Transport | str = Transport.OTLP
    body_bytes: int = 32_768
    gateway_id: str = "gateway-1"
    gateway_token: str | None = field(default=None, repr=False)
    node_id: str = ""
    admin: Address | None = None
    routes: tuple[EnvoyRoute, ...] = ()
    json_to_metadata: bool = False
    usage_backoff_max: timedelta = timedelta(seconds=1)
    flush_interval: timedelta | None = timedelta(seconds=30)
    hold_ttl: timedelta = timedelta(seconds=120)
    check_timeout: timedelta = CHECK_TIMEOUT
    meter_headers: tuple[str, ...] = ()
    meter_metadata: tuple[str, ...] = ()
    meters_untold: tuple[str, ...] = ()
    metadata_namespaces: tuple[str, ...] = ()
    identity_headers: tuple[str, ...] = ()
    keep_identity_headers: bool = False

    def __post_init__(self) -> None:
        if self.transport not in set(Transport):
            allowed = ", ".join(Transport)
            raise ConfigError(f"transport {self.transport!r}: expected one of {allowed}")
        for role, address in (("listen", self.listen), ("admin", self.admin)):
            if address is not None and address.is_name:
                raise ConfigError(f"{role} {address}: Envoy binds to an IP address or unix path")
        if not self.authz:
            raise ConfigError("authz: at least one address is needed")
        for addresses in (self.authz, self.usage):
            if len({address.is_name for address in addresses}) > 1:
                raise ConfigError("authz, usage: host names and fixed addresses cannot be mixed")
        if not 0 <= self.body_bytes <= BODY_BYTES_MAX:
            raise ConfigError(f"body bytes {self.body_bytes}: expected 0 to {BODY_BYTES_MAX}")
        _require_name("gateway id", self.gateway_id)
        if self.node_id:
            _require_name("node id", self.node_id)
        if self.gateway_token is not None and not _TOKEN.fullmatch(self.gateway_token):
            raise ConfigError("gateway token: expected 1 to 512 printable ASCII characters")
        self._check_tables()
        self._check_lifetimes()

    @property
    def usage_addresses(self) -> tuple[Address, ...]:
        """Where the logs go."""
        return self.usage or self.authz

    @property
    def route_table(self) -> tuple[EnvoyRoute, ...]:
        """The routes, or those that stand for none given."""
        return self.routes or default_routes(self.upstreams[0].name)

    @property
    def retry_window(self) -> timedelta:
        """
        How long at most one batch of logs is retried while connections are refused.

        Zero without the OTLP logger. The sum of the back-offs' upper ends; each back-off is drawn
        between zero and its end, so on average half of this passes (9 to 11 s were seen).
        Source: Envoy, JitteredExponentialBackOffStrategy (common/backoff_strategy.cc).
        """
        if self.transport == Transport.ALS:
            return timedelta(0)
        ends = (USAGE_BACKOFF_BASE * 2**retry for retry in range(USAGE_RETRIES))
        return sum((min(end, self.usage_backoff_max) for end in ends), timedelta(0))

    @property
    def usage_delay_max(self) -> timedelta:
        """
        How late a batch of logs can arrive: all waits, and every try at its limit.

        Envoy limits one try to the largest back-off (a hanging receiver: 21 tries, 31 s seen).
        """
        if self.transport == Transport.ALS:
            return timedelta(0)
        return self.retry_window + (USAGE_RETRIES + 1) * self.usage_backoff_max

    @property
    def stream_duration_max(self) -> timedelta | None:
        """How long a request may take, or None where heartbeats keep its hold alive."""
        return None if self.flush_interval is not None else self.hold_ttl - self.usage_delay_max

    def _check_tables(self) -> None:
        if not self.upstreams:
            raise ConfigError("upstreams: at least one is needed")
        names = [upstream.name for upstream in self.upstreams]
        if len(set(names)) != len(names):
            raise ConfigError("upstreams: two have the same name")
        route_names = [route.name for route in self.routes]
        if len(set(route_names)) != len(route_names):
            raise ConfigError("routes: two have the same name; usage is told apart by it")
        for route in self.routes:
            if route.upstream not in names:
                known = ", ".join(names)
                raise ConfigError(
                    f"route {route.name!r}: unknown upstream {route.upstream!r}; known: {known}"
                )

    def _check_lifetimes(self) -> None:
        if self.check_timeout <= timedelta(0):
            raise ConfigError("check timeout: expected more than 0 s")
        if self.usage_backoff_max < USAGE_BACKOFF_BASE:
            least = USAGE_BACKOFF_BASE.total_seconds()
            raise ConfigError(f"usage back-off: expected at least {least:g} s")
        spent = self.usage_delay_max
        if self.flush_interval is not None:
            if self.flush_interval < timedelta(seconds=1):
                raise ConfigError("flush interval: expected at least 1 second")
            spent += self.flush_interval
        if self.hold_ttl <= spent:
            raise ConfigError(
                f"hold TTL {self.hold_ttl.total_seconds():g} s: must exceed flush interval plus "
                f"log retries ({spent.total_seconds():g} s), or holds expire under live requests"
            )


def default_routes(upstream: str) -> tuple[EnvoyRoute, ...]:
    """Price everything; the first two are what Envoy would not recognise by itself."""
    chat = LlmProtocol.OPENAI_CHAT_COMPLETIONS  # Their usage has the same fields.
    return (
        EnvoyRoute(
            name="embeddings", path="/v1/embeddings", priced=True, upstream=upstream, protocol=chat
        ),
        EnvoyRoute(
            name="completions",
            path="/v1/completions",
            priced=True,
            upstream=upstream,
            protocol=chat,
        ),
        EnvoyRoute(name="default", prefix="/", priced=True, upstream=upstream),
    )


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _require_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{what} {name!r}: expected 1 to 64 of letters, digits, '_', '.', ':', '-'"
        )
