"""
Explains a decision: the same plan and judgement as a check, and what each rule made of it.

Nothing is held. The numbers are given, read from the live store by a probe that takes
nothing, or those of a recorded decision.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from sidecar.domain.customers import NOBODY, CustomerFacts
from sidecar.domain.decision_records import DecisionRecord, NumbersFrom, Stage
from sidecar.domain.decisions import Deny, DenyReason
from sidecar.domain.errors import InvalidInput
from sidecar.domain.judging import judge
from sidecar.domain.matching import RequestView
from sidecar.domain.overshoot import overshoot
from sidecar.domain.periods import from_epoch_ms
from sidecar.domain.planning import Ask, CheckPlan, Refusal, plan_check, plan_unidentified
from sidecar.domain.policy import Policy
from sidecar.domain.policy_reads import reads_of
from sidecar.domain.recorded_view import (
    Unrecorded,
    planned_at,
    rebuild_facts,
    rebuild_view,
    recorded_request,
)
from sidecar.domain.replay_state import CustomerState
from sidecar.domain.requests import AccessRequest, RequestFacts, normalise_path
from sidecar.domain.stated_bounds import bound_words, read_stated
from sidecar.services.answering import deny_before_rules, deny_by_rule
from sidecar.services.check_context import CheckContext
from sidecar.services.explanation import (
    AnswerTrace,
    Explanation,
    HoldTrace,
    NumbersTrace,
    instant_or_none,
)
from sidecar.services.given_numbers import Given, after_place, play_place
from sidecar.services.ports import Word
from sidecar.services.tracing import Judged, JudgedNumbers, Tracer

ReadFacts = Callable[[AccessRequest], RequestFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request, whose it is, and when. `facts` replaces what the body would be read for."""

    request: AccessRequest
    at: datetime
    customer: CustomerFacts = NOBODY
    facts: RequestFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A question up to the store: a plan, a refusal, or why it passes without one."""

    question: Question
    view: RequestView | None = None
    facts: RequestFacts = field(default_factory=RequestFacts)
    plan: CheckPlan | None = None
    refusal: Refusal | None = None
    passes: str = ""

    @property
    def needs_numbers(self) -> bool:
        """Whether the store would be asked."""
        return self.plan is not None and self.plan.ask is not Ask.NOTHING


class Explainer:
    """Explains under one policy."""

    def __init__(self, policy: Policy, *, read_facts: ReadFacts, word: Word) -> None:
        """
        Take the policy.

        Args:
            policy: The policy.
            read_facts: Bounds usage by a request's body, as for checks.
            word: Words a denial, as the edges do.
        """
        self.policy = policy
        self._read_facts = read_facts
        self._word = word

    def prepare(self, question: Question) -> Prepared:
        """Plan what the check would ask of the store."""
        try:
            path = normalise_path(question.request.path)
        except InvalidInput as error:
            return Prepared(question=question, refusal=_invalid("path", error))
        return self._prepare(question, self.policy.view(question.request, path))

    def explain_given(self, question: Question, given: Given) -> Explanation:
        """Explain by given numbers."""
        prepared = self.prepare(question)
        numbers = None
        if prepared.needs_numbers:
            assert prepared.plan is not None
            numbers = JudgedNumbers(
                seen=after_place(prepared.plan, play_place(prepared.plan, given))
            )
        return self.explain(prepared, numbers, source="given")

    def explain_record(self, record: DecisionRecord) -> Explanation:
        """
        Explain a recorded decision under this policy, by the numbers that it was made from.

        Raises:
            Unrecorded: The policy reads a fact that the record does not have.
        """
        question = Question(
            request=recorded_request(record), at=planned_at(record), customer=record.customer
        )
        before_rules = _decided_before_rules(record, question)
        if before_rules is not None:
            return _with_record(
                self.explain(before_rules, None, source="recorded"), record, self.policy.version
            )
        view = rebuild_view(record, self.policy, reads_of(self.policy))
        question = replace(question, facts=rebuild_facts(record, self.policy, view))
        prepared = self._prepare(question, view)
        numbers = None
        if prepared.needs_numbers:
            assert prepared.plan is not None
            seen = CustomerState().numbers(record, prepared.plan)
            if seen is None:
                raise Unrecorded("the customer's numbers were not recorded")
            numbers = JudgedNumbers(seen=seen)
        explanation = self.explain(prepared, numbers, source="recorded")
        return _with_record(explanation, record, self.policy.version)

    def explain(
        self,
        prepared: Prepared,
        numbers: JudgedNumbers | None,
        *,
        source: str,
        ages: Mapping[str, str] | None = None,
    ) -> Explanation:
        """
        Judge, and say how it came about.

        Args:
            prepared: The question, up to the store.
            numbers: What the store would answer; needed where `prepared.needs_numbers`.
            source: Where the numbers come from, in a word.
            ages: How old what is known is, by what it is.
        """
        question, plan = prepared.question, prepared.plan
        customer, request = question.customer, question.request
        judgement = None
        if plan is not None and (numbers is not None or not prepared.needs_numbers):
            judgement = judge(plan, None if numbers is None else numbers.seen, customer)
        judged = Judged(
            view=prepared.view,
            plan=plan,
            numbers=numbers,
            judgement=judgement,
            ended=_ended(prepared),
        )
        return Explanation(
            policy_version=self.policy.version,
            method=request.method,
            path=request.path if prepared.view is None else prepared.view.path,
            customer=customer.customer_id,
            plan=customer.plan,
            at=question.at,
            rules=Tracer(self.policy, customer, judged).rules(),
            answer=self._answer(prepared, judged),
            hold=self._hold(prepared, judged),
            numbers=_numbers(judged, source, ages or {}),
            notes=tuple(note for note in (_ended(prepared),) if note),
        )

    def _prepare(self, question: Question, view: RequestView) -> Prepared:
        policy, customer = self.policy, question.customer
        prepared = Prepared(question=question, view=view)
        if policy.is_free(view):
            return replace(prepared, passes="the route is free: no rule is asked")
        if policy.passes_unmatched(view):
            return replace(prepared, passes="nothing claims the request, and `unmatched` allows it")
        if not customer.customer_id:
            return _planned(prepared, plan_unidentified(policy, view, question.at, customer))
        if policy.reads_body(view):
            try:
                facts = question.facts or self._read_facts(question.request)
            except InvalidInput as error:
                return replace(prepared, refusal=_invalid("body", error))
            prepared = replace(prepared, facts=facts)
        return _planned(prepared, plan_check(policy, view, customer, prepared.facts, question.at))

    def _answer(self, prepared: Prepared, judged: Judged) -> AnswerTrace:
        question, judgement = prepared.question, judged.judgement
        shadow = () if judgement is None else judgement.shadow_denials
        over = () if judgement is None else judgement.over_limits
        deny = self._denial(prepared, judged)
        if deny is None:
            headers = {} if judgement is None else judgement.headers
            return AnswerTrace(allow=True, status=None, headers=headers, shadow=shadow, over=over)
        worded = self._word(replace(deny, customer_id=question.customer.customer_id))
        return AnswerTrace(
            allow=False,
            status=worded.status,
            headers=dict(worded.headers),
            body=worded.body,
            empty_body=worded.empty,
            code=deny.reason.value,
            rule=deny.rule,
            detail=deny.detail,
            retry_after_seconds=deny.retry_after_seconds,
            shadow=shadow,
            over=over,
        )

    def _denial(self, prepared: Prepared, judged: Judged) -> Deny | None:
        policy, request, refusal = self.policy, prepared.question.request, prepared.refusal
        view, judgement = prepared.view, judged.judgement
        if refusal is not None:
            deny = deny_before_rules(policy, request, refusal.reason, refusal.rule, refusal.detail)
            return deny if view is None else replace(deny, dialect=policy.dialect_for(view))
        if view is None or judgement is None or judgement.denial is None:
            return None
        context = CheckContext(policy=policy, request=request, view=view)
        return deny_by_rule(context, prepared.question.customer, judgement)

    def _hold(self, prepared: Prepared, judged: Judged) -> HoldTrace | None:
        plan, view = prepared.plan, prepared.view
        if plan is None or plan.card is None or view is None:
            return None
        estimate = self.policy.estimate_for(view)
        bounded = read_stated(estimate, view, prepared.facts)
        stated = overshoot(
            self.policy.models,
            plan.card,
            self.policy.meters_for(view),
            bounded.facts,
            plan.amount_nano,
            request_bytes=len(view.request.body or b""),
        )
        exceeds = stated.most_nano is None or bool(stated.beyond_nano)
        return HoldTrace(
            placed=judged.placed,
            amount_nano=plan.amount_nano,
            currency=plan.card.currency,
            quantities=plan.quantities,
            bound=f"{plan.bound.value}: {bound_words(estimate, plan.bound)}",
            overshoot=stated.words(plan.card.currency) if exceeds else "none",
            credit_required=plan.credit_required,
            model=plan.model,
            invoices_rest=plan.invoices_rest,
        )


def _planned(prepared: Prepared, planned: CheckPlan | Refusal) -> Prepared:
    if isinstance(planned, Refusal):
        return replace(prepared, refusal=planned)
    return replace(prepared, plan=planned)


def _invalid(rule: str, error: InvalidInput) -> Refusal:
    return Refusal(reason=DenyReason.INVALID_REQUEST, rule=rule, detail=str(error))


def _ended(prepared: Prepared) -> str:
    refusal = prepared.refusal
    if refusal is not None:
        return f"refused before rules are judged, by {refusal.rule}: {refusal.detail}"
    return prepared.passes


def _numbers(judged: Judged, source: str, ages: Mapping[str, str]) -> NumbersTrace | None:
    numbers, plan = judged.numbers, judged.plan
    if numbers is None or plan is None:
        return None
    seen = numbers.seen
    return NumbersTrace(
        source=source,
        as_of=from_epoch_ms(seen.instant_ms),
        available_nano=numbers.available_before(plan),
        standing=seen.standing.value,
        overdue_nano=seen.due_nano,
        overdue_since=instant_or_none(seen.due_since_ms),
        disputed=seen.disputed,
        ages=ages,
    )


def _decided_before_rules(record: DecisionRecord, question: Question) -> Prepared | None:
    """A decision that no rule took, or that was taken without numbers; None for all others."""
    away = record.numbers_from is NumbersFrom.AWAY
    if record.stage is Stage.RULES and not away:
        return None
    why = "the store gave no answer in time" if away else f"decided at stage {record.stage}"
    if record.allow:
        return Prepared(question=question, passes=f"{why}: `on_store_failure` let it pass")
    refusal = Refusal(reason=DenyReason(record.code), rule=record.rule, detail=why)
    return Prepared(question=question, refusal=refusal)


def _with_record(explanation: Explanation, record: DecisionRecord, version: str) -> Explanation:
    """Beside it, what was decided then."""
    answer = explanation.answer
    status = record.status or answer.status
    was = "allow" if record.allow else f"deny {status} by {record.rule} ({record.code})"
    notes = explanation.notes
    if record.policy_version != version:
        notes += (
            f"decided under policy {record.policy_version}; explained under policy {version}",
        )
    if record.numbers_from is NumbersFrom.OLD:
        notes += ("decided by numbers that the store had told before: it gave no answer",)
    return replace(
        explanation,
        decision_id=record.decision_id,
        recorded=was,
        agrees=(answer.allow, answer.code, answer.rule) == (record.allow, record.code, record.rule),
        notes=notes,
    )
