"""Webhooks of the Paystack stand-in: signed with the secret key, sent again until taken."""

import hashlib
import hmac
import json
from collections import deque
from dataclasses import dataclass
from typing import Any

import aiohttp

QUEUE_MAX = 10_000
SIGNATURE_HEADER = "x-paystack-signature"
_OK = range(200, 300)


@dataclass(frozen=True, slots=True)
class Hook:
    """One webhook: its bytes and their signature."""

    body: bytes
    signature: str


class Hooks:
    """Webhooks that wait; the oldest fall out of a full queue, as nothing else would be bounded."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self.waiting: deque[Hook] = deque(maxlen=QUEUE_MAX)

    def emit(self, event: str, data: dict[str, Any]) -> None:
        """Queue an event."""
        body = json.dumps({"event": event, "data": data}).encode()
        self.waiting.append(Hook(body, self.sign(body)))

    def sign(self, body: bytes) -> str:
        """Hex HMAC-SHA512 over the raw body. Source: https://paystack.com/docs/payments/webhooks."""
        return hmac.new(self._secret, body, hashlib.sha512).hexdigest()

    async def deliver(self, url: str, *, tries: int = 4, copies: int = 1) -> int:
        """
        Send what waits, each until it is answered 2xx; what is not stays in the queue.

        Args:
            url: Where to.
            tries: How often one is sent at most.
            copies: How often one is delivered: Paystack repeats itself.

        Returns:
            How many were taken.
        """
        taken, left = 0, list(self.waiting)
        self.waiting.clear()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            for hook in left:
                done = [await self._send(session, url, hook, tries) for _ in range(copies)]
                if all(done):
                    taken += 1
                else:
                    self.waiting.append(hook)
        return taken

    async def _send(self, session: aiohttp.ClientSession, url: str, hook: Hook, tries: int) -> bool:
        headers = {SIGNATURE_HEADER: hook.signature, "content-type": "application/json"}
        for _ in range(tries):
            try:
                async with session.post(url, data=hook.body, headers=headers) as response:
                    if response.status in _OK:
                        return True
            except (aiohttp.ClientError, TimeoutError, OSError):
                continue
        return False
