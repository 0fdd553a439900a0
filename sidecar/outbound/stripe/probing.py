"""What a Stripe key may do, and whether the account is set up for what Sidecar needs of it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sidecar.domain.errors import ProviderFailed, ProviderRefused, StoreUnavailable
from sidecar.outbound.stripe.client import StripeConnection, translate_stripe
from sidecar.services.stripe_events import ENDPOINT_EVENTS

ERROR_EVENTS: Final = (
    "v1.billing.meter.error_report_triggered",
    "v1.billing.meter.no_meter_found",
)
"""Thin events; they come through an event destination."""
_ALL_EVENTS: Final = "*"
_PAGE: Final = 100
_CREDENTIALS: Final = frozenset({401, 403})
_UNAUTHORIZED: Final = 401
_SHOWN_MAX: Final = 6
_NOBODY: Final = "cus_sidecar_doctor"
_NOTHING: Final = "sidecar_doctor"

Probe = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """One thing that was looked at: whether it is well, and what was found or what mends it."""

    what: str
    ok: bool
    detail: str


class StripeDoctor:
    """
    Asks Stripe with calls that change nothing.

    Rights to write are asked for with requests about nothing that exists: a complaint about those
    says that the key may.
    """

    def __init__(self, connection: StripeConnection) -> None:
        """Wire it."""
        self._client = connection.client
        self._livemode = connection.livemode

    async def look(self, *, creates: bool, tops_up: bool) -> Sequence[Probed]:
        """
        All findings. Stripe that does not answer is one of them.

        Args:
            creates: Whether customers and subscriptions are made.
            tops_up: Whether saved cards are charged.
        """
        try:
            mode = await self._mode()
            if not mode.ok:
                return [mode]
            return [
                mode,
                await self._scopes(creates=creates, tops_up=tops_up),
                await self._webhooks(),
                await self._error_events(),
                await self._grace(),
            ]
        except StoreUnavailable as error:
            return [Probed(what="stripe", ok=False, detail=f"{error}; is stripe_base_url right?")]

    async def _mode(self) -> Probed:
        """Whether the key is one at all, and of which mode."""
        try:
            async with translate_stripe():
                await self._client.v1.billing.meters.list_async({"limit": 1})
        except ProviderRefused as error:
            if error.status == _UNAUTHORIZED:
                return Probed(what="stripe", ok=False, detail="the key is refused (401)")
        words = {
            True: "live: customers really pay",
            False: "test: nobody pays",
            None: "the key does not say whether it is live or test",
        }
        return Probed(what="stripe", ok=True, detail=f"mode {words[self._livemode]}")

    async def _scopes(self, *, creates: bool, tops_up: bool) -> Probed:
        missing: dict[str, None] = {}
        for probe in self._probes(creates=creates, tops_up=tops_up):
            try:
                async with translate_stripe():
                    await probe()
            except ProviderRefused as error:
                if error.status in _CREDENTIALS:
                    missing[error.detail or "a scope that the answer does not name"] = None
            except ProviderFailed:
                # It was answered, so the key was let through; the failure is Stripe's.
                continue
        if missing:
            detail = f"the key lacks {', '.join(missing)}: add them in the dashboard"
            return Probed(what="scopes", ok=False, detail=detail)
        return Probed(what="scopes", ok=True, detail="may do all that is asked of it")

    def _probes(self, *, creates: bool, tops_up: bool) -> list[Probe]:
        v1 = self._client.v1
        # Well formed, and about nothing that exists: an event of 1970, a customer whom nobody made.
        event: Any = {
            "event_name": _NOTHING,
            "timestamp": 1,
            "payload": {"stripe_customer_id": _NOBODY, "value": "0"},
        }
        cancel: Any = {
            "event_name": _NOTHING,
            "type": "cancel",
            "cancel": {"identifier": _NOTHING},
        }
        page: Any = {
            "mode": "payment",
            "customer": _NOBODY,
            "line_items": [{"price": _NOTHING, "quantity": 1}],
            "success_url": "https://example.com/",
        }
        subscription: Any = {"customer": _NOBODY, "items": [{"price": _NOTHING}]}
        payment: Any = {"amount": 100, "currency": "usd", "customer": _NOBODY}
        probes: list[Probe] = [
            lambda: v1.billing.meters.list_async({"limit": 1}),
            lambda: v1.billing.meter_events.create_async(event),
            lambda: v1.billing.meter_event_adjustments.create_async(cancel),
            lambda: v1.customers.list_async({"limit": 1}),
            lambda: v1.invoices.list_async({"limit": 1}),
            lambda: v1.subscriptions.list_async({"limit": 1}),
            lambda: v1.events.list_async({"limit": 1}),
            lambda: v1.webhook_endpoints.list_async({"limit": 1}),
            lambda: v1.checkout.sessions.create_async(page),
        ]
        if creates:
            update: Any = {"metadata": {"sidecar_doctor": ""}}
            probes += [
                lambda: v1.customers.update_async(_NOBODY, update),
                lambda: v1.prices.list_async({"limit": 1}),
                lambda: v1.subscriptions.create_async(subscription),
            ]
        if tops_up:
            probes.append(lambda: v1.payment_intents.create_async(payment))
        return probes

    async def _webhooks(self) -> Probed:
        what = "webhooks"
        try:
            async with translate_stripe():
                page: Any = await self._client.v1.webhook_endpoints.list_async({"limit": _PAGE})
        except (ProviderRefused, ProviderFailed) as error:
            return Probed(what=what, ok=False, detail=f"cannot be read: {error}")
        enabled = [item for item in page.data if item.status == "enabled"]
        covered = {name for item in enabled for name in item.enabled_events}
        missing = [name for name in ENDPOINT_EVENTS if not {name, _ALL_EVENTS} & covered]
        if not enabled:
            detail = "there is no enabled endpoint: add one for /webhooks/stripe"
            return Probed(what=what, ok=False, detail=detail)
        if missing:
            shown = ", ".join(missing[:_SHOWN_MAX])
            more = f" and {len(missing) - _SHOWN_MAX} more" if len(missing) > _SHOWN_MAX else ""
            return Probed(what=what, ok=False, detail=f"no endpoint has {shown}{more}")
        return Probed(what=what, ok=True, detail=f"{len(enabled)} endpoints have all events")

    async def _error_events(self) -> Probed:
        """Event destinations of the v2 API, which carry the reports of lost meter events."""
        what = "errors"
        try:
            async with translate_stripe():
                page: Any = await self._client.v2.core.event_destinations.list_async()
        except (ProviderRefused, ProviderFailed) as error:
            return Probed(
                what=what,
                ok=True,
                detail=f"event destinations cannot be read ({error}); see in the dashboard "
                f"that one has {ERROR_EVENTS[0]}",
            )
        covered = {
            name for item in page.data if item.status == "enabled" for name in item.enabled_events
        }
        missing = [name for name in ERROR_EVENTS if name not in covered]
        if missing:
            return Probed(
                what=what, ok=False, detail=f"no event destination has {', '.join(missing)}"
            )
        return Probed(what=what, ok=True, detail="an event destination has the error reports")

    async def _grace(self) -> Probed:
        """
        How long a draft invoice takes late usage.

        The API has no such setting; an open draft tells when it will be finalised.
        """
        what = "grace"
        unknown = (
            "finalisation grace cannot be read now (no draft of a cycle is open); it is 1 h unless "
            "the dashboard says up to 72 h, and usage that comes later is on no invoice"
        )
        try:
            async with translate_stripe():
                page: Any = await self._client.v1.invoices.list_async(
                    {"status": "draft", "limit": _PAGE}
                )
        except (ProviderRefused, ProviderFailed) as error:
            return Probed(what=what, ok=True, detail=f"{unknown} ({error})")
        spans = [
            timedelta(seconds=item.automatically_finalizes_at - item.created)
            for item in page.data
            if item.billing_reason == "subscription_cycle"
            and getattr(item, "automatically_finalizes_at", None)
        ]
        if not spans:
            return Probed(what=what, ok=True, detail=unknown)
        hours = min(spans) / timedelta(hours=1)
        return Probed(
            what=what, ok=True, detail=f"drafts take usage for {hours:g} h after their period"
        )
