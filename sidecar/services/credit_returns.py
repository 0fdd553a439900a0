"""
Credit that is taken back because its money went: by refunds and disputes of a payment.

A refund at the provider is a fact: what of it is spent by now is taken all the same, and leaves a
deficit. Money that comes back to us (a dispute was won, a refund failed) is given as a grant of its
own, named after what has failed. Should it go a second time, then what the payment's own grant
cannot give any more is taken from those.

All of it is written under the claim of the payment. A worker that stood still for longer than its
lease may hold a dispute for open that the next worker has found won: what it takes then, nobody
would give back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar import telemetry
from sidecar.domain.errors import Conflict, InvalidInput, NotFound
from sidecar.domain.grants import WithdrawalKind
from sidecar.services.control_ports import Grant, Withdrawal, WithdrawalState
from sidecar.services.credits import CreditService
from sidecar.services.inbox_ports import InboxClaim
from sidecar.services.paid_invoices import TAKEN_STATUS
from sidecar.services.provider_objects import FetchedPayment
from sidecar.services.withdrawals import WithdrawalService, spent_name

GONE_STATUSES = frozenset({"failed", "canceled"})
BACK_PREFIX = "back:"
"""A grant of what came back is named after what has failed."""
_PART = ":of:"


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenCredit:
    """A grant and the payment that it was given for; parts of the one are parts of the other."""

    customer_id: str
    currency: str
    grant_id: str
    amount_nano: int
    amount_minor: int

    def part_nano(self, part_minor: int, kind: str) -> int:
        """As much of the credit as a part is of the payment, tax included; rounded down once."""
        if self.amount_minor <= 0 or part_minor <= 0:
            raise InvalidInput(f"a {kind} of nothing cannot be taken back")
        return self.amount_nano * min(part_minor, self.amount_minor) // self.amount_minor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Return:
    """One refund or dispute: `name` is its own, `word` what people call it."""

    name: str
    word: str
    amount_nano: int
    claim: InboxClaim
    given: GivenCredit
    given_back: Sequence[str]
    """Names of what came back to us."""

    def of(self, grant_id: str, amount_nano: int, withdrawal_id: str) -> Withdrawal:
        """What it takes of a grant, spent or not."""
        return Withdrawal(
            withdrawal_id=withdrawal_id,
            customer_id=self.given.customer_id,
            grant_id=grant_id,
            kind=WithdrawalKind.DISPUTE,
            amount_nano=amount_nano,
            reason=f"{self.word} at the provider",
        )

    def whole(self) -> Withdrawal:
        """All of it from the payment's own grant."""
        return self.of(self.given.grant_id, self.amount_nano, self.name)


