"""What a test beside a rule says: given numbers, a request, what should come of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Final

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.requests import AccessRequest, RequestFacts
from sidecar.domain.standing import Standing

TEST_INSTANT = datetime(2026, 1, 15, 12, tzinfo=UTC)
"""When a test happens unless it says: inside each calendar window, so that none is at its edge."""


class _Unsaid(Enum):
    UNSAID = auto()


UNSAID: Final = _Unsaid.UNSAID
"""Stands where None is something to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenInvoices:
    """What is known of the customer's unpaid invoices; None where nobody stated it."""

    overdue_days: int | None = None
    amount_nano: int | None = None
    disputed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenRequest:
    """
    The request of a test.

    `body` is a JSON value. `bytes` is the length of the body on the wire, where that matters;
    what the JSON does not fill is filled with spaces.
    """

    method: str
    path: str
    host: str = ""
    source: str = ""
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)
    body: object = UNSAID
    bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """
    What should come of a test; None is not compared.

    A header of None must be absent, a body of None empty; UNSAID is not compared.
    """

    allow: bool
    code: str | None = None
    rule: str | None = None
    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: object = UNSAID
    shadow: frozenset[str] | None = None
    over: frozenset[str] | None = None
    retry_after: object = UNSAID


_NO_FACTS = RequestFacts()
_NO_INVOICES = GivenInvoices()


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTest:
    """
    One test; `rule` is the rule it stands at and `place` its file and line.

    A customer without an id is nobody that could be identified. `used` is by counter: a
    quota's name, or that of the rule that counts.
    """

    rule: str
    place: str
    customer: CustomerFacts
    expect: Expectation
    request: GivenRequest
    facts: RequestFacts = _NO_FACTS
    available_nano: int = AMOUNT_NANO_MAX
    standing: Standing = Standing.GOOD
    invoices: GivenInvoices = _NO_INVOICES
    used: Mapping[str, int] = field(default_factory=dict)
    at: datetime = TEST_INSTANT

    def access_request(self) -> AccessRequest:
        """The request as an edge would hand it over."""
        request = self.request
        return AccessRequest(
            edge="test",
            gateway_id="test",
            hold_id="0" * 40,
            method=request.method,
            path=request.path,
            headers=request.headers,
            received_at=self.at,
            deadline=self.at,
            host=request.host,
            source=request.source,
            body=_body(request),
            context=request.context,
        )


def _body(request: GivenRequest) -> bytes | None:
    if request.body is UNSAID and request.bytes is None:
        return None
    text = b"{}" if request.body is UNSAID else json.dumps(request.body).encode()
    return text.ljust(request.bytes or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTestResult:
    """A test and what differed from its expectation; nothing if it passed."""

    test: RuleTest
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all was as expected."""
        return not self.differences
