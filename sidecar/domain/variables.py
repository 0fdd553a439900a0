"""What expressions read: the variables of a check, built once and only if a rule has one."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.expressions import ExpressionFailed
from sidecar.domain.matching import RequestView
from sidecar.domain.request_body import UNREADABLE
from sidecar.domain.requests import RequestFacts
from sidecar.domain.standing import Standing
from sidecar.domain.store_numbers import StoreNumbers
from sidecar.domain.value_texts import value_text

_PERCENT = 100
_UNREADABLE_WORDS = "the body cannot be read for certain"
_MS_PER_SECOND = 1_000


def request_variables(
    view: RequestView, customer: CustomerFacts, facts: RequestFacts, now: datetime
) -> dict[str, Any]:
    """What is known before the store is asked, apart from the amount of the hold."""
    return {
        "request": _Request(view, facts, now),
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
    return {
        "credits": {"available_nano": numbers.available_nano},
        "invoices": _invoices(numbers),
        "quotas": {
            quota: _quota(numbers.used.get(take, 0), limit)
            for quota, (take, limit) in limits.items()
        },
    }


def _invoices(numbers: StoreNumbers) -> dict[str, Any]:
    """What is known; what nobody stated of overdue invoices is left out, since 0 would be free."""
    known: dict[str, Any] = {"standing": numbers.standing.value, "disputed": numbers.disputed}
    if numbers.standing is Standing.GOOD:
        known |= {"overdue_nano": 0, "overdue_seconds": 0}
    if numbers.due_nano is not None:
        known["overdue_nano"] = numbers.due_nano
    if numbers.due_since_ms is not None:
        overdue_ms = max(0, numbers.instant_ms - numbers.due_since_ms)
        known["overdue_seconds"] = overdue_ms // _MS_PER_SECOND
    return known


def _quota(used: int, limit: int) -> dict[str, int]:
    return {
        "used": used,
        "limit": limit,
        "remaining": max(0, limit - used),
        "used_percent": used_percent(used, limit),
    }


class _Request(Mapping[str, Any]):
    """A request's members, each made when it is first read: few conditions read the body."""

    def __init__(self, view: RequestView, facts: RequestFacts, now: datetime) -> None:
        self._view, self._facts, self._now = view, facts, now
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _MEMBERS[name](self._view, self._facts, self._now)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_MEMBERS)

    def __len__(self) -> int:
        return len(_MEMBERS)


def _headers(view: RequestView) -> dict[str, str]:
    return {name: ", ".join(values) for name, values in view.request.headers.items()}


def _body(view: RequestView) -> Any:
    if view.body is UNREADABLE:
        # Not even whether a field is there: whoever hides it is not spared the rules that ask.
        raise ExpressionFailed(_UNREADABLE_WORDS)
    return {} if view.body is None else view.body


_MEMBERS: Mapping[str, Callable[[RequestView, RequestFacts, datetime], Any]] = {
    "method": lambda view, _facts, _now: view.request.method,
    "path": lambda view, _facts, _now: view.path,
    "url": lambda view, _facts, _now: view.url,
    "host": lambda view, _facts, _now: view.host,
    "source_ip": lambda view, _facts, _now: view.source_ip,
    "headers": lambda view, _facts, _now: _headers(view),
    "query": lambda view, _facts, _now: {name: values[0] for name, values in view.query.items()},
    "context": lambda view, _facts, _now: dict(view.request.context),
    "body": lambda view, _facts, _now: _body(view),
    "fields": lambda view, _facts, _now: _Fields(view.body),
    "time": lambda _view, _facts, now: now,
    "bytes": lambda view, _facts, _now: len(view.request.body or b""),
    "model": lambda _view, facts, _now: facts.model,
    "input_tokens": lambda _view, facts, _now: facts.input_bound or 0,
    "output_tokens": lambda _view, facts, _now: facts.output_bound or 0,
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
            raise ExpressionFailed(_UNREADABLE_WORDS)
        return self._body if isinstance(self._body, dict) else {}


def used_percent(used: int, limit: int) -> int:
    """How much of a limit is used, in whole percent, rounded down; a limit of 0 is used up."""
    return used * _PERCENT // limit if limit else _PERCENT
