"""Conditions of rules that are decided before the store is asked."""

from datetime import datetime
from typing import Any

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.expressions import Expression, ExpressionFailed
from sidecar.domain.matching import RequestView
from sidecar.domain.requests import RequestFacts
from sidecar.domain.variables import request_variables


class RequestConditions:
    """Evaluates the conditions that need no number of the store; builds variables at the first."""

    def __init__(
        self, view: RequestView, customer: CustomerFacts, facts: RequestFacts, now: datetime
    ) -> None:
        """Take what conditions may read; `amount_nano` is set once the amount is known."""
        self._facts = (view, customer, facts, now)
        self.amount_nano = 0
        self.known: dict[str, Any] = {}

    def holds(self, when: Expression) -> bool | None:
        """Whether the condition is true; None if it cannot be evaluated."""
        self.prepare()
        try:
            return bool(when.evaluate(self.known))
        except ExpressionFailed:
            return None

    def prepare(self) -> None:
        """Have the variables ready, for a condition that waits for the store's numbers."""
        if not self.known:
            self.known = request_variables(*self._facts)
            self.known["hold"] = {"amount_nano": self.amount_nano}
