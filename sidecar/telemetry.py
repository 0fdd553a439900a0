"""
Every metric and the set-up of logs.

Labels are bounded: never a customer, a key or a raw model. Metrics are for watching; money
is counted in the ledger only.

Length: every metric of the program, side by side; there is no logic here.
"""

import logging
import sys
from typing import TYPE_CHECKING, TextIO, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sidecar.domain.slim_imports import unavailable

# For logs in colour, and for threads that are not: ours are lines of JSON of one loop.
with unavailable("better_exceptions", "greenlet", "rich"):
    import structlog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

REGISTRY = CollectorRegistry()

_FAST = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)

CHECKS = Counter(
    "sidecar_checks_total",
    "Checks answered, by edge, decision (allow, deny, error) and deny reason.",
    ["edge", "decision", "reason"],
    registry=REGISTRY,
)
CHECK_DURATION = Histogram(
    "sidecar_check_duration_seconds",
    "From a check's bytes to its answer's bytes.",
    ["edge"],
    buckets=_FAST,
    registry=REGISTRY,
)
LOOP_LATENESS = Histogram(
    "sidecar_loop_late_seconds",
    "How late the event loop came to a task that was due: how long another step took.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5),
    registry=REGISTRY,
)
SHADOW_DENIALS = Counter(
    "sidecar_shadow_denials_total",
    "Requests that a rule in shadow mode would have denied.",
    ["rule"],
    registry=REGISTRY,
)
STORE_CALL_DURATION = Histogram(
    "sidecar_store_call_duration_seconds",
    "Calls to a store, by call and outcome (ok, unavailable).",
    ["store", "call", "outcome"],
    buckets=_FAST,
    registry=REGISTRY,
)
REDIS_REDIRECTIONS = Counter(
    "sidecar_redis_redirections_total",
    "Commands that a node of a Redis Cluster refused unheard, by kind.",
    ["kind"],
    registry=REGISTRY,
)
HOLDS = Counter(
    "sidecar_holds_total",
    "Holds by transition: placed, captured, released, expired, extended.",
    ["transition"],
    registry=REGISTRY,
)
ORPHANS = Counter(
    "sidecar_orphans_total",
    "Expired without usage: released, captured (charged), unproven (not charged), allotment.",
    ["outcome"],
    registry=REGISTRY,
)
ALLOTMENTS = Counter(
    "sidecar_allotments_total",
    "Blocks of credit: taken, renewed, refused, failed, recalled, returned; awaited by a check.",
    ["event"],
    registry=REGISTRY,
)
ALLOTMENTS_OPEN = Gauge("sidecar_allotments_open", "Blocks had now.", registry=REGISTRY)
ALLOTTED_HOLDS = Counter(
    "sidecar_allotted_holds_total",
    "Holds placed from blocks; what became of them: opened, known, dropped; lost, unfit.",
    ["outcome"],
    registry=REGISTRY,
)
ALLOTTED_HOLD_TOLD = Histogram(
    "sidecar_allotted_hold_told_seconds",
    "From a hold that was placed from a block until the store had it, the oldest of each batch.",
    buckets=(0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0),
    registry=REGISTRY,
)
ORPHAN_ALARMS = Counter(
    "sidecar_orphan_alarms_total",
    "Times that a customer passed the limits of orphans in an hour.",
    registry=REGISTRY,
)
USAGE_EVENTS = Counter(
    "sidecar_usage_events_total",
    "Log entries and posted usage, by edge and outcome; nothing is dropped uncounted.",
    ["edge", "outcome"],
    registry=REGISTRY,
)
FAILED_CONDITIONS = Counter(
    "sidecar_failed_conditions_total",
    "Conditions of rules that could not be evaluated: a rule that denies then applies.",
    ["rule"],
    registry=REGISTRY,
)
SOFT_LIMIT_ADMITS = Counter(
    "sidecar_soft_limit_admits_total",
    "Requests that were let through beyond a soft limit.",
    registry=REGISTRY,
)
THRESHOLDS = Counter(
    "sidecar_thresholds_total",
    "Thresholds of quotas that usage has reached, once each in a period.",
    ["quota", "percent"],
    registry=REGISTRY,
)
JWKS_REFRESHES = Counter(
    "sidecar_jwks_refreshes_total",
    "Key sets of token issuers read, by outcome (loaded, failed).",
    ["outcome"],
    registry=REGISTRY,
)
OVERSPEND = Counter(
    "sidecar_overspend_nano_total",
    "Amount captured beyond a prepaid customer's credit, by how well its hold was bounded.",
    ["bound"],
    registry=REGISTRY,
)
DECISION_RECORDS = Counter(
    "sidecar_decision_records_total",
    "Records of decisions, by outcome: kept, dropped, sampled_out (kept without its detail).",
    ["outcome"],
    registry=REGISTRY,
)
GRANTS = Counter(
    "sidecar_grants_total",
    "Grants asked for, by kind and outcome: given, repeated, waiting (a store is away), refused.",
    ["kind", "outcome"],
    registry=REGISTRY,
)
WITHDRAWALS = Counter(
    "sidecar_withdrawals_total",
    "Withdrawals brought to the live store, by kind and outcome: applied, waiting, refused.",
    ["kind", "outcome"],
    registry=REGISTRY,
)
TOP_UPS = Counter(
    "sidecar_top_ups_total",
    "Automatic top-ups, by outcome: paid, declined, unanswered, limited (held back by a guard).",
    ["outcome"],
    registry=REGISTRY,
)
COLLECTIONS = Counter(
    "sidecar_collections_total",
    "Answers of providers about invoices to collect, by provider and outcome: paid, pending, "
    "failed, refused (for people), unknown, withdrawn, stale (news of an earlier attempt).",
    ["provider", "outcome"],
    registry=REGISTRY,
)
SETTLED_EVENTS = Counter(
    "sidecar_settled_events_total",
    "Stream records settled, by outcome (posted, repeated, quarantined).",
    ["outcome"],
    registry=REGISTRY,
)
SETTLEMENT_LAG = Gauge(
    "sidecar_settlement_lag_seconds",
    "Age of the newest settled decision when it was settled.",
    registry=REGISTRY,
)
RECONCILE_DIFFERENCES = Gauge(
    "sidecar_reconcile_differences",
    "Differences that the last run of reconcile found, by kind; `unknown` must be 0.",
    ["kind"],
    registry=REGISTRY,
)
RECONCILE_UNREAD = Gauge(
    "sidecar_reconcile_unread_customers",
    "Customers that the last run of reconcile could not compare.",
    registry=REGISTRY,
)
INVOICES = Counter(
    "sidecar_invoices_total",
    "Invoices by what was done with them.",
    ["outcome"],
    registry=REGISTRY,
)
INVOICES_WAITING = Gauge(
    "sidecar_invoices_waiting",
    "Invoices and shards of invoices that the last round could not close.",
    registry=REGISTRY,
)
INVOICE_EVENTS = Counter(
    "sidecar_invoice_late_events_total",
    "Late usage events by what became of them.",
    ["outcome"],
    registry=REGISTRY,
)
INVOICE_FINDINGS = Counter(
    "sidecar_invoice_findings_total",
    "What people should look at on closed invoices, by kind; `amount_differs` must be 0.",
    ["kind"],
    registry=REGISTRY,
)
REPORTS = Counter(
    "sidecar_reports_total",
    "Attempts to report a quantity to the billing provider, by outcome.",
    ["outcome"],
    registry=REGISTRY,
)
REPORT_ROWS = Gauge(
    "sidecar_report_rows",
    "Quantities that the provider does not have, by state: open, pending, failed, uncertain, "
    "homeless (their customer has no account there yet).",
    ["state"],
    registry=REGISTRY,
)
REPORT_RECONCILIATIONS = Counter(
    "sidecar_report_reconciliations_total",
    "Comparisons of what was reported with the provider's sums, by outcome: same, waiting, mended, "
    "unexplained, unreadable.",
    ["outcome"],
    registry=REGISTRY,
)
PROVIDER_READS = Gauge(
    "sidecar_provider_reads_left",
    "Reads of the provider that this month's budget still has.",
    ["provider"],
    registry=REGISTRY,
)
PROVIDER_CUSTOMERS = Counter(
    "sidecar_provider_customers_total",
    "Steps of bringing customers to the provider, by outcome: created, adopted, mapped, "
    "subscribed, waiting, refused.",
    ["outcome"],
    registry=REGISTRY,
)
QUARANTINED = Counter(
    "sidecar_quarantined_total",
    "Usage that was set aside for people, by reason.",
    ["reason"],
    registry=REGISTRY,
)
POLICY_RELOAD_FAILING = Gauge(
    "sidecar_policy_reload_failing",
    "1 while the policy files on disk cannot be used and an older policy is in force.",
    registry=REGISTRY,
)
JOURNAL_BYTES = Gauge(
    "sidecar_journal_bytes",
    "Size of the gateway's journal.",
    registry=REGISTRY,
)
JOURNAL_NEARLY_FULL = Gauge(
    "sidecar_journal_nearly_full",
    "1 while the journal has 80 percent or more of its largest size.",
    registry=REGISTRY,
)
JOURNAL_UNSETTLED = Gauge(
    "sidecar_journal_unsettled_records",
    "Captures in the journal that the ledger is not known to have.",
    registry=REGISTRY,
)
JOURNAL_RECORDS = Counter(
    "sidecar_journal_records_total",
    "Captures by what the journal did: kept, refused, settled, replayed, damaged, unreadable.",
    ["outcome"],
    registry=REGISTRY,
)
JOURNAL_FSYNC_DURATION = Histogram(
    "sidecar_journal_fsync_seconds",
    "Writing one batch of the journal, with its fsync.",
    buckets=_FAST,
    registry=REGISTRY,
)
PUSH_MESSAGES = Counter(
    "sidecar_push_messages_total",
    "Changes heard from the control plane, by kind (customer, credential, policy, unreadable).",
    ["kind"],
    registry=REGISTRY,
)
PUSH_DISTRUSTS = Counter(
    "sidecar_push_distrusts_total",
    "Times that push was lost, silent or unreadable, so that all remembered facts were dropped.",
    registry=REGISTRY,
)
STORE_LOSSES = Counter(
    "sidecar_store_losses_total",
    "Times that a shard was found without its data (absent) or with older data (older).",
    ["kind"],
    registry=REGISTRY,
)
SHARDS_LOST = Gauge(
    "sidecar_shards_lost",
    "Shards that this process refuses to work on, because they lost data.",
    registry=REGISTRY,
)
REBUILD_DURATION = Histogram(
    "sidecar_rebuild_seconds",
    "From the ledger to a live store, for the shards that were rebuilt together.",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600),
    registry=REGISTRY,
)
REBUILT_CUSTOMERS = Counter(
    "sidecar_rebuilt_customers_total",
    "Customers whose live state was made anew from the ledger.",
    registry=REGISTRY,
)
CLAIMS = Counter(
    "sidecar_claims_total",
    "Usage that the ledger had to tell from a repeat, by outcome (charged, repeated, refused).",
    ["outcome"],
    registry=REGISTRY,
)
NOTICES = Counter(
    "sidecar_notices_total",
    "Facts that are to be told, by kind, each counted once.",
    ["kind"],
    registry=REGISTRY,
)
NOTICE_DELIVERIES = Counter(
    "sidecar_notice_deliveries_total",
    "Attempts to tell a notice, by channel and outcome: sent, retry, failed (left to people), "
    "no_address (nobody to tell by email).",
    ["channel", "outcome"],
    registry=REGISTRY,
)
NOTICE_TEMPLATE_FAILURES = Counter(
    "sidecar_notice_template_failures_total",
    "Templates that could not be used, so that the shipped one was, by part of the message.",
    ["part"],
    registry=REGISTRY,
)
HTTP_FAILURES = Counter(
    "sidecar_http_failures_total",
    "Requests answered 500 because of a fault of ours, by role and route.",
    ["role", "route"],
    registry=REGISTRY,
)
WORKER_FAILURES = Counter(
    "sidecar_worker_failures_total",
    "Times that a background worker's round failed and was backed off.",
    ["worker"],
    registry=REGISTRY,
)

