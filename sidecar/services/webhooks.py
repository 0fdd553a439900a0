"""Webhooks in: verified, stored once, acknowledged after the commit; `inbox` handles them."""

from collections.abc import Callable, Mapping

from sidecar import telemetry
from sidecar.domain.errors import InvalidInput, NotFound
from sidecar.services.inbox_ports import (
    Inbox,
    ObjectKind,
    Receipt,
    WebhookRefused,
    WebhookVerifier,
)
from sidecar.services.ports import Clock

UNREADABLE = "unreadable"


class WebhookReceiver:
    """Takes one webhook in; the answer to the provider is decided by what this returns."""

    def __init__(
        self,
        inbox: Inbox,
        verifiers: Mapping[str, WebhookVerifier],
        clock: Clock,
        *,
        wake: Callable[[], None] | None = None,
    ) -> None:
        """
        Wire the ports.

        Args:
            inbox, clock: Ports.
            verifiers: By the provider's name; one that is not here sends nothing that we take.
            wake: Called after an event was stored, for a worker in this process.
        """
        self._inbox = inbox
        self._verifiers = verifiers
        self._clock = clock
        self._wake = wake

    def check_provider(self, provider: str) -> None:
        """Whether webhooks of a provider are taken here at all. Raises NotFound."""
        if provider not in self._verifiers:
            raise NotFound("no webhooks of that name are taken here: its secret is not set")

    async def receive(self, provider: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        """
        Verify and store a webhook.

        Returns:
            What it was, after the commit: the provider may forget it.

        Raises:
            NotFound: No webhooks of this provider are taken.
            InvalidInput: The signature does not hold; or it holds and the content cannot be read,
                which is stored for people.
            StoreUnavailable: Nothing is stored; the provider sends it again.
        """
        self.check_provider(provider)
        verifier = self._verifiers[provider]
        try:
            verifier.verify(headers, body, self._clock.now())
        except WebhookRefused as error:
            telemetry.WEBHOOKS.labels(provider, error.refusal.value).inc()
            telemetry.get_logger().warning(
                "webhook_refused", provider=provider, reason=error.refusal.value
            )
            raise InvalidInput(error.detail) from error
        event = verifier.parse(body)
        receipt = await self._inbox.receive(event)
        if event.ref is not None and event.ref.kind is ObjectKind.UNREADABLE:
            telemetry.WEBHOOKS.labels(provider, UNREADABLE).inc()
            telemetry.get_logger().error(
                "webhook_unreadable", provider=provider, reason=event.reason
            )
            raise InvalidInput(f"the content cannot be read ({event.reason}); it is kept")
        telemetry.WEBHOOKS.labels(provider, receipt.value).inc()
        if receipt is Receipt.STORED and event.ref is not None and event.reason:
            telemetry.INBOX.labels(event.ref.kind.value, "parked").inc()
            telemetry.get_logger().error(
                "inbox_object_parked", object=event.ref.key, reason=event.reason
            )
        if receipt is Receipt.STORED and self._wake is not None:
            self._wake()
        return receipt
