"""Policies compiled in a process of their own: the same policy, the same words, and bounds."""

import asyncio
import gc
import os
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from bench.many_rules import MIXES, plan_of, rules_text
from fixtures.policy_equality import content

from sidecar.domain.errors import ConfigError
from sidecar.outbound.policy_files import holder as holding
from sidecar.outbound.policy_files import load_policy
from sidecar.outbound.policy_files.compiling import CompilerError, compile_process
from sidecar.outbound.policy_files.holder import PolicyHolder
from sidecar.outbound.policy_files.loader import LoadedPolicy, read_sources
from sidecar.outbound.policy_files.parcels import Unpacking, pack
from sidecar.telemetry import POLICY_RELOAD_FAILING

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / "config" / "policy", *sorted((ROOT / "tests" / "data" / "policies").iterdir())]
STEP_SECONDS = 0.005

BASE = """
identity: [{{api_key: {{headers: [x-api-key]}}}}]
estimates: [{{match: {{routes: ['^/ai/']}}, default: {{input: 1000, output: 1000}}}}]
meters: [{{name: tokens, match: {{routes: ['^/ai/']}}, value: usage.total}}]
plans: [{plans}]
members: {{customers: {{{members}}}}}
rules:
  - {{name: listed, template: block, customers: {{members: listed}}}}
  - {{name: no-credits, template: block-when-no-available-credits, match: {{routes: ['^/ai/']}}}}
"""
PLAN = (
    "{name: %s, billing: prepaid, currency: USD,"
    " prices: [{meter: tokens, model: per_unit, amount: '0.000001'}]}"
)
CONDITION = """
  - name: condition-{n}
    template: block
    match: {{routes: ['^/ai/c{n}/[a-z]+$'], headers: {{x-client: '^(web|app-{n})$'}}}}
    customers: {{plans: [p0], except: [cus_{n}]}}
    when: "request.path.matches('c{n}$') && customer.labels.tier != 'x{n}' && request.bytes > {n}"
    mode: {{percent: {percent}}}
    deny: {{status: 403, body: {{n: [{n}, null, 'rule {{{{rule.name}}}}']}}}}
"""


