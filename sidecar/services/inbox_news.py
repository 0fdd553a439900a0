"""News of payments that we asked for ourselves: a name, and nothing that is said about it."""

from sidecar.services.inbox_ports import Handled, InboxClaim, ObjectKind, PaymentNews

UNKNOWN_REFERENCE = "unknown_reference"


class NewsHandlers:
    """
    The handlers of a provider that collects by references.

    They fetch nothing: whoever sent the reference asks the provider about it, and writes down
    what the provider answers. So a webhook that is old, forged or repeated costs one question.
    """

    def __init__(self, news: PaymentNews) -> None:
        """Wire the port."""
        self._news = news

    async def handle(self, claim: InboxClaim) -> Handled:
        """
        Have the reference asked about; safe to repeat.

        Raises:
            StoreUnavailable: The record is away.
        """
        ref = claim.ref
        if ref.kind is not ObjectKind.PAYMENT:
            return Handled(parked=ref.kind.value)
        # Before something is sent its reference is written down, so one that is not known now
        # was never ours: the account is used for other things, too, or somebody has our key.
        state = await self._news.hear(ref.provider, ref.object_id)
        return Handled(parked=UNKNOWN_REFERENCE if state is None else "")
