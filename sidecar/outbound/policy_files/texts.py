"""Texts with a form of their own: names, amounts, durations, patterns, header values."""

import contextlib
import re
from datetime import datetime
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any
from zoneinfo import available_timezones

import re2

from sidecar.domain.errors import InvalidInput
from sidecar.domain.expressions import RULE_VARIABLES, Expression, ResultKind, compile_expression
from sidecar.domain.matching import Network
from sidecar.domain.money import parse_amount, parse_currency
from sidecar.domain.nearest import nearest
from sidecar.domain.templates import VARIABLES, Template
from sidecar.outbound.policy_files.scalars import Text

PATTERN_LENGTH_MAX = 1_000
UNBOUNDED = 10**9
"""No bound but that of the files."""
PATTERN_BYTES_MAX = 8 * 1024 * 1024
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_NETWORK_FORM = "; write 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32"

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OWN_PREFIX = "x-sidecar-"
_LITERAL = re.compile(r'\{\{\s*"[^"]*"\}\}')


def compile_pattern(text: str) -> Any:
    """
    Compile an RE2 pattern.

    Raises:
        InvalidInput: If RE2 refuses it; backreferences and look-around do not exist in RE2.
    """
    options = re2.Options()
    options.log_errors = False
    options.max_mem = PATTERN_BYTES_MAX
    try:
        return re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0]
        words = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise InvalidInput(f"{text[:80]!r} is not an RE2 pattern: {words}") from error


def _check_pattern(text: str) -> str:
    compile_pattern(text)
    return text


def reserved_header(name: str) -> bool:
    """Whether an answer may not set the header."""
    return name.lower() in _HOP_BY_HOP or name.lower().startswith(_OWN_PREFIX)


def _answer_header(text: str) -> str:
    name = text.lower()
    if reserved_header(name):
        raise InvalidInput(
            f"header {text!r} cannot be set; hop-by-hop headers and names that begin with "
            f"{_OWN_PREFIX} are reserved"
        )
    return name


def parse_template(text: str) -> Template:
    """
    Check a template, its unfinished holes too.

    Raises:
        InvalidInput: If a variable does not exist or a hole is malformed.
    """
    try:
        template = Template(text)
    except InvalidInput as error:
        close = nearest(error.field or "", VARIABLES)
        hint = f"did you mean {close!r}? " if close else ""
        raise InvalidInput(
            f"unknown template variable {error.field!r}; {hint}"
            f"allowed: {', '.join(sorted(VARIABLES))}"
        ) from error
    rest = Template(_LITERAL.sub("", text)).render({})
    if "{{" in rest or "}}" in rest:
        raise InvalidInput(
            f"found an unfinished template in {text[:40]!r}; "
            "write {{variable}} or {{variable|default}}"
        )
    return template


def _parse_price_amount(text: str) -> int:
    nano = parse_amount(text)
    if nano == 0 and text != "0":
        raise InvalidInput(f'amount {text!r} is zero; write "0" if it is meant to be free')
    return nano


def _parse_percent(text: str) -> int:
    percent = int(text.rstrip(" %"))
    if not 1 <= percent <= 100:  # noqa: PLR2004  A percentage.
        raise InvalidInput(f"found {text!r}; expected a percentage from 1% to 100%")
    return percent


def _seconds(text: str) -> int:
    return int(text[:-1]) * _SECONDS[text[-1]]


def duration(least: str, most: str) -> Text:
    """A kind of text: a length of time within bounds, read as seconds."""

    def parse(text: str) -> int:
        seconds = _seconds(text)
        if not _seconds(least) <= seconds <= _seconds(most):
            raise InvalidInput(f"found {text!r}; expected a duration from {least} to {most}")
        return seconds

    return Text(
        what="a duration such as 30s, 5m, 2h or 1d", pattern="[0-9]{1,6}[smhd]", parse=parse
    )


def _parse_instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"found {text!r}; no calendar has this instant") from error


def _parse_network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        hint = ""
        with contextlib.suppress(ValueError):
            hint = f"; did you mean {str(ip_network(text, strict=False))!r}?"
        raise InvalidInput(
            f"{text!r} is no network: {_network_fault(error)}{hint or _NETWORK_FORM}"
        ) from error


def _parse_address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise InvalidInput(f"{text!r} is neither an IPv4 nor an IPv6 address") from error


def _network_fault(error: ValueError) -> str:
    if "host bits" in str(error):
        return "it has bits beyond its length"
    return "it is neither an IPv4 nor an IPv6 one"


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _parse_zone(text: str) -> str:
    zones = _zones()
    if text not in zones:
        close = nearest(text, zones)
        hint = f" did you mean {close!r}?" if close else ""
        raise InvalidInput(
            f"unknown time zone {text!r};{hint} allowed: IANA names such as UTC or Europe/Berlin"
        )
    return text


