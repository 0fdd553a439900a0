"""
Collecting a closed invoice through a provider: the states, and what each answer leads to.

One machine for every provider. A reference names one attempt at one payment. It is used again
until the provider says clearly what became of it; only a definitive failure earns a new one.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from sidecar.domain.errors import InvalidInput

ATTEMPTS_MAX: Final = 50
"""Most attempts at one invoice, those that people ask for included."""
_EMAIL_CHARS_MAX: Final = 254


class CollectState(StrEnum):
    """How far the collecting of one invoice has come."""

    DEMANDED = "demanded"
    """Nothing was sent under the reference of this attempt."""
    SENT = "sent"
    """It was sent, or is about to be: the provider may have it."""
    UNKNOWN = "unknown"
    """It may have been taken: the same reference is asked about before anything else."""
    PAID = "paid"
    FAILED = "failed"
    """No attempt is left, or none may be made: for people to see."""
    WITHDRAWN = "withdrawn"
    """The invoice was no longer due before anything was sent under this reference."""


ENDED: Final = frozenset({CollectState.PAID, CollectState.FAILED, CollectState.WITHDRAWN})


class CollectWay(StrEnum):
    """How a provider is asked; fixed for an attempt, since it says where to look for it."""

    CARD = "card"
    """A saved card is charged."""
    INVOICE = "invoice"
    """The provider asks the customer to pay."""


class CollectOutcome(StrEnum):
    """What a provider answers about one reference."""

    PAID = "paid"
    PENDING = "pending"
    """The provider has it and works on it, or waits for the customer."""
    FAILED = "failed"
    """Definitive: nothing was paid under this reference, nor will be. A new one may be tried."""
    REFUSED = "refused"
    """As it is, it will never be taken; no new reference is tried before somebody looked."""
    UNKNOWN = "unknown"
    """No clear answer: it may have been taken. Ask about the same reference."""
    ABSENT = "absent"
    """The provider does not know the reference: the same may be sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectRules:
    """
    How often and when.

    Args:
        attempts_max: References tried by themselves, 1 to ATTEMPTS_MAX.
        attempt_every: Between a definitive failure and the next attempt.
        look_every: Between two questions about something pending.
        retry_first, retry_max: Between unclear answers: doubling from the first to the last.
    """

    attempts_max: int = 4
    attempt_every: timedelta = timedelta(days=3)
    look_every: timedelta = timedelta(minutes=15)
    retry_first: timedelta = timedelta(seconds=5)
    retry_max: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectStep:
    """Where an answer leads: the next state, when to look again (None: never), which attempt."""

    state: CollectState
    wait: timedelta | None
    attempt: int


def next_collect_step(
    outcome: CollectOutcome,
    *,
    attempt: int,
    attempts_max: int,
    unclear: int,
    rules: CollectRules,
    asked_to_wait: timedelta | None = None,
) -> CollectStep:
    """
    What follows an answer to an attempt that was sent.

    Args:
        outcome: The answer.
        attempt: Counts references, from 1.
        attempts_max: Of this invoice; people may have added to the rules' own.
        unclear: How many answers in a row said nothing clear, this one not counted.
        rules: When to come back.
        asked_to_wait: What the provider asked for; never shortens a wait.

    Returns:
        The step. An attempt ends only on PAID, FAILED or REFUSED.
    """
    match outcome:
        case CollectOutcome.PAID:
            return CollectStep(state=CollectState.PAID, wait=None, attempt=attempt)
        case CollectOutcome.REFUSED:
            return CollectStep(state=CollectState.FAILED, wait=None, attempt=attempt)
        case CollectOutcome.FAILED if attempt >= min(attempts_max, ATTEMPTS_MAX):
            return CollectStep(state=CollectState.FAILED, wait=None, attempt=attempt)
        case CollectOutcome.FAILED:
            wait = _longer(rules.attempt_every, asked_to_wait)
            return CollectStep(state=CollectState.DEMANDED, wait=wait, attempt=attempt + 1)
        case CollectOutcome.PENDING:
            wait = _longer(rules.look_every, asked_to_wait)
            return CollectStep(state=CollectState.SENT, wait=wait, attempt=attempt)
        case CollectOutcome.UNKNOWN | CollectOutcome.ABSENT:
            doubled = rules.retry_first * 2 ** min(unclear, 30)
            wait = _longer(min(doubled, rules.retry_max), asked_to_wait)
            return CollectStep(state=CollectState.UNKNOWN, wait=wait, attempt=attempt)


def _longer(wait: timedelta, asked: timedelta | None) -> timedelta:
    return wait if asked is None else max(wait, asked)


def collect_reference(ledger_id: str, invoice_id: str, attempt: int) -> str:
    """
    Names one attempt at one invoice of one ledger, the same at each try.

    Letters, digits and hyphens: every provider takes these. The attempt stands at its end for
    people; the digest already covers it.
    """
    content = json.dumps([ledger_id, invoice_id, attempt]).encode()
    return f"sc-{hashlib.sha256(content).hexdigest()[:32]}-{attempt}"


def check_email(text: str) -> str:
    """
    An address that a provider may be told: printable ASCII with one @ inside.

    Raises:
        InvalidInput: It is none; the message does not repeat it.
    """
    local, at, host = text.partition("@")
    plain = text.isascii() and text.isprintable() and " " not in text
    if not (plain and local and at and host and "@" not in host and len(text) <= _EMAIL_CHARS_MAX):
        raise InvalidInput("email is not an address such as ada@example.com", field="email")
    return text
