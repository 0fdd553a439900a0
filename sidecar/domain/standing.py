"""
Standing: what a customer's invoices say about them; ours, never the provider's own flag.

The provider's flag clears as soon as any invoice is paid, and its webhooks come in any order. So a
standing is a function of what the invoices are now, of the clock, and of nothing that came before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum


class Standing(StrEnum):
    """Good pays in time; grace owes but may go on; delinquent owes too long."""

    GOOD = "good"
    GRACE = "grace"
    DELINQUENT = "delinquent"


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingFact:
    """
    A standing, why, and until when it holds (None: until changed). After `until` it is good.

    The invoices behind it, as far as they are known: since when the oldest is overdue, how much
    is overdue in nano of the customer's currency, and whether the customer disputes it.
    """

    standing: Standing
    reason: str = ""
    until: datetime | None = None
    overdue_since: datetime | None = None
    overdue_nano: int | None = None
    disputed: bool = False

    def at(self, instant: datetime) -> Standing:
        """The standing that counts at an instant."""
        if self.until is not None and instant >= self.until:
            return Standing.GOOD
        return self.standing


GOOD = StandingFact(standing=Standing.GOOD)


class InvoiceState(StrEnum):
    """States of a provider's invoice."""

    DRAFT = "draft"
    OPEN = "open"
    PAID = "paid"
    UNCOLLECTIBLE = "uncollectible"
    VOID = "void"


class StandingReason(StrEnum):
    """Why a customer is not in good standing."""

    OVERDUE = "invoice_overdue"
    UNCOLLECTIBLE = "invoice_uncollectible"
    DISPUTED = "payment_disputed"
    UNPAID = "subscription_unpaid"


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceDebt:
    """
    One invoice as far as standing goes.

    `due_at` None is not due at any known time. `amount_nano` is what remains to be paid, in nano
    of the customer's currency; None where that is not known (another currency): it then counts as
    more than any minimum. `disputed` is a payment of it that the bank has taken back, or may.
    """

    state: InvoiceState
    due_at: datetime | None = None
    amount_nano: int | None = None
    disputed: bool = False

    @property
    def owed(self) -> bool:
        """Whether money is asked for that has not come."""
        return self.state is InvoiceState.OPEN and self.amount_nano != 0

    def overdue_at(self, instant: datetime) -> bool:
        """Whether it is owed and due at an instant."""
        return self.owed and self.due_at is not None and self.due_at <= instant


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingTerms:
    """How long an invoice may be overdue, and how much may be owed, before it is delinquent."""

    grace: timedelta = timedelta(0)
    minimum_nano: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedStanding:
    """What invoices say at an instant, and when the clock alone will change it (None: never)."""

    fact: StandingFact
    next_at: datetime | None = None


def derive_standing(
    invoices: Sequence[InvoiceDebt],
    *,
    subscription_unpaid: bool,
    terms: StandingTerms,
    now: datetime,
) -> DerivedStanding:
    """
    What a customer's invoices say now; the order in which they are given does not matter.

    A dispute, an uncollectible invoice and an unpaid subscription are delinquent at once. An
    overdue invoice is grace until it has been overdue for as long as the terms allow. Where
    something else than time makes a customer delinquent, `overdue_since` is left open: a rule
    that has a grace of its own then goes by the standing, and does not wait.
    """
    overdue = [one for one in invoices if one.overdue_at(now)]
    lost = [
        one for one in invoices if one.state is InvoiceState.UNCOLLECTIBLE and one.amount_nano != 0
    ]
    if _below(terms.minimum_nano, [*overdue, *lost]):
        overdue, lost = [], []
    disputed = [one for one in invoices if one.disputed and one.state is not InvoiceState.VOID]
    since = min((one.due_at for one in overdue if one.due_at is not None), default=None)
    reasons = [
        reason.value
        for reason, holds in (
            (StandingReason.OVERDUE, bool(overdue)),
            (StandingReason.UNCOLLECTIBLE, bool(lost)),
            (StandingReason.DISPUTED, bool(disputed)),
            (StandingReason.UNPAID, subscription_unpaid),
        )
        if holds
    ]
    next_at = _next_change(invoices, terms, now)
    if not reasons:
        return DerivedStanding(fact=GOOD, next_at=next_at)
    at_once = bool(lost or disputed or subscription_unpaid)
    waited = since is not None and now >= since + terms.grace
    fact = StandingFact(
        standing=Standing.DELINQUENT if at_once or waited else Standing.GRACE,
        reason=", ".join(reasons),
        overdue_since=None if at_once else since,
        overdue_nano=_sum([*overdue, *lost]) if not (disputed or subscription_unpaid) else None,
        disputed=bool(disputed),
    )
    return DerivedStanding(fact=fact, next_at=next_at)


def effective_standing(
    derived: StandingFact, override: StandingFact | None, now: datetime
) -> StandingFact:
    """
    The standing that counts: an operator's word while it lasts, else what the invoices say.

    A fact's own end means good. So an override's end is told to the live store only where the
    invoices say good, too; else the override stands until somebody looks at it again, so that it
    never ends in a standing that is better than the invoices'.
    """
    if override is None or (override.until is not None and override.until <= now):
        return derived
    if derived.standing is Standing.GOOD:
        return override
    return replace(override, until=None)


def earliest(instants: Iterable[datetime | None]) -> datetime | None:
    """The first of several instants, those that there are."""
    return min((one for one in instants if one is not None), default=None)


def _next_change(
    invoices: Sequence[InvoiceDebt], terms: StandingTerms, now: datetime
) -> datetime | None:
    edges = (
        edge
        for one in invoices
        if one.owed and one.due_at is not None
        for edge in (one.due_at, one.due_at + terms.grace)
    )
    return earliest(edge for edge in edges if edge > now)


def _sum(invoices: Sequence[InvoiceDebt]) -> int | None:
    """What they come to; None if that is not known of one."""
    amounts = [one.amount_nano for one in invoices]
    if not amounts or None in amounts:
        return None
    return sum(amount for amount in amounts if amount is not None)


def _below(minimum_nano: int, invoices: Sequence[InvoiceDebt]) -> bool:
    total = _sum(invoices)
    return total is not None and total < minimum_nano
