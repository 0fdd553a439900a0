"""
Notices: one fact each that somebody should hear of, told once.

A fact has a key of its own, so that whoever sees it again makes the same notice. Amounts stand
apart from the other facts: they leave the house only where a template or a setting says so.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from sidecar.domain.errors import InvalidInput
from sidecar.domain.money import AMOUNT_NANO_MAX

FACTS_MAX: Final = 32
FACT_CHARS_MAX: Final = 500
FACT_KEY_CHARS_MAX: Final = 500
_NAME: Final = re.compile(r"[a-z][a-z_]{0,47}", re.ASCII)
_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*"
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?",
    re.ASCII,
)
_ADDRESS_CHARS_MAX: Final = 254
_LOCAL_PART_CHARS_MAX: Final = 64


class NoticeKind(StrEnum):
    """What a notice is about; also the event type of webhooks, the name of templates, a label."""

    THRESHOLD_REACHED = "threshold.reached"
    """Usage has reached a percentage of a quota in a period."""
    CREDIT_EXHAUSTED = "credit.exhausted"
    """What is left of a customer's credit has come down to the floor, settled usage alone."""
    CREDIT_RUNNING_OUT = "credit.running_out"
    """At the pace of the last day or week the credit does not last."""
    STANDING_CHANGED = "standing.changed"
    REPORT_FAILED = "report.failed"
    """The billing provider refuses quantities of a meter."""
    REPORT_UNCERTAIN = "report.uncertain"
    """Nobody knows whether the billing provider has a quantity."""
    ORPHANS_EXCEEDED = "orphans.exceeded"
    """Too many of a customer's holds expired without usage."""
    INVOICE_CLOSED = "invoice.closed"
    PAYMENT_FAILED = "payment.failed"
    DISPUTE_OPENED = "dispute.opened"
    NOTIFY_TEST = "notify.test"
    """Made by `sidecar notify test` alone, and never on record."""


class Channel(StrEnum):
    """A way to tell."""

    EMAIL = "email"
    WEBHOOK = "webhook"
    SLACK = "slack"


class Audience(StrEnum):
    """Who is told by email. Webhooks and Slack are the operators' own."""

    CUSTOMER = "customer"
    OPERATORS = "operators"


OPERATORS_ALONE: Final = frozenset(
    {
        NoticeKind.REPORT_FAILED,
        NoticeKind.REPORT_UNCERTAIN,
        NoticeKind.ORPHANS_EXCEEDED,
        NoticeKind.DISPUTE_OPENED,
        NoticeKind.NOTIFY_TEST,
    }
)
"""Kinds that are no customer's business unless the settings say otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """
    One fact to tell.

    `fact_key` names the fact among those of its kind and customer: whoever puts it again puts
    the same notice. `customer_id` is empty where it is about the installation. `facts` are short
    texts for templates and receivers: no secret, no prompt, no amount. `amounts` are nano.
    """

    kind: NoticeKind
    fact_key: str
    occurred_at: datetime
    customer_id: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    amounts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not be stored or told. Raises InvalidInput."""
        if not 1 <= len(self.fact_key) <= FACT_KEY_CHARS_MAX or "\0" in self.fact_key:
            raise InvalidInput(f"a notice's fact_key has 1 to {FACT_KEY_CHARS_MAX} characters")
        if self.occurred_at.tzinfo is None:
            raise InvalidInput("a notice's instant needs a zone")
        if len(self.facts) + len(self.amounts) > FACTS_MAX:
            raise InvalidInput(f"a notice has at most {FACTS_MAX} facts and amounts")
        for name in (*self.facts, *self.amounts):
            if _NAME.fullmatch(name) is None:
                raise InvalidInput(f"a fact cannot be called {name[:50]!r}")
        for name, text in self.facts.items():
            if len(text) > FACT_CHARS_MAX or "\0" in text:
                raise InvalidInput(f"fact {name} has more than {FACT_CHARS_MAX} characters, or NUL")
        for name, amount in self.amounts.items():
            if abs(amount) > AMOUNT_NANO_MAX:
                raise InvalidInput(f"amount {name} is out of bounds")


def is_address(text: str) -> bool:
    """
    Whether a text is one plain email address, without a name, a comment or a list.

    The letters are those of RFC 5322's dot-atom and of host names; other scripts need their
    `xn--` form. What passes holds no blank, line break, comma or angle bracket.
    """
    if len(text) > _ADDRESS_CHARS_MAX or _ADDRESS.fullmatch(text) is None:
        return False
    return len(text.rpartition("@")[0]) <= _LOCAL_PART_CHARS_MAX
