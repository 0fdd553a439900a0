"""
Grants: credit given, in what order it is burned, and how it ends.

A grant is immutable; it ends by being spent, by its expiry or by a withdrawal. What a place
sets aside of it is pinned: expiry and withdrawal take only what is free, and a pinned part that
comes back after the grant has ended ends with it.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sidecar.domain.errors import InvalidInput
from sidecar.domain.money import AMOUNT_NANO_MAX, format_amount

GRANTS_ACTIVE_MAX = 64
"""Grants of one customer that still matter: scheduled, active, or ended with a part pinned."""
PRIORITY_MAX = 100
PRIORITY_DEFAULT = 50
GRANT_METERS_MAX = 16
_GRANT_ID = re.compile(r"[A-Za-z0-9_.:-]{1,255}", re.ASCII)


class GrantKind(StrEnum):
    """Whether the customer paid for the credit."""

    PAID = "paid"
    PROMOTIONAL = "promotional"


class WithdrawalKind(StrEnum):
    """Why credit is taken back."""

    VOID = "void"
    """Ended early; takes what is free."""
    REFUND = "refund"
    """Paid back to the customer; takes what is free."""
    DISPUTE = "dispute"
    """The payment was reversed; takes what was given, spent or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """What a decision moved of one grant, in nano: into it (positive) or out of it."""

    grant_id: str
    amount_nano: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollover:
    """
    How much of the grant before comes along when a grant of a schedule begins.

    What is free there, but at least `least_nano` and at most `most_nano`; the rest expires.
    """

    from_grant_id: str
    least_nano: int = 0
    most_nano: int = 0

    def amount(self, free_nano: int) -> int:
        """
        What rolls over of what is free.

        Source: OpenMeter, min(max rollover, max(balance, min rollover)).
        """
        return min(self.most_nano, max(free_nano, self.least_nano))


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantTerms:
    """
    What was given: amounts in nano, instants in UTC, [effective_at, expires_at).

    `effective_at` None is at once, `expires_at` None is never, no `meters` is all of them.
    """

    grant_id: str
    amount_nano: int
    kind: GrantKind = GrantKind.PAID
    priority: int = PRIORITY_DEFAULT
    effective_at: datetime | None = None
    expires_at: datetime | None = None
    meters: tuple[str, ...] = ()
    rollover: Rollover | None = None


def check_grant(terms: GrantTerms, now: datetime) -> None:
    """
    Refuse what cannot be given.

    Raises:
        InvalidInput: An amount that is not above zero or beyond any balance, a priority out of
            range, an expiry that is past or not after the beginning, a scope that is too wide.
    """
    if _GRANT_ID.fullmatch(terms.grant_id) is None:
        raise InvalidInput("a grant's id must be 1 to 255 letters, digits or _.:-", field="id")
    if not 0 < terms.amount_nano <= AMOUNT_NANO_MAX:
        raise InvalidInput(
            f"amount must be above zero and at most {format_amount(AMOUNT_NANO_MAX)}",
            field="amount",
        )
    if not 0 <= terms.priority <= PRIORITY_MAX:
        raise InvalidInput(
            f"priority is {terms.priority}; it must be 0 (first) to {PRIORITY_MAX}",
            field="priority",
        )
    if terms.expires_at is not None:
        if terms.expires_at <= now:
            raise InvalidInput("expires_at has passed: it must lie ahead", field="expires_at")
        if terms.effective_at is not None and terms.expires_at <= terms.effective_at:
            raise InvalidInput("expires_at must be after effective_at", field="expires_at")
    if len(terms.meters) > GRANT_METERS_MAX:
        raise InvalidInput(f"at most {GRANT_METERS_MAX} meters are allowed", field="meters")
    if len(set(terms.meters)) < len(terms.meters):
        raise InvalidInput("a meter is named twice", field="meters")
    if terms.rollover is not None and not (
        0 <= terms.rollover.least_nano <= terms.rollover.most_nano <= AMOUNT_NANO_MAX
    ):
        raise InvalidInput("rollover needs 0 <= min <= max", field="rollover")
