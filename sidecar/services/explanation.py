"""What an explanation of a decision says, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any

from sidecar.domain.periods import from_epoch_ms


class RuleOutcome(StrEnum):
    """What became of one rule."""

    DRAFT = "draft"
    NOT_MATCHED = "not matched"
    NOT_JUDGED = "not judged"
    """The request was refused, or let pass, before rules were asked."""
    OTHER_CURRENCY = "other currency"
    CONDITION_FALSE = "condition false"
    PASSES = "passes"
    WARNS = "adds headers"
    WOULD_DENY = "would deny"
    """It does not enforce for this caller."""
    DENIES = "denies"
    """It would refuse too, after an earlier rule decided."""
    DECIDES = "decides"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A condition that was not met: its key, what was found and what was wanted."""

    condition: str
    found: str
    wanted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionTrace:
    """A rule's `when`, what it read, and its answer; None where it could not be evaluated."""

    text: str
    values: Mapping[str, str]
    holds: bool | None
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterTrace:
    """
    A counter before and after the request, in its measure's unit (money in nano).

    `after` is `before` where nothing was taken. `over` says that the request does not fit.
    """

    name: str
    measure: str
    limit: int
    before: int
    wanted: int
    after: int
    over: bool
    hard: bool
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTrace:
    """
    One rule, and why it did what it did.

    `mismatches` has one entry per alternative of `match`, or one for whom the rule is not.
    `mode` is as written, `enforces` for this caller.
    """

    rule: str
    place: str
    template: str
    mode: str
    enforces: bool
    outcome: RuleOutcome
    mismatches: tuple[Mismatch, ...] = ()
    condition: ConditionTrace | None = None
    counter: CounterTrace | None = None
    detail: str = ""

    @property
    def matched(self) -> bool:
        """Whether the rule is for the request and its caller, its condition apart."""
        return self.outcome not in (RuleOutcome.DRAFT, RuleOutcome.NOT_MATCHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldTrace:
    """
    What was to be held; `overshoot` states how far usage can go beyond it.

    `invoices_rest` says that credit is used first, and what it lacks is owed.
    """

    placed: bool
    amount_nano: int
    currency: str
    quantities: Mapping[str, int]
    bound: str
    overshoot: str
    credit_required: bool
    model: str = ""
    invoices_rest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NumbersTrace:
    """The numbers that the rules judged: where they come from, and as of when."""

    source: str
    as_of: datetime
    available_nano: int
    standing: str
    overdue_nano: int | None = None
    overdue_since: datetime | None = None
    disputed: bool = False
    ages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerTrace:
    """The decision, and on a denial the answer as the caller gets it from an edge."""

    allow: bool
    status: int | None
    headers: Mapping[str, str]
    body: object = None
    empty_body: bool = False
    code: str = ""
    rule: str = ""
    detail: str = ""
    retry_after_seconds: int | None = None
    shadow: tuple[str, ...] = ()
    over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """
    One decision, explained.

    `notes` say what applies to the whole request. `recorded` is what was decided, where the
    explanation is of a recorded decision, and `agrees` whether it came out the same.
    """

    policy_version: str
    method: str
    path: str
    customer: str
    plan: str
    at: datetime
    rules: tuple[RuleTrace, ...]
    answer: AnswerTrace
    hold: HoldTrace | None = None
    numbers: NumbersTrace | None = None
    notes: tuple[str, ...] = ()
    decision_id: str = ""
    recorded: str = ""
    agrees: bool | None = None


def instant_or_none(epoch_ms: int | None) -> datetime | None:
    """An instant, where there is one."""
    return None if not epoch_ms else from_epoch_ms(epoch_ms)


def as_data(value: Any) -> Any:
    """An explanation, or a part of one, as JSON has it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: as_data(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(key): as_data(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [as_data(item) for item in value]
    return value
