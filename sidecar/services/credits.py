"""
Credit: grants, top-ups by hand, and balances; see `withdrawals` for what is taken back.

What is given is recorded as an intent first, then applied by script and posted from the
stream. Each write is safe to repeat. If the live store is away the caller is told so and
repeats; the intent is also picked up by the worker of `pending_credits`.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from sidecar import telemetry
from sidecar.domain.errors import (
    Conflict,
    Difference,
    Differs,
    InvalidInput,
    LeaseLost,
    NotFound,
    Refused,
    SidecarError,
    StoreUnavailable,
    TooMany,
)
from sidecar.domain.grants import (
    GRANTS_ACTIVE_MAX,
    GrantKind,
    Rollover,
    check_grant,
)
from sidecar.domain.money import AMOUNT_NANO_MAX, format_amount
from sidecar.domain.nearest import unknown
from sidecar.services.control_ports import (
    GRANT_CONTENT,
    Accounts,
    Balance,
    Customer,
    Grant,
    GrantState,
    LiveAccounts,
    LiveGrant,
)
from sidecar.services.converging import put_customer_live
from sidecar.services.inbox_ports import InboxClaim
from sidecar.services.ports import Clock, Policies

REFERENCE_CHARS_MAX = 128
TOP_UP_PREFIX = "top:"
"""A top-up's grant is named after its reference, so that the reference finds it."""
_REFERENCE = re.compile(rf"[A-Za-z0-9_.:-]{{1,{REFERENCE_CHARS_MAX}}}", re.ASCII)


class CreditService:
    """The control plane's use cases about credit."""

    def __init__(
        self, *, accounts: Accounts, live: LiveAccounts, policies: Policies, clock: Clock
    ) -> None:
        """Wire the ports."""
        self._accounts = accounts
        self._live = live
        self._policies = policies
        self._clock = clock

    async def create_grant(self, grant: Grant, *, claim: InboxClaim | None = None) -> Grant:
        """
        Give credit, once per grant id.

        Args:
            grant: What is given.
            claim: Of the provider's object that asks for it, if one does: it must still stand.

        Raises:
            InvalidInput: See `check_grant`; a meter that the policy does not have, or more
                credit than a balance can hold.
            NotFound: Unknown customer.
            Conflict: Another currency than the customer's, or as many grants as there can be.
            Differs: The id was given with other content.
            LeaseLost: The claim stands no more; nothing was written.
            StoreUnavailable: The intent may stand; it is applied once the store is back.
        """
        customer = await self._customer(grant.customer_id)
        known = await self._accounts.read_grant(grant.customer_id, grant.grant_id)
        if known is not None:
            # A repeat is not judged anew: time has passed, or the policy has changed.
            _refuse_differences(known, grant)
        else:
            try:
                self._check(grant, customer)
                # A live store that is away judges when it is back.
                with suppress(StoreUnavailable):
                    await self._check_room(grant)
            except (InvalidInput, Conflict):
                telemetry.GRANTS.labels(grant.kind.value, "refused").inc()
                raise
        return await self.give(grant, repeated=known is not None, claim=claim)

    async def give(
        self, grant: Grant, *, repeated: bool = False, claim: InboxClaim | None = None
    ) -> Grant:
        """
        Record a grant that has been found good, and apply it.

        Raises:
            InvalidInput, Conflict: The record or the live store refuses it, which is noted.
            TooMany: The intent stands; it is applied once another grant has ended.
            Refused: It was refused before.
            NotFound: Unknown customer.
            LeaseLost: As `create_grant`.
            StoreUnavailable: The intent may stand; it is applied once the store is back.
        """
        outcome = "repeated" if repeated else "given"
        try:
            stored = await self._accounts.create_grant(grant, claim=claim)
            await self.apply_grant(stored)
        except (StoreUnavailable, LeaseLost):
            # The worker that has the object now sees to it.
            outcome = "waiting"
            raise
        except SidecarError:
            outcome = "refused"
            raise
        finally:
            telemetry.GRANTS.labels(grant.kind.value, outcome).inc()
        return stored

    async def apply_grant(self, grant: Grant) -> None:
        """
        Bring a recorded grant to the live store; no effect on one that is posted.

        Raises:
            InvalidInput, Conflict: The live store refuses it for good, and that is noted.
            TooMany: It cannot take it now; the worker tries it later, after others.
            Refused: It was refused before.
            NotFound: Unknown customer.
            StoreUnavailable: Repeat it.
        """
        if grant.state is GrantState.POSTED:
            # The live store has decided it; after a loss it is restored, not given again.
            return
        if grant.state is GrantState.REFUSED:
            raise Refused(
                f"grant {grant.grant_id!r} was refused: {grant.refusal}; "
                "what is to be given is to be given under another id"
            )
        try:
            await self._apply_live(grant)
        except TooMany:
            await self._accounts.put_grant_behind(grant)
            raise
        except (InvalidInput, Conflict) as error:
            await self._accounts.refuse_grant(grant, refusal=str(error))
            raise
        await self._accounts.note_applied(grant)

    async def _apply_live(self, grant: Grant) -> None:
        try:
            await self._live.apply_grant(grant)
        except NotFound:
            customer = await self._customer(grant.customer_id)
            await put_customer_live(self._accounts, self._live, customer)
            await self._live.apply_grant(grant)

    async def top_up(
        self,
        customer_id: str,
        *,
        amount_nano: int,
        currency: str,
        reference: str,
        claim: InboxClaim | None = None,
    ) -> Grant:
        """
        Give paid credit for a payment, once per reference.

        Args:
            customer_id: Who paid.
            amount_nano: Above zero.
            currency: The customer's.
            reference: The payment's own id, 1 to REFERENCE_CHARS_MAX letters, digits or `_.:-`.
            claim: As `create_grant`.

        Raises:
            InvalidInput: A reference or amount that cannot be one.
            Differs: The reference was given with another amount or currency.
            NotFound, Conflict, LeaseLost, StoreUnavailable: As `create_grant`.
        """
        grant = _top_up(customer_id, amount_nano, currency, reference)
        return await self.create_grant(grant, claim=claim)

    async def check_top_up(
        self, customer_id: str, *, amount_nano: int, currency: str, reference: str
    ) -> None:
        """Refuse a top-up that could not be given now. Raises as `top_up`; writes nothing."""
        grant = _top_up(customer_id, amount_nano, currency, reference)
        self._check(grant, await self._customer(customer_id))
        await self._check_room(grant)

    async def read_grant(self, customer_id: str, grant_id: str) -> Grant:
        """One grant. Raises NotFound."""
        grant = await self._accounts.read_grant(customer_id, grant_id)
        if grant is None:
            raise NotFound(f"customer {customer_id!r} has no grant {grant_id!r}")
        return grant

    async def list_grants(self, customer_id: str, *, after: str, limit: int) -> Sequence[Grant]:
        """A page of a customer's grants. Raises NotFound."""
        await self._customer(customer_id)
        return await self._accounts.list_grants(customer_id, after=after, limit=limit)

    async def list_live_grants(self, customer_id: str) -> Sequence[LiveGrant]:
        """Grants that still matter, in burn order. Raises NotFound, StoreUnavailable."""
        await self._customer(customer_id)
        return await self._live.list_live_grants(customer_id)

    async def read_balance(self, customer_id: str) -> Balance:
        """The live balance. Raises NotFound, StoreUnavailable."""
        balance = await self._live.read_balance(customer_id)
        if balance is None:
            raise NotFound(f"there is no customer {customer_id!r}")
        return balance

    def check_meters(self, meters: Sequence[str]) -> None:
        """Refuse a scope that the policy does not know. Raises InvalidInput."""
        policy = self._policies.current()
        known = {rule.meter.name for rule in policy.meters}
        known.update(*(card.priced_meters() for card in policy.all_cards))
        for name in meters:
            if name not in known:
                words = unknown("meter", name, known, label="the policy has")
                raise InvalidInput(words, field="meters")

    def _check(self, grant: Grant, customer: Customer) -> None:
        """What a new grant is refused for before anything is written."""
        check_grant(grant.terms, self._clock.now())
        check_currency(grant.currency, customer)
        self.check_meters(grant.meters)

    async def _check_room(self, grant: Grant) -> None:
        """Refuse what the live store has no room for. Raises StoreUnavailable, too."""
        balance = await self._live.read_balance(grant.customer_id)
        granted = balance.granted_nano if balance else 0
        if granted + grant.amount_nano > AMOUNT_NANO_MAX:
            raise InvalidInput(
                f"amount is too large: {format_amount(granted)} has been granted so far, and "
                f"all grants together can be at most {format_amount(AMOUNT_NANO_MAX)}",
                field="amount",
            )
        now = self._clock.now()
        # What has expired meanwhile goes with the next script.
        count = sum(
            one.expires_at is None or one.expires_at > now or one.pinned_nano > 0
            for one in await self._live.list_live_grants(grant.customer_id)
        )
        if count >= GRANTS_ACTIVE_MAX:
            raise Conflict(
                f"there are {count} grants that are not spent or ended, which is the most; "
                "void one, or wait until one is spent"
            )

    async def _customer(self, customer_id: str) -> Customer:
        customer = await self._accounts.read_customer(customer_id)
        if customer is None:
            raise NotFound(f"there is no customer {customer_id!r}")
        return customer


