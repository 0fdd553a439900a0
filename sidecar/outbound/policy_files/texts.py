"""Texts with a form of their own: names, amounts, durations, patterns, header values."""

import re
from functools import lru_cache
from typing import Any
from zoneinfo import available_timezones

import re2

from sidecar.domain.errors import InvalidInput
from sidecar.domain.money import parse_amount, parse_currency
from sidecar.domain.nearest import nearest
from sidecar.domain.templates import VARIABLES, Template
from sidecar.outbound.policy_files.scalars import Text

PATTERN_LENGTH_MAX = 1_000
PATTERN_BYTES_MAX = 8 * 1024 * 1024
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
REPORT_EVERY_SECONDS_MAX = 86_400

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


def _answer_header(text: str) -> str:
    name = text.lower()
    if name in _HOP_BY_HOP or name.startswith(_OWN_PREFIX):
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
    rest = template.render(dict.fromkeys(VARIABLES, ""))
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


def _parse_duration(text: str) -> int:
    seconds = int(text[:-1]) * _SECONDS[text[-1]]
    if not 1 <= seconds <= REPORT_EVERY_SECONDS_MAX:
        raise InvalidInput(f"found {text!r}; expected a duration from 1s to 1d")
    return seconds


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
HEADER_PATTERN = Text(
    what="an RE2 pattern over the header's value",
    length_max=PATTERN_LENGTH_MAX,
    parse=compile_pattern,
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
DURATION = Text(
    what="a duration such as 30s, 5m, 2h or 1d", pattern="[0-9]{1,6}[smhd]", parse=_parse_duration
)
ZONE = Text(what="an IANA time zone", length_max=100, parse=_parse_zone)
PATH = Text(what="a path that begins with /", pattern="/.*", length_max=8_192)


def quota_variable(text: str) -> str | None:
    """The first `quota.` variable without a default in a template, or None."""
    found = re.search(r"\{\{\s*(quota\.[a-z_.]+)\s*\}\}", text)
    return found[1] if found else None
