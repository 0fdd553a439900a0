"""Policies: how long a large one takes to load, and what many rules cost a check."""

import asyncio
import gc
import resource
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import pytest
from bench.many_rules import MIXES, plan_of, rules_text
from bench.results import Results, Row

from sidecar import telemetry
from sidecar.app.loop_watch import watch_loop
from sidecar.domain.customers import CustomerFacts
from sidecar.domain.judging import judge
from sidecar.domain.planning import Ask, CheckPlan, plan_check
from sidecar.domain.policy import Policy
from sidecar.domain.requests import AccessRequest, RequestFacts, normalise_path
from sidecar.domain.standing import Standing
from sidecar.domain.store_numbers import StoreNumbers
from sidecar.outbound.policy_files import load_policy
from sidecar.outbound.policy_files.collecting import calm_collector
from sidecar.outbound.policy_files.holder import PolicyHolder

pytestmark = pytest.mark.asyncio(loop_scope="session")

RULES = 10_000
FEW, MANY = 10, 1_000
RUNS, CHECKS = 9, 1_000
NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
RELOADS = 3
WAKE_SECONDS = 0.001

BASE = """
identity: [{api_key: {headers: [x-api-key]}}]
estimates: [{match: {routes: ['^/ai/']}, default: {input: 1000, output: 1000}}]
meters: [{name: tokens, match: {routes: ['^/ai/']}, value: usage.total}]
plans: [%s]
rules:
  - {name: no-credits, template: block-when-no-available-credits, match: {routes: ['^/ai/']}}
  - {name: unpaid, template: block-on-unpaid-invoices}
"""
PLAN = (
    "{name: %s, billing: prepaid, currency: USD,"
    " prices: [{meter: tokens, model: per_unit, amount: '0.000001'}]}"
)
LARGE = """
  # Rule {n}: customers of region {region} with the plan may not call version {n} of the interface.
  - name: rule-{n}
    template: block
    match:
      routes: ['^/api/v{n}/[a-z]+/items$']
      methods: [POST, PUT]
      headers: {{x-client: '^(web|mobile)$'}}
    customers: {{plans: [pro], labels: {{region: r{region}}}}}
    deny:
      status: 403
      headers: {{x-denied-by: '{{{{rule.name}}}}'}}
      body: {{error: not_allowed, detail: 'version {n} is not for {{{{customer.plan|your plan}}}}'}}
"""


async def test_a_policy_of_ten_thousand_rules_loads_beside_the_loop(
    tmp_path: Path, results: Results
):
    text = (BASE % (PLAN % "pro")) + "".join(
        LARGE.format(n=number, region=number % 50) for number in range(RULES)
    )
    (tmp_path / "rules.yaml").write_text(text)
    size = f"{RULES:,} rules, {len(text) / 1e6:.1f} MB"
    calm_collector()
    holder = PolicyHolder(tmp_path)
    # A first load is what every load was: in a thread of the process.
    results.add(_row("policy, first load, in a thread", size, await _timed(holder.load_initial)))
    # What the machine itself does to a loop that has nothing else to do.
    results.add(_row("policy, none loaded", size, await _timed(partial(asyncio.sleep, 4))))
    for number in range(RELOADS):
        (tmp_path / "more.yaml").write_text(f"unmatched: allow\n# {number}\n")
        times = await _timed(partial(_reload, holder))
        results.add(_row("policy, reload, in a process", size, times))
    assert holder.current().allow_unmatched
    assert len(holder.current().rules) == RULES + 2
    await holder.close()
    gc.unfreeze()


async def _reload(holder: PolicyHolder) -> None:
    assert await holder.reload(), holder.problems
    # The policy that was replaced is freed meanwhile, too.
    async with asyncio.timeout(60):
        while holder.retiring:  # noqa: ASYNC110  Sets no event.
            await asyncio.sleep(WAKE_SECONDS)


def _row(what: str, size: str, times: "Times") -> Row:
    return Row(
        what=what,
        setting=size,
        runs=1,
        per_second=RULES / times.seconds,
        low=RULES / times.seconds,
        high=RULES / times.seconds,
        cpu_us=times.cpu / RULES * 1e6,
        note=f"{times.seconds:.2f} s; processor {times.cpu:.2f} s here, {times.cpu_beside:.2f} s "
        f"beside; loop late by {times.late * 1e3:.1f} ms, one step {times.step * 1e3:.1f} ms of "
        f"processor; watchdog: {times.over} of {times.looks} looks over 5 ms",
    )