class CreditReturns:
    """What becomes of a payment's credit by its refunds and disputes; safe to repeat."""

    def __init__(self, credit: CreditService, withdrawals: WithdrawalService) -> None:
        """Wire credit's services."""
        self._credit = credit
        self._withdrawals = withdrawals

    async def follow(self, claim: InboxClaim, found: FetchedPayment, given: GivenCredit) -> str:
        """
        Take back and give back as refunds and disputes stand now.

        Returns what is wrong: what goes wrong with one keeps no other from being done.

        Raises:
            InvalidInput, Conflict: Credit cannot be given back now.
            LeaseLost: Another worker has the payment; what it does here is by what it fetched.
            StoreUnavailable: A store is away.
        """
        provider = claim.ref.provider
        given_back = [
            f"{provider}:{name}"
            for name, gone in (
                *((one.refund_id, one.status in GONE_STATUSES) for one in found.refunds),
                *((one.dispute_id, one.won) for one in found.disputes),
            )
            if gone
        ]
        # First what is given back: it may be what is taken next.
        known = await self._withdrawals.all_of(given.customer_id) if given_back else []
        for name in given_back:
            await self._give_back(claim, name, given, known)

        def gone(name: str, minor: int, word: str) -> _Return:
            return _Return(
                name=f"{provider}:{name}",
                word=word,
                amount_nano=given.part_nano(minor, word),
                claim=claim,
                given=given,
                given_back=given_back,
            )

        wrong = ""
        for refund in found.refunds:
            if refund.status == TAKEN_STATUS:
                one = gone(refund.refund_id, refund.amount_minor, "refund")
                try:
                    await self._refund(one)
                except Conflict as error:
                    wrong = wrong or _refused("refund_refused", one, error)
        for dispute in found.disputes:
            if dispute.taken:
                one = gone(dispute.dispute_id, dispute.amount_minor, "dispute")
                try:
                    await self._dispute(one)
                except Conflict as error:
                    # More than is left of what was given: refunded before, for instance.
                    wrong = wrong or _refused("dispute_beyond_credit", one, error)
        return wrong

    async def _refund(self, one: _Return) -> None:
        """What is free goes back as a refund; if part of it is spent, all of it as a reversal."""
        try:
            await self._withdrawals.take_back(one.whole(), claim=one.claim)
        except Conflict as error:
            await self._take_parts(one, error)

    async def _dispute(self, one: _Return) -> None:
        try:
            await self._withdrawals.withdraw(one.whole(), claim=one.claim)
        except Conflict as error:
            await self._take_parts(one, error)

    async def _take_parts(self, one: _Return, refusal: Conflict) -> None:
        """Where the payment's grant has too little: from those given back, too."""
        parts = await self._parts(one) if one.given_back else []
        # The payment's grant alone would do, so it was refused for another reason.
        if all(part.grant_id == one.given.grant_id for part in parts):
            raise refusal
        for part in parts:
            await self._withdrawals.withdraw(part, claim=one.claim)

    async def _parts(self, one: _Return) -> list[Withdrawal]:
        """What is taken of which grant; nothing if all together have too little."""
        customer_id = one.given.customer_id
        grants = [await self._credit.read_grant(customer_id, one.given.grant_id)]
        for name in one.given_back:
            try:
                grants.append(await self._credit.read_grant(customer_id, f"{BACK_PREFIX}{name}"))
            except NotFound:
                continue  # Nothing had been taken for it.
        known = await self._withdrawals.all_of(customer_id)
        parts, left = [], one.amount_nano
        for grant in grants:
            mine = f"{one.name}{_PART}{grant.grant_id}"
            begun = [it.amount_nano for it in known if it.withdrawal_id == mine]
            taken = sum(
                it.withdrawn_nano
                for it in known
                if it.grant_id == grant.grant_id and it.withdrawal_id != mine
            )
            # What was begun is repeated as it was.
            part = (begun[0] or 0) if begun else min(left, grant.amount_nano - taken)
            if part > 0:
                parts.append(one.of(grant.grant_id, part, mine))
                left -= part
        return parts if left == 0 else []

    async def _give_back(
        self, claim: InboxClaim, name: str, given: GivenCredit, known: Sequence[Withdrawal]
    ) -> None:
        """The money came back to us: a dispute was won, or a refund did not reach the customer."""
        whole = (name, spent_name(name))
        withdrawn = 0
        for one in known:
            if one.withdrawal_id in whole or one.withdrawal_id.startswith(f"{name}{_PART}"):
                withdrawn += await self._withdrawn(one)
        if withdrawn:
            await self._credit.create_grant(
                Grant(
                    grant_id=f"{BACK_PREFIX}{name}",
                    customer_id=given.customer_id,
                    amount_nano=withdrawn,
                    currency=given.currency,
                ),
                claim=claim,
            )

    async def _withdrawn(self, withdrawal: Withdrawal) -> int:
        """How much it took; what was only intended so far would be taken after this."""
        if withdrawal.state is WithdrawalState.INTENT:
            try:
                withdrawal = await self._withdrawals.apply(withdrawal)
            except Conflict:
                return 0
        return withdrawal.withdrawn_nano


def _refused(reason: str, one: _Return, error: Conflict) -> str:
    telemetry.get_logger().error(reason, withdrawal_id=one.name, error=str(error))
    return reason
