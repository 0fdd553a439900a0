"""
From a decision to its record: which facts are kept, and which never are.

Nothing here runs on a check's way.
"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sidecar.domain.counters import CounterTake
from sidecar.domain.customers import CustomerFacts
from sidecar.domain.decision_records import (
    HARD,
    OVER,
    BodyFacts,
    DecisionRecord,
    NumbersFrom,
    Plain,
    RecordedRequest,
    RecordedTake,
    Stage,
    headers_digest,
    plain_text,
)
from sidecar.domain.decisions import Decision, Deny, DenyReason
from sidecar.domain.judging import Judgement
from sidecar.domain.matching import RequestView
from sidecar.domain.periods import EPOCH
from sidecar.domain.planning import Ask, CheckPlan
from sidecar.domain.policy import Policy
from sidecar.domain.policy_reads import PolicyReads
from sidecar.domain.request_body import UNREADABLE
from sidecar.domain.requests import AccessRequest, RequestFacts
from sidecar.domain.store_numbers import StoreNumbers

PATH_CHARS_MAX = 1_024
HOST_CHARS_MAX = 255
VALUE_CHARS_MAX = 256
VALUES_MAX = 8
BODY_CHARS_MAX = 64
COUNT_CHARS_MAX = 20
NAMES_MAX = 32
"""Names kept of each part of a request; a policy that reads more leaves the rest unrecorded."""
LABELS_MAX = 32

CONTENT_NAMES = frozenset(
    {
        "content",
        "contents",
        "input",
        "instructions",
        "messages",
        "parts",
        "prompt",
        "prompts",
        "system",
        "system_instruction",
        "text",
    }
)
"""Parts of a body that are, or may hold, what a person wrote: never kept, whatever reads them."""
_SECRET_NAME = re.compile(
    r"token|secret|passw|api[-_]?key|credential|session|signature|cookie|authoriz|\bkey$|^sig$",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"(?:^|\s)(?:bearer|basic|digest)\s|(?:^|\W)(?:sk|pk|rk|xox[a-z]|gh[a-z]|AIza|AKIA|eyJ)"
    r"[-_A-Za-z0-9]{8,}",
    re.IGNORECASE,
)


def make_record(
    reads: PolicyReads,
    policy: Policy,
    request: AccessRequest,
    decision: Decision,
    instant_ms: int,
    *,
    view: RequestView | None = None,
    customer: CustomerFacts,
    facts: RequestFacts,
    plan: CheckPlan | None = None,
    judgement: Judgement | None = None,
    numbers: StoreNumbers | None = None,
    answered: bool = False,
    placed: bool = False,
    epoch: int = 0,
    seq: int = 0,
    hold_ttl_ms: int = 0,
    trace: tuple[str, ...] = (),
) -> DecisionRecord:
    """
    The record of a decision.

    Args:
        reads: What the policy reads.
        policy, request, decision: As they were.
        instant_ms: The store's instant where it answered, else the gateway's.
        view, customer, facts, plan, judgement, numbers: As far as the check came.
        answered: Whether the store answered; `numbers` are old ones if not.
        placed: Whether it placed the hold.
        epoch, seq: The store's order.
        hold_ttl_ms: How long the hold lives.
        trace: Detail for people.
    """
    reads_body = view is not None and policy.reads_body(view)
    card = plan.card if plan is not None else None
    named: dict[str, Any] = {}
    if plan is not None:
        named = _plan_fields(plan, numbers)
    if numbers is not None:
        named |= _number_fields(numbers)
    return DecisionRecord(
        hold_id=request.hold_id,
        instant_ms=instant_ms,
        epoch=epoch,
        seq=seq,
        edge=request.edge,
        gateway_id=plain_text(request.gateway_id, HOST_CHARS_MAX),
        policy_version=policy.version,
        price_version="" if card is None else card.version,
        customer_id=customer.customer_id,
        plan=customer.plan,
        currency=customer.currency,
        labels=dict(list(customer.labels.items())[:LABELS_MAX]),
        team_id=customer.team_id,
        user_id=customer.user_id,
        credential_id=customer.credential_id,
        revision=customer.revision,
        request=_request(reads, request, view, _planned_us(plan, instant_ms)),
        facts=_facts(facts) if reads_body else None,
        stage=_stage(decision, view, customer),
        numbers_from=_numbers_from(plan, numbers, answered=answered),
        placed=placed,
        hold_ttl_ms=hold_ttl_ms,
        trace=trace,
        **_outcome_fields(decision, judgement),
        **named,
    )


def _stage(decision: Decision, view: RequestView | None, customer: CustomerFacts) -> Stage:
    if view is None:
        return Stage.PATH
    if not isinstance(decision, Deny):
        return Stage.RULES
    if decision.reason is DenyReason.UNKNOWN_CREDENTIAL:
        return Stage.IDENTITY
    if decision.reason is DenyReason.INVALID_REQUEST and decision.rule == "body":
        return Stage.BODY
    if decision.reason is DenyReason.INVALID_REQUEST and decision.rule == "request":
        return Stage.STORE
    unusable = decision.rule == "identity" and decision.detail != NO_CREDENTIAL
    if decision.reason is DenyReason.UNIDENTIFIED and not customer.customer_id and unusable:
        return Stage.IDENTITY
    return Stage.RULES


NO_CREDENTIAL = "no credential was presented"
"""The words of a denial for want of a credential; one that is unusable has others."""


def _numbers_from(
    plan: CheckPlan | None, numbers: StoreNumbers | None, *, answered: bool
) -> NumbersFrom:
    if answered:
        return NumbersFrom.STORE
    if plan is None or plan.ask is Ask.NOTHING:
        return NumbersFrom.NOT_ASKED
    return NumbersFrom.AWAY if numbers is None else NumbersFrom.OLD


def _plan_fields(plan: CheckPlan, numbers: StoreNumbers | None) -> dict[str, Any]:
    return {
        "ask": plan.ask.value,
        "amount_nano": plan.amount_nano,
        "quantities": dict(plan.quantities),
        "bound": plan.bound.value,
        "credit_required": plan.credit_required,
        # Without numbers there is nothing to tell of a counter but what the policy says.
        "takes": () if numbers is None else tuple(_take(take, numbers) for take in plan.counters),
    }


def _take(take: CounterTake, numbers: StoreNumbers) -> RecordedTake:
    counter, rate = take.counter, take.counter.rate
    return RecordedTake(
        field=take.field,
        measure=counter.measure,
        quantity=take.quantity,
        limit=counter.limit,
        used=numbers.used.get(take.name, 0),
        flags=(HARD if take.hard else 0) | (OVER if take.name in numbers.over else 0),
        retry_at_ms=numbers.retry_at_ms.get(take.name, 0),
        kept_ms=take.leaves_ms - take.start_ms,
        per_ms=0 if rate is None else rate.per_ms,
        burst=0 if rate is None else rate.burst,
    )


def _number_fields(numbers: StoreNumbers) -> dict[str, Any]:
    return {
        "available_nano": numbers.available_nano,
        "standing": numbers.standing.value,
        "due_since_ms": numbers.due_since_ms,
        "due_nano": numbers.due_nano,
        "disputed": numbers.disputed,
        "failed_credit": numbers.failed_credit,
        "denied": numbers.denied,
    }


def _outcome_fields(decision: Decision, judgement: Judgement | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"headers": headers_digest(decision.headers)}
    if judgement is not None:
        fields |= {"shadow": judgement.shadow_denials, "over": judgement.over_limits}
    if isinstance(decision, Deny):
        return fields | {
            "code": decision.reason.value,
            "rule": decision.rule,
            "status": decision.status or 0,
            "retry_after_seconds": decision.retry_after_seconds or 0,
        }
    return fields | {"allow": True}


def _facts(facts: RequestFacts) -> BodyFacts:
    return BodyFacts(
        model=plain_text(facts.model, VALUE_CHARS_MAX),
        input_bound=facts.input_bound,
        output_bound=facts.output_bound,
        choices=facts.choices,
        unread=facts.unread,
    )


def _request(
    reads: PolicyReads, request: AccessRequest, view: RequestView | None, planned_us: int
) -> RecordedRequest:
    method = plain_text(request.method, 32)
    if view is None:
        # Nobody could read the path for certain; as it was sent it may hold anything.
        return RecordedRequest(method=method, scheme=request.scheme)
    withheld: list[str] = []
    body, unreadable = _body(reads, view, withheld)
    return RecordedRequest(
        method=method,
        path=plain_text(view.path, PATH_CHARS_MAX),
        path_cut=len(view.path) > PATH_CHARS_MAX,
        scheme=request.scheme,
        host=plain_text(request.host, HOST_CHARS_MAX),
        source=plain_text(request.source, 64),
        headers=_headers(reads, request.headers, withheld),
        query=_values("query", reads.query, view.query if reads.query else {}, withheld),
        context=_context(reads, request, withheld),
        body=body,
        unreadable=unreadable,
        withheld=tuple(withheld),
        body_bytes=len(request.body or b""),
        planned_us=planned_us,
    )


def _planned_us(plan: CheckPlan | None, instant_ms: int) -> int:
    """The instant that conditions saw; the store's may be a little later."""
    if plan is None or not plan.variables:
        return 0
    planned_at: datetime = plan.variables["request"]["time"]
    planned_us = (planned_at - EPOCH) // timedelta(microseconds=1)
    return 0 if planned_us == instant_ms * 1_000 else planned_us


