"""Notices for incoming webhooks of Slack's kind: implements `NoticeChannel`."""

import json
from http import HTTPStatus
from typing import Final

from sidecar.outbound.notify.posting import Poster
from sidecar.outbound.notify.templates import NoticeTemplates
from sidecar.outbound.standard_webhooks import check_url
from sidecar.services.notice_ports import Delivery, SendOutcome

# The text is refused, or the webhook is: Source:
# https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks#handling-errors
_REFUSALS: Final = frozenset(
    int(status)
    for status in (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.GONE,
    )
)


class SlackChannel:
    """
    Posts `{"text": ...}`, which Slack, Mattermost and Rocket.Chat take.

    Such a webhook knows no ids: what is sent again after a crash is shown again.
    """

    def __init__(
        self,
        url: str,
        templates: NoticeTemplates,
        *,
        timeout_seconds: float,
        concurrency_max: int,
    ) -> None:
        """
        Prepare a session; nothing is sent. Needs a running event loop.

        Args:
            url: The incoming webhook; whoever knows it may post, so it never shows.
            templates: What messages say.
            timeout_seconds: Longest attempt.
            concurrency_max: Connections at a time.

        Raises:
            ConfigError: The URL cannot be used.
        """
        self._templates = templates
        self._poster = Poster(
            check_url(url, setting="the URL of notify.slack.url_file"),
            timeout_seconds=timeout_seconds,
            concurrency_max=concurrency_max,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._poster.close()

    async def send(self, delivery: Delivery, address: str) -> SendOutcome:
        """One attempt; a webhook has no address."""
        assert not address
        body = json.dumps({"text": self._templates.slack(delivery.notice)}).encode()
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        return await self._poster.post(body, headers, refusals=_REFUSALS)
