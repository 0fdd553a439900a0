"""One check: the order of its steps, over ports."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from sidecar import telemetry
from sidecar.domain.customers import NOBODY, CustomerFacts
from sidecar.domain.decisions import Allow, Decision, DenyReason
from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.holds import Bound
from sidecar.domain.judging import Judgement, denies_after, judge
from sidecar.domain.outlines import Outlines
from sidecar.domain.periods import from_epoch_ms, to_epoch_ms
from sidecar.domain.planning import Ask, Refusal, plan_check, plan_unidentified
from sidecar.domain.policy import Policy
from sidecar.domain.requests import AccessRequest, RequestFacts, normalise_path
from sidecar.domain.rules import OnStoreFailure
from sidecar.services.answering import Answers
from sidecar.services.check_context import CheckContext, Demand, place_demand
from sidecar.services.identity import (
    NO_TOKENS,
    NOT_PRESENTED,
    Claimed,
    Presented,
    Unidentified,
    identify,
)
from sidecar.services.ports import (
    Clock,
    DecisionLog,
    Directory,
    HoldLifetime,
    Holds,
    HoldTokens,
    PlaceHold,
    PlaceOutcome,
    PlaceStatus,
    Policies,
    RequestDigests,
)
from sidecar.services.releasing import CheckTries, HoldReleases
from sidecar.services.stale_numbers import StaleNumbers
from sidecar.services.token_ports import JwtVerifier, KeysAway

ReadFacts = Callable[[AccessRequest], RequestFacts]
_PLACED = telemetry.HOLDS.labels("placed")
_REPLANS_MAX = 2
"""A stale copy and a window's edge may each ask for one more plan; more means trouble."""
_RECALL_PAUSE_SECONDS = 0.01
"""By then whoever has a block of the customer's credit has heard, and given it back."""


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
        balances: Holds,
        tokens: HoldTokens,
        digests: RequestDigests,
        clock: Clock,
        read_facts: ReadFacts,
        hold_ttl_ms: int,
        decision_log: DecisionLog,
        jwt_verifier: JwtVerifier = NO_TOKENS,
    ) -> None:
        """
        Wire the ports.

        Args:
            policies, directory, balances, tokens, digests, clock: Ports.
            read_facts: Bounds usage by a request's body; may raise InvalidInput.
            hold_ttl_ms: How long a hold lives without a sign of life.
            decision_log: Keeps what each decision was made from.
            jwt_verifier: Verifies tokens that the gateway did not.
        """
        self._policies = policies
        self._directory = directory
        self._balances = balances
        self._digests = digests
        self._clock = clock
        self._read_facts = read_facts
        self._jwt_verifier = jwt_verifier
        self._hold_ttl_ms = hold_ttl_ms
        self._releases = HoldReleases(balances, hold_ttl_seconds=hold_ttl_ms / 1_000)
        self._tries = CheckTries()
        self._answers = Answers(tokens, clock, decision_log)
        self._stale = StaleNumbers()
        self._outlines: Outlines | None = None

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
            return self._answers.refuse_path(policy, request, str(error))
        view = policy.view(request, path)
        if policy.passes_unasked(view):
            return Allow(decision_id=request.decision_id, policy_version=policy.version)
        context = CheckContext(policy=policy, request=request, view=view)
        if request.hold_id in self._releases:
            # A repeat must not be allowed on a hold that is about to be given back.
            return self._answers.refuse_store(context)
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

    async def _check_identified(self, context: CheckContext) -> Decision:
        policy, request = context.policy, context.request
        caller = identify(policy.identity, request, self._jwt_verifier)
        if isinstance(caller, KeysAway):
            return self._answers.refuse_store(context)
        now = self._clock.now()
        if isinstance(caller, Unidentified):
            return self._check_unidentified(context, caller, now)
        for _ in range(_REPLANS_MAX + 1):
            try:
                customer = await self._find_customer(caller)
            except StoreUnavailable:
                return self._answers.refuse_store(context)
            if customer is None:
                return self._answers.refuse_unknown(context)
            decision = await self._check_customer(context, customer, caller.headers, now)
            if not isinstance(decision, _Replan):
                return decision
            now = decision.at
        return self._answers.refuse_store(context)

    def _check_unidentified(
        self, context: CheckContext, caller: Unidentified, now: datetime
    ) -> Decision:
        """Nobody to hold anything for: rules may block, add headers, or ask who it is."""
        if caller is not NOT_PRESENTED:
            # Whoever presents a credential wants to be known by it.
            return self._answers.refuse(
                context,
                DenyReason.UNIDENTIFIED,
                "identity",
                caller.detail,
                retry_after_seconds=caller.retry_after_seconds,
            )
        outline = self._outlines_of(context.policy).of(context.view, NOBODY)
        plan = plan_unidentified(context.policy, context.view, now, outline=outline)
        if isinstance(plan, Refusal):
            return self._answers.refuse(context, plan.reason, plan.rule, plan.detail)
        return self._answers.answer_nobody(context, plan, judge(plan, None, NOBODY))

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
        self,
        context: CheckContext,
        customer: CustomerFacts,
        hidden: tuple[str, ...],
        now: datetime,
    ) -> Decision | _Replan:
        """Plan as of `now`, place, judge."""
        policy, request, answers = context.policy, context.request, self._answers
        facts = RequestFacts()
        outline = self._outlines_of(policy).of(context.view, customer)
        if outline.reads_body:
            try:
                facts = self._read_facts(request)
            except InvalidInput as error:
                reason, detail = DenyReason.INVALID_REQUEST, str(error)
                return answers.refuse(context, reason, "body", detail, customer=customer)
        plan = plan_check(policy, context.view, customer, facts, now, outline=outline)
        if isinstance(plan, Refusal):
            return answers.refuse(
                context, plan.reason, plan.rule, plan.detail, customer=customer, facts=facts
            )
        demand = Demand(
            context=context,
            customer=customer,
            facts=facts,
            plan=plan,
            hold=place_demand(context, customer, plan, ttl_ms=self._hold_ttl_ms),
            credential_headers=hidden,
        )
        if plan.ask is Ask.NOTHING:
            return answers.answer(demand, judge(plan, None, customer))
        try:
            outcome = await self._place(demand.hold)
        except StoreUnavailable:
            return self._decide_without_store(demand)
        except InvalidInput:
            # A text or number of the request's that no store can keep. The error's own words
            # may hold an amount.
            reason, detail = DenyReason.INVALID_REQUEST, "the request cannot be accounted for"
            return answers.refuse(
                context, reason, "request", detail, customer=customer, facts=facts
            )
        return await self._decide(demand, outcome)

    async def _place(self, hold: PlaceHold) -> PlaceOutcome:
        """Ask for the hold; once more where what is missing is on its way back."""
        outcome = await self._balances.place_hold(hold)
        if outcome.status is PlaceStatus.RECALLED:
            telemetry.ALLOTMENTS.labels("awaited").inc()
            await asyncio.sleep(_RECALL_PAUSE_SECONDS)
            outcome = await self._balances.place_hold(hold)
        return outcome

    def _outlines_of(self, policy: Policy) -> Outlines:
        """Those of the policy that was asked for last are remembered."""
        outlines = self._outlines
        if outlines is None or outlines.policy is not policy:
            outlines = self._outlines = Outlines(policy)
            if not policy.decides_by_old_numbers:
                self._stale.clear()
        return outlines

    async def _decide(self, demand: Demand, outcome: PlaceOutcome) -> Decision | _Replan:
        match outcome.status:
            case PlaceStatus.STALE_FACTS | PlaceStatus.WINDOW_MOVED:
                if outcome.status is PlaceStatus.STALE_FACTS:
                    self._directory.forget(demand.customer)
                # By the store's clock: ours may be behind it for longer than a check lasts.
                instant = outcome.instant_ms
                return _Replan(at=from_epoch_ms(instant) if instant else self._clock.now())
            case PlaceStatus.UNKNOWN_CREDENTIAL | PlaceStatus.NO_CUSTOMER:
                self._directory.forget(demand.customer)
                return self._answers.refuse_unknown(demand.context)
            case PlaceStatus.PLACED | PlaceStatus.REPEATED | PlaceStatus.DENIED:
                return await self._judge(demand, outcome)
            case (
                PlaceStatus.CLOSED
                | PlaceStatus.MISMATCH
                | PlaceStatus.RECALLED
                | PlaceStatus.TOO_LATE
                | PlaceStatus.OUT_OF_BOUNDS
            ):
                # Never an allow; the gateway may ask again or answer with its own error.
                telemetry.get_logger().warning(
                    "hold_refused",
                    status=outcome.status.value,
                    customer_id=demand.customer.customer_id,
                    hold_id=demand.context.request.hold_id,
                )
                return self._answers.refuse_store(demand.context)

    async def _judge(self, demand: Demand, outcome: PlaceOutcome) -> Decision:
        numbers, customer_id = outcome.numbers, demand.customer.customer_id
        assert numbers is not None
        if demand.context.policy.decides_by_old_numbers:
            self._stale.remember(customer_id, demand.plan, numbers)
        judgement = judge(demand.plan, numbers, demand.customer)
        assert judgement.denial is not None or outcome.status is not PlaceStatus.DENIED
        if outcome.status is PlaceStatus.REPEATED and denies_after(demand.plan, numbers):
            # The first try has been denied after its hold was placed, or is about to be; on a
            # hold that is given back nothing may pass.
            return self._answers.refuse_store(demand.context)
        if outcome.status is PlaceStatus.REPEATED:
            # Answered as the first time, whatever the numbers have become since: its hold is
            # open, and a denial would leave it so.
            headers = judgement.headers if judgement.denial is None else {}
            judgement = Judgement(denial=None, headers=headers)
        elif outcome.status is PlaceStatus.PLACED:
            _PLACED.inc()
            if judgement.denial is not None:
                # A condition over the numbers refuses what the script let through.
                await self._releases.release(customer_id, demand.hold.terms.hold_id)
        return self._answers.answer(
            demand,
            judgement,
            terms=demand.hold.terms,
            lifetime=HoldLifetime(outcome.instant_ms, outcome.expires_at_ms, outcome.block_id),
            numbers=numbers,
            outcome=outcome,
        )

    def _decide_without_store(self, demand: Demand) -> Decision:
        """
        The rules' word for a store that gives no answer.

        An allow carries a signed token all the same, so that the usage settles (as late, and
        counted as such) once the store is back.
        """
        plan, customer = demand.plan, demand.customer
        wish, seconds = plan.on_store_failure
        numbers = None
        judgement = judge(plan, None, customer)
        if plan.ask is Ask.PROBE:
            return self._answers.answer(demand, judgement)
        if wish is OnStoreFailure.STALE:
            numbers = self._stale.decide(customer.customer_id, plan, seconds)
            judgement = judge(plan, numbers, customer)
        unknown = wish is OnStoreFailure.STALE and numbers is None
        if wish is OnStoreFailure.DENY or unknown or judgement.denial is not None:
            # It may have been placed all the same; nobody will use it but another try.
            hold_id = demand.hold.terms.hold_id
            if self._tries.is_only(hold_id):
                self._releases.release_later(customer.customer_id, hold_id)
        if wish is OnStoreFailure.DENY or unknown:
            return self._answers.refuse_store(demand.context)
        now_ms = to_epoch_ms(self._clock.now())
        return self._answers.answer(
            demand,
            judgement,
            terms=replace(demand.hold.terms, bound=Bound.STORE_FAILURE),
            lifetime=HoldLifetime(now_ms, now_ms + self._hold_ttl_ms),
            numbers=numbers,
        )