def _headers(
    reads: PolicyReads, values: Mapping[str, tuple[str, ...]], withheld: list[str]
) -> dict[str, list[str] | None]:
    # Such names often speak of tokens, as secrets do; but a plain count is none.
    plain = {
        name
        for name in reads.counts - reads.withheld
        if all(
            value.isascii() and value.isdigit() and len(value) <= COUNT_CHARS_MAX
            for value in values.get(name, ())[: VALUES_MAX + 1]
        )
    }
    found = _values("headers", reads.headers - plain, values, withheld, reads.withheld)
    return found | {
        name: list(values[name][:VALUES_MAX]) if name in values else None
        for name in sorted(plain)[:NAMES_MAX]
    }


def _values(
    part: str,
    names: frozenset[str],
    values: Mapping[str, tuple[str, ...]],
    withheld: list[str],
    never: frozenset[str] = frozenset(),
) -> dict[str, list[str] | None]:
    found: dict[str, list[str] | None] = {}
    for name in sorted(names)[:NAMES_MAX]:
        if name in never or _SECRET_NAME.search(name):
            withheld.append(f"{part}.{name}")
            continue
        given = values.get(name)
        if given is None:
            found[name] = None
        elif len(given) > VALUES_MAX or any(_unfit(value, VALUE_CHARS_MAX) for value in given):
            withheld.append(f"{part}.{name}")
        else:
            found[name] = list(given)
    return found


