"""A notice of each kind that never happened: for tests of channels and of people's templates."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from sidecar.domain.money import NANO_PER_UNIT
from sidecar.domain.notices import OPERATORS_ALONE, Notice, NoticeKind

_CUSTOMER = "cus_example"


def sample_notices(now: datetime) -> Mapping[NoticeKind, Notice]:
    """One of each kind, with every fact that its source gives."""
    hour = now.replace(minute=0, second=0, microsecond=0).isoformat()
    reports = {
        "provider": "stripe",
        "meter": "input-tokens",
        "hour": hour,
        "rows": "2",
        "customers": "1",
    }
    facts: dict[NoticeKind, dict[str, str]] = {
        NoticeKind.THRESHOLD_REACHED: {
            "quota": "monthly-tokens",
            "subject": "",
            "percent": "80",
            "period_start": hour,
        },
        NoticeKind.CREDIT_EXHAUSTED: {"currency": "USD"},
        NoticeKind.CREDIT_RUNNING_OUT: {"currency": "USD", "hours_left": "36"},
        NoticeKind.STANDING_CHANGED: {
            "before": "good",
            "standing": "grace",
            "until": (now + timedelta(days=3)).isoformat(),
        },
        NoticeKind.REPORT_FAILED: reports,
        NoticeKind.REPORT_UNCERTAIN: reports,
        NoticeKind.ORPHANS_EXCEEDED: {"plan": "prepaid", "hour": hour},
        NoticeKind.INVOICE_CLOSED: {
            "invoice": "inv_example",
            "number": f"{_CUSTOMER}-0001",
            "currency": "USD",
            "period_start": (now - timedelta(days=30)).isoformat(),
            "period_end": hour,
        },
        NoticeKind.PAYMENT_FAILED: {
            "provider": "stripe",
            "invoice": "in_example",
            "currency": "USD",
            "attempt": "1",
        },
        NoticeKind.DISPUTE_OPENED: {
            "provider": "stripe",
            "dispute": "du_example",
            "payment": "pi_example",
            "currency": "USD",
            "invoice": "in_example",
        },
        NoticeKind.NOTIFY_TEST: {},
    }
    twelve = 12 * NANO_PER_UNIT
    money: dict[NoticeKind, dict[str, int]] = {
        NoticeKind.CREDIT_EXHAUSTED: {"available": 0},
        NoticeKind.CREDIT_RUNNING_OUT: {"available": twelve},
        NoticeKind.INVOICE_CLOSED: {"total": twelve, "due": twelve},
        NoticeKind.PAYMENT_FAILED: {"due": twelve},
    }
    about_nobody = OPERATORS_ALONE - {NoticeKind.ORPHANS_EXCEEDED, NoticeKind.DISPUTE_OPENED}
    return {
        kind: Notice(
            kind=kind,
            fact_key="example",
            occurred_at=now,
            customer_id="" if kind in about_nobody else _CUSTOMER,
            facts=facts[kind],
            amounts=money.get(kind, {}),
        )
        for kind in NoticeKind
    }
