"""The policy in force: adopted as a whole, kept where its files turn bad."""

import asyncio
import gc
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar.domain.errors import ConfigError, InvariantViolated
from sidecar.outbound.policy_files import load_policy
from sidecar.outbound.policy_files.collecting import quiet_collector
from sidecar.outbound.policy_files.holder import PolicyHolder
from sidecar.telemetry import POLICY_RELOAD_FAILING

ALLOW = "unmatched: allow\n"
DENY = "unmatched: deny\n"
BAD = "unmatched: perhaps\n"


def failing() -> float:
    (metric,) = POLICY_RELOAD_FAILING.collect()
    return metric.samples[0].value


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  What is awaited is outside of the loop.
            await asyncio.sleep(0.01)


@asynccontextmanager
async def watched(holder: PolicyHolder) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(holder.watch(stop, interval_seconds=0.01))
        try:
            yield
        finally:
            stop.set()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(DENY)
    return path


def put(file: Path, text: str) -> None:
    file.write_text(text)


def touch(file: Path) -> None:
    file.touch()


def overwrite_unnoticed(file: Path, text: str) -> None:
    """Change the first bytes in place, then put the file's times back."""
    before = file.stat()
    with file.open("r+") as stream:
        stream.write(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def holder_of(file: Path) -> PolicyHolder:
    return PolicyHolder(file.parent, settle_seconds=0.02)


async def test_the_policy_is_there_after_the_first_load(file: Path) -> None:
    holder = holder_of(file)
    with pytest.raises(InvariantViolated):
        holder.current()
    loaded = await holder.load_initial()
    assert holder.current() is loaded.policy
    assert holder.loaded().files == (file,)


async def test_a_bad_first_load_ends_the_start(file: Path) -> None:
    put(file, BAD)
    with pytest.raises(ConfigError, match=r"policy\.yaml:1:12: unknown value 'perhaps'"):
        await holder_of(file).load_initial()


async def test_reload_swaps_the_snapshot_and_leaves_the_old_one_alone(file: Path) -> None:
    holder = holder_of(file)
    old = (await holder.load_initial()).policy
    put(file, ALLOW)
    assert await holder.reload()
    assert holder.current().allow_unmatched
    assert not old.allow_unmatched


async def test_a_bad_reload_keeps_the_last_good_policy_and_raises_the_gauge(file: Path) -> None:
    holder = holder_of(file)
    good = (await holder.load_initial()).policy
    put(file, BAD)
    assert not await holder.reload()
    assert holder.current() is good
    assert failing() == 1
    put(file, ALLOW)
    assert await holder.reload()
    assert failing() == 0
    assert holder.current().allow_unmatched


async def test_a_watched_change_comes_into_force(file: Path) -> None:
    holder = holder_of(file)
    await holder.load_initial()
    async with watched(holder):
        put(file, ALLOW)
        await until(lambda: holder.current().allow_unmatched)
        put(file.with_name("more.yaml"), "meters: [{name: m, value: requests}]\n")
        await until(lambda: len(holder.current().meters) == 1)
        (file.parent / "more.yaml").unlink()
        await until(lambda: holder.current().meters == ())


async def test_a_change_that_leaves_size_and_time_is_seen(file: Path) -> None:
    holder = holder_of(file)
    put(file, "# a\n" + DENY)
    await holder.load_initial()
    version = holder.current().version
    overwrite_unnoticed(file, "# b\n")
    async with watched(holder):
        await until(lambda: holder.current().version != version)


async def test_files_that_did_not_change_are_not_adopted_again(file: Path) -> None:
    holder = holder_of(file)
    first = await holder.load_initial()
    async with watched(holder):
        touch(file)
        await asyncio.sleep(0.2)
        assert holder.loaded() is first
        put(file, ALLOW)
        await until(lambda: holder.current().allow_unmatched)


async def test_a_folder_that_goes_and_comes_back_clears_the_gauge(file: Path) -> None:
    holder = holder_of(file)
    good = (await holder.load_initial()).policy
    aside = file.parent.with_name("aside")
    async with watched(holder):
        file.parent.rename(aside)
        await until(lambda: failing() == 1)
        assert holder.current() is good
        aside.rename(file.parent)
        await until(lambda: failing() == 0)
    assert holder.current() is good


async def test_a_bad_file_that_is_put_back_clears_the_gauge(file: Path) -> None:
    holder = holder_of(file)
    await holder.load_initial()
    async with watched(holder):
        put(file, BAD)
        await until(lambda: failing() == 1)
        put(file, DENY)
        await until(lambda: failing() == 0)


async def test_the_watch_ends_when_it_is_told_to(file: Path) -> None:
    holder = holder_of(file)
    await holder.load_initial()
    stop = asyncio.Event()
    stop.set()
    async with asyncio.timeout(20):
        await holder.watch(stop, interval_seconds=3_600)


async def test_a_known_bad_file_is_told_again(file: Path) -> None:
    holder = holder_of(file)
    good = (await holder.load_initial()).policy
    put(file, BAD)
    for _ in range(2):
        assert not await holder.reload()
        assert failing() == 1
    assert holder.current() is good


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"#" * 50_000_000, "larger than 10000000 bytes"),
        (b"rules: " + b"[" * 200_000, "nested deeper than 20 levels"),
        (b"rules: " + b"{a: " * 200_000, "nested deeper than 20 levels"),
        (b"a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "anchors (&) and aliases (*)"),
        (b"rules: [" + b"1," * 2_000_001 + b"]", "more than 2000000 values"),
        (b"\xff\xfe", "not UTF-8"),
    ],
    ids=["50 MB", "brackets", "braces", "aliases", "values", "bytes"],
)
async def test_what_would_bring_a_process_down_keeps_the_last_good_policy(
    file: Path, text: bytes, told: str
) -> None:
    holder = holder_of(file)
    good = (await holder.load_initial()).policy
    file.write_bytes(text)
    assert not await holder.reload()
    assert holder.current() is good
    assert failing() == 1
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_policy(file.parent)


async def test_a_load_leaves_the_collector_as_it_was(file: Path) -> None:
    holder = holder_of(file)
    await holder.load_initial()
    assert gc.isenabled()
    put(file, BAD)
    assert not await holder.reload()
    assert gc.isenabled()
    gc.disable()
    try:
        put(file, ALLOW)
        assert await holder.reload()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_large_load_is_taken_out_of_the_collectors_sight() -> None:
    frozen = gc.get_freeze_count()
    try:
        with quiet_collector():
            kept = [[number] for number in range(200_000)]
        assert len(kept) == 200_000
        assert gc.get_freeze_count() > frozen + 200_000
    finally:
        gc.unfreeze()


async def test_who_asks_need_not_wait_for_the_next_look(file: Path):
    holder = PolicyHolder(file.parent, settle_seconds=0)
    before = (await holder.load_initial()).policy.version
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(holder.watch(stop, interval_seconds=3_600))
        await asyncio.sleep(0)
        put(file, ALLOW)
        holder.look_soon()
        await until(lambda: holder.current().version != before)
        put(file, BAD)
        holder.look_soon()
        await until(lambda: holder.problems != ())
        assert holder.problems[0].startswith(f"{file}:1:12: ")
        stop.set()
