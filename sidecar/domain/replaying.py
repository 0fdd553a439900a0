"""
Replay: recorded decisions and usage against a changed policy.

Each customer's state is the recorded numbers plus a difference that evolves: a request that is
now refused gives back its hold at once and its captured amount when that would have come, and
changed prices change both. With the policy that the records come from, every difference is
zero, and each decision comes out as it was.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.decision_records import DecisionRecord, NumbersFrom, Stage, headers_digest
from sidecar.domain.decisions import DenyReason
from sidecar.domain.judging import Judgement, judge
from sidecar.domain.planning import Ask, Refusal, plan_check, plan_unidentified
from sidecar.domain.policy import Policy
from sidecar.domain.policy_reads import reads_of
from sidecar.domain.recorded_view import (
    RecordedView,
    Unrecorded,
    planned_at,
    rebuild_facts,
    rebuild_view,
)
from sidecar.domain.replay_report import Flip, ReplayReport
from sidecar.domain.replay_state import (
    CustomerState,
    ReplayedHold,
    ReplayUsage,
    Side,
    planned_side,
    recorded_side,
)
from sidecar.domain.rerating import Rerating, Unrated

CUSTOMERS_MAX = 1_000_000
"""Customers whose state is kept; beyond it the one that was seen last longest ago goes."""


class How(StrEnum):
    """How a decision came out of the replay."""

    REPRODUCED = "reproduced"
    REWORDED = "reworded"
    FLIPPED = "flipped"
    KEPT = "kept"
    UNJUDGED = "unjudged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a decision says, as far as replay compares it."""

    allow: bool
    code: str = ""
    rule: str = ""
    status: int = 0
    retry_after_seconds: int = 0
    shadow: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    headers: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejudged:
    """A record under the changed policy. `reason` says why it could not be judged."""

    how: How
    was: Outcome
    now: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Judged:
    outcome: Outcome
    side: Side
    amount_nano: int
    from_older: bool = False
    priced_meters: frozenset[str] = frozenset()


