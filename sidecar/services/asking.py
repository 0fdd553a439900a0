"""A request to explain, as a person or a client of the API writes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sidecar.domain.counters import MONEY
from sidecar.domain.customers import NOBODY, CustomerFacts
from sidecar.domain.errors import Conflict, InvalidInput, NotFound
from sidecar.domain.money import AMOUNT_NANO_MAX, parse_amount
from sidecar.domain.nearest import unknown
from sidecar.domain.policy import Policy
from sidecar.domain.requests import AccessRequest
from sidecar.domain.standing import Standing
from sidecar.services.explaining import Explainer, Question
from sidecar.services.explanation import Explanation
from sidecar.services.given_numbers import GivenNumbers
from sidecar.services.rule_test_cases import GivenInvoices

UNNAMED_CUSTOMER = "cus_explained"
"""Stands for a customer that is given by its plan alone."""
_NO_HOLD = "0" * 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """
    The words of a question.

    Without a customer and a plan nobody is identified. Amounts are decimal texts; `used` is
    by quota, or by the rule that limits, in the limit's unit. What is not given refuses
    nothing: endless credit, no use, good standing.
    """

    method: str
    path: str
    host: str = ""
    source_ip: str = ""
    headers: Sequence[tuple[str, str]] = ()
    context: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    customer_id: str | None = None
    plan: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    user_id: str = ""
    team_id: str = ""
    credential_id: str = ""
    credit: str | None = None
    used: Mapping[str, str] = field(default_factory=dict)
    standing: str = "good"
    overdue_days: int | None = None
    overdue: str | None = None
    disputed: bool = False
    at: datetime | None = None


def ask(explainer: Explainer, asked: Asked, *, now: datetime) -> Explanation:
    """
    Explain by the numbers that were given.

    Raises:
        InvalidInput: Naming what cannot be read.
        NotFound: If the policy has no such plan or limit.
        Conflict: If what is given does not go together.
    """
    at = (asked.at or now).astimezone(UTC)
    customer = customer_of(explainer.policy, asked)
    question = Question(request=request_of(asked, at), at=at, customer=customer)
    return explainer.explain_given(question, _numbers(explainer.policy, asked, at))


def request_of(asked: Asked, at: datetime, *, hold_id: str = _NO_HOLD) -> AccessRequest:
    """The request as an edge would hand it over."""
    headers: dict[str, tuple[str, ...]] = {}
    for name, value in asked.headers:
        headers[name.lower()] = (*headers.get(name.lower(), ()), value)
    if asked.body is not None:
        # What is given as a body is JSON unless it says something else.
        headers.setdefault("content-type", ("application/json",))
    return AccessRequest(
        edge="explain",
        gateway_id="explain",
        hold_id=hold_id,
        method=asked.method.upper(),
        path=asked.path,
        headers=headers,
        received_at=at,
        deadline=at,
        host=asked.host,
        source=asked.source_ip,
        body=asked.body,
        context=asked.context,
    )


def customer_of(policy: Policy, asked: Asked) -> CustomerFacts:
    """
    Whose request it is, as far as it was given.

    Raises:
        NotFound: If the policy has no such plan.
        Conflict: If nothing says which plan the customer is on.
    """
    if asked.customer_id is None and asked.plan is None:
        return NOBODY
    if asked.plan is None:
        raise Conflict(
            f"nothing says which plan {asked.customer_id!r} is on; give its plan, or read the "
            "customer live"
        )
    card = policy.cards.get(asked.plan)
    if card is None:
        raise NotFound(unknown("plan", asked.plan, policy.cards, label="there are these plans"))
    return CustomerFacts(
        customer_id=asked.customer_id or UNNAMED_CUSTOMER,
        plan=asked.plan,
        currency=card.currency,
        revision=0,
        labels=asked.labels,
        team_id=asked.team_id,
        user_id=asked.user_id,
        credential_id=asked.credential_id,
    )


def _numbers(policy: Policy, asked: Asked, at: datetime) -> GivenNumbers:
    standings = [one.value for one in Standing]
    if asked.standing not in standings:
        raise InvalidInput(
            f"found standing {asked.standing[:40]!r}; allowed: {', '.join(standings)}",
            field="standing",
        )
    overdue = None if asked.overdue is None else parse_amount(asked.overdue, field="overdue")
    return GivenNumbers(
        at=at,
        available_nano=(
            AMOUNT_NANO_MAX if asked.credit is None else parse_amount(asked.credit, field="credit")
        ),
        standing=Standing(asked.standing),
        invoices=GivenInvoices(
            overdue_days=asked.overdue_days, amount_nano=overdue, disputed=asked.disputed
        ),
        used=_used(policy, asked.used),
    )


def _used(policy: Policy, used: Mapping[str, str]) -> dict[str, int]:
    """By counter, in its unit: an amount where it counts money."""
    counters = {rule.counter.name: rule.counter for rule in policy.rules if rule.counter}
    found = {}
    for name, text in used.items():
        counter = counters.get(name)
        if counter is None:
            raise NotFound(
                unknown("limit", name, counters, label="there are these quotas and limits")
            )
        if counter.measure == MONEY:
            found[name] = _amount(name, text)
        elif text.isdecimal() and text.isascii():
            found[name] = int(text)
        else:
            raise Conflict(f"used {name}: found {text[:40]!r}; expected a whole number")
    return found


def _amount(name: str, text: str) -> int:
    try:
        return int(parse_amount(text, field=f"used {name}"))
    except InvalidInput as error:
        raise Conflict(str(error)) from error