def check_currency(currency: str, customer: Customer) -> None:
    """Refuse credit in a currency that is not the customer's. Raises Conflict."""
    if currency != customer.currency:
        raise Conflict(
            f"currency is {currency}; the balances of customer {customer.customer_id!r} "
            f"are in {customer.currency}"
        )


def _top_up(customer_id: str, amount_nano: int, currency: str, reference: str) -> Grant:
    """The grant of a payment. Raises InvalidInput for a reference that cannot be one."""
    if _REFERENCE.fullmatch(reference) is None:
        raise InvalidInput(
            f"reference must be 1 to {REFERENCE_CHARS_MAX} letters, digits or _.:-",
            field="reference",
        )
    return Grant(
        grant_id=f"{TOP_UP_PREFIX}{reference}",
        customer_id=customer_id,
        amount_nano=amount_nano,
        currency=currency,
        kind=GrantKind.PAID,
    )


def _refuse_differences(known: Grant, asked: Grant) -> None:
    """Raise Differs if a grant of the same id has other content."""
    asked = replace(asked, schedule_id=asked.schedule_id or known.schedule_id)
    found = tuple(
        Difference(
            field=name.removesuffix("_nano"),
            before=_text(name, getattr(known, name)),
            now=_text(name, getattr(asked, name)),
        )
        for name in GRANT_CONTENT
        if getattr(known, name) != getattr(asked, name)
    )
    if found:
        raise Differs(f"grant {known.grant_id!r} was given with other content", found)


def _text(name: str, value: object) -> str:
    if name == "amount_nano":
        assert isinstance(value, int)
        return format_amount(value)
    if isinstance(value, tuple):
        return ",".join(value) or "all meters"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Rollover):
        return f"{format_amount(value.least_nano)} to {format_amount(value.most_nano)}"
    return "none" if value is None else str(value)
