"""
Any billing system over signed HTTP requests: the ports `MeterReporter` and `InvoiceCollector`.

Settled quantities and closed invoices are posted as Standard Webhooks does it. A message's id is
the row's identifier or the attempt's reference: the receiver must take the same id for the same
fact, for it is sent again until it is answered. `docs/providers.md` is the receiver's page.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import aiohttp

from sidecar.domain.collecting import CollectOutcome, CollectWay
from sidecar.domain.minor_units import WEBHOOK, currencies_of, from_minor
from sidecar.domain.money import format_amount
from sidecar.outbound.standard_webhooks import ANSWER_BYTES_MAX, SignedEndpoint
from sidecar.services.control_ports import ReportAttempt, ReportRow, ReportVerdict
from sidecar.services.ports import Clock
from sidecar.services.provider_ports import (
    CollectAnswer,
    CollectCapabilities,
    Demand,
    NoteProviderReference,
)

USAGE_EVENT: Final = "usage.settled"
INVOICE_EVENT: Final = "invoice.collect"
TIMEOUT_SECONDS: Final = 10.0
CONNECTIONS_MAX: Final = 16
_REFERENCE_CHARS_MAX: Final = 255
_LINES_MAX: Final = 250
_WAIT_SECONDS_MAX: Final = 3_600
_OK: Final = range(200, 300)
_REFUSALS: Final = range(400, 500)
_LATER: Final = frozenset({401, 403, 404, 408, 409, 425, 429})
"""Refused for now, or refused to us: not for what the message says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    """What came back; status 0 is no answer. `raw` is None if it was too large."""

    status: int
    raw: bytes | None = b""
    wait: timedelta | None = None
    detail: str = ""


class WebhookProvider(SignedEndpoint):
    """One signed POST for each attempt; no retries here."""

    def __init__(
        self,
        url: str,
        secret: str,
        clock: Clock,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        """As `SignedEndpoint`, with the settings `webhook_provider_...`."""
        super().__init__(
            url,
            secret,
            clock,
            setting="webhook_provider",
            timeout_seconds=timeout_seconds,
            connections_max=connections_max,
        )

    @property
    def capabilities(self) -> CollectCapabilities:
        """Every currency that has a smallest unit."""
        return CollectCapabilities(
            currencies={CollectWay.INVOICE: currencies_of(WEBHOOK)}, lines_max=_LINES_MAX
        )

    async def report(self, row: ReportRow) -> ReportAttempt:
        """Post one settled quantity; any 2xx is delivered, whatever stands in it."""
        reply = await self._post(
            USAGE_EVENT,
            row.identifier,
            {
                "identifier": row.identifier,
                "customer_id": row.provider_customer_id,
                "meter": row.event_name,
                "quantity": str(row.quantity),
                "event_at": row.event_at.isoformat(),
            },
        )
        if reply.status in _OK:
            return ReportAttempt(verdict=ReportVerdict.DELIVERED)
        refused = reply.status in _REFUSALS and reply.status not in _LATER
        verdict = ReportVerdict.REJECTED if refused else ReportVerdict.RETRY
        return ReportAttempt(verdict=verdict, detail=reply.detail or f"status {reply.status}")

    async def collect(self, demand: Demand, note: NoteProviderReference) -> CollectAnswer:
        """Post one invoice. The reference is the receiver's key, so nothing has to be noted."""
        del note
        if demand.currency not in self.capabilities.currencies.get(demand.way, frozenset()):
            return CollectAnswer(
                outcome=CollectOutcome.REFUSED,
                detail=f"no {demand.currency} by {demand.way.value}",
            )
        reply = await self._post(INVOICE_EVENT, demand.reference, _invoice(demand))
        return _read_collected(reply)

    async def verify(self, demand: Demand) -> CollectAnswer:
        """Nothing can be asked without sending it again, which is safe under the same id."""
        del demand
        return CollectAnswer(outcome=CollectOutcome.ABSENT, detail="asked by sending it again")

    async def _post(self, kind: str, message_id: str, data: Mapping[str, Any]) -> _Reply:
        try:
            answered = await self.post_event(kind, message_id, data)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return _Reply(status=0, detail=f"no answer ({type(error).__name__})")
        return _Reply(
            status=answered.status,
            raw=answered.raw if len(answered.raw) <= ANSWER_BYTES_MAX else None,
            wait=_wait(answered.retry_after),
        )


def _invoice(demand: Demand) -> dict[str, Any]:
    nano = from_minor(demand.amount_minor, demand.currency, WEBHOOK)
    return {
        "reference": demand.reference,
        "invoice_id": demand.invoice_id,
        "number": demand.number,
        "customer_id": demand.payer.customer_id,
        "provider_customer_id": demand.payer.provider_customer_id,
        "email": demand.payer.email,
        "currency": demand.currency,
        "amount": format_amount(nano),
        "amount_minor": str(demand.amount_minor),
        "due_at": None if demand.due_at is None else demand.due_at.isoformat(),
        "lines": [
            {"text": line.text, "amount_minor": str(line.amount_minor)} for line in demand.lines
        ],
    }


def _read_collected(reply: _Reply) -> CollectAnswer:
    """What was answered about an invoice; what is not clear is UNKNOWN."""
    if reply.status not in _OK:
        refused = reply.status in _REFUSALS and reply.status not in _LATER
        return CollectAnswer(
            outcome=CollectOutcome.REFUSED if refused else CollectOutcome.UNKNOWN,
            detail=reply.detail or f"status {reply.status}",
            wait=reply.wait,
        )
    if reply.raw is None:
        return _unclear("the answer is too large")
    if not reply.raw.strip():
        return CollectAnswer(outcome=CollectOutcome.PENDING, detail="delivered", wait=reply.wait)
    try:
        answer: Any = json.loads(reply.raw)
    except (ValueError, RecursionError):
        return _unclear("the answer is no JSON")
    if not isinstance(answer, dict):
        return _unclear("the answer is no JSON object")
    reference = answer.get("reference", "")
    if not isinstance(reference, str) or not reference.isprintable():
        return _unclear("the answer's reference is no text")
    paid, again = answer.get("paid"), answer.get("again", True)
    if paid is not None and not isinstance(paid, bool):
        return _unclear("the answer's paid is neither true, false nor null")
    outcome = {
        True: CollectOutcome.PAID,
        False: CollectOutcome.REFUSED if again is False else CollectOutcome.FAILED,
        None: CollectOutcome.PENDING,
    }[paid]
    return CollectAnswer(
        outcome=outcome,
        provider_reference=reference[:_REFERENCE_CHARS_MAX],
        detail=f"answered {outcome.value}",
        wait=reply.wait,
    )


def _unclear(detail: str) -> CollectAnswer:
    return CollectAnswer(outcome=CollectOutcome.UNKNOWN, detail=detail)


def _wait(text: str) -> timedelta | None:
    """Retry-After in seconds, bounded; a date is not read."""
    text = text.strip()
    if not text.isdecimal() or len(text) > 6:  # noqa: PLR2004  Longer than any wait.
        return None
    return timedelta(seconds=min(int(text), _WAIT_SECONDS_MAX))
