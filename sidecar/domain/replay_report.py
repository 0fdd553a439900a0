"""What a replay found: counts, flips and money, exact."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sidecar.domain.money import format_amount
from sidecar.domain.periods import from_epoch_ms

FLIPS_MAX = 1_000
"""Flips that are listed one by one; the counts go on."""
CUSTOMERS_SHOWN_MAX = 1_000
"""Customers that are listed, the most affected first; their number is told."""


@dataclass(slots=True, kw_only=True)
class Flip:
    """A decision that would have been another. `captured_nano` grows as its usage comes."""

    at_ms: int
    decision_id: str
    customer_id: str
    allow: bool
    """What it would be now."""
    rule: str
    """Which rule refuses: the new one, or the old one of a request that now passes."""
    code: str
    currency: str
    held_nano: int
    captured_nano: int = 0
    estimated: bool = False
    """Its amount is what would be held: usage that never was cannot be known."""


@dataclass(slots=True, kw_only=True)
class ReplayReport:
    """
    The outcome of a replay; amounts in nano by currency.

    `reproduced` are decisions with the same word, code, rule, status, retry-after and shadow
    rules. `reworded` have the same word and differ in one of these. `kept` were decided
    before the rules or without the store, and stand as recorded. `unjudged` says why some
    could not be judged; they count as if nothing had changed. `before` are those of the
    policy version that the comparison is with.
    """

    policy_version: str
    decisions: int = 0
    usage_events: int = 0
    reproduced: int = 0
    reworded: int = 0
    kept: int = 0
    headers_changed: int = 0
    from_older_numbers: int = 0
    to_deny: int = 0
    to_allow: int = 0
    unjudged: Counter[str] = field(default_factory=Counter)
    unrated: Counter[str] = field(default_factory=Counter)
    by_version: Counter[str] = field(default_factory=Counter)
    denied_by_rule: Counter[str] = field(default_factory=Counter)
    allowed_by_rule: Counter[str] = field(default_factory=Counter)
    customers_denied: Counter[str] = field(default_factory=Counter)
    customers_allowed: Counter[str] = field(default_factory=Counter)
    refused_held: Counter[str] = field(default_factory=Counter)
    refused_captured: Counter[str] = field(default_factory=Counter)
    admitted_held: Counter[str] = field(default_factory=Counter)
    revenue_before: Counter[tuple[str, str]] = field(default_factory=Counter)
    revenue_after: Counter[tuple[str, str]] = field(default_factory=Counter)
    flips: list[Flip] = field(default_factory=list)
    first_denial: Flip | None = None

    def add_flip(self, flip: Flip) -> None:
        """Count a flip; it is listed while there is room."""
        if flip.allow:
            self.to_allow += 1
            self.allowed_by_rule[flip.rule] += 1
            self.customers_allowed[flip.customer_id] += 1
            self.admitted_held[flip.currency] += flip.held_nano
        else:
            self.to_deny += 1
            self.denied_by_rule[flip.rule] += 1
            self.customers_denied[flip.customer_id] += 1
            self.refused_held[flip.currency] += flip.held_nano
            self.first_denial = self.first_denial or flip
        if len(self.flips) < FLIPS_MAX:
            self.flips.append(flip)

    def as_json(self) -> dict[str, Any]:
        """The report in JSON types; amounts as texts with the same integers beside them."""
        changes = self.revenue_changes()
        return {
            "policy_version": self.policy_version,
            "decisions": self.decisions,
            "usage_events": self.usage_events,
            "reproduced": self.reproduced,
            "reworded": self.reworded,
            "kept": self.kept,
            "headers_changed": self.headers_changed,
            "from_older_numbers": self.from_older_numbers,
            "cannot_be_judged": dict(self.unjudged),
            "cannot_be_rated": dict(self.unrated),
            "recorded_policy_versions": dict(self.by_version),
            "allow_to_deny": {
                "decisions": self.to_deny,
                "customers": len(self.customers_denied),
                "by_rule": dict(self.denied_by_rule.most_common()),
                "by_customer": dict(self.customers_denied.most_common(CUSTOMERS_SHOWN_MAX)),
                "held": _amounts(self.refused_held),
                "captured": _amounts(self.refused_captured),
                "first": None if self.first_denial is None else flip_json(self.first_denial),
            },
            "deny_to_allow": {
                "decisions": self.to_allow,
                "customers": len(self.customers_allowed),
                "by_rule": dict(self.allowed_by_rule.most_common()),
                "by_customer": dict(self.customers_allowed.most_common(CUSTOMERS_SHOWN_MAX)),
                "estimated": _amounts(self.admitted_held),
            },
            "revenue_customers": len(changes),
            "revenue": [
                {
                    "customer_id": customer,
                    "currency": currency,
                    "before_nano": self.revenue_before[customer, currency],
                    "after_nano": self.revenue_after[customer, currency],
                    "change": format_amount(change),
                    "change_nano": change,
                }
                for customer, currency, change in changes[:CUSTOMERS_SHOWN_MAX]
            ],
            "flips": [flip_json(flip) for flip in self.flips],
            "flips_left_off": self.to_deny + self.to_allow - len(self.flips),
        }

    def revenue_changes(self) -> list[tuple[str, str, int]]:
        """Customer, currency and change in nano, where there is one; the largest first."""
        keys = self.revenue_before.keys() | self.revenue_after.keys()
        changes = [
            (*key, self.revenue_after[key] - self.revenue_before[key]) for key in sorted(keys)
        ]
        return sorted((c for c in changes if c[2]), key=lambda change: -abs(change[2]))


def flip_json(flip: Flip) -> dict[str, Any]:
    """One flip in JSON types."""
    return {
        "at": from_epoch_ms(flip.at_ms).isoformat(timespec="milliseconds"),
        "decision_id": flip.decision_id,
        "customer_id": flip.customer_id,
        "now": "allow" if flip.allow else "deny",
        "rule": flip.rule,
        "code": flip.code,
        "currency": flip.currency,
        "held_nano": flip.held_nano,
        "captured_nano": flip.captured_nano,
        "estimated": flip.estimated,
    }


def _amounts(amounts: Counter[str]) -> dict[str, dict[str, Any]]:
    return {
        currency: {"amount": format_amount(nano), "amount_nano": nano}
        for currency, nano in sorted(amounts.items())
        if currency
    }
