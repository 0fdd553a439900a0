"""The parts about credit, made over their stores; and which of them work in the background."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from sidecar.app.keys import read_secret
from sidecar.app.reports import make_stripe_top_ups
from sidecar.app.workers import Run
from sidecar.domain.errors import ConfigError
from sidecar.outbound.postgres.pool import Pool
from sidecar.outbound.postgres.top_ups import PostgresTopUps
from sidecar.outbound.top_up_webhook import WebhookTopUps
from sidecar.services.control_ports import Accounts, LiveAccounts
from sidecar.services.credits import CreditService
from sidecar.services.pending_credits import PendingCredits
from sidecar.services.ports import Clock, Policies
from sidecar.services.schedules import ScheduleService
from sidecar.services.top_ups import TopUpProvider, TopUpService, TopUpWorker
from sidecar.services.withdrawals import WithdrawalService
from sidecar.settings import Settings
from sidecar.settings_reports import TopUpBy


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditParts:
    """The use cases, and the background work by name."""

    credit: CreditService
    schedules: ScheduleService
    top_ups: TopUpService
    withdrawals: WithdrawalService
    workers: dict[str, Run]


def make_credit(
    settings: Settings,
    stack: AsyncExitStack,
    *,
    accounts: Accounts,
    live: LiveAccounts,
    policies: Policies,
    clock: Clock,
    pool: Pool,
) -> CreditParts:
    """
    Make the parts; what has to be closed is registered on the stack.

    Raises:
        ConfigError: The settings for top-ups cannot be used.
    """
    credit = CreditService(accounts=accounts, live=live, policies=policies, clock=clock)
    withdrawals = WithdrawalService(accounts=accounts, live=live, credit=credit)
    schedules = ScheduleService(accounts=accounts, credit=credit, clock=clock)
    record = PostgresTopUps(pool)
    pause = settings.sweep_interval_seconds
    pending = PendingCredits(
        accounts=accounts,
        credit=credit,
        withdrawals=withdrawals,
        schedules=schedules,
        interval_seconds=pause,
    )
    workers: dict[str, Run] = {"grants": pending.run}
    provider = _provider(settings, stack, accounts, clock)
    if provider is not None:
        workers["top_ups"] = TopUpWorker(
            record=record, credit=credit, provider=provider, clock=clock, interval_seconds=pause
        ).run
    return CreditParts(
        credit=credit,
        schedules=schedules,
        top_ups=TopUpService(record=record, accounts=accounts),
        withdrawals=withdrawals,
        workers=workers,
    )


def _provider(
    settings: Settings, stack: AsyncExitStack, accounts: Accounts, clock: Clock
) -> TopUpProvider | None:
    if settings.top_up_provider is TopUpBy.STRIPE:
        return make_stripe_top_ups(settings, stack, accounts)
    if not settings.top_up_url:
        return None
    if settings.top_up_secret_file is None:
        raise ConfigError("top_up_url needs top_up_secret_file: the requests are signed")
    provider = WebhookTopUps(
        settings.top_up_url,
        read_secret(settings.top_up_secret_file),
        clock,
        timeout_seconds=settings.top_up_timeout_seconds,
    )
    stack.push_async_callback(provider.close)
    return provider