def _context(
    reads: PolicyReads, request: AccessRequest, withheld: list[str]
) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in sorted(reads.context)[:NAMES_MAX]:
        value = request.context.get(name)
        if _SECRET_NAME.search(name) or (value is not None and _unfit(value, VALUE_CHARS_MAX)):
            withheld.append(f"context.{name}")
        else:
            found[name] = value
    return found


def _body(
    reads: PolicyReads, view: RequestView, withheld: list[str]
) -> tuple[dict[str, Plain], bool]:
    if not reads.body:
        return {}, False
    if view.body is UNREADABLE:
        return {}, True
    found: dict[str, Plain] = {}
    conditions = reads.all_conditions
    for path in sorted(reads.body)[:NAMES_MAX]:
        value, present = _field(view.body, path)
        unplain = isinstance(value, dict | list) or (present and value is None)
        if unplain and f"body.{path}" not in conditions:
            # A match finds no value there, as where there is none.
            found[path] = None
        elif _is_content(path) or unplain or _unfit(str(value), BODY_CHARS_MAX):
            withheld.append(f"body.{path}")
        else:
            found[path] = value
    return found, False


def _field(body: Any, path: str) -> tuple[Any, bool]:
    value = body
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return None, False
        value = value[name]
    return value, True


def _is_content(path: str) -> bool:
    parts = path.lower().split(".")
    return not CONTENT_NAMES.isdisjoint(parts) or any(map(_SECRET_NAME.search, parts))


def _unfit(value: str, chars_max: int) -> bool:
    """Whether a value is too long to keep, looks like a credential, or cannot be stored."""
    return (
        len(value) > chars_max
        or _SECRET_VALUE.search(value) is not None
        or plain_text(value, chars_max) != value
    )
