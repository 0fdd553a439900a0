"""One bounded POST to a receiver of notices, and what its answer means."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import aiohttp

from sidecar.services.notice_ports import SendOutcome, SendVerdict

_RETRY_AFTER_DIGITS_MAX: Final = 6


class Poster:
    """Posts bodies to one URL, which never shows: a token may stand in it."""

    def __init__(self, url: str, *, timeout_seconds: float, concurrency_max: int) -> None:
        """Prepare a session; nothing is sent. Needs a running event loop."""
        self._url = url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=concurrency_max),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def post(
        self, body: bytes, headers: Mapping[str, str], *, refusals: frozenset[int]
    ) -> SendOutcome:
        """
        One attempt; any 2xx is success, and redirections are not followed.

        Args:
            body, headers: As they are sent.
            refusals: Statuses by which the receiver says that it will never take it.
        """
        try:
            # The answer's body says nothing that we need, so it is not read.
            async with self._session.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as response:
                status, after = response.status, response.headers.get("retry-after", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return SendOutcome(
                verdict=SendVerdict.RETRY,
                detail=f"the receiver does not answer ({type(error).__name__})",
            )
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return SendOutcome(verdict=SendVerdict.SENT)
        return SendOutcome(
            verdict=SendVerdict.REFUSED if status in refusals else SendVerdict.RETRY,
            detail=f"the receiver answered {status}",
            retry_after_seconds=_seconds(after),
        )


def _seconds(text: str) -> float:
    """`Retry-After` in seconds; its other form, a date, is left out."""
    plain = text.isascii() and text.isdigit() and len(text) <= _RETRY_AFTER_DIGITS_MAX
    return float(text) if plain else 0.0
