"""What expressions read: the variables of a check, built once and only if a rule has one."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.expressions import ExpressionFailed
from sidecar.domain.matching import RequestView
from sidecar.domain.request_body import UNREADABLE
from sidecar.domain.requests import RequestFacts
from sidecar.domain.store_numbers import StoreNumbers
from sidecar.domain.value_texts import value_text

_PERCENT = 100
_MS_PER_SECOND = 1_000


def request_variables(
    view: RequestView, customer: CustomerFacts, facts: RequestFacts, now: datetime
) -> dict[str, Any]:
    """What is known before the store is asked, apart from the amount of the hold."""
    request = view.request
    body = view.body
    return {
        "request": {
            "method": request.method,
            "path": view.path,
            "url": view.url,
            "host": view.host,
            "source_ip": view.source_ip,
            "headers": {name: ", ".join(values) for name, values in request.headers.items()},
            "query": {name: values[0] for name, values in view.query.items()},
            "context": dict(request.context),
            "body": {} if body is None or body is UNREADABLE else body,
            "fields": _Fields(body),
            "time": now,
            "bytes": len(request.body or b""),
            "model": facts.model,
            "input_tokens": facts.input_bound or 0,
            "output_tokens": facts.output_bound or 0,
        },
        "customer": {
            "id": customer.customer_id,
            "plan": customer.plan,
            "currency": customer.currency,
            "labels": dict(customer.labels),
        },
        "user": {"id": customer.user_id},
        "team": {"id": customer.team_id},
        "key": {"id": customer.credential_id},
    }


def store_variables(numbers: StoreNumbers, limits: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
    """
    What the store's numbers add.

    Args:
        numbers: As the script answered.
        limits: By quota, the name of its take and its limit.
    """
    since = numbers.due_since_ms
    overdue_ms = 0 if since is None else max(0, numbers.instant_ms - since)
    return {
        "credits": {"available_nano": numbers.available_nano},
        "invoices": {
            "standing": numbers.standing.value,
            "overdue_nano": numbers.due_nano or 0,
            "overdue_seconds": overdue_ms // _MS_PER_SECOND,
            "disputed": numbers.disputed,
        },
        "quotas": {
            quota: _quota(numbers.used.get(take, 0), limit)
            for quota, (take, limit) in limits.items()
        },
    }


def _quota(used: int, limit: int) -> dict[str, int]:
    return {
        "used": used,
        "limit": limit,
        "remaining": max(0, limit - used),
        "used_percent": used_percent(used, limit),
    }


class _Fields(Mapping[str, str]):
    """A body's top-level fields as texts, made when they are read."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def __getitem__(self, name: str) -> str:
        return value_text(self._known()[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(self._known())

    def _known(self) -> Mapping[str, Any]:
        if self._body is UNREADABLE:
            # Whoever hides what a request says is not spared the rules that ask.
            raise ExpressionFailed("the body cannot be read for certain")
        return self._body if isinstance(self._body, dict) else {}


def used_percent(used: int, limit: int) -> int:
    """How much of a limit is used, in whole percent, rounded down; a limit of 0 is used up."""
    return used * _PERCENT // limit if limit else _PERCENT