def write(folder: Path, count: int) -> Path:
    """A folder with a policy of each kind of rules, so many all together."""
    plans = ", ".join(PLAN % plan_of(number) for number in range(0, min(count, 400), 2))
    members = ", ".join(f"cus_{number}: [listed]" for number in range(count))
    conditions = "".join(CONDITION.format(n=n, percent=n % 99 + 1) for n in range(count // 5))
    text = BASE.format(plans=plans, members=members) + conditions
    rest = [mix for mix in MIXES if "plan" not in mix]
    (folder / "rules.yaml").write_text(text + rules_text(rest, count - count // 5))
    return folder


async def compiled(folder: Path, **bounds) -> LoadedPolicy:
    async with compile_process(**bounds) as compiler:
        return await compiler.compile(read_sources(folder))


def failing() -> float:
    (metric,) = POLICY_RELOAD_FAILING.collect()
    return metric.samples[0].value


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def sleeper(told: Path) -> list[str]:
    """A compiler that tells its process id and answers nothing."""
    return python(
        f"import os, pathlib, time; pathlib.Path({str(told)!r}).write_text(str(os.getpid()));"
        "time.sleep(600)"
    )


async def pid_in(told: Path) -> int:
    async with asyncio.timeout(20):
        while not (told.exists() and told.read_text()):  # noqa: ASYNC110  Another process writes.
            await asyncio.sleep(0.01)
    return int(told.read_text())


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
async def test_the_policy_is_the_same_as_one_compiled_here(folder: Path):
    here, there = load_policy(folder), await compiled(folder)
    assert there.policy.version == here.policy.version
    assert content(there) == content(here)


async def test_a_policy_of_many_rules_is_the_same_as_one_compiled_here(tmp_path: Path):
    folder = write(tmp_path, 1_500)
    here, there = load_policy(folder), await compiled(folder)
    assert len(here.policy.routes.groups) > 1
    assert content(there) == content(here)


@pytest.mark.parametrize(
    "text",
    [
        "unmatched: perhaps\n",
        "rules: [{name: a, template: nothing}, {name: a, template: block, match: {routes: ['(']}}]",
        "rules: [",
        "plans: 3\nrules: {}\nélan: \ud83d\n".encode("utf-8", "surrogatepass"),
        "\n".join(f"key_{number}: 1" for number in range(30)),
    ],
)
async def test_mistakes_are_told_in_the_same_words(text, tmp_path: Path):
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "bad.yaml").write_bytes(data)
    with pytest.raises(ConfigError) as here:
        load_policy(tmp_path)
    with pytest.raises(ConfigError) as there:
        await compiled(tmp_path)
    assert str(there.value) == str(here.value)
    assert not isinstance(there.value, CompilerError)
    assert f"{tmp_path / 'bad.yaml'}:" in str(there.value)


def test_no_step_of_putting_a_policy_together_is_long(tmp_path: Path):
    loaded = load_policy(write(tmp_path, 2_000))
    parcels = list(pack(loaded))
    gc.disable()  # As while a policy comes in.
    try:
        unpacking, longest = Unpacking(), 0.0
        for parcel in parcels:
            began = time.thread_time()
            unpacking.add(parcel)
            longest = max(longest, time.thread_time() - began)
        steps, again = unpacking.loaded(), None
        while again is None:
            began = time.thread_time()
            try:
                next(steps)
            except StopIteration as end:
                again = end.value
            longest = max(longest, time.thread_time() - began)
    finally:
        gc.enable()
    assert again.policy.version == loaded.policy.version
    assert longest < STEP_SECONDS


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was ended by signal 9; is there enough memory?"),
        ("import sys; sys.exit(3)", "ended by itself with code 3"),
        ("import os; os.write(0, b'\\0\\0\\0\\x09half')", "ended by itself with code 0"),
    ],
)
async def test_a_compiler_that_dies_keeps_the_last_good_policy(
    code: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "policy.yaml").write_text("unmatched: deny\n")
    commands = [python(code)]
    monkeypatch.setattr(holding, "RETRY_SECONDS", 0.2)
    holder = PolicyHolder(
        tmp_path,
        settle_seconds=0.01,
        compiler=lambda: compile_process(command=commands.pop()) if commands else compile_process(),
    )
    good = (await holder.load_initial()).policy
    (tmp_path / "policy.yaml").write_text("unmatched: allow\n")
    assert not await holder.reload()
    assert holder.current() is good
    assert failing() == 1
    assert told in holder.problems[0]
    # Nothing was wrong with the files, so they are tried again by themselves.
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(20):
        tasks.create_task(holder.watch(stop, interval_seconds=0.02))
        while not holder.current().allow_unmatched:  # noqa: ASYNC110  Sets no event.
            await asyncio.sleep(0.02)
        stop.set()
    assert failing() == 0


async def test_a_compiler_that_cannot_be_started_is_a_failed_reload(tmp_path: Path):
    (tmp_path / "policy.yaml").write_text("unmatched: deny\n")
    holder = PolicyHolder(
        tmp_path, compiler=partial(compile_process, command=[str(tmp_path / "missing")])
    )
    good = (await holder.load_initial()).policy
    assert not await holder.reload()
    assert holder.current() is good
    assert "no process can be started for it" in holder.problems[0]


async def test_a_compiler_that_takes_too_long_is_ended(tmp_path: Path):
    (tmp_path / "policy.yaml").write_text("unmatched: deny\n")
    told = tmp_path / "pid"
    with pytest.raises(CompilerError, match=r"took more than 1 seconds"):
        await compiled(tmp_path, command=sleeper(told), seconds_max=1)
    assert gone(await pid_in(told))


async def test_who_is_cancelled_leaves_no_compiler_behind(tmp_path: Path):
    (tmp_path / "policy.yaml").write_text("unmatched: deny\n")
    told = tmp_path / "pid"
    compiling = asyncio.create_task(compiled(tmp_path, command=sleeper(told)))
    pid = await pid_in(told)
    compiling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await compiling
    assert gone(pid)


async def test_a_watch_that_is_to_stop_waits_for_no_compiler(tmp_path: Path):
    file = tmp_path / "policy.yaml"
    file.write_text("unmatched: deny\n")
    told = tmp_path / "pid"
    holder = PolicyHolder(
        tmp_path, settle_seconds=0, compiler=partial(compile_process, command=sleeper(told))
    )
    good = (await holder.load_initial()).policy
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(20):
        tasks.create_task(holder.watch(stop, interval_seconds=0.02))
        file.write_text("unmatched: allow\n")
        pid = await pid_in(told)
        stop.set()
    assert gone(pid)
    assert holder.current() is good


async def test_a_large_policy_is_freed_only_when_nobody_uses_it(tmp_path: Path):
    holder = PolicyHolder(write(tmp_path, 1_000))
    used = (await holder.load_initial()).policy
    index = used.index
    (tmp_path / "more.yaml").write_text("unmatched: allow\n")
    frozen = gc.get_freeze_count()
    try:
        assert await holder.reload()
        await asyncio.sleep(1)
        assert index.containers()[0]
        del used
        async with asyncio.timeout(20):
            while any(index.containers()):  # noqa: ASYNC110  Sets no event.
                await asyncio.sleep(0.05)
        assert holder.current().index.containers()[0]
    finally:
        await holder.close()
        if gc.get_freeze_count() > frozen:
            gc.unfreeze()
