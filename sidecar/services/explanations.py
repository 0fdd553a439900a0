"""Explanations of requests and of recorded decisions, for a process that serves."""

from dataclasses import dataclass

from sidecar.domain.errors import Conflict, NotFound
from sidecar.domain.recorded_view import Unrecorded
from sidecar.services.asking import Asked, ask
from sidecar.services.decision_ports import DecisionTable
from sidecar.services.explaining import Explainer, ReadFacts
from sidecar.services.explanation import Explanation
from sidecar.services.live_explaining import LiveNumbers
from sidecar.services.ports import Policies, Word


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplanationService:
    """Explains under the policy in force; nothing is held."""

    policies: Policies
    live: LiveNumbers
    decisions: DecisionTable
    read_facts: ReadFacts
    word: Word

    async def explain(self, asked: Asked, *, live: bool) -> Explanation:
        """
        Explain a request, by given numbers or by the store's.

        Raises:
            InvalidInput: Naming what cannot be used.
            StoreUnavailable: If live numbers are asked for and the store gives no answer.
        """
        explainer = self._explainer()
        if live:
            return await self.live.explain(explainer, asked)
        return ask(explainer, asked, now=self.live.clock.now())

    async def explain_decision(self, decision_id: str) -> Explanation:
        """
        Explain a recorded decision.

        Raises:
            NotFound: If there is no record of it.
            Conflict: If the policy in force reads what the record does not have.
        """
        record = await self.decisions.find(decision_id)
        if record is None:
            raise NotFound(f"there is no record of decision {decision_id}")
        try:
            return self._explainer().explain_record(record)
        except Unrecorded as error:
            raise Conflict(str(error)) from error

    def _explainer(self) -> Explainer:
        return Explainer(self.policies.current(), read_facts=self.read_facts, word=self.word)