@pytest.mark.parametrize("mix", MIXES)
async def test_a_thousand_rules_cost_a_check_little_more_than_ten(
    mix: str, tmp_path: Path, results: Results
):
    sides = {}
    for count in (FEW, MANY):
        folder = tmp_path / str(count)
        folder.mkdir()
        (folder / "rules.yaml").write_text(_policy(mix, count))
        sides[count] = load_policy(folder).policy, list(islice(_asks(mix, count), CHECKS))
    times: dict[int, list[float]] = {FEW: [], MANY: []}
    for _ in range(RUNS):
        # In turns, so that both meet the same moods of the machine.
        for count, (policy, asks) in sides.items():
            began = time.perf_counter()
            for request, customer in asks:
                _check(policy, request, customer)
            times[count].append((time.perf_counter() - began) / CHECKS)
    ratio = median(many / few for few, many in zip(times[FEW], times[MANY], strict=True))
    for count, seconds in times.items():
        results.add(
            Row(
                what=f"rules, {mix}",
                setting=f"{count} rules",
                runs=RUNS,
                per_second=1 / median(seconds),
                low=1 / max(seconds),
                high=1 / min(seconds),
                cpu_us=median(seconds) * 1e6,
                note=f"{ratio:.2f} of 10 rules" if count == MANY else "",
            )
        )


def _policy(mix: str, count: int) -> str:
    plans = ", ".join(PLAN % plan_of(number) for number in range(0, count, 2))
    return (BASE % plans) + rules_text([mix], count)


def _asks(mix: str, count: int) -> Iterator[tuple[AccessRequest, CustomerFacts]]:
    """Requests that each mean one of the rules, all rules in turn."""
    asks = []
    for number in range(count):
        customer = CustomerFacts(
            customer_id=f"cus_{number}",
            plan=plan_of(number),
            currency="USD",
            revision=0,
            labels={"group": f"g{number}", "region": "eu", "tier": "gold"},
            credential_id=f"key_{number}",
        )
        asks.append((_request(f"/ai/model-{number}/chat?stream=true"), customer))
    return cycle(asks)


def _request(path: str) -> AccessRequest:
    headers = {
        "authorization": ("Bearer key",),
        "content-type": ("application/json",),
        "user-agent": ("client/1.0",),
        "x-request-id": ("0f8e5e3a",),
    }
    return AccessRequest(
        edge="bench",
        gateway_id="bench",
        hold_id="0" * 40,
        method="POST",
        path=path,
        headers=headers,
        received_at=NOW,
        deadline=NOW,
        host="api.example.com",
    )


def _check(policy: Policy, request: AccessRequest, customer: CustomerFacts) -> None:
    """What a check does of its own, the store's answer given."""
    view = policy.view(request, normalise_path(request.path))
    plan = plan_check(policy, view, customer, RequestFacts(), NOW)
    assert isinstance(plan, CheckPlan)
    assert plan.ask is Ask.HOLD
    numbers = StoreNumbers(
        instant_ms=1_768_478_400_000,
        available_nano=10**12,
        standing=Standing.GOOD,
        used={take.name: 1 for take in plan.counters},
    )
    judgement = judge(plan, numbers, customer)
    assert judgement.denial is None
    # The rule of the mix has spoken: as a header or as a limit.
    assert judgement.headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """
    What a load took.

    `late` is how late the loop ever woke, which other processes have a part in; `step` the most
    processor time that its thread used between two wakes, which is ours alone. `looks` and `over`
    are what the product's own watch saw.
    """

    seconds: float
    cpu: float
    cpu_beside: float
    late: float
    step: float
    looks: int
    over: int


async def _timed(load: Callable[[], Awaitable[object]]) -> Times:
    latest = longest = 0.0

    async def wake() -> None:
        nonlocal latest, longest
        while True:
            slept, used = time.perf_counter(), time.thread_time()
            await asyncio.sleep(WAKE_SECONDS)
            latest = max(latest, time.perf_counter() - slept - WAKE_SECONDS)
            longest = max(longest, time.thread_time() - used)

    waker, stop = asyncio.create_task(wake()), asyncio.Event()
    watch = asyncio.create_task(watch_loop(stop))
    await asyncio.sleep(10 * WAKE_SECONDS)
    looks, over = _looks()
    began, cpu, beside = time.perf_counter(), time.process_time(), _children()
    await load()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    await asyncio.sleep(10 * WAKE_SECONDS)
    waker.cancel()
    stop.set()
    await watch
    return Times(
        seconds=seconds,
        cpu=cpu,
        cpu_beside=_children() - beside,
        late=latest,
        step=longest,
        looks=_looks()[0] - looks,
        over=_looks()[1] - over,
    )


def _children() -> float:
    """Processor seconds of processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _looks() -> tuple[int, int]:
    """The watch's looks so far, and how many of them were more than 5 ms late."""
    (metric,) = telemetry.LOOP_LATENESS.collect()
    found = {sample.labels.get("le", sample.name): sample.value for sample in metric.samples}
    looks = int(found["+Inf"])
    return looks, looks - int(found["0.005"])
