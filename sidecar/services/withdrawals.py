"""
Withdrawals: credit taken back from a grant, by void, refund or dispute.

Each is recorded as an intent first, then applied by script and posted from the stream. What the
live store makes of it is noted once, so that a repeat is told the same.
"""

from collections.abc import Sequence
from dataclasses import replace

from sidecar import telemetry
from sidecar.domain.errors import (
    Conflict,
    CreditSpent,
    InvalidInput,
    NotFound,
    Refused,
    SidecarError,
    StoreUnavailable,
)
from sidecar.domain.grants import WithdrawalKind
from sidecar.domain.money import AMOUNT_NANO_MAX, format_amount
from sidecar.services.control_ports import (
    Accounts,
    Grant,
    LiveAccounts,
    Withdrawal,
    WithdrawalState,
)
from sidecar.services.credits import CreditService
from sidecar.services.inbox_ports import InboxClaim

_PAGE = 500


class WithdrawalService:
    """The use cases about credit that is taken back."""

    def __init__(self, *, accounts: Accounts, live: LiveAccounts, credit: CreditService) -> None:
        """Wire the ports, and the service that knows grants."""
        self._accounts = accounts
        self._live = live
        self._credit = credit

    async def withdraw(
        self, withdrawal: Withdrawal, *, claim: InboxClaim | None = None
    ) -> Withdrawal:
        """
        Take credit back from a grant, once per withdrawal id.

        Args:
            withdrawal: What is taken.
            claim: Of the provider's object that asks for it, if one does: it must still stand.

        Raises:
            InvalidInput: An amount that is not above zero, or is beyond any balance; a dispute
                without one.
            NotFound: Unknown customer or grant.
            Conflict: The grant has ended or has less free than is asked for, now or at the
                first attempt; or the id was given with other content.
            LeaseLost: The claim stands no more; nothing was written.
            StoreUnavailable: The intent may stand; it is applied once the store is back.
        """
        amount = withdrawal.amount_nano
        if amount is not None and not 0 < amount <= AMOUNT_NANO_MAX:
            raise InvalidInput(
                f"amount must be above zero and at most {format_amount(AMOUNT_NANO_MAX)}; "
                "leave it out to take all that there is to take",
                field="amount",
            )
        grant = await self._credit.read_grant(withdrawal.customer_id, withdrawal.grant_id)
        if withdrawal.kind is WithdrawalKind.DISPUTE:
            await self._check_dispute(withdrawal, grant)
        stored = await self._accounts.create_withdrawal(withdrawal, claim=claim)
        match stored.state:
            case WithdrawalState.INTENT:
                return await self.apply(stored)
            case WithdrawalState.APPLIED:
                return stored
            case WithdrawalState.REFUSED:
                why = f": {stored.refusal}" if stored.refusal else ""
                raise Refused(
                    f"withdrawal {stored.withdrawal_id!r} was refused at its first attempt{why}; "
                    "ask anew, under another key"
                )

    async def take_back(
        self, withdrawal: Withdrawal, *, claim: InboxClaim | None = None
    ) -> Withdrawal:
        """
        Take back what a refund at a provider has taken, whether it is spent by now or not.

        What is free goes as a refund; if a part is spent or set aside, all of it goes as a
        reversal, which leaves a deficit. Safe to repeat.

        Raises:
            Conflict: It is refused for another reason: the grant was voided or has expired, or
                the id was given with other content. People are to look.
            LeaseLost, StoreUnavailable: As `withdraw`.
        """
        try:
            refund = replace(withdrawal, kind=WithdrawalKind.REFUND)
            return await self.withdraw(refund, claim=claim)
        except CreditSpent:
            pass
        except Refused:
            # At the first attempt, which may have ended before the reversal was written down.
            if not await self._is_spent(withdrawal):
                raise
        return await self.withdraw(
            replace(
                withdrawal,
                withdrawal_id=spent_name(withdrawal.withdrawal_id),
                kind=WithdrawalKind.DISPUTE,
            ),
            claim=claim,
        )

    async def _is_spent(self, withdrawal: Withdrawal) -> bool:
        """Whether a refund was refused since it was spent, as far as can be told now."""
        name = spent_name(withdrawal.withdrawal_id)
        if any(one.withdrawal_id == name for one in await self.all_of(withdrawal.customer_id)):
            return True
        for one in await self._live.list_live_grants(withdrawal.customer_id):
            if one.grant_id == withdrawal.grant_id:
                return one.state == "active" and one.free_nano < (withdrawal.amount_nano or 0)
        return True  # The live store keeps a grant for as long as anything of it is left.

    async def apply(self, withdrawal: Withdrawal) -> Withdrawal:
        """
        Bring a recorded withdrawal to the live store and note what came of it.

        Raises:
            Conflict: It is refused; the message says how much is free.
            NotFound: Unknown customer or grant.
            StoreUnavailable: It stays an intent; repeat it.
        """
        kind = withdrawal.kind.value
        grant = await self._credit.read_grant(withdrawal.customer_id, withdrawal.grant_id)
        try:
            await self._credit.apply_grant(grant)
            withdrawn = await self._live.apply_withdrawal(withdrawal)
        except (Conflict, InvalidInput) as error:
            words = await self._refusal(withdrawal, grant, error)
            noted = await self._accounts.finish_withdrawal(
                withdrawal, state=WithdrawalState.REFUSED, withdrawn_nano=0, refusal=words
            )
            if noted.state is WithdrawalState.APPLIED:  # Another attempt was there first.
                return noted
            telemetry.WITHDRAWALS.labels(kind, "refused").inc()
            raise (CreditSpent if isinstance(error, CreditSpent) else Conflict)(words) from error
        except NotFound as error:
            # The record has the grant, so the live store has lost it and is to be rebuilt.
            # Others need not wait for that.
            telemetry.WITHDRAWALS.labels(kind, "waiting").inc()
            await self._accounts.put_withdrawal_behind(withdrawal)
            raise StoreUnavailable("the live store does not have the grant now") from error
        except StoreUnavailable:
            telemetry.WITHDRAWALS.labels(kind, "waiting").inc()
            raise
        telemetry.WITHDRAWALS.labels(kind, "applied").inc()
        return await self._accounts.finish_withdrawal(
            withdrawal, state=WithdrawalState.APPLIED, withdrawn_nano=withdrawn
        )

    async def list(self, customer_id: str, *, after: str, limit: int) -> Sequence[Withdrawal]:
        """A page of a customer's withdrawals. Raises NotFound."""
        if await self._accounts.read_customer(customer_id) is None:
            raise NotFound(f"there is no customer {customer_id!r}")
        return await self._accounts.list_withdrawals(customer_id, after=after, limit=limit)

    async def all_of(self, customer_id: str) -> Sequence[Withdrawal]:
        """All that was taken back of a customer's grants, page by page."""
        found: list[Withdrawal] = []
        after = ""
        while page := await self._accounts.list_withdrawals(customer_id, after=after, limit=_PAGE):
            found += page
            after = page[-1].withdrawal_id
        return found

    async def _check_dispute(self, withdrawal: Withdrawal, grant: Grant) -> None:
        """Refuse to take back more than was given and is not taken back yet."""
        if withdrawal.amount_nano is None:
            raise InvalidInput(
                "a dispute takes what the reversal of the payment took: give its amount",
                field="amount",
            )
        known = await self.all_of(withdrawal.customer_id)
        if any(one.withdrawal_id == withdrawal.withdrawal_id for one in known):
            return  # A repeat was judged at its first time.
        taken = sum(one.withdrawn_nano for one in known if one.grant_id == grant.grant_id)
        if withdrawal.amount_nano > grant.amount_nano - taken:
            raise Conflict(
                f"dispute of grant {grant.grant_id!r} is refused: it was of "
                f"{format_amount(grant.amount_nano)}, of which {format_amount(taken)} is taken "
                f"back; asked for {format_amount(withdrawal.amount_nano)}"
            )

    async def _refusal(self, withdrawal: Withdrawal, grant: Grant, error: SidecarError) -> str:
        """Why a withdrawal is refused, with what the grant still has."""
        verb = f"{withdrawal.kind.value} of grant {grant.grant_id!r} is refused"
        found = next(
            (
                one
                for one in await self._live.list_live_grants(grant.customer_id)
                if one.grant_id == grant.grant_id
            ),
            None,
        )
        if found is None:
            return f"{verb}: {error}"
        asked = "all of it"
        if withdrawal.amount_nano is not None:
            asked = format_amount(withdrawal.amount_nano)
        return (
            f"{verb}: it is {found.state} and {format_amount(found.free_nano)} of it is free, "
            f"{format_amount(found.pinned_nano)} is set aside by open holds; asked for {asked}"
        )


def spent_name(withdrawal_id: str) -> str:
    """Of the reversal that stands in for a refund of what is spent."""
    return f"{withdrawal_id}:spent"
