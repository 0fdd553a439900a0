"""Holds worded as usage events, and events as the terms of a hold that the store does not have."""

from sidecar.domain.holds import Bound, HoldTerms
from sidecar.domain.periods import from_epoch_ms, to_epoch_ms
from sidecar.domain.usage import RatedLine, TokenUsage, UsageEvent


def orphan_event(terms: HoldTerms) -> UsageEvent:
    """
    Word an orphan: what the hold was for, at no amount.

    It is received when it expires, by the store's clock, so that the record is a function of
    the hold alone.
    """
    return UsageEvent(
        hold_id=terms.hold_id,
        customer_id=terms.customer_id,
        team_id=terms.team_id,
        user_id=terms.user_id,
        credential_id=terms.credential_id,
        currency=terms.currency,
        price_version=terms.price_version,
        plan=terms.plan,
        model=terms.model,
        route=terms.route,
        lines=tuple(
            RatedLine(meter=meter, quantity=quantity, amount_nano=0)
            for meter, quantity in terms.estimate.items()
        ),
        usage=TokenUsage(),
        occurred_at=from_epoch_ms(terms.decided_at_ms),
        received_at=from_epoch_ms(terms.expires_at_ms),
        edge="sweep",
        gateway_id=terms.gateway_id,
        estimated=True,
        estimate_reason="orphaned",
        request_id=terms.request_id,
    )


def terms_of_event(event: UsageEvent) -> HoldTerms:
    """Terms for an event whose hold the store never had, so that it can be finished."""
    return HoldTerms(
        hold_id=event.hold_id,
        gateway_id=event.gateway_id,
        customer_id=event.customer_id,
        team_id=event.team_id,
        user_id=event.user_id,
        credential_id=event.credential_id,
        plan=event.plan,
        currency=event.currency,
        amount_nano=0,
        price_version=event.price_version,
        estimate={line.meter: line.quantity for line in event.lines},
        model=event.model,
        route=event.route,
        bound=Bound.ESTIMATED,
        decided_at_ms=to_epoch_ms(event.occurred_at),
        request_id=event.request_id,
    )