NAME = Text(
    what="a name of 1 to 64 characters: a-z and 0-9 first, then also . _ -",
    pattern="[a-z0-9][a-z0-9_.-]{0,63}",
)
FREE_NAME = Text(
    what="a text of 1 to 200 characters without control characters", pattern=r"[^\x00-\x1f\x7f]+"
)
LABEL = Text(what="a label value", pattern=r"[^\x00-\x1f\x7f]*")
PATTERN = Text(
    what="an RE2 pattern, found anywhere in the path unless ^ and $ bound it",
    length_max=PATTERN_LENGTH_MAX,
    parse=_check_pattern,
)
VALUE_PATTERN = Text(
    what="an RE2 pattern, found anywhere in the value unless ^ and $ bound it",
    length_max=PATTERN_LENGTH_MAX,
    parse=compile_pattern,
)
HOST_PATTERN = Text(
    what="an RE2 pattern over the host in lower case, without port",
    length_max=PATTERN_LENGTH_MAX,
    parse=compile_pattern,
)
NETWORK = Text(
    what="an address or a network, such as 192.0.2.7 or 10.0.0.0/8",
    length_max=60,
    parse=_parse_network,
)
ADDRESS = Text(what="an IPv4 or IPv6 address", length_max=60, parse=_parse_address)
BODY_PATH = Text(
    what="a path into a JSON body, such as user.id",
    pattern=r"[^.\x00-\x1f\x7f]+(\.[^.\x00-\x1f\x7f]+)*",
)
METHOD = Text(what="an HTTP method in capitals, such as POST", pattern="[A-Z][A-Z-]{0,19}")
_TOKEN = "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}"  # noqa: S105  RFC 9110's word for a header name.
HEADER_NAME = Text(what="a header name", pattern=_TOKEN, parse=str.lower)
ANSWER_HEADER = Text(what="a header name", pattern=_TOKEN, parse=_answer_header)
HEADER_VALUE = Text(
    what="a header value: one line of printable ASCII",
    pattern=r"[\t\x20-\x7e]*",
    length_max=1_000,
    parse=parse_template,
)
ANY_TEXT = Text(what="a text", length_max=UNBOUNDED)
"""For a policy that is judged and not served: ids, values and header names of any form."""
ANY_TEMPLATE = Text(what="a text", length_max=UNBOUNDED, parse=parse_template)
PLAIN_HEADER_VALUE = Text(what="a header value", pattern=r"[\t\x20-\x7e]*", length_max=8_000)
AMOUNT = Text(
    what='a decimal amount such as "0.50" with at most 9 decimals',
    pattern=r"[0-9]{1,10}(\.[0-9]{1,9})?",
    parse=_parse_price_amount,
)
BALANCE = Text(
    what='a decimal amount such as "12.50" or "-1.00"',
    pattern=r"-?[0-9]{1,10}(\.[0-9]{1,9})?",
    parse=parse_amount,
)
CURRENCY = Text(
    what='three capital letters such as USD, or "credits"',
    pattern="[A-Z]{3}|credits",
    parse=parse_currency,
)
PERCENT = Text(
    what="a percentage such as 80%", pattern="[0-9]{1,3} ?%", length_max=10, parse=_parse_percent
)
DURATION = duration("1s", "1d")
STALE = duration("1s", "1h")
RATE_SPAN = duration("1s", "31d")
GRACE = duration("0s", "366d")
WINDOW_LENGTH = duration("1s", "366d")
INSTANT = Text(
    what="an instant with its zone, such as 2026-01-31T00:00:00Z",
    pattern=r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})",
    parse=_parse_instant,
)
ZONE = Text(what="an IANA time zone", length_max=100, parse=_parse_zone)
PATH = Text(what="a path that begins with /", pattern="/.*", length_max=8_192)


def parse_condition(text: str) -> Expression:
    """
    Compile a rule's condition.

    Raises:
        InvalidInput: If it cannot be used, in the words of the expressions' own checks.
    """
    return compile_expression(text, variables=RULE_VARIABLES, result=ResultKind.BOOLEAN)


CONDITION = Text(
    what="a condition in CEL, such as customer.plan == 'pro'",
    length_max=1_024,
    parse=parse_condition,
)
MEMBER_VALUE_NAME = Text(
    what="a number as in {{0}}, or a name as in {{values.tier}}", pattern="[a-z0-9_.-]{1,64}"
)
MEMBER_VALUE = Text(what="a text of one line", pattern=r"[^\x00-\x1f\x7f]*", length_max=1_000)


def counter_variable(text: str) -> str | None:
    """The first `quota.` or `limit.` variable without a default in a template, or None."""
    found = re.search(r"\{\{\s*((?:quota|limit)\.[a-z_.]+)\s*\}\}", text)
    return found[1] if found else None
