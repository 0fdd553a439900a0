"""What a usage report is about: the terms of its hold, and whether its sender may speak of it."""

import asyncio
from dataclasses import dataclass

from sidecar.domain.allotments import FRESH_SECONDS
from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import Bound, HoldTerms, check_hold_id, hold_second, make_hold_id
from sidecar.domain.noting import note_labels
from sidecar.domain.periods import to_epoch_ms
from sidecar.domain.quantities import estimate_quantities
from sidecar.domain.usage import UsageReport
from sidecar.services.ports import Balances, Directory, HoldTokens, Policies, RequestDigests

NOT_COVERED = "the sender may not report on this gateway or customer"
_SECOND_MAX = 2**32 - 1  # A hold id has eight hex digits for it.
TOLD_SECONDS = 0.06
"""The store hears of every hold within 50 ms, though its check was answered before that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterPrincipal:
    """A sender of usage, and what it may speak for; empty sets mean all."""

    name: str
    gateways: frozenset[str] = frozenset()
    customers: frozenset[str] = frozenset()
    may_send_unheld: bool = False

    def covers(self, terms: HoldTerms) -> bool:
        """Whether the sender may report on this hold."""
        return (not self.gateways or terms.gateway_id in self.gateways) and (
            not self.customers or terms.customer_id in self.customers
        )


class HoldTermsLookup:
    """Finds the terms that usage is captured by."""

    def __init__(
        self,
        *,
        balances: Balances,
        directory: Directory,
        tokens: HoldTokens,
        digests: RequestDigests,
        policies: Policies,
    ) -> None:
        """Wire the ports."""
        self._balances = balances
        self._directory = directory
        self._tokens = tokens
        self._digests = digests
        self._policies = policies

    async def held(self, report: UsageReport, principal: MeterPrincipal) -> HoldTerms | None:
        """
        The hold's terms, from its signed token or else from the store; None if neither has them.

        Raises:
            InvalidInput: The hold is not the sender's to report on, or its token is none.
            StoreUnavailable: Repeat it.
        """
        terms: HoldTerms | None
        if report.hold_token:
            terms = signed = self._tokens.read(report.hold_token)
            if report.hold_id not in ("", signed.hold_id):
                raise InvalidInput("hold_id is not the one of hold_token", field="hold_id")
            if report.customer_id not in ("", signed.customer_id):
                raise InvalidInput("customer_id is not the one of hold_token", field="customer_id")
        else:
            hold_id = check_hold_id(report.hold_id)
            terms = await self._stored(report, hold_id)
            age = to_epoch_ms(report.received_at) // 1_000 - hold_second(hold_id)
            if terms is None and abs(age) <= FRESH_SECONDS:
                # Placed from a block of credit perhaps, by a process that has yet to tell of it.
                await asyncio.sleep(TOLD_SECONDS)
                terms = await self._stored(report, hold_id)
        if terms is not None and not principal.covers(terms):
            raise InvalidInput(NOT_COVERED)
        return terms

    async def _stored(self, report: UsageReport, hold_id: str) -> HoldTerms | None:
        customer_id = report.customer_id or await self._balances.find_hold(hold_id)
        stored = customer_id and await self._balances.read_hold(customer_id, hold_id)
        return stored.terms if stored else None

    async def unheld(self, report: UsageReport, principal: MeterPrincipal) -> HoldTerms:
        """
        Terms for usage that no check preceded; its id is the sender's, so it needs a right.

        Raises:
            InvalidInput: The sender has not that right, or the report does not say enough.
            StoreUnavailable: Repeat it.
        """
        if not principal.may_send_unheld:
            raise InvalidInput(
                "usage without a hold needs a sender with the scope usage:unheld; "
                "send hold_token or hold_id",
                field="hold_token",
            )
        if not report.customer_id or not report.event_id:
            raise InvalidInput("usage without a hold needs customer_id and id", field="customer_id")
        if report.occurred_at is None:
            raise InvalidInput("usage without a hold needs occurred_at", field="occurred_at")
        second = to_epoch_ms(report.occurred_at) // 1_000
        if not 0 <= second <= _SECOND_MAX:
            raise InvalidInput("occurred_at must be in 1970 to 2105", field="occurred_at")
        customer = await self._directory.read_customer(report.customer_id)
        policy = self._policies.current()
        card = (
            policy.card_for(customer.plan, customer.customer_id, report.occurred_at)
            if customer
            else None
        )
        if customer is None or card is None:
            raise InvalidInput("customer_id names no customer with a plan", field="customer_id")
        digest = self._digests.request_digest(
            b"unheld", report.customer_id.encode(), report.event_id.encode()
        )
        meters = [card.meters[name] for name in sorted(card.priced_meters())]
        terms = HoldTerms(
            hold_id=make_hold_id(second, digest),
            gateway_id=report.gateway_id,
            customer_id=customer.customer_id,
            plan=customer.plan,
            currency=card.currency,
            amount_nano=0,
            price_version=card.version,
            estimate=estimate_quantities(meters, 0, 0, 0),
            model=report.model,
            route=report.route,
            policy_version=policy.version,
            bound=Bound.ESTIMATED,
            decided_at_ms=to_epoch_ms(report.occurred_at),
            noted=note_labels(meters, customer.labels),
        )
        if not principal.covers(terms):
            raise InvalidInput(NOT_COVERED)
        return terms
