"""Explanations by the live numbers: the place script is asked, and takes nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.errors import Conflict, NotFound, StoreUnavailable
from sidecar.domain.periods import from_epoch_ms
from sidecar.domain.planning import Ask
from sidecar.services.asking import Asked, request_of
from sidecar.services.check_context import CheckContext, place_demand
from sidecar.services.explaining import Explainer, Prepared, Question
from sidecar.services.explanation import Explanation
from sidecar.services.given_numbers import after_place, refuses
from sidecar.services.ports import Balances, Clock, Directory, PlaceOutcome, PlaceStatus
from sidecar.services.tracing import JudgedNumbers

_TRIES_MAX = 3
_DEADLINE_SECONDS = 2.0
_TTL_MS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveNumbers:
    """Where live numbers are read; `new_hold_id` gives an id that no request has."""

    directory: Directory
    balances: Balances
    clock: Clock
    new_hold_id: Callable[[datetime], str]

    async def explain(self, explainer: Explainer, asked: Asked) -> Explanation:
        """
        Explain by the customer's facts and numbers as the store has them.

        Raises:
            Conflict: If no customer is named.
            NotFound: If the named one is not known.
            StoreUnavailable: If the store gives no answer.
        """
        if asked.customer_id is None:
            raise Conflict("live numbers are a customer's: name the customer")
        at = asked.at or self.clock.now()
        for _ in range(_TRIES_MAX):
            customer = await self._customer(asked)
            prepared = explainer.prepare(self._question(asked, customer, at))
            if not prepared.needs_numbers:
                return explainer.explain(prepared, None, source="live")
            outcome = await self._probe(explainer, prepared)
            match outcome.status:
                case PlaceStatus.DENIED if outcome.numbers is not None:
                    return _explained(explainer, prepared, outcome)
                case PlaceStatus.WINDOW_MOVED:
                    at = from_epoch_ms(outcome.instant_ms)
                case PlaceStatus.STALE_FACTS | PlaceStatus.NO_CUSTOMER:
                    self.directory.forget(customer)
                case status:
                    raise StoreUnavailable(f"the store answered a probe with {status.value}")
        raise StoreUnavailable("the customer's numbers moved while they were read; try again")

    async def _customer(self, asked: Asked) -> CustomerFacts:
        known = await self.directory.read_customer(asked.customer_id or "")
        if known is None:
            raise NotFound(f"customer {asked.customer_id!r} is not known")
        return replace(
            known,
            team_id=asked.team_id,
            user_id=asked.user_id,
            credential_id=asked.credential_id,
        )

    def _question(self, asked: Asked, customer: CustomerFacts, at: datetime) -> Question:
        request = request_of(asked, at, hold_id=self.new_hold_id(at))
        deadline = self.clock.now() + timedelta(seconds=_DEADLINE_SECONDS)
        return Question(request=replace(request, deadline=deadline), at=at, customer=customer)

    async def _probe(self, explainer: Explainer, prepared: Prepared) -> PlaceOutcome:
        assert prepared.plan is not None
        assert prepared.view is not None
        context = CheckContext(
            policy=explainer.policy, request=prepared.question.request, view=prepared.view
        )
        demand = place_demand(context, prepared.question.customer, prepared.plan, ttl_ms=_TTL_MS)
        # A key is named for its rules; the store need not know a credential of that id.
        nameless = replace(demand.customer, credential_id="", generation=0)
        return await self.balances.place_hold(replace(demand, customer=nameless, probe=True))


def _explained(explainer: Explainer, prepared: Prepared, outcome: PlaceOutcome) -> Explanation:
    plan, seen = prepared.plan, outcome.numbers
    assert plan is not None
    assert seen is not None
    # A probe is always answered "denied"; whether a hold would be is worked out again.
    as_hold = replace(plan, ask=Ask.HOLD)
    seen = replace(seen, denied=plan.ask is Ask.PROBE or refuses(as_hold, seen))
    as_of = from_epoch_ms(outcome.instant_ms).isoformat()
    customer = prepared.question.customer
    ages = {
        "customer facts": f"revision {customer.revision}, confirmed by the store at {as_of}",
        "credit, counters and invoices": f"read by the store at {as_of}, in one step",
    }
    numbers = JudgedNumbers(seen=after_place(plan, seen))
    return explainer.explain(prepared, numbers, source="live", ages=ages)
