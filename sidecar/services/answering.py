"""Decisions in words: one place makes each Allow and Deny of a check, counts and keeps it."""

from dataclasses import replace

from sidecar import telemetry
from sidecar.domain.customers import NOBODY, CustomerFacts
from sidecar.domain.decisions import Allow, Decision, Deny, DenyReason, PlacedHold
from sidecar.domain.holds import HoldTerms
from sidecar.domain.judging import Judgement
from sidecar.domain.periods import from_epoch_ms
from sidecar.domain.planning import CheckPlan
from sidecar.domain.policy import Policy
from sidecar.domain.requests import AccessRequest, RequestFacts
from sidecar.domain.store_numbers import StoreNumbers
from sidecar.services.check_context import CheckContext, Demand
from sidecar.services.ports import (
    Clock,
    DecisionLog,
    HoldLifetime,
    HoldTokens,
    MadeDecision,
    PlaceOutcome,
)


class Answers:
    """Words the decisions of checks, and has each kept that places a hold or denies."""

    def __init__(self, tokens: HoldTokens, clock: Clock, log: DecisionLog) -> None:
        """Wire the ports."""
        self._tokens = tokens
        self._clock = clock
        self._log = log

    def refuse_path(self, policy: Policy, request: AccessRequest, detail: str) -> Deny:
        """Deny a request whose path nobody can read for certain."""
        decision = deny_before_rules(policy, request, DenyReason.INVALID_REQUEST, "path", detail)
        self._log.note(
            MadeDecision(policy=policy, request=request, decision=decision, now=self._clock.now())
        )
        return decision

    def refuse_store(self, context: CheckContext) -> Deny:
        """Deny because the store gave no answer; the edge turns it into its own error."""
        rule = "on_store_failure"
        detail = "the decision could not be taken in time"
        decision = deny_before_rules(
            context.policy, context.request, DenyReason.STORE_UNAVAILABLE, rule, detail
        )
        return replace(decision, dialect=context.policy.dialect_for(context.view))

    def refuse_unknown(self, context: CheckContext) -> Deny:
        """Deny a credential that leads to nobody."""
        return self.refuse(
            context, DenyReason.UNKNOWN_CREDENTIAL, "identity", "the credential is not known"
        )

    def refuse(
        self,
        context: CheckContext,
        reason: DenyReason,
        rule: str,
        detail: str,
        *,
        customer: CustomerFacts = NOBODY,
        facts: RequestFacts = RequestFacts(),
        retry_after_seconds: int | None = None,
    ) -> Deny:
        """Deny without having asked the store."""
        decision = replace(
            deny_before_rules(context.policy, context.request, reason, rule, detail),
            customer_id=customer.customer_id,
            dialect=context.policy.dialect_for(context.view),
            retry_after_seconds=retry_after_seconds,
        )
        self._note(context, decision, customer=customer, facts=facts)
        return decision

    def answer_nobody(
        self, context: CheckContext, plan: CheckPlan, judgement: Judgement
    ) -> Decision:
        """The rules' word on a request of nobody: there is nothing to hold."""
        _count(judgement)
        if judgement.denial is None:
            return Allow(
                decision_id=context.request.decision_id,
                policy_version=context.policy.version,
                headers=judgement.headers,
            )
        decision = deny_by_rule(context, NOBODY, judgement)
        self._note(context, decision, plan=plan, judgement=judgement)
        return decision

    def answer(
        self,
        demand: Demand,
        judgement: Judgement,
        *,
        terms: HoldTerms | None = None,
        lifetime: HoldLifetime | None = None,
        numbers: StoreNumbers | None = None,
        outcome: PlaceOutcome | None = None,
    ) -> Decision:
        """
        The rules' word on a customer's request.

        Args:
            demand: What was asked.
            judgement: What the rules say; its headers are the answer's.
            terms: Of the hold; needed for an allow.
            lifetime: Of the hold; needed for an allow.
            numbers: What the rules judged.
            outcome: The store's own answer; None where it was not asked or did not answer.
        """
        _count(judgement)
        decision: Decision
        if judgement.denial is not None:
            decision = deny_by_rule(demand.context, demand.customer, judgement)
        else:
            assert terms is not None
            assert lifetime is not None
            decision = self._allow(demand, terms, lifetime, judgement)
        self._note(
            demand.context,
            decision,
            customer=demand.customer,
            facts=demand.facts,
            plan=demand.plan,
            judgement=judgement,
            numbers=numbers,
            outcome=outcome,
        )
        return decision

    def _allow(
        self, demand: Demand, terms: HoldTerms, lifetime: HoldLifetime, judgement: Judgement
    ) -> Allow:
        return Allow(
            decision_id=demand.context.request.decision_id,
            customer_id=demand.customer.customer_id,
            policy_version=demand.context.policy.version,
            hold=PlacedHold(
                hold_id=terms.hold_id,
                token=self._tokens.sign(terms, lifetime),
                amount_nano=terms.amount_nano,
                currency=terms.currency,
                expires_at=from_epoch_ms(lifetime.expires_at_ms),
            ),
            headers=judgement.headers,
            remove_headers=demand.credential_headers,
        )

    def _note(
        self,
        context: CheckContext,
        decision: Decision,
        *,
        customer: CustomerFacts = NOBODY,
        facts: RequestFacts = RequestFacts(),
        plan: CheckPlan | None = None,
        judgement: Judgement | None = None,
        numbers: StoreNumbers | None = None,
        outcome: PlaceOutcome | None = None,
    ) -> None:
        self._log.note(
            MadeDecision(
                policy=context.policy,
                request=context.request,
                decision=decision,
                now=self._clock.now(),
                view=context.view,
                customer=customer,
                facts=facts,
                plan=plan,
                judgement=judgement,
                numbers=numbers,
                outcome=outcome,
            )
        )


def deny_by_rule(context: CheckContext, customer: CustomerFacts, judgement: Judgement) -> Deny:
    """The denial of a rule, in its own words or those of the route's error format."""
    denial = judgement.denial
    assert denial is not None
    answer = denial.answer
    return Deny(
        decision_id=context.request.decision_id,
        reason=denial.reason,
        rule=denial.rule,
        customer_id=customer.customer_id,
        policy_version=context.policy.version,
        status=answer.status,
        headers=judgement.headers,
        body=denial.body,
        empty_body=answer.empty,
        dialect=answer.dialect or context.policy.dialect_for(context.view),
        retry_after_seconds=denial.retry_after_seconds,
    )


def deny_before_rules(
    policy: Policy, request: AccessRequest, reason: DenyReason, rule: str, detail: str
) -> Deny:
    """A denial that no rule of the policy decided."""
    return Deny(
        decision_id=request.decision_id,
        reason=reason,
        rule=rule,
        detail=detail,
        policy_version=policy.version,
    )


def _count(judgement: Judgement) -> None:
    """Count what the rules say beside their decision."""
    for rule in judgement.shadow_denials:
        telemetry.SHADOW_DENIALS.labels(rule).inc()
    for rule in judgement.failed_conditions:
        telemetry.FAILED_CONDITIONS.labels(rule).inc()
    if judgement.over_limits and judgement.denial is None:
        telemetry.SOFT_LIMIT_ADMITS.inc()
