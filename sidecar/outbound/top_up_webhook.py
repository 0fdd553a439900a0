"""
Payments asked for over a signed HTTP request: the port `TopUpProvider`.

The request is signed as Standard Webhooks does it, and its id is the payment's reference: the
receiver must take the same id for the same payment, for it is sent again until it is answered.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import json
from typing import Any, Final

import aiohttp

from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.money import format_amount
from sidecar.domain.top_ups import TopUpAttempt
from sidecar.outbound.standard_webhooks import ANSWER_BYTES_MAX, SignedEndpoint
from sidecar.services.ports import Clock
from sidecar.services.top_ups import ROUND_MAX, TopUpAnswer

EVENT_TYPE: Final = "top_up.requested"
_REFERENCE_CHARS_MAX: Final = 255
_OK: Final = 200


class WebhookTopUps(SignedEndpoint):
    """
    Posts one signed request for each try.

    Only a 200 with `{"paid": true|false, "reference": "..."}` is an answer. Anything else may or
    may not have been paid, and is asked for again under the same id.
    """

    def __init__(
        self, url: str, secret: str, clock: Clock, *, timeout_seconds: float = 10.0
    ) -> None:
        """As `SignedEndpoint`, with the settings `top_up_...`."""
        super().__init__(
            url,
            secret,
            clock,
            setting="top_up",
            timeout_seconds=timeout_seconds,
            connections_max=ROUND_MAX,
        )

    def payable_nano(self, amount_nano: int, currency: str) -> int:  # noqa: ARG002  The port's.
        """Any amount: whoever is asked knows the currency's coins."""
        return amount_nano

    async def ask(self, attempt: TopUpAttempt) -> TopUpAnswer:
        """Ask once. Raises StoreUnavailable where there is no clear answer."""
        data = {
            "reference": attempt.reference,
            "customer_id": attempt.customer_id,
            "amount": format_amount(attempt.amount_nano),
            "amount_nano": str(attempt.amount_nano),
            "currency": attempt.currency,
        }
        try:
            answered = await self.post_event(EVENT_TYPE, attempt.reference, data)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise StoreUnavailable(
                f"the top-up provider does not answer ({type(error).__name__})"
            ) from error
        answer = read_answer(answered.raw) if answered.status == _OK else None
        if answer is None:
            raise StoreUnavailable(
                f"the top-up provider gives no clear answer (status {answered.status})"
            )
        return answer


def read_answer(raw: bytes) -> TopUpAnswer | None:
    """What was answered, None if that is not clear."""
    if len(raw) > ANSWER_BYTES_MAX:
        return None
    try:
        answer: Any = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(answer, dict) or not isinstance(answer.get("paid"), bool):
        return None
    reference = answer.get("reference", "")
    if not isinstance(reference, str) or not reference.isprintable():
        return None
    return TopUpAnswer(paid=answer["paid"], reference=reference[:_REFERENCE_CHARS_MAX])
