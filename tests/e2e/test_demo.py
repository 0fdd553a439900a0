"""`sidecar demo`: one JSON object whose numbers agree, and nothing left behind."""

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from fixtures.stack import REPOSITORY

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

KEYS = {
    "versions": {"envoy", "redis", "postgres"},
    "requests": {"total", "allowed", "denied"},
    "holds": {"placed", "captured", "released", "expired", "open"},
    "tokens": {"input", "output"},
    "stripe": {"meter_events", "value"},
    "reconcile": {"differences"},
}
CUSTOMER_KEYS = {"granted_nano", "used_nano", "available_nano_redis", "available_nano_ledger"}


async def start_demo(folder: Path) -> asyncio.subprocess.Process:
    # A PATH without this machine's Redis, Postgres or Envoy, and an empty home: what the
    # wheels bring has to do.
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder)}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "demo", "--once", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        cwd=REPOSITORY,
    )


def children_of(folder: Path) -> list[str]:
    """Command lines of processes that name the demo's folder or work inside it."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            where = os.readlink(process / "cwd")  # noqa: PTH115  Path would resolve it.
        except OSError:
            continue
        if str(folder) in command or where.startswith(str(folder)):
            found.append(command)
    return found


def check_invoice(screen: str) -> None:
    """Whole packages of 0.50 and 1.50 USD: by our ledger, by Stripe's own events, and traced."""
    for meter, cents in (("input-tokens", 50), ("output-tokens", 150), ("total", 200)):
        row = rf"│ {meter} +│ *[\d,]* │ +{cents} │ +{cents} │"
        assert re.search(row, screen), (meter, screen[-3000:])
    links = re.findall(
        r"-> ledger (\S+)\s+-> report (\S+) \(sent\)\s+-> invoice (inv_\w+) line (\d+) \(closed\)",
        screen,
    )
    assert len(links) == 2, screen[-3000:]
    (ledger, report, invoice, line), other = links
    assert (ledger, invoice) == (other[0], other[2])
    assert report != other[1]
    assert line != other[3]
    # Four answers, a stream, and one that was cut.
    assert "and back: 6 requests made that line" in screen
    assert re.search(r"Stripe charges 200 cents by invoice in_\w+; its webhook says paid", screen)
    assert "2.00 taken by Stripe, cus_postpaid owes 0.00" in screen
    assert "cus_overdue, whose unpaid invoice made it delinquent, pays: good" in screen


async def test_the_demo_tells_the_same_story_and_its_numbers_agree(tmp_path: Path):
    demo = await start_demo(tmp_path)
    out, err = await demo.communicate()
    assert demo.returncode == 0, err.decode()[-3000:]
    lines = out.decode().splitlines()
    assert len(lines) == 1
    numbers = json.loads(lines[0])
    assert set(numbers) == set(KEYS) | {"usage_events", "customers", "overspend_nano"}
    for name, keys in KEYS.items():
        assert set(numbers[name]) == keys, name
    assert numbers["requests"] == {
        "total": 231,
        "allowed": 37,
        "denied": {
            "invoice_overdue": 2,
            "no_available_credits": 187,
            "quota_exceeded": 3,
            "unknown_credential": 2,
        },
    }
    holds = numbers["holds"]
    assert holds == {"placed": 37, "captured": 37, "released": 0, "expired": 0, "open": 0}
    assert set(numbers["customers"]) == {
        "cus_prepaid",
        "cus_overdue",
        "cus_postpaid",
        "cus_quota",
        "cus_burst",
    }
    for customer in numbers["customers"].values():
        assert set(customer) == CUSTOMER_KEYS
        left = customer["granted_nano"] - customer["used_nano"]
        assert customer["available_nano_redis"] == customer["available_nano_ledger"] == left
    assert numbers["customers"]["cus_burst"]["available_nano_redis"] == 0
    assert numbers["overspend_nano"] == 0
    assert numbers["reconcile"]["differences"] == 0
    check_invoice(err.decode())
    assert children_of(tmp_path) == []
    assert list(tmp_path.glob("sidecar-demo-*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_demo_that_is_interrupted_leaves_no_process_and_no_folder(
    tmp_path: Path, number: signal.Signals
):
    demo = await start_demo(tmp_path)
    assert demo.stderr is not None
    while b"listens on" not in (line := await demo.stderr.readline()):
        assert line, "the demo ended before it began"
    assert children_of(tmp_path) != []
    demo.send_signal(number)
    out, _ = await demo.communicate()
    assert demo.returncode == 1
    assert out == b""
    assert children_of(tmp_path) == []
    assert list(tmp_path.glob("sidecar-demo-*")) == []
