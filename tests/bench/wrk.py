"""Load by `wrk` (of Debian) on the first core, so that what is measured has the last to itself."""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_wrk = pytest.mark.skipif(
    shutil.which("wrk") is None or shutil.which("taskset") is None,
    reason="needs wrk and taskset: apt install wrk util-linux",
)
_SCRIPT = """
local sets, made, at = %s, {}, 0
wrk.method, wrk.path, wrk.body = "POST", %s, %s
for name, value in pairs(sets[1]) do
  wrk.headers[name] = value
end
if #sets > 1 then -- Else wrk repeats what stands above, without calling Lua.
  function init()
    for n, headers in ipairs(sets) do
      made[n] = wrk.format(nil, nil, headers, nil)
    end
  end
  function request()
    at = at %% #made + 1
    return made[at]
  end
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %%d %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.timeout, e.status,
    latency:percentile(50), latency:percentile(99)))
end
"""
_RESULT = re.compile(rb"RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)")


def load_core() -> int:
    return min(os.sched_getaffinity(0))


def measured_core() -> int:
    return max(os.sched_getaffinity(0))


def pin(pid: int, core: int) -> None:
    """Keep all threads of a process on one core; those that they start stay there, too."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """One run: times are of all answers, whatever their status."""

    requests: int
    refused: int
    """Of these, answered with a status of 400 or more."""
    seconds: float
    p50_ms: float
    p99_ms: float


def write_script(path: Path, target: str, headers: Sequence[Mapping[str, str]], body: str) -> Path:
    """A script that posts the body to the target, with each of the sets of headers in turn."""
    sets = ", ".join(
        "{" + ", ".join(f"[{json.dumps(k)}]={json.dumps(v)}" for k, v in one.items()) + "}"
        for one in headers
    )
    path.write_text(_SCRIPT % (f"{{{sets}}}", json.dumps(target), json.dumps(body)))
    return path


async def run_wrk(address: str, script: Path, *, connections: int, seconds: int) -> Loaded:
    process = await asyncio.create_subprocess_exec(
        *("taskset", "-c", str(load_core())),
        *("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)),
        f"http://{address}",
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await process.communicate()
    found = _RESULT.search(told)
    assert found is not None, told
    requests, duration_us, broken, refused, p50_us, p99_us = map(int, found.groups())
    assert (requests > 0, broken) == (True, 0), told
    return Loaded(
        requests=requests,
        refused=refused,
        seconds=duration_us / 1e6,
        p50_ms=p50_us / 1e3,
        p99_ms=p99_us / 1e3,
    )
