"""Webhooks in and standing, made over their stores; and which of that works in the background."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sidecar import telemetry
from sidecar.app.credits import CreditParts
from sidecar.app.keys import read_secret
from sidecar.app.workers import Run
from sidecar.domain.errors import ConfigError
from sidecar.domain.minor_units import PAYSTACK, STRIPE
from sidecar.domain.money import parse_amount
from sidecar.domain.policy import Policy
from sidecar.domain.standing import StandingTerms
from sidecar.inbound.http.admin_edge import WebhookUseCases
from sidecar.inbound.webhooks.stripe import StripeWebhooks
from sidecar.outbound.paystack.webhooks import PaystackWebhooks
from sidecar.outbound.postgres.fetched import PostgresFetched
from sidecar.outbound.postgres.inbox import PostgresInbox
from sidecar.outbound.postgres.pool import Pool
from sidecar.outbound.postgres.standings import PostgresStandings
from sidecar.outbound.stripe.client import STRIPE_API, StripeConnection
from sidecar.outbound.stripe.objects import StripeObjects
from sidecar.services.control_ports import Accounts, LiveAccounts
from sidecar.services.inbox import InboxWorker
from sidecar.services.inbox_handlers import ObjectHandlers
from sidecar.services.inbox_news import NewsHandlers
from sidecar.services.inbox_ports import (
    InboxHandler,
    PaymentNews,
    ReportErrors,
    WebhookVerifier,
)
from sidecar.services.payments import PaymentHandler
from sidecar.services.ports import Clock, Policies
from sidecar.services.provider_sweep import ProviderSweep
from sidecar.services.report_ports import PeriodSums
from sidecar.services.standing import PlanMap, StandingService, StandingTimer
from sidecar.services.webhooks import WebhookReceiver
from sidecar.settings import Role, Settings

_PLANS_SHOWN_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxParts:
    """The use cases, and the background work by name."""

    standings: StandingService
    webhooks: WebhookUseCases
    workers: dict[str, Run]


def make_inbox(
    settings: Settings,
    stack: AsyncExitStack,
    *,
    accounts: Accounts,
    live: LiveAccounts,
    policies: Policies,
    clock: Clock,
    pool: Pool,
    credit: CreditParts,
    owner: str,
    shard_of: Callable[[str], int],
    report_errors: ReportErrors | None = None,
    news: PaymentNews | None = None,
    sums: PeriodSums | None = None,
) -> InboxParts:
    """
    Make the parts; what has to be closed is registered on the stack.

    Raises:
        ConfigError: A file of secrets, or a plan that Stripe's prices map to, cannot be used.
    """
    record = PostgresStandings(pool)
    check_plans(settings, policies.current())
    plans = PlanMap(settings.stripe.plans, ended_plan=settings.stripe.ended_plan)
    standings = StandingService(
        record=record,
        accounts=accounts,
        live=live,
        policies=policies,
        clock=clock,
        terms=_terms(settings),
        plans=plans,
    )
    inbox, fetched = PostgresInbox(pool, shard_of=shard_of), PostgresFetched(pool)
    workers: dict[str, Run] = {}
    handlers: dict[str, InboxHandler] = {}
    objects = None
    if settings.has(Role.SETTLEMENT):
        pause = settings.standing_interval_seconds
        workers["standing"] = StandingTimer(record, standings, clock, interval_seconds=pause).run
        objects = _stripe_objects(settings, stack)
        if news is not None and settings.paystack_secret_file is not None:
            handlers[PAYSTACK] = NewsHandlers(news)
    if objects is not None:
        payments = PaymentHandler(fetched, credit.credit, credit.withdrawals, clock)
        handlers[STRIPE] = ObjectHandlers(
            objects,
            fetched,
            payments,
            policies,
            plans=plans,
            report_errors=report_errors,
            clock=clock,
            sums=sums,
        )
        workers["provider_sweep"] = _sweep(settings, objects, fetched, inbox, clock).run
    worker = _worker(settings, inbox, handlers, standings, owner=owner)
    if handlers:  # Without a key of the provider's, what comes waits for a process that has one.
        workers["inbox"] = worker.run
    receiver = WebhookReceiver(inbox, _verifiers(settings), clock, wake=worker.wake)
    return InboxParts(
        standings=standings,
        webhooks=WebhookUseCases(
            receiver=receiver, inbox=inbox, body_bytes_max=settings.webhook_body_bytes_max
        ),
        workers=workers,
    )


def check_plans(settings: Settings, policy: Policy) -> None:
    """
    See that the plans which Stripe's subscriptions give are the policy's.

    Raises:
        ConfigError: One is not: it would be found when a customer subscribes, and then be late.
    """
    named = settings.stripe.plans | (
        {"stripe.ended_plan": settings.stripe.ended_plan} if settings.stripe.ended_plan else {}
    )
    for name, plan in sorted(named.items()):
        if plan not in policy.cards:
            where = name if name == "stripe.ended_plan" else f"stripe.plans.{name}"
            known = ", ".join(sorted(policy.cards)[:_PLANS_SHOWN_MAX]) or "none"
            raise ConfigError(
                f"{where} is {plan!r}, which is no plan of the policy; its plans are: {known}"
            )


def _terms(settings: Settings) -> StandingTerms:
    return StandingTerms(
        grace=timedelta(seconds=settings.standing_grace_seconds),
        minimum_nano=parse_amount(settings.standing_minimum, field="standing_minimum"),
    )


def _sweep(
    settings: Settings,
    objects: StripeObjects,
    fetched: PostgresFetched,
    inbox: PostgresInbox,
    clock: Clock,
) -> ProviderSweep:
    return ProviderSweep(
        objects,
        fetched,
        fetched,
        inbox,
        clock,
        every_seconds=settings.provider_sweep_seconds,
        reads_max=settings.provider_sweep_reads_max,
    )


def _worker(
    settings: Settings,
    inbox: PostgresInbox,
    handlers: dict[str, InboxHandler],
    standings: StandingService,
    *,
    owner: str,
) -> InboxWorker:
    return InboxWorker(
        inbox,
        handlers,
        standings,
        owner=owner,
        concurrency_max=settings.inbox_concurrency_max,
        attempts_max=settings.inbox_attempts_max,
        interval_seconds=settings.inbox_interval_seconds,
        retention_days=settings.inbox_retention_days,
    )


def _verifiers(settings: Settings) -> dict[str, WebhookVerifier]:
    """Those whose secrets are set; only the admin role listens for them."""
    found: dict[str, WebhookVerifier] = {}
    if not settings.has(Role.ADMIN):
        return found
    if settings.stripe_webhook_secret_file is not None:
        found[STRIPE] = StripeWebhooks(read_secrets(settings.stripe_webhook_secret_file))
    if settings.paystack_secret_file is not None:
        found[PAYSTACK] = PaystackWebhooks(read_secret(settings.paystack_secret_file))
    return found


def read_secrets(path: Path) -> list[str]:
    """
    The secrets of a file, one a line; lines that begin with # do not count.

    Raises:
        ConfigError: It cannot be read, or holds none. Never shows any of it.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path}: cannot be read") from None
    secrets = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not secrets:
        raise ConfigError(f"{path}: holds no secret")
    return secrets


def _stripe_objects(settings: Settings, stack: AsyncExitStack) -> StripeObjects | None:
    if settings.stripe_api_key_file is None:
        if settings.stripe_webhook_secret_file is not None:
            telemetry.get_logger().warning(
                "inbox_off", reason="no SIDECAR_STRIPE_API_KEY_FILE to fetch objects with"
            )
        return None
    connection = StripeConnection(
        read_secret(settings.stripe_api_key_file),
        base_url=settings.stripe_base_url or STRIPE_API,
        connections_max=settings.inbox_concurrency_max,
    )
    stack.push_async_callback(connection.close)
    return StripeObjects(connection)
