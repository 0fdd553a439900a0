"""Settings of what is reported to Stripe, and of the customers there; `settings` has the others."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator


class StripeCustomers(StrEnum):
    """How our customers come to have one at Stripe: not by us, made there, or found there."""

    OFF = "off"
    CREATE = "create"
    MAP = "map"


class ReportTo(StrEnum):
    """Who is told settled quantities."""

    STRIPE = "stripe"
    WEBHOOK = "webhook"


class TopUpBy(StrEnum):
    """Who is asked for the payments of automatic top-ups."""

    WEBHOOK = "webhook"
    STRIPE = "stripe"


class StripeDefaults(BaseModel):
    """What Stripe's objects mean here: from a price's id, lookup key or product to a plan."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plans: dict[str, str] = Field(default={}, max_length=1_000)
    ended_plan: str = ""
    """Of customers whose subscriptions have all ended; empty: they keep theirs."""


class ReportSettings(BaseModel):
    """Part of `Settings`; durations are seconds, sizes are counts."""

    report_reconcile_seconds: float = Field(default=86_400.0, ge=60, le=2_592_000)
    report_lag_seconds: int = Field(default=7_200, ge=0, le=86_400)
    report_reread_seconds: int = Field(default=1_800, ge=0, le=86_400)
    provider_reads_month_max: int = Field(default=8_000, ge=0, le=100_000_000)
    provider_reads_run_max: int = Field(default=200, ge=1, le=1_000_000)
    stripe_customers: StripeCustomers = StripeCustomers.OFF
    stripe_customer_field: str = Field(
        default="customer.id", pattern=r"^customer\.(id|metadata\.[A-Za-z0-9_.-]{1,40})$"
    )
    stripe_subscriptions: bool = False
    stripe_list_pages_max: int = Field(default=50, ge=1, le=10_000)
    top_up_provider: TopUpBy = TopUpBy.WEBHOOK

    @field_validator("stripe_customers", mode="before")
    @classmethod
    def _read_stripe_customers(cls, value: Any) -> Any:
        """YAML reads a bare `off` as a truth value."""
        return "off" if value is False else value
