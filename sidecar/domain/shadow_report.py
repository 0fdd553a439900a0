"""What rules that do not enforce would have done, and where that differs from what was done."""

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any

from sidecar.domain.decision_records import DecisionRecord
from sidecar.domain.money import format_amount
from sidecar.domain.replay_report import CUSTOMERS_SHOWN_MAX
from sidecar.domain.replay_state import ReplayUsage

HOLDS_MAX = 1_000_000
"""Allowed requests whose usage is waited for; beyond it the oldest count as held only."""


@dataclass(slots=True)
class ShadowRule:
    """
    One rule that would have refused.

    `disagreements` were let through by the live rules; `agreements` were refused by others.
    """

    disagreements: int = 0
    agreements: int = 0
    customers: Counter[str] = field(default_factory=Counter)
    live_rules: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    captured: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class ShadowReport:
    """
    By rule. Takes records and usage in the order of time; amounts in nano by currency.

    `denied` counts live refusals by rule: those of a percent rule are where it enforces.
    """

    decisions: int = 0
    rules: dict[str, ShadowRule] = field(default_factory=dict)
    denied: Counter[str] = field(default_factory=Counter)
    _open: OrderedDict[str, tuple[str, ...]] = field(default_factory=OrderedDict)

    def take_record(self, record: DecisionRecord) -> None:
        """Count one decision."""
        self.decisions += 1
        if not record.allow:
            self.denied[record.rule] += 1
        for name in record.shadow:
            rule = self.rules.setdefault(name, ShadowRule())
            rule.customers[record.customer_id] += 1
            if record.allow:
                rule.disagreements += 1
                rule.held[record.currency] += record.amount_nano
            else:
                rule.agreements += 1
                rule.live_rules[record.rule] += 1
        if record.shadow and record.allow:
            self._open[record.hold_id] = record.shadow
            if len(self._open) > HOLDS_MAX:
                self._open.popitem(last=False)

    def take_usage(self, usage: ReplayUsage) -> None:
        """Count what a request came to that a shadow rule would have refused."""
        for name in self._open.get(usage.hold_id, ()):
            self.rules[name].captured[usage.currency] += usage.amount_nano

    def as_json(self) -> dict[str, Any]:
        """In JSON types."""
        return {
            "decisions": self.decisions,
            "rules": [
                {
                    "rule": name,
                    "would_deny": rule.disagreements + rule.agreements,
                    "allowed_live": rule.disagreements,
                    "denied_live": rule.agreements,
                    "denied_live_by_rule": dict(rule.live_rules.most_common()),
                    "enforced": self.denied[name],
                    "customers": len(rule.customers),
                    "by_customer": dict(rule.customers.most_common(CUSTOMERS_SHOWN_MAX)),
                    "held": _amounts(rule.held),
                    "captured": _amounts(rule.captured),
                }
                for name, rule in sorted(self.rules.items())
            ],
        }


def _amounts(amounts: Counter[str]) -> dict[str, dict[str, Any]]:
    return {
        currency: {"amount": format_amount(nano), "amount_nano": nano}
        for currency, nano in sorted(amounts.items())
        if currency
    }