class Replay:
    """
    Takes records and usage in the order of time, and keeps the report.

    Not to be used after a call that raised.
    """

    def __init__(self, policy: Policy) -> None:
        """Judge by this policy."""
        self.report = ReplayReport(policy_version=policy.version)
        self._policy = policy
        self._reads = reads_of(policy)
        self._rerating = Rerating(policy)
        self._states: OrderedDict[str, CustomerState] = OrderedDict()
        self._flips: dict[str, Flip] = {}

    def take_record(self, record: DecisionRecord) -> Rejudged:
        """Judge one decision anew and let it take effect."""
        report = self.report
        report.decisions += 1
        report.by_version[record.policy_version] += 1
        was, state = outcome_of(record), self._state(record.customer_id)
        reason = ""
        judged: _Judged | None = None
        if not _is_kept(record):
            try:
                judged = self._judge(record, state)
            except Unrecorded as error:
                reason = str(error)
        side = recorded_side(record)
        if judged is None:
            report.kept += not reason
            if reason:
                report.unjudged[reason] += 1
            same = Side(allowed=side.allowed, held_nano=side.held_nano, slots=list(side.slots))
            state.apply(record, ReplayedHold(was=side, now=same))
            how = How.UNJUDGED if reason else How.KEPT
            return Rejudged(how=how, was=was, now=was, reason=reason)
        unmeasured = judged.priced_meters - record.quantities.keys()
        state.apply(record, ReplayedHold(was=side, now=judged.side, unmeasured=unmeasured))
        report.from_older_numbers += judged.from_older
        report.headers_changed += was.headers != judged.outcome.headers
        how = self._count(record, was, judged)
        return Rejudged(how=how, was=was, now=judged.outcome)

    def take_usage(self, usage: ReplayUsage) -> None:
        """Let settled usage take effect, at the old prices and at the new."""
        report = self.report
        report.usage_events += 1
        state = self._state(usage.customer_id)
        now_nano = self._rate(usage, state.holds.get(usage.hold_id))
        hold = state.settle(usage, now_nano)
        if hold is not None and not hold.now.allowed:
            now_nano = 0
            self._add_refused(usage)
        key = (usage.customer_id, usage.currency)
        report.revenue_before[key] += usage.amount_nano
        report.revenue_after[key] += now_nano

    def _rate(self, usage: ReplayUsage, hold: ReplayedHold | None) -> int:
        """What usage comes to now; what it came to then, where that cannot be said."""
        if hold is not None and hold.unmeasured:
            self.report.unrated[f"meter {min(hold.unmeasured)} was not counted"] += 1
            return usage.amount_nano
        try:
            return self._rerating.amount(usage)
        except Unrated as error:
            self.report.unrated[str(error)] += 1
            return usage.amount_nano

    def _count(self, record: DecisionRecord, was: Outcome, judged: _Judged) -> How:
        now = judged.outcome
        if was.allow != now.allow:
            self._flip(record, judged)
            return How.FLIPPED
        # Headers carry numbers of the moment; they are counted by themselves.
        if _compared(was) == _compared(now):
            self.report.reproduced += 1
            return How.REPRODUCED
        self.report.reworded += 1
        return How.REWORDED

    def _flip(self, record: DecisionRecord, judged: _Judged) -> None:
        now = judged.outcome
        refuses = outcome_of(record) if now.allow else now
        flip = Flip(
            at_ms=record.instant_ms,
            decision_id=record.decision_id,
            customer_id=record.customer_id,
            allow=now.allow,
            rule=refuses.rule,
            code=refuses.code,
            currency=record.currency,
            held_nano=judged.amount_nano if now.allow else _held(record),
            estimated=now.allow,
        )
        self.report.add_flip(flip)
        if now.allow and judged.amount_nano:
            # Its usage never was, so revenue counts the most that it could have cost.
            self.report.revenue_after[record.customer_id, record.currency] += judged.amount_nano
        elif self.report.flips[-1] is flip:
            self._flips[record.hold_id] = flip

    def _add_refused(self, usage: ReplayUsage) -> None:
        self.report.refused_captured[usage.currency] += usage.amount_nano
        flip = self._flips.get(usage.hold_id)
        if flip is not None:
            flip.captured_nano += usage.amount_nano

    def _state(self, customer_id: str) -> CustomerState:
        state = self._states.get(customer_id)
        if state is None:
            state = self._states[customer_id] = CustomerState()
            if len(self._states) > CUSTOMERS_MAX:
                self._states.popitem(last=False)
        else:
            self._states.move_to_end(customer_id)
        return state

    def _judge(self, record: DecisionRecord, state: CustomerState) -> _Judged:
        """Decide as a check would. Raises Unrecorded."""
        policy = self._policy
        view = rebuild_view(record, policy, self._reads)
        if policy.is_free(view) or policy.passes_unmatched(view):
            return _Judged(Outcome(allow=True), Side(allowed=True, held_nano=0, slots=[]), 0)
        customer = record.customer
        if not customer.customer_id:
            return self._judge_nobody(record, view, customer)
        plan = plan_check(
            policy, view, customer, rebuild_facts(record, policy, view), planned_at(record)
        )
        if isinstance(plan, Refusal):
            return _refused(plan)
        numbers = None if plan.ask is Ask.NOTHING else state.numbers(record, plan)
        if numbers is None and plan.ask is not Ask.NOTHING:
            raise Unrecorded("the customer's balance was not recorded")
        judgement = judge(plan, numbers, customer)
        outcome = _outcome(judgement)
        if numbers is None:
            side = Side(allowed=outcome.allow, held_nano=0, slots=[])
        else:
            side = planned_side(plan, numbers, allowed=outcome.allow)
        older = numbers is not None and record.numbers_from is not NumbersFrom.STORE
        priced = frozenset[str]()
        if plan.card is not None:
            priced = plan.card.priced_meters() & plan.quantities.keys()
        return _Judged(outcome, side, plan.amount_nano, older, priced)

    def _judge_nobody(
        self, record: DecisionRecord, view: RecordedView, customer: CustomerFacts
    ) -> _Judged:
        plan = plan_unidentified(self._policy, view, planned_at(record), customer)
        if isinstance(plan, Refusal):
            return _refused(plan)
        outcome = _outcome(judge(plan, None, customer))
        return _Judged(outcome, Side(allowed=outcome.allow, held_nano=0, slots=[]), 0)


def outcome_of(record: DecisionRecord) -> Outcome:
    """What the record's own decision said."""
    return Outcome(
        allow=record.allow,
        code=record.code,
        rule=record.rule,
        status=record.status,
        retry_after_seconds=record.retry_after_seconds,
        shadow=record.shadow,
        over=record.over,
        headers=record.headers,
    )


def _is_kept(record: DecisionRecord) -> bool:
    """Whether the decision was taken before the rules, or without the store's own numbers."""
    return record.stage is not Stage.RULES or record.numbers_from in (
        NumbersFrom.OLD,
        NumbersFrom.AWAY,
    )


def _outcome(judgement: Judgement) -> Outcome:
    denial = judgement.denial
    if denial is None:
        return Outcome(
            allow=True,
            shadow=judgement.shadow_denials,
            over=judgement.over_limits,
            headers=headers_digest(judgement.headers),
        )
    return Outcome(
        allow=False,
        code=denial.reason.value,
        rule=denial.rule,
        status=denial.answer.status or 0,
        retry_after_seconds=denial.retry_after_seconds or 0,
        shadow=judgement.shadow_denials,
        over=judgement.over_limits,
        headers=headers_digest(judgement.headers),
    )


def _refused(refusal: Refusal) -> _Judged:
    assert isinstance(refusal.reason, DenyReason)
    outcome = Outcome(allow=False, code=refusal.reason.value, rule=refusal.rule)
    return _Judged(outcome, Side(allowed=False, held_nano=0, slots=[]), 0)


def _held(record: DecisionRecord) -> int:
    return record.amount_nano if record.placed else 0


def _compared(outcome: Outcome) -> tuple[object, ...]:
    return (
        outcome.code,
        outcome.rule,
        outcome.status,
        outcome.retry_after_seconds,
        outcome.shadow,
        outcome.over,
    )
