"""Who is told of which notice, and on which channels: the settings as a value."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sidecar.domain.notices import (
    OPERATORS_ALONE,
    Audience,
    Channel,
    Notice,
    NoticeKind,
    is_address,
)
from sidecar.services.notice_ports import Delivery, Target

TARGET_CUSTOMER = "customer"
_OPERATOR_PREFIX = "operator-"
_HASH_CHARS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRoute:
    """
    How notices of a kind are told.

    `channels` None is all there are, `audiences` None is the kind's own: both, or operators alone.
    `percents` are those of thresholds that are told; empty: all.
    """

    enabled: bool = True
    channels: frozenset[Channel] | None = None
    audiences: frozenset[Audience] | None = None
    percents: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeRoutes:
    """
    All routes of an installation.

    `channels` are those that are set up. `email_label` is the label of a customer that holds
    their address.
    """

    channels: frozenset[Channel] = frozenset()
    operators: tuple[str, ...] = ()
    email_label: str = "email"
    kinds: Mapping[NoticeKind, KindRoute] = field(default_factory=dict)

    def targets(self, notice: Notice, customer_email: str) -> Sequence[Target]:
        """Whom to tell of a notice; empty if nobody is to be told."""
        route = self.kinds.get(notice.kind, KindRoute())
        if not route.enabled or not _is_told(route, notice):
            return ()
        allowed = self.channels if route.channels is None else self.channels & route.channels
        found = [
            Target(channel=channel)
            for channel in (Channel.WEBHOOK, Channel.SLACK)
            if channel in allowed
        ]
        if Channel.EMAIL in allowed:
            audiences = self._audiences(route, notice)
            if Audience.CUSTOMER in audiences and customer_email:
                found.append(Target(channel=Channel.EMAIL, target=TARGET_CUSTOMER))
            if Audience.OPERATORS in audiences:
                found += [
                    Target(channel=Channel.EMAIL, target=operator_target(address))
                    for address in self.operators
                ]
        return found

    def wants_customer(self, notice: Notice) -> bool:
        """Whether the notice is one to tell the customer by email."""
        route = self.kinds.get(notice.kind, KindRoute())
        allowed = self.channels if route.channels is None else self.channels & route.channels
        return (
            route.enabled
            and Channel.EMAIL in allowed
            and Audience.CUSTOMER in self._audiences(route, notice)
        )

    def address(self, delivery: Delivery) -> str | None:
        """
        Where an email goes, as settings and labels say now.

        Returns:
            None where there is no such address any more, or it is none.
        """
        if delivery.to.target == TARGET_CUSTOMER:
            address = delivery.customer_email
            return address if is_address(address) else None
        for address in self.operators:
            if operator_target(address) == delivery.to.target:
                return address
        return None

    def _audiences(self, route: KindRoute, notice: Notice) -> frozenset[Audience]:
        if not notice.customer_id:
            return frozenset({Audience.OPERATORS})
        if route.audiences is not None:
            return route.audiences
        if notice.kind in OPERATORS_ALONE:
            return frozenset({Audience.OPERATORS})
        return frozenset(Audience)


def operator_target(address: str) -> str:
    """The name of an operator's delivery: stays while the address does, and does not show it."""
    digest = hashlib.sha256(address.encode()).hexdigest()
    return f"{_OPERATOR_PREFIX}{digest[:_HASH_CHARS]}"


def _is_told(route: KindRoute, notice: Notice) -> bool:
    if notice.kind is not NoticeKind.THRESHOLD_REACHED or not route.percents:
        return True
    return notice.facts.get("percent", "") in {str(percent) for percent in route.percents}
