"""
Payments asked for over a signed HTTP request: the port `TopUpProvider`.

The request is signed as Standard Webhooks does it, and its id is the payment's reference: the
receiver must take the same id for the same payment, for it is sent again until it is answered.
"""

import json
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.money import format_amount
from sidecar.domain.top_ups import TopUpAttempt
from sidecar.outbound.standard_webhooks import (
    check_url,
    read_bounded,
    read_signing_secret,
    signed_headers,
)
from sidecar.services.ports import Clock
from sidecar.services.top_ups import ROUND_MAX, TopUpAnswer

EVENT_TYPE: Final = "top_up.requested"
_ANSWER_BYTES_MAX: Final = 65_536
_REFERENCE_CHARS_MAX: Final = 255
_OK: Final = 200


class WebhookTopUps:
    """
    Posts one signed request for each try.

    Only a 200 with `{"paid": true|false, "reference": "..."}` is an answer. Anything else may or
    may not have been paid, and is asked for again under the same id.
    """

    def __init__(
        self, url: str, secret: str, clock: Clock, *, timeout_seconds: float = 10.0
    ) -> None:
        """
        Prepare a session; nothing is sent. Needs a running event loop.

        Args:
            url: Where to post to: https, or http on this machine.
            secret: "whsec_" and 24 to 64 octets in base64. Never logged.
            clock: Whose time is signed.
            timeout_seconds: Longest call.

        Raises:
            ConfigError: The URL or the secret cannot be used.
        """
        self._url = check_url(url, setting="top_up_url")
        self._key = read_signing_secret(secret, setting="top_up_secret_file")
        self._clock = clock
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=ROUND_MAX),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            auto_decompress=False,
        )

    def __repr__(self) -> str:
        """Never shows the secret, nor what may stand in the URL."""
        return f"WebhookTopUps({urlsplit(self._url).hostname})"

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def ask(self, attempt: TopUpAttempt) -> TopUpAnswer:
        """Ask once. Raises StoreUnavailable where there is no clear answer."""
        now = self._clock.now()
        body = json.dumps(
            {
                "type": EVENT_TYPE,
                "timestamp": now.isoformat(),
                "data": {
                    "reference": attempt.reference,
                    "customer_id": attempt.customer_id,
                    "amount": format_amount(attempt.amount_nano),
                    "amount_nano": str(attempt.amount_nano),
                    "currency": attempt.currency,
                },
            }
        ).encode()
        headers = signed_headers(self._key, attempt.reference, now, body)
        try:
            async with self._session.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as response:
                status, raw = response.status, await read_bounded(response, _ANSWER_BYTES_MAX)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise StoreUnavailable(
                f"the top-up provider does not answer ({type(error).__name__})"
            ) from error
        answer = read_answer(raw) if status == _OK else None
        if answer is None:
            raise StoreUnavailable(f"the top-up provider gives no clear answer (status {status})")
        return answer


def read_answer(raw: bytes) -> TopUpAnswer | None:
    """What was answered, None if that is not clear."""
    if len(raw) > _ANSWER_BYTES_MAX:
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
