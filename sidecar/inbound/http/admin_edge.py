"""What the admin role's HTTP application is made with; a gateway does without its services."""

from dataclasses import dataclass

from aiohttp import web

from sidecar.services.accounts import AccountService
from sidecar.services.credits import CreditService
from sidecar.services.decision_ports import DecisionTable
from sidecar.services.explanations import ExplanationService
from sidecar.services.inbox_ports import Inbox
from sidecar.services.invoicing import InvoiceService
from sidecar.services.ledger_roots import LedgerRootList
from sidecar.services.meter_queries import MeterQueries
from sidecar.services.noticing import NoticeList
from sidecar.services.open_holds import OpenHolds
from sidecar.services.provider_customers import CollectionService, ProviderCustomerService
from sidecar.services.reconcile_runs import ReconcileRuns, ReconcilesCustomers
from sidecar.services.reloading import PolicyReloads
from sidecar.services.report_ports import ReconciliationRecord
from sidecar.services.schedules import ScheduleService
from sidecar.services.settlements import SettlementService
from sidecar.services.standing import StandingService
from sidecar.services.thresholds import ThresholdRecord
from sidecar.services.top_up_sessions import TopUpSessionService
from sidecar.services.top_ups import TopUpService
from sidecar.services.webhooks import WebhookReceiver
from sidecar.services.withdrawals import WithdrawalService


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportUseCases:
    """What is reported to the billing provider, and pages there on which credit is paid for."""

    settlements: SettlementService
    reconciliations: ReconciliationRecord
    top_up_sessions: TopUpSessionService


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookUseCases:
    """Webhooks in, and the list of what became of them."""

    receiver: WebhookReceiver
    inbox: Inbox
    body_bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminUseCases:
    """What the admin role's routes call."""

    accounts: AccountService
    credits: CreditService
    schedules: ScheduleService
    top_ups: TopUpService
    invoices: InvoiceService
    withdrawals: WithdrawalService
    provider_customers: ProviderCustomerService
    collections: CollectionService
    decisions: DecisionTable
    explanations: ExplanationService
    meters: MeterQueries
    reloads: PolicyReloads
    thresholds: ThresholdRecord
    holds: OpenHolds
    reconciler: ReconcilesCustomers
    reconcile_runs: ReconcileRuns
    ledger_roots: LedgerRootList
    notices: NoticeList
    reports: ReportUseCases
    standings: StandingService
    webhooks: WebhookUseCases


ADMIN = web.AppKey("admin", AdminUseCases)
