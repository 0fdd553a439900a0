"""The parts about billing providers: who is told what, and the collecting of invoices."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

from sidecar.app.keys import read_secret
from sidecar.app.workers import Run
from sidecar.domain.collecting import CollectRules
from sidecar.domain.errors import ConfigError
from sidecar.domain.minor_units import PAYSTACK, STRIPE, WEBHOOK
from sidecar.outbound.paystack.client import PAYSTACK_API, PaystackClient
from sidecar.outbound.paystack.collector import PaystackCollector
from sidecar.outbound.postgres.collections import PostgresCollections
from sidecar.outbound.postgres.invoices_due import PostgresInvoicesDue
from sidecar.outbound.postgres.payers import PostgresPayers
from sidecar.outbound.postgres.pool import Pool
from sidecar.outbound.stripe.client import STRIPE_API, StripeConnection
from sidecar.outbound.stripe.collector import StripeCollector
from sidecar.outbound.webhook_provider import WebhookProvider
from sidecar.services.collecting import CollectingWorker, CollectStores
from sidecar.services.control_ports import Accounts, MeterReporter
from sidecar.services.ports import Clock
from sidecar.services.provider_customers import CollectionService, ProviderCustomerService
from sidecar.services.provider_ports import InvoiceCollector
from sidecar.settings import Role, Settings
from sidecar.settings_reports import ReportTo

COLLECT_LEASE = timedelta(seconds=180)
"""Longer than all calls of one collector for one invoice together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderParts:
    """The use cases, the background work by name, and who is told of quantities if not Stripe."""

    customers: ProviderCustomerService
    collections: CollectionService
    workers: dict[str, Run]
    reporter: MeterReporter | None


def make_providers(
    settings: Settings,
    stack: AsyncExitStack,
    *,
    accounts: Accounts,
    clock: Clock,
    pool: Pool,
    shard_of: Callable[[str], int],
) -> ProviderParts:
    """
    Make the parts; what has to be closed is registered on the stack.

    Raises:
        ConfigError: The settings of a provider cannot be used.
    """
    record = PostgresCollections(
        pool, due_after=timedelta(days=settings.collect_due_days), shard_of=shard_of
    )
    customers = PostgresPayers(pool)
    settles = settings.has(Role.SETTLEMENT)
    webhook = _webhook(settings, stack, clock) if settles else None
    if settles and settings.report_to is ReportTo.WEBHOOK and webhook is None:
        raise ConfigError("report_to webhook needs webhook_provider_url")
    collectors = _collectors(settings, stack, webhook) if settles else {}
    workers: dict[str, Run] = {}
    if collectors:
        workers["collecting"] = CollectingWorker(
            CollectStores(record=record, invoices=PostgresInvoicesDue(pool), customers=customers),
            collectors,
            rules=CollectRules(
                attempts_max=settings.collect_attempts_max,
                attempt_every=timedelta(hours=settings.collect_attempt_every_hours),
                look_every=timedelta(seconds=settings.collect_look_every_seconds),
            ),
            concurrency_max=settings.collect_concurrency_max,
            lease=COLLECT_LEASE,
            interval_seconds=settings.collect_interval_seconds,
        ).run
    return ProviderParts(
        customers=ProviderCustomerService(customers=customers, accounts=accounts),
        collections=CollectionService(record),
        workers=workers,
        reporter=webhook if settings.report_to is ReportTo.WEBHOOK else None,
    )


def _collectors(
    settings: Settings, stack: AsyncExitStack, webhook: WebhookProvider | None
) -> dict[str, InvoiceCollector]:
    """By provider: those that are configured."""
    found: dict[str, InvoiceCollector] = {}
    if webhook is not None:
        found[WEBHOOK] = webhook
    if settings.paystack_secret_file is not None:
        found[PAYSTACK] = _paystack(settings, stack)
    if settings.stripe_api_key_file is not None:
        found[STRIPE] = _stripe(settings, stack)
    return found


def _webhook(settings: Settings, stack: AsyncExitStack, clock: Clock) -> WebhookProvider | None:
    if not settings.webhook_provider_url:
        return None
    if settings.webhook_provider_secret_file is None:
        raise ConfigError(
            "webhook_provider_url needs webhook_provider_secret_file: posts are signed"
        )
    made = WebhookProvider(
        settings.webhook_provider_url,
        read_secret(settings.webhook_provider_secret_file),
        clock,
        timeout_seconds=settings.webhook_provider_timeout_seconds,
    )
    stack.push_async_callback(made.close)
    return made


def _stripe(settings: Settings, stack: AsyncExitStack) -> StripeCollector:
    assert settings.stripe_api_key_file is not None
    connection = StripeConnection(
        read_secret(settings.stripe_api_key_file),
        base_url=settings.stripe_base_url or STRIPE_API,
    )
    stack.push_async_callback(connection.close)
    return StripeCollector(connection)


def _paystack(settings: Settings, stack: AsyncExitStack) -> PaystackCollector:
    assert settings.paystack_secret_file is not None
    client = PaystackClient(
        read_secret(settings.paystack_secret_file),
        base_url=settings.paystack_base_url or PAYSTACK_API,
    )
    stack.push_async_callback(client.close)
    return PaystackCollector(client)
