"""
A case's event as rules look at it.

Rules of these cases were judged over what the event says, letter for letter. A gateway says
less: it normalises paths and addresses and reads a body by its content type. So this view
shows the event as it was written; what a check does to a request first is not in question.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.matching import RequestView
from sidecar.domain.policy import Policy
from sidecar.domain.requests import AccessRequest
from sidecar.domain.value_texts import value_text
from sidecar.outbound.moesif.cohorts import member_id
from sidecar.outbound.moesif.writing import PLAN

INSTANT = datetime(2026, 1, 15, 12, tzinfo=UTC)
# Source: RFC 3986 appendix B, without naming what is not asked for.
_URI = re.compile(r"(?:[^:/?#]+:)?(?://[^/?#]*)?([^?#]*)")


class EventView(RequestView):
    """
    An event as it was written.

    The path is the URI's own without query and fragment, `/` where there is none. The body is
    the event's; a text that is JSON is what it says, and a list or text has its items by
    position and its `length`, as JavaScript has them.
    """

    def __init__(self, event: Mapping[str, Any], request: AccessRequest, policy: Policy) -> None:
        """Take the event and what `event_request` made of it."""
        path = request.path
        super().__init__(request, path, policy.routes.match(path))
        self._event = event

    @cached_property
    def source_ip(self) -> str:
        """The address as it was written."""
        return self.request.source

    @cached_property
    def url(self) -> str:
        """The URI as it was written."""
        return str(self._event["uri"])

    @cached_property
    def body(self) -> Any:
        """The body by the names of its fields; None where it has none."""
        value = self._event.get("body")
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return None
        if isinstance(value, str | list):
            return {**{str(n): item for n, item in enumerate(value)}, "length": len(value)}
        return value if isinstance(value, dict) else None


def event_request(event: Mapping[str, Any]) -> AccessRequest:
    """The event's plain facts; absent ones are empty."""
    path = _URI.match(event["uri"])
    assert path is not None
    headers = (event.get("headers") or {}).items()
    return AccessRequest(
        edge="conformance",
        gateway_id="conformance",
        hold_id="0" * 40,
        method=_text(event.get("verb")),
        path=path[1] or "/",
        headers={
            name.lower(): (_header_text(value),) for name, value in headers if value is not None
        },
        received_at=INSTANT,
        deadline=INSTANT,
        source=_text(event.get("ip")),
    )


def event_caller(event: Mapping[str, Any]) -> CustomerFacts:
    """Who calls: a company is a customer; an id that is there may be empty."""
    company, user = event.get("company_id"), event.get("user_id")
    return CustomerFacts(
        customer_id="" if company is None else member_id(value_text(company)),
        user_id="" if user is None else member_id(value_text(user)),
        plan=PLAN if company is not None else "",
        currency="USD" if company is not None else "",
        revision=0,
    )


def _text(value: Any) -> str:
    return "" if value is None else value_text(value)


def _header_text(value: Any) -> str:
    """A header's value; several as HTTP joins them."""
    return ", ".join(map(value_text, value)) if isinstance(value, list) else value_text(value)
