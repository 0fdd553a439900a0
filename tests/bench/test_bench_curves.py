"""
Whether a check costs more as rules and customers grow: whole checks, of all sizes in turn.

Open holds and grants of one customer have `test_bench_holds.py`.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from bench.deployment import (
    MEMORY_TARGET,
    Gateway,
    asked_over_http,
    checked_over_http,
    resident_mib,
    running_gateway,
    secret_of,
)
from bench.many_rules import rules_text
from bench.results import Results, row_of_loads
from fixtures.stack import CHAT, REPOSITORY

from sidecar.outbound.embedded import EmbeddedRedis
from sidecar.services.control_ports import Customer

pytestmark = pytest.mark.asyncio(loop_scope="session")

CAPTURE = "CheckRequest_json_ok"
RUNS = 7
CHECKS = 1_000
AT_A_TIME = 16
SEEN_AT_A_TIME = 5_000
RULES = (10, 100, 1_000, 10_000)
MIXES = ("each on a route of its own", "one route, a customer each", "one route, a label each")
SPEAKING = 2
"""The one rule that is about the payers, by its label: there at every size."""
PAYERS = [
    Customer(
        customer_id=f"payer-{number:02d}",
        plan="prepaid",
        currency="USD",
        labels={"group": f"g{SPEAKING}"},
    )
    for number in range(32)
]
MORE = os.environ.get("SIDECAR_BENCH_CUSTOMERS")
"""A further number of customers: 1000000 takes some twenty minutes more."""
CUSTOMERS = sorted({100, 10_000, 100_000, *([int(MORE)] if MORE else [])})
SETTINGS = {
    # Nobody is forgotten and nothing expires while others are measured.
    "SIDECAR_DIRECTORY_SECONDS": "3600",
    "SIDECAR_HOLD_TTL_SECONDS": "3600",
    # What a busy machine would refuse is no cheaper check.
    "SIDECAR_STORE_TIMEOUT_MS": "10000",
}


async def test_a_check_by_the_number_of_rules(
    redis_of_test: str, bench_folder: Path, tmp_path: Path, results: Results
):
    """The example policy and more rules, of which one speaks at each check, at every size."""
    async with AsyncExitStack() as stack:
        gateways: dict[int, Gateway] = {}
        for count in RULES:
            policy = _policy(tmp_path / str(count), count)
            gateways[count] = await stack.enter_async_context(
                _gateway(bench_folder / f"rules-{count}", redis_of_test, PAYERS, policy)
            )
            answer = await checked_over_http(
                gateways[count].http, asked_over_http(secret_of(PAYERS[0]))
            )
            assert answer["allow"], answer
            assert answer["headers"]["x-rule"] == f"rule-{SPEAKING}", answer
            await _check(gateways[count], 500)
        runs = await _in_turn(gateways)
    _report(results, "checks by rules", "rules", runs)


@pytest.mark.timeout(1_200 if CUSTOMERS[-1] <= 100_000 else 7_200)
async def test_a_check_by_the_number_of_customers(bench_folder: Path, results: Results):
    """
    Each size has a Redis with that many customers, and a gateway that has seen them all.

    Checks come from one customer after the other, so that each check is of another customer.
    """
    async with AsyncExitStack() as stack:
        gateways: dict[int, Gateway] = {}
        for count in CUSTOMERS:
            folder = bench_folder / f"customers-{count}"
            url = await stack.enter_async_context(EmbeddedRedis(folder / "store", None))
            customers = [
                Customer(customer_id=f"cus_{number:07d}", plan="prepaid", currency="USD")
                for number in range(count)
            ]
            gateway = await stack.enter_async_context(_gateway(folder, url, customers))
            gateways[count] = gateway
            first = [
                await _check(gateway, min(SEEN_AT_A_TIME, count))
                for _ in range(0, count, SEEN_AT_A_TIME)
            ]
            if count >= SEEN_AT_A_TIME:
                setting = f"{count:,} customers"
                results.add(row_of_loads("checks of customers not seen before", setting, first))
        runs = await _in_turn(gateways)
        resident = {count: resident_mib(gateway.process.pid) for count, gateway in gateways.items()}
    _report(results, "checks by customers", "customers", runs, resident)
    for count in CUSTOMERS:
        shutil.rmtree(bench_folder / f"customers-{count}")


def _policy(folder: Path, count: int) -> Path:
    shutil.copytree(REPOSITORY / "config" / "policy", folder)
    text = rules_text(MIXES, count, route=f"^{CHAT}$")
    (folder / "90-many.yaml").write_text(f"rules:\n{text}")
    return folder


def _gateway(
    folder: Path, redis_url: str, customers: list[Customer], policy: Path | None = None
) -> AbstractAsyncContextManager[Gateway]:
    settings = {**SETTINGS, "SIDECAR_DIRECTORY_ENTRIES_MAX": str(max(100_000, len(customers)))}
    if policy is not None:
        settings["SIDECAR_POLICY_DIR"] = str(policy)
    return running_gateway(
        folder,
        redis_url,
        customers=customers,
        listen_setting="SIDECAR_GRPC_FAST_LISTEN",
        settings=settings,
    )


async def _check(gateway: Gateway, count: int) -> dict[str, Any]:
    run = await gateway.load(do="check", capture=CAPTURE, count=count, concurrency=AT_A_TIME)
    # One that was refused would be another, cheaper path.
    assert "denied" not in run["failed"], run
    return run


async def _in_turn(gateways: Mapping[int, Gateway]) -> dict[int, list[dict[str, Any]]]:
    runs: dict[int, list[dict[str, Any]]] = {count: [] for count in gateways}
    for number in range(RUNS):
        for count in sorted(gateways, reverse=bool(number % 2)):
            runs[count].append(await _check(gateways[count], CHECKS))
    return runs


def _report(
    results: Results,
    what: str,
    unit: str,
    runs: Mapping[int, list[dict[str, Any]]],
    resident: Mapping[int, float] | None = None,
) -> None:
    """A row for each size, with its ratios to the first, of gateway and Redis, round by round."""
    first = min(runs)
    for count, found in runs.items():
        pairs = list(zip(runs[first], found, strict=True))
        own, redis = (
            median(many[key] / few[key] for few, many in pairs)
            for key in ("cpu_seconds", "redis_seconds")
        )
        row = row_of_loads(what, f"{count:,} {unit}", found)
        note = f"{own:.2f} and {redis:.2f} of {first} {unit}; {row.note}"
        if resident is not None:
            row = replace(row, resident_mib=resident[count])
            note = f"{note}; memory's target {MEMORY_TARGET}"
        results.add(replace(row, note=note))
