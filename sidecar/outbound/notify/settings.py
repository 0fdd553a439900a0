"""
The section `notify` of `sidecar.yaml`, and its translation into routes and limits.

Sizes and times have bounds here; secrets are files.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from sidecar.domain.errors import InvalidInput
from sidecar.domain.money import parse_amount
from sidecar.domain.notices import Audience, Channel, NoticeKind, is_address
from sidecar.services.notice_routes import KindRoute, NoticeRoutes
from sidecar.services.notice_sources import CreditLimits
from sidecar.services.noticing import SendLimits

OPERATORS_MAX = 16
_HOUR_SECONDS = 3_600
_LEASE_MARGIN_SECONDS = 60.0
_GOODBYE_SECONDS = 5.0
"""A channel keeps to its own timeout; the bound around it must not cut what was sent and taken."""


def _check_address(text: str) -> str:
    if not is_address(text):
        raise ValueError("must be one plain address such as ops@example.com")
    return text


def _check_amount(text: str) -> str:
    try:
        parse_amount(text)
    except InvalidInput as error:
        raise ValueError(str(error)) from None
    return text


Address = Annotated[str, Field(max_length=254), AfterValidator(_check_address)]
Amount = Annotated[str, Field(max_length=24), AfterValidator(_check_amount)]
Timeout = Annotated[float, Field(gt=0, le=60)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class EmailSettings(_Section):
    """How email is sent; the server is `smtp_url`."""

    sender: Address | None = Field(default=None, alias="from")
    password_file: Path | None = None
    timeout_seconds: Timeout = 20.0


class WebhookSettings(_Section):
    """A receiver of signed requests; `amounts` says whether it is told amounts of money."""

    # A token may stand in its query.
    url: str = Field(default="", max_length=2_000, repr=False)
    secret_file: Path | None = None
    amounts: bool = False
    timeout_seconds: Timeout = 10.0


class SlackSettings(_Section):
    """An incoming webhook of Slack's kind; its URL is a secret, so it stands in a file."""

    url_file: Path | None = None
    timeout_seconds: Timeout = 10.0


class KindSettings(_Section):
    """What is told of one kind, where, and to whom; the limits are those kinds' that have them."""

    enabled: bool = True
    channels: frozenset[Channel] | None = None
    to: frozenset[Audience] | None = None
    percents: frozenset[Annotated[int, Field(ge=1, le=100)]] = frozenset()
    at_or_below: Amount = "0"
    within_hours: int = Field(default=72, ge=1, le=24 * 90)


_LIMITED = {
    "percents": NoticeKind.THRESHOLD_REACHED,
    "at_or_below": NoticeKind.CREDIT_EXHAUSTED,
    "within_hours": NoticeKind.CREDIT_RUNNING_OUT,
}


class NotifySettings(_Section):
    """Everything about notices; `name` is who speaks in shipped templates."""

    name: str = Field(
        default="Sidecar", min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$"
    )
    operators: tuple[Address, ...] = Field(default=(), max_length=OPERATORS_MAX)
    customer_email_label: str = Field(
        default="email", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,62}$"
    )
    templates_dir: Path | None = None
    email: EmailSettings = EmailSettings()
    webhook: WebhookSettings = WebhookSettings()
    slack: SlackSettings = SlackSettings()
    kinds: dict[NoticeKind, KindSettings] = {}
    look_seconds: float = Field(default=15.0, gt=0, le=3_600)
    poll_seconds: float = Field(default=2.0, gt=0, le=3_600)
    tries_max: int = Field(default=30, ge=1, le=1_000)
    retry_seconds_first: float = Field(default=5.0, gt=0, le=3_600)
    retry_seconds_max: float = Field(default=3_600.0, gt=0, le=86_400)
    concurrency_max: int = Field(default=4, ge=1, le=64)
    retention_days: int = Field(default=400, ge=1, le=3_650)

    @field_validator("kinds")
    @classmethod
    def _check_kinds(cls, value: dict[NoticeKind, KindSettings]) -> dict[NoticeKind, KindSettings]:
        """A limit of another kind would be believed to be in force."""
        for kind, settings in value.items():
            for name, owner in _LIMITED.items():
                if name in settings.model_fields_set and kind is not owner:
                    raise ValueError(f"{name} belongs to {owner.value}, not to {kind.value}")
        return value

    def routes(self, channels: Iterable[Channel]) -> NoticeRoutes:
        """Who is told of what, on the channels that are set up."""
        return NoticeRoutes(
            channels=frozenset(channels),
            operators=_unique(self.operators),
            email_label=self.customer_email_label,
            kinds={
                kind: KindRoute(
                    enabled=settings.enabled,
                    channels=settings.channels,
                    audiences=settings.to,
                    percents=settings.percents,
                )
                for kind, settings in self.kinds.items()
            },
        )

    def credit_limits(self) -> CreditLimits:
        """When credit is exhausted or running out."""
        exhausted = self.kinds.get(NoticeKind.CREDIT_EXHAUSTED, KindSettings())
        running = self.kinds.get(NoticeKind.CREDIT_RUNNING_OUT, KindSettings())
        return CreditLimits(
            floor_nano=parse_amount(exhausted.at_or_below),
            within_seconds=running.within_hours * _HOUR_SECONDS,
        )

    def send_limits(self) -> SendLimits:
        """Bounds of sending; a lease outlives the longest attempt."""
        longest = max(
            self.email.timeout_seconds, self.webhook.timeout_seconds, self.slack.timeout_seconds
        )
        return SendLimits(
            tries_max=self.tries_max,
            retry_seconds_first=self.retry_seconds_first,
            retry_seconds_max=self.retry_seconds_max,
            concurrency_max=self.concurrency_max,
            attempt_seconds_max=longest + _GOODBYE_SECONDS,
            lease_seconds=longest + _LEASE_MARGIN_SECONDS,
            poll_seconds=self.poll_seconds,
        )


def _unique(addresses: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(addresses))
