"""Checks: bytes of a real Envoy to a hold in a real Redis and back, in three processes."""

import pstats
from pathlib import Path
from statistics import median

import pytest
from bench.deployment import BACKGROUND, Gateway, running_gateway
from bench.results import Results, Row, row_of_loads

from sidecar.outbound.redis.scripts import PLACE
from sidecar.services.control_ports import Customer

pytestmark = pytest.mark.asyncio(loop_scope="session")

ENGINES = {"grpcio": "SIDECAR_GRPC_LISTEN", "fast": "SIDECAR_GRPC_FAST_LISTEN"}
"""Each gRPC engine, and the setting that makes it listen."""
MESSAGES = {"no body": "CheckRequest_json_ok", "with body": "CheckRequest_rawheaders_and_body"}
CHECKS = {1: 500, 16: 3_000, 64: 3_000}
"""Checks of one run, by how many are under way at a time."""
HALVED, PACED_SECONDS, PACED_MAX = 16, 2, 256
"""Half of what is done with so many at a time, for so long; and the most that may be under way."""
RUNS = 5
COUNTED = 500
PROFILED = (500, 3_500)
"""Checks of two profiles; their difference holds nothing of start and stop."""
Function = tuple[str, int, str]
"""File, line, name."""
Spent = tuple[float, float, int]
"""Own seconds, seconds with all it calls, calls."""
CUSTOMERS = [
    Customer(customer_id=f"cus_{number:02d}", plan="prepaid", currency="USD")
    for number in range(32)
]


@pytest.mark.parametrize("engine", ENGINES)
async def test_checks_a_second(
    engine: str, redis_of_test: str, bench_folder: Path, results: Results
):
    async with running_gateway(
        bench_folder / f"checks-{engine}",
        redis_of_test,
        customers=CUSTOMERS,
        listen_setting=ENGINES[engine],
    ) as gateway:
        for name, capture in MESSAGES.items():
            await gateway.load(do="check", capture=capture, count=500, concurrency=4)
            for concurrency, count in CHECKS.items():
                runs = [
                    await gateway.load(
                        do="check", capture=capture, count=count, concurrency=concurrency
                    )
                    for _ in range(RUNS)
                ]
                assert all(run["accepted"] for run in runs), runs
                # One that was refused would be another, cheaper path.
                assert not any("denied" in run["failed"] for run in runs), runs
                setting = f"{name}, {concurrency} at a time"
                results.add(row_of_loads(f"checks, {engine}", setting, runs))
                if concurrency == HALVED:
                    full = median(run["accepted"] / run["seconds"] for run in runs)
                    results.add(await _at_half_load(gateway, engine, name, capture, full / 2))


async def _at_half_load(gateway: Gateway, engine: str, name: str, capture: str, rate: float) -> Row:
    """Checks that come evenly, half as many as the gateway can; times are from when due."""
    order = {"do": "check", "capture": capture, "concurrency": PACED_MAX, "rate": rate}
    runs = [await gateway.load(count=int(rate * PACED_SECONDS), **order) for _ in range(RUNS)]
    assert all(run["accepted"] for run in runs), runs
    return row_of_loads(f"checks, {engine}", f"{name}, half load", runs)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_check_asks_redis_once_when_the_key_is_known(
    engine: str, redis_of_test: str, bench_folder: Path
):
    async with running_gateway(
        bench_folder / f"count-{engine}",
        redis_of_test,
        customers=CUSTOMERS,
        listen_setting=ENGINES[engine],
        # Nothing may be forgotten or given up, however slow the machine is at the moment.
        settings={"SIDECAR_DIRECTORY_SECONDS": "3600", "SIDECAR_STORE_TIMEOUT_MS": "10000"},
    ) as gateway:
        for capture in MESSAGES.values():
            order = {"do": "check", "capture": capture, "concurrency": 1}
            known = await gateway.load(count=len(CUSTOMERS), **order)
            assert known["accepted"] == len(CUSTOMERS), known
            before = await gateway.redis.command_calls("evalsha")
            commands = await gateway.redis.commands_during(gateway.load(count=COUNTED, **order))
            asked = [command for command in commands if not BACKGROUND.match(command)]
            # INFO is what this test asks for the processor time.
            asked = [command for command in asked if not command.startswith("INFO ")]
            assert asked == [f"EVALSHA {PLACE.sha}"] * COUNTED
            assert await gateway.redis.command_calls("evalsha") - before == COUNTED


async def test_where_the_time_of_a_check_goes(
    redis_of_test: str, bench_folder: Path, results: Results
):
    few, many = [await _profile(redis_of_test, bench_folder, count) for count in PROFILED]
    results.texts["own time of functions, us a check under cProfile, with body"] = _top(
        few, many, PROFILED[1] - PROFILED[0]
    )


async def _profile(redis_url: str, bench_folder: Path, count: int) -> dict[Function, Spent]:
    folder = bench_folder / f"profile-{count}"
    profile = folder / "checks.prof"
    async with running_gateway(
        folder,
        redis_url,
        customers=CUSTOMERS,
        # The profiler makes everything several times slower.
        settings={"SIDECAR_STORE_TIMEOUT_MS": "10000"},
        python_options=("-m", "cProfile", "-o", str(profile)),
    ) as gateway:
        capture = MESSAGES["with body"]
        run = await gateway.load(do="check", capture=capture, count=count, concurrency=16)
        assert run["accepted"] == count, run
    # typeshed keeps this attribute to itself.
    stats = pstats.Stats(str(profile)).stats  # type: ignore[attr-defined]
    return {where: (own, total, calls) for where, (_, calls, own, total, _) in stats.items()}


def _top(
    few: dict[Function, Spent], many: dict[Function, Spent], checks: int, rows: int = 20
) -> str:
    """The functions that the further checks spent most time in."""
    nothing = (0.0, 0.0, 0)
    spent = {
        where: [(b - a) / checks for a, b in zip(few.get(where, nothing), later, strict=True)]
        for where, later in many.items()
    }
    # What ran once is the loop itself: its own time is C code of the loop, and waiting.
    called = [where for where in spent if spent[where][2] > 0.5]
    lines = [f"{'own us':>8} {'all us':>8} {'calls':>6}  function"]
    for where in sorted(called, key=lambda where: spent[where][0], reverse=True)[:rows]:
        own, total, calls = spent[where]
        file, line, function = where
        place = function if file == "~" else f"{_short(file)}:{line} {function}"
        lines.append(f"{own * 1e6:8.1f} {total * 1e6:8.1f} {calls:6.1f}  {place}")
    whole = sum(spent[where][0] for where in called) * 1e6
    return "\n".join([*lines, f"{whole:8.1f}  in all functions, the event loop left out"])


def _short(file: str) -> str:
    for root in ("site-packages/", "/sidecar/"):
        _, found, tail = file.rpartition(root)
        if found:
            return tail if root == "site-packages/" else f"sidecar/{tail}"
    return Path(file).name
