"""One check: the order of its steps, over ports."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from sidecar import telemetry
from sidecar.domain.customers import CustomerFacts
from sidecar.domain.decisions import Allow, Decision, Deny, DenyReason, PlacedHold
from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.holds import Bound, HoldTerms
from sidecar.domain.judging import judge
from sidecar.domain.periods import from_epoch_ms, to_epoch_ms
from sidecar.domain.policy import UNMATCHED_RULE, CheckPlan, Policy, Refusal
from sidecar.domain.requests import AccessRequest, RequestFacts, normalise_path
from sidecar.domain.rules import OnStoreFailure
from sidecar.services.identity import NO_TOKENS, Claimed, Presented, Unidentified, identify
from sidecar.services.ports import (
    Balances,
    Clock,
    Directory,
    HoldTokens,
    PlaceHold,
    PlaceOutcome,
    PlaceStatus,
    Policies,
    RequestDigests,
)
from sidecar.services.releasing import CheckTries, HoldReleases
from sidecar.services.token_ports import JwtVerifier, KeysAway

ReadFacts = Callable[[AccessRequest], RequestFacts]
_REPLANS_MAX = 2
"""A stale copy and a window's edge may each ask for one more plan; more means trouble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """What one check carries from step to step."""

    policy: Policy
    request: AccessRequest
    path: str
    routes: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Demand:
    """What one check asked of the store, and for whom."""

    context: _Context
    customer: CustomerFacts
    plan: CheckPlan
    hold: PlaceHold
    credential_headers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replan:
    """The store asks for another plan, as of an instant."""

    at: datetime