WEBHOOKS = Counter(
    "sidecar_webhooks_total",
    "Webhooks by outcome: stored, duplicate, ignored, bad_signature, stale, unreadable.",
    ["provider", "outcome"],
    registry=REGISTRY,
)
INBOX = Counter(
    "sidecar_inbox_total",
    "Objects that webhooks named, by kind and outcome: done, retried, parked, lease_lost.",
    ["kind", "outcome"],
    registry=REGISTRY,
)
INBOX_OBJECTS = Gauge(
    "sidecar_inbox_objects",
    "Objects that wait to be fetched (pending) or for people (parked).",
    ["state"],
    registry=REGISTRY,
)
STANDINGS = Counter(
    "sidecar_standing_changes_total",
    "Standings that were told to the live store, by what they are now.",
    ["standing"],
    registry=REGISTRY,
)


def metrics_text() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)


def setup_logging(level: str, stream: TextIO | None = None) -> None:
    """
    One JSON line per fact, on standard error unless told otherwise.

    Args:
        level: debug, info, warning or error.
        stream: Where lines go.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(file=stream or sys.stderr),
        cache_logger_on_first_use=False,
    )


def get_logger() -> "FilteringBoundLogger":
    """The logger; call it with a fixed noun_verb event name and fields, no prose."""
    return cast("FilteringBoundLogger", structlog.get_logger())
