"""Notices as signed requests in Standard Webhooks' form: implements `NoticeChannel`."""

import json
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from sidecar.domain.money import format_amount
from sidecar.domain.notices import Notice
from sidecar.outbound.notify.posting import Poster
from sidecar.outbound.standard_webhooks import check_url, read_signing_secret, signed_headers
from sidecar.services.notice_ports import Delivery, SendOutcome
from sidecar.services.ports import Clock

# The one refusal that the specification names: the receiver is gone for good.
_REFUSALS: Final = frozenset({int(HTTPStatus.GONE)})


class WebhookChannel:
    """Posts a notice; id and body are the same at each attempt, the signed time is its own."""

    def __init__(
        self,
        url: str,
        secret: str,
        *,
        clock: Clock,
        amounts: bool,
        timeout_seconds: float,
        concurrency_max: int,
    ) -> None:
        """
        Prepare a session; nothing is sent. Needs a running event loop.

        Args:
            url: Where to post to: https, or http on this machine.
            secret: "whsec_" and 24 to 64 octets in base64. Never logged.
            clock: Whose time is signed.
            amounts: Whether the receiver is told amounts of money.
            timeout_seconds: Longest attempt.
            concurrency_max: Connections at a time.

        Raises:
            ConfigError: The URL or the secret cannot be used.
        """
        self._host = urlsplit(check_url(url, setting="notify.webhook.url")).hostname
        self._key = read_signing_secret(secret, setting="notify.webhook.secret_file")
        self._clock = clock
        self._amounts = amounts
        self._poster = Poster(url, timeout_seconds=timeout_seconds, concurrency_max=concurrency_max)

    def __repr__(self) -> str:
        """Never shows the secret, nor what may stand in the URL."""
        return f"WebhookChannel({self._host})"

    async def close(self) -> None:
        """Close the connections."""
        await self._poster.close()

    async def send(self, delivery: Delivery, address: str) -> SendOutcome:
        """One attempt; a webhook has no address."""
        assert not address
        body = json.dumps(told(delivery.notice, amounts=self._amounts)).encode()
        now = int(self._clock.now().timestamp())
        headers = signed_headers(self._key, delivery.notice_id, now, body)
        return await self._poster.post(body, headers, refusals=_REFUSALS)


def told(notice: Notice, *, amounts: bool) -> dict[str, Any]:
    """What a receiver is told of a notice."""
    data: dict[str, Any] = {"customer_id": notice.customer_id, "facts": dict(notice.facts)}
    if amounts:
        data["amounts"] = {
            name: {"amount": format_amount(nano), "amount_nano": str(nano)}
            for name, nano in notice.amounts.items()
        }
    return {
        "type": notice.kind.value,
        "timestamp": notice.occurred_at.isoformat(),
        "data": data,
    }
