"""
A recorded request, as rules look at it.

Whoever asks for a fact that was not recorded gets `Unrecorded`, never a guess.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from sidecar.domain.decision_records import DecisionRecord, NumbersFrom
from sidecar.domain.errors import SidecarError
from sidecar.domain.matching import RequestView
from sidecar.domain.periods import EPOCH, from_epoch_ms
from sidecar.domain.policy import Policy
from sidecar.domain.policy_reads import PolicyReads
from sidecar.domain.request_body import UNREADABLE
from sidecar.domain.requests import AccessRequest, RequestFacts
from sidecar.domain.standing import Standing
from sidecar.domain.store_numbers import StoreNumbers


class Unrecorded(SidecarError):  # noqa: N818  It says what is so.
    """A decision depends on a fact that its record does not have."""


class _Values(dict[str, Any]):
    """The values that were there; asking for a name that was not recorded raises."""

    def __init__(self, part: str, recorded: Mapping[str, Any]) -> None:
        super().__init__({name: value for name, value in recorded.items() if value is not None})
        self._part = part
        self._recorded = recorded

    def get(self, name: str, default: Any = None) -> Any:
        self._check(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self._check(name)
        return super().__contains__(name)

    def _check(self, name: object) -> None:
        if name not in self._recorded:
            raise Unrecorded(f"{self._part} {name} was not recorded")


class _Body(dict[str, Any]):
    """A JSON object of which some paths were recorded, a null for each that was absent."""

    def __init__(
        self, recorded: Mapping[str, Any], wanted: frozenset[str], prefix: str = ""
    ) -> None:
        super().__init__()
        self._recorded, self._wanted, self._prefix = recorded, wanted, prefix
        inner = {path.removeprefix(prefix).partition(".")[0] for path in recorded}
        for name in inner:
            path = prefix + name
            below = {p: v for p, v in recorded.items() if p.startswith(f"{path}.")}
            if recorded.get(path) is not None:
                self[name] = recorded[path]
            elif any(value is not None for value in below.values()):
                self[name] = _Body(below, wanted, f"{path}.")

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name) or f"{self._prefix}{name}" in self._recorded:
            return super().__contains__(name)
        path = f"{self._prefix}{name}"
        if path not in self._wanted and any(p.startswith(f"{path}.") for p in self._recorded):
            # Only paths below it are asked for, and each of them was absent.
            return False
        raise Unrecorded(f"body field {path} was not recorded")


class RecordedView(RequestView):
    """The view of a record's request, for one policy."""

    def __init__(
        self, record: DecisionRecord, request: AccessRequest, policy: Policy, reads: PolicyReads
    ) -> None:
        """Take the record; `request` is what `recorded_request` made of it."""
        super().__init__(request, record.request.path, policy.routes.match(record.request.path))
        self._record = record
        self._reads = reads

    @cached_property
    def query(self) -> Mapping[str, tuple[str, ...]]:
        """The parameters that were recorded."""
        return _Values("query parameter", _tuples(self._record.request.query))

    @cached_property
    def body(self) -> Any:
        """The body's recorded fields."""
        if self._record.request.unreadable:
            return UNREADABLE
        return _Body(self._record.request.body, self._reads.body)


def recorded_request(record: DecisionRecord) -> AccessRequest:
    """The access request as far as it was recorded; its body is as long, and all zeros."""
    kept, instant = record.request, from_epoch_ms(record.instant_ms)
    return AccessRequest(
        edge=record.edge,
        gateway_id=record.gateway_id,
        hold_id=record.hold_id,
        method=kept.method,
        path=kept.path,
        headers=_Values("header", _tuples(kept.headers)),
        received_at=instant,
        deadline=instant,
        scheme=kept.scheme,
        host=kept.host,
        source=kept.source,
        body=bytes(kept.body_bytes) if kept.body_bytes else None,
        context=_Values("context", kept.context),
    )


def rebuild_view(record: DecisionRecord, policy: Policy, reads: PolicyReads) -> RecordedView:
    """
    The request as the policy's rules look at it.

    Raises:
        Unrecorded: Its path was too long to keep, or a rule's condition reads what is not there.
    """
    if record.request.path_cut:
        raise Unrecorded("the whole path was not recorded")
    view = RecordedView(record, recorded_request(record), policy, reads)
    _check_conditions(record, view, policy, reads)
    return view


def rebuild_facts(record: DecisionRecord, policy: Policy, view: RequestView) -> RequestFacts:
    """
    What the body promised, if the policy asks for it on this route.

    Raises:
        Unrecorded: It asks, and the policy of the record did not.
    """
    if not policy.reads_body(view):
        return RequestFacts()
    if record.facts is None:
        raise Unrecorded("the body's model and bounds were not recorded")
    return record.facts.facts


def planned_at(record: DecisionRecord) -> datetime:
    """The instant that the check was planned at."""
    if record.request.planned_us:
        return EPOCH + timedelta(microseconds=record.request.planned_us)
    return from_epoch_ms(record.instant_ms)


def _tuples(values: Mapping[str, Iterable[str] | None]) -> dict[str, tuple[str, ...] | None]:
    return {name: None if given is None else tuple(given) for name, given in values.items()}


def _check_conditions(
    record: DecisionRecord, view: RequestView, policy: Policy, reads: PolicyReads
) -> None:
    """A condition sees plain maps, so what it reads is looked up before it is evaluated."""
    if not reads.conditions:
        return
    missing = {read for read in reads.all_conditions if not _is_recorded(record, read)}
    if not missing:
        return
    for rule, _ in policy.rules_for(view, record.customer):
        unknown = missing & reads.conditions.get(rule.name, frozenset())
        if unknown:
            raise Unrecorded(f"{_words(min(unknown))} was not recorded")


def _is_recorded(record: DecisionRecord, read: str) -> bool:
    kept = record.request
    part, _, name = read.partition(".")
    match part:
        case "headers":
            return name in kept.headers
        case "query":
            return name in kept.query
        case "context":
            return name in kept.context
        case "body":
            return bool(name) and (kept.unreadable or name in kept.body)
        case _:
            return False


def _words(read: str) -> str:
    part, _, name = read.partition(".")
    words = {
        "headers": "header",
        "query": "query parameter",
        "context": "context",
        "body": "body field",
    }
    return f"{words.get(part, part)} {name}".strip()


def recorded_numbers(record: DecisionRecord) -> StoreNumbers | None:
    """The numbers that the rules judged, by the names of the takes; None where there were none."""
    if record.numbers_from in (NumbersFrom.NOT_ASKED, NumbersFrom.AWAY):
        return None
    names = {take.field: take.slot.key.partition(":")[2] for take in record.takes}
    return StoreNumbers(
        instant_ms=record.instant_ms,
        available_nano=record.available_nano,
        standing=Standing(record.standing),
        due_since_ms=record.due_since_ms,
        due_nano=record.due_nano,
        disputed=record.disputed,
        used={names[take.field]: take.used for take in record.takes},
        over=frozenset(names[take.field] for take in record.takes if take.over),
        retry_at_ms={
            names[take.field]: take.retry_at_ms for take in record.takes if take.retry_at_ms
        },
        failed_credit=record.failed_credit,
        denied=record.denied,
    )
