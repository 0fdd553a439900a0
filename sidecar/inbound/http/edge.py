"""What both HTTP applications are made with, under the keys that handlers find it by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from sidecar.inbound.http.finishing import Finishing
from sidecar.inbound.http.routing import Role
from sidecar.inbound.principals import AdminTokens, GatewayTokens
from sidecar.services.accounts import AccountService
from sidecar.services.check import CheckService
from sidecar.services.credits import CreditService
from sidecar.services.decision_ports import DecisionTable
from sidecar.services.explanations import ExplanationService
from sidecar.services.idempotency import IdempotencyStore
from sidecar.services.inbox_ports import Inbox
from sidecar.services.invoicing import InvoiceService
from sidecar.services.ledger_roots import LedgerRootList
from sidecar.services.meter_queries import MeterQueries
from sidecar.services.metering import MeteringService
from sidecar.services.noticing import NoticeList
from sidecar.services.open_holds import OpenHolds
from sidecar.services.ports import Clock
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

Ready = Callable[[], Sequence[str]]
"""What keeps the process from serving, in words for an operator; nothing if it is ready."""


@dataclass(slots=True, kw_only=True)
class Edge:
    """
    What every route of one application shares.

    `known_hosts` are the Host names that are answered (None: any). `checks_open` says that
    checks need no token here. `in_flight_max` bounds the requests in progress, and with
    them the memory that their bodies take.
    """

    role: Role
    new_id: Callable[[str], str]
    ready: Ready
    known_hosts: frozenset[str] | None
    in_flight_max: int
    gateway_tokens: GatewayTokens | None = None
    admin_tokens: AdminTokens | None = None
    checks_open: bool = False
    idempotency: IdempotencyStore | None = None
    openapi: bytes = b""
    in_flight: int = 0
    finishing: Finishing = field(default_factory=Finishing)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayUseCases:
    """What the gateway role's routes call."""

    checks: CheckService
    metering: MeteringService
    clock: Clock
    random_bytes: Callable[[int], bytes]
    check_deadline_ms: int


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


EDGE = web.AppKey("edge", Edge)
GATEWAY = web.AppKey("gateway", GatewayUseCases)
ADMIN = web.AppKey("admin", AdminUseCases)