class CheckService:
    """
    Answers whether a request may pass and, if so, holds the most that it can cost.

    A check with a warm directory makes one store call. Where the answer may not reach the
    gateway, `abandon` gives the hold back.
    """

    def __init__(
        self,
        *,
        policies: Policies,
        directory: Directory,
        balances: Balances,
        tokens: HoldTokens,
        digests: RequestDigests,
        clock: Clock,
        read_facts: ReadFacts,
        hold_ttl_ms: int,
        jwt_verifier: JwtVerifier = NO_TOKENS,
    ) -> None:
        """
        Wire the ports.

        Args:
            policies, directory, balances, tokens, digests, clock: Ports.
            read_facts: Bounds usage by a request's body; may raise InvalidInput.
            hold_ttl_ms: How long a hold lives without a sign of life.
            jwt_verifier: Verifies tokens that the gateway did not.
        """
        self._policies = policies
        self._directory = directory
        self._balances = balances
        self._tokens = tokens
        self._digests = digests
        self._clock = clock
        self._read_facts = read_facts
        self._jwt_verifier = jwt_verifier
        self._hold_ttl_ms = hold_ttl_ms
        self._releases = HoldReleases(balances, hold_ttl_seconds=hold_ttl_ms / 1_000)
        self._tries = CheckTries()

    async def check(self, request: AccessRequest) -> Decision:
        """
        Decide on one request and, if it may pass, hold its upper bound.

        Safe to cancel: the hold was placed or not; the edge abandons it, else it expires.
        A failing store becomes a decision by the rules' `on_store_failure`.
        """
        policy = self._policies.current()  # One snapshot for the whole check.
        try:
            path = normalise_path(request.path)
        except InvalidInput as error:
            return _refuse(policy, request, DenyReason.INVALID_REQUEST, "path", str(error))
        routes = policy.routes.match(path)
        if policy.is_free(request, routes) or policy.passes_unmatched(request, routes):
            return Allow(decision_id=request.decision_id, policy_version=policy.version)
        if request.hold_id in self._releases:
            # A repeat must not be allowed on a hold that is about to be given back.
            return _refuse_store(policy, request)
        context = _Context(policy=policy, request=request, path=path, routes=routes)
        self._tries.begin(request.hold_id)
        decision: Decision | None = None
        try:
            decision = await self._check_identified(context)
        finally:
            if not isinstance(decision, Allow):
                self._tries.end(request.hold_id)
        return decision

    async def abandon(self, decision: Decision) -> None:
        """Give back the hold of an allow whose answer did not reach the gateway."""
        if isinstance(decision, Allow) and decision.hold is not None:
            await self.abandon_hold(decision.customer_id, decision.hold.hold_id)

    async def abandon_hold(self, customer_id: str, hold_id: str) -> None:
        """Give a hold back, now or once the store answers; unless another try counts on it."""
        if self._tries.end(hold_id):
            await self._releases.release(customer_id, hold_id)

    async def run_releases(self, stop: asyncio.Event) -> None:
        """Give back holds whose placing or release got no answer, until stopped."""
        await self._releases.run(stop)

    async def _check_identified(self, context: _Context) -> Decision:
        policy, request = context.policy, context.request
        caller = identify(policy.identity, request, self._jwt_verifier)
        if isinstance(caller, KeysAway):
            return _refuse_store(policy, request)
        if isinstance(caller, Unidentified):
            denial = _refuse(policy, request, DenyReason.UNIDENTIFIED, "identity", caller.detail)
            return replace(denial, retry_after_seconds=caller.retry_after_seconds)
        now = self._clock.now()
        for _ in range(_REPLANS_MAX + 1):
            try:
                customer = await self._find_customer(caller)
            except StoreUnavailable:
                return _refuse_store(policy, request)
            if customer is None:
                return _refuse_unknown(policy, request)
            decision = await self._check_customer(context, customer, caller.headers, now)
            if not isinstance(decision, _Replan):
                return decision
            now = decision.at
        return _refuse_store(policy, request)

    async def _find_customer(self, caller: Presented | Claimed) -> CustomerFacts | None:
        """Whose the secret is, or who is vouched for; None if nobody like that is known."""
        if isinstance(caller, Presented):
            hashes = self._digests.credential_hashes(caller.secret)
            return await self._directory.find_credential(hashes)
        known = await self._directory.read_customer(caller.customer_id)
        if known is None:
            return None
        return replace(known, team_id=caller.team_id, user_id=caller.user_id)

    async def _check_customer(
        self, context: _Context, customer: CustomerFacts, hidden: tuple[str, ...], now: datetime
    ) -> Decision | _Replan:
        """Plan as of `now`, place, judge."""
        policy, request = context.policy, context.request
        facts = RequestFacts()
        if policy.reads_body(request, context.routes):
            try:
                facts = self._read_facts(request)
            except InvalidInput as error:
                return _refuse(policy, request, DenyReason.INVALID_REQUEST, "body", str(error))
        plan = policy.plan(request, context.routes, customer, facts, now)
        if isinstance(plan, Refusal):
            detail, customer_id = plan.detail, customer.customer_id
            denial = _refuse(policy, request, plan.reason, plan.rule, detail)
            return replace(denial, customer_id=customer_id)
        demand = _Demand(
            context=context,
            customer=customer,
            plan=plan,
            hold=self._place_hold(context, customer, plan),
            credential_headers=hidden,
        )
        try:
            return await self._place(demand)
        except InvalidInput:
            # A text or number of the request's that no store can keep. The error's own words
            # may hold an amount.
            detail = "the request cannot be accounted for"
            return _refuse(policy, request, DenyReason.INVALID_REQUEST, "request", detail)

    async def _place(self, demand: _Demand) -> Decision | _Replan:
        try:
            outcome = await self._balances.place_hold(demand.hold)
        except StoreUnavailable:
            return self._decide_without_store(demand)
        return self._decide(demand, outcome)

    def _place_hold(self, context: _Context, customer: CustomerFacts, plan: CheckPlan) -> PlaceHold:
        request = context.request
        terms = HoldTerms(
            hold_id=request.hold_id,
            gateway_id=request.gateway_id,
            customer_id=customer.customer_id,
            user_id=customer.user_id,
            credential_id=customer.credential_id,
            plan=customer.plan,
            currency=plan.card.currency,
            amount_nano=plan.amount_nano,
            price_version=plan.card.version,
            estimate=plan.quantities,
            model=plan.model,
            route=_route_name(context),
            policy_version=context.policy.version,
            bound=plan.bound,
            quota_lines=tuple(take.line for take in plan.quotas),
            request_id=request.request_id,
        )
        return PlaceHold(
            terms=terms,
            customer=customer,
            credit_required=plan.credit_required,
            refuse_delinquent=plan.refuse_delinquent,
            quotas=plan.quotas,
            fingerprint=f"{request.method} {context.path} {plan.amount_nano}",
            ttl_ms=self._hold_ttl_ms,
            deadline=request.deadline,
        )

    def _decide(self, demand: _Demand, outcome: PlaceOutcome) -> Decision | _Replan:
        policy, request = demand.context.policy, demand.context.request
        match outcome.status:
            case PlaceStatus.STALE_FACTS | PlaceStatus.WINDOW_MOVED:
                if outcome.status is PlaceStatus.STALE_FACTS:
                    self._directory.forget(demand.customer)
                # By the store's clock: ours may be behind it for longer than a check lasts.
                instant = outcome.instant_ms
                return _Replan(at=from_epoch_ms(instant) if instant else self._clock.now())
            case PlaceStatus.UNKNOWN_CREDENTIAL | PlaceStatus.NO_CUSTOMER:
                self._directory.forget(demand.customer)
                return _refuse_unknown(policy, request)
            case PlaceStatus.PLACED | PlaceStatus.REPEATED | PlaceStatus.DENIED:
                return self._judge(demand, outcome)
            case (
                PlaceStatus.CLOSED
                | PlaceStatus.MISMATCH
                | PlaceStatus.TOO_LATE
                | PlaceStatus.OUT_OF_BOUNDS
            ):
                # Never an allow; the gateway may ask again or answer with its own error.
                telemetry.get_logger().warning(
                    "hold_refused",
                    status=outcome.status.value,
                    customer_id=demand.customer.customer_id,
                    hold_id=request.hold_id,
                )
                return _refuse_store(policy, request)

    def _judge(self, demand: _Demand, outcome: PlaceOutcome) -> Decision:
        assert outcome.numbers is not None
        judgement = judge(demand.plan, outcome.numbers, demand.customer)
        for rule in judgement.shadow_denials:
            telemetry.SHADOW_DENIALS.labels(rule).inc()
        denial = judgement.denial
        assert denial is not None or outcome.status is not PlaceStatus.DENIED
        # A repeat is answered as the first time, whatever the numbers have become since: its
        # hold is open, and a denial would leave it so.
        repeated = outcome.status is PlaceStatus.REPEATED
        if denial is not None and not repeated:
            return Deny(
                decision_id=demand.context.request.decision_id,
                reason=denial.reason,
                rule=denial.rule,
                customer_id=demand.customer.customer_id,
                policy_version=demand.context.policy.version,
                status=denial.answer.status,
                headers=judgement.headers,
                body=denial.body,
                retry_after_seconds=denial.retry_after_seconds,
            )
        if outcome.status is PlaceStatus.PLACED:
            telemetry.HOLDS.labels("placed").inc()
        terms = replace(
            demand.hold.terms,
            decided_at_ms=outcome.instant_ms,
            expires_at_ms=outcome.expires_at_ms,
        )
        return self._allow(demand, terms, judgement.headers if denial is None else {})

    def _decide_without_store(self, demand: _Demand) -> Decision:
        """
        The rules' word for a store that gives no answer.

        An allow carries a signed token all the same, so that the usage settles (as late, and
        counted as such) once the store is back.
        """
        if demand.plan.on_store_failure is OnStoreFailure.DENY:
            # It may have been placed all the same; nobody will use it but another try.
            if self._tries.is_only(demand.hold.terms.hold_id):
                self._releases.release_later(demand.customer.customer_id, demand.hold.terms.hold_id)
            return _refuse_store(demand.context.policy, demand.context.request)
        now_ms = to_epoch_ms(self._clock.now())
        terms = replace(
            demand.hold.terms,
            bound=Bound.STORE_FAILURE,
            decided_at_ms=now_ms,
            expires_at_ms=now_ms + self._hold_ttl_ms,
        )
        return self._allow(demand, terms, {})

    def _allow(self, demand: _Demand, terms: HoldTerms, headers: Mapping[str, str]) -> Allow:
        return Allow(
            decision_id=demand.context.request.decision_id,
            customer_id=demand.customer.customer_id,
            policy_version=demand.context.policy.version,
            hold=PlacedHold(
                hold_id=terms.hold_id,
                token=self._tokens.sign(terms),
                amount_nano=terms.amount_nano,
                currency=terms.currency,
                expires_at=from_epoch_ms(terms.expires_at_ms),
            ),
            headers=headers,
            remove_headers=demand.credential_headers,
        )


def _route_name(context: _Context) -> str:
    """The first route pattern that matched: bounded by the policy, unlike the client's path."""
    patterns = context.policy.routes.patterns
    return patterns[min(context.routes)] if context.routes else ""


def _refuse_unknown(policy: Policy, request: AccessRequest) -> Deny:
    return _refuse(
        policy,
        request,
        DenyReason.UNKNOWN_CREDENTIAL,
        "identity",
        "the credential is not known",
    )


def _refuse(
    policy: Policy, request: AccessRequest, reason: DenyReason, rule: str, detail: str
) -> Deny:
    return Deny(
        decision_id=request.decision_id,
        reason=reason,
        rule=rule,
        detail=detail,
        policy_version=policy.version,
    )


def _refuse_store(policy: Policy, request: AccessRequest) -> Deny:
    return _refuse(
        policy,
        request,
        DenyReason.STORE_UNAVAILABLE,
        UNMATCHED_RULE if not policy.rules else "on_store_failure",
        "the decision could not be taken in time",
    )
