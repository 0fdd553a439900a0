"""
The demo's numbers, each read from where it is kept, and the equations that they must satisfy.

Redis through the admin API, the ledger by SQL on its entries, Stripe from the stand-in's own
events: three separate reads, none derived from another.
"""

from typing import Any

from sidecar import telemetry
from sidecar.app import Application
from sidecar.demo.story import BURST_WORTH, CUSTOMERS, Tally
from sidecar.outbound.admin_api import AdminApi
from sidecar.standins.stripe import StripeStandin

_LEDGER_AVAILABLE = """
SELECT coalesce(sum(amount_nano), 0) FROM ledger_entries
WHERE customer_id = $1
  AND account IN ('customer_credit', 'customer_overage', 'customer_receivable')
"""
_OVERAGE = "SELECT coalesce(sum(overage_nano), 0) FROM usage_events"
_EVENTS = "SELECT count(*) FROM usage_events WHERE kind <> 'orphan'"
_TOKENS = "SELECT meter, coalesce(sum(quantity), 0) AS quantity FROM usage_lines GROUP BY meter"
_REPORTED = """
SELECT meter, sum(quantity) AS quantity FROM usage_lines
WHERE window_start IS NOT NULL GROUP BY meter
"""
UNSENT = "SELECT count(*) FROM report_windows WHERE state <> 'sent' AND quantity <> 0"


async def read_numbers(
    application: Application,
    *,
    admin: AdminApi,
    stripe: StripeStandin,
    tally: Tally,
    envoy_version: str,
) -> dict[str, Any]:
    """Everything that `sidecar demo --json` prints."""
    pool = application.pool
    customers: dict[str, Any] = {}
    open_holds = 0
    for customer_id in CUSTOMERS:
        balance = await admin.read_balance(customer_id)
        holds = await admin.list_holds(customer_id)
        open_holds += len(holds["items"])
        customers[customer_id] = {
            "granted_nano": balance["granted_nano"],
            "used_nano": balance["used_nano"],
            "available_nano_redis": balance["available_nano"],
            "available_nano_ledger": int(await pool.fetchval(_LEDGER_AVAILABLE, customer_id)),
        }
    tokens = {row["meter"]: int(row["quantity"]) for row in await pool.fetch(_TOKENS)}
    overage = int(await pool.fetchval(_OVERAGE))
    compared = await application.control.reconciler.run_once()
    return {
        "versions": {
            "envoy": envoy_version,
            "redis": await application.redis_version(),
            "postgres": str(await pool.fetchval("SHOW server_version")),
        },
        "requests": {
            "total": tally.total,
            "allowed": tally.allowed,
            "denied": dict(sorted(tally.denied.items())),
        },
        "holds": {
            "placed": _holds("placed"),
            "captured": _holds("captured"),
            "released": _holds("released"),
            "expired": _holds("expired"),
            "open": open_holds,
        },
        "usage_events": int(await pool.fetchval(_EVENTS)),
        "tokens": {
            "input": tokens.get("input-tokens", 0),
            "output": tokens.get("output-tokens", 0),
        },
        "customers": customers,
        "stripe": {
            "meter_events": stripe.meter_event_count,
            "value": {name: int(value) for name, value in sorted(stripe.values().items()) if value},
        },
        "overspend_nano": overage,
        "reconcile": {"differences": sum(compared.counts.values()) + len(compared.unread)},
    }


async def read_settled(application: Application) -> dict[str, int]:
    """Quantities that the ledger's database says are to be reported, by meter."""
    rows = await application.pool.fetch(_REPORTED)
    return {row["meter"]: int(row["quantity"]) for row in rows}


def disagreements(numbers: dict[str, Any], settled: dict[str, int]) -> list[str]:
    """Each equation that does not hold, in words; empty if all numbers agree."""
    requests, holds, stripe = numbers["requests"], numbers["holds"], numbers["stripe"]
    ended = holds["captured"] + holds["released"] + holds["expired"]
    equations = [
        (
            "requests: total = allowed + denied",
            requests["total"],
            requests["allowed"] + sum(requests["denied"].values()),
        ),
        ("holds: placed = requests allowed", holds["placed"], requests["allowed"]),
        (
            "holds: placed = captured + released + expired + open",
            holds["placed"],
            ended + holds["open"],
        ),
        ("holds: open", holds["open"], 0),
        ("usage events = holds captured", numbers["usage_events"], holds["captured"]),
        ("stripe: value = settled quantity", stripe["value"], settled),
        ("overspend", numbers["overspend_nano"], 0),
        ("reconcile: differences", numbers["reconcile"]["differences"], 0),
        (
            f"cus_burst: credit worth {BURST_WORTH} is spent exactly",
            numbers["customers"]["cus_burst"]["available_nano_redis"],
            0,
        ),
    ]
    for customer_id, one in numbers["customers"].items():
        left = one["granted_nano"] - one["used_nano"]
        equations += [
            (f"{customer_id}: redis = granted - used", one["available_nano_redis"], left),
            (f"{customer_id}: ledger = granted - used", one["available_nano_ledger"], left),
        ]
    return [
        f"{words}: {found} is not {wanted}" for words, found, wanted in equations if found != wanted
    ]


def _holds(transition: str) -> int:
    value = telemetry.REGISTRY.get_sample_value("sidecar_holds_total", {"transition": transition})
    return int(value or 0)
