"""The parts about Stripe, wired as a process wires them: onboarding, reports, commands, doctor."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from fixtures.stream_records import until
from fixtures.stripe_reports import API_KEY, METER, add_customers, hours_ago, settle

from sidecar.app import Application, report_once
from sidecar.domain.errors import ConfigError
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.services.control_ports import Customer
from sidecar.settings import Settings, load_settings
from sidecar.standins.stripe import StripeStandin
from sidecar.standins.stripe_faults import Faults

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def standin():
    standin = StripeStandin(faults=Faults())
    standin.add_meter(METER)
    yield standin
    assert list(standin.bugs) == []


@pytest.fixture
async def stripe_url(standin):
    async with standin.serving() as url:
        yield url


@pytest.fixture
def values(tmp_path: Path, redis_url: str, postgres_dsn: str, stripe_url: str) -> dict[str, object]:
    for name, text in (
        ("keys", "k1:a-secret-key-of-these-tests"),
        ("admin", "admin-token-of-tests"),
        ("stripe", API_KEY),
    ):
        path = tmp_path / name
        path.touch(mode=0o600)
        path.write_text(text + "\n")
    return {
        "roles": "settlement",
        "redis_url": redis_url,
        "postgres_dsn": postgres_dsn,
        "secret_keys_file": tmp_path / "keys",
        "admin_token_file": tmp_path / "admin",
        "stripe_api_key_file": tmp_path / "stripe",
        "stripe_base_url": stripe_url,
        "policy_dir": ROOT / "config" / "policy",
        "data_dir": tmp_path / "data",
        "store_timeout_ms": 2_000,
    }


def settings(values: dict[str, object], **changes: object) -> Settings:
    return load_settings(environment={}, overrides=values | changes)


async def command(values: dict[str, object], *arguments: str) -> tuple[int, str, str]:
    """The real command in a process of its own."""
    variables = {f"SIDECAR_{name.upper()}": str(value) for name, value in values.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", *arguments),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert API_KEY.encode() not in out + err
    return process.returncode or 0, out.decode(), err.decode()


async def test_one_round_onboards_and_reports(standin, values, postgres_pool):
    await PostgresAccounts(postgres_pool).create_customer(
        Customer(customer_id="cus_a", plan="postpaid", currency="USD")
    )
    await settle(postgres_pool, 1, 42, at=hours_ago(3), accounts_come=True)
    assert await report_once(settings(values, stripe_customers="create")) == 1
    ((_, meter), value) = next(iter(standin.meter_totals().items()))
    assert (meter, value) == (METER, 42)


async def test_the_command_compares_and_says_what_differs(standin, values, postgres_pool):
    standin.add_customer("cus_stripe_a")
    await add_customers(postgres_pool, "a")
    await settle(postgres_pool, 1, 42, at=hours_ago(3))
    await report_once(settings(values))
    now = values | {"report_lag_seconds": 0, "report_reread_seconds": 0}
    code, text, log = await command(now, "reports", "reconcile", "--json")
    assert (code, [one["outcome"] for one in json.loads(text)]) == (0, ["same"]), log
    standin.meter_events[0].error = "meter_event_invalid_value"
    await settle(postgres_pool, 2, 1, at=hours_ago(4))
    await report_once(settings(values))
    for outcome in ("waiting", "mended"):
        arguments = ("--customer", "cus_a", "--json")
        code, text, log = await command(now, "reports", "reconcile", *arguments)
        assert (code, [one["outcome"] for one in json.loads(text)]) == (1, [outcome]), log
    assert await report_once(settings(values)) == 1
    assert standin.values() == {METER: 43}


async def test_the_workers_of_a_process_bring_usage_all_the_way(standin, values, postgres_pool):
    await PostgresAccounts(postgres_pool).create_customer(
        Customer(customer_id="cus_a", plan="postpaid", currency="USD")
    )
    await settle(postgres_pool, 1, 42, at=hours_ago(3), accounts_come=True)
    await postgres_pool.execute("UPDATE report_windows SET opened_at = now() - interval '1 hour'")
    options = settings(
        values,
        stripe_customers="create",
        sweep_interval_seconds=0.1,
        report_interval_seconds=0.1,
    )
    async with Application(options), asyncio.timeout(30):
        await until(lambda: standin.meter_event_count)
    assert standin.values() == {METER: 42}


async def test_doctor_looks_at_stripe(values):
    code, text, log = await command(values, "doctor")
    assert code == 1
    for line in ("ok   stripe     mode test", "ok   scopes ", "MISS webhooks ", "ok   grace "):
        assert line in text, text + log


async def test_accounts_without_a_key_are_refused_at_the_start(values):
    del values["stripe_api_key_file"]
    with pytest.raises(ConfigError, match="stripe_customers needs stripe_api_key_file"):
        await report_once(settings(values, stripe_customers="map"))
    with pytest.raises(ConfigError, match="top_up_provider is stripe"):
        await report_once(settings(values, top_up_provider="stripe"))
