"""What the demo's verdict rests on: its equations, and an upstream that can be counted by hand."""

import copy

import pytest
from aiohttp import ClientSession, web

from sidecar.demo.numbers import disagreements
from sidecar.demo.run import find_policy
from sidecar.demo.story import Answer, Tally
from sidecar.demo.upstream import build_upstream, count_usage

AGREED = {
    "requests": {"total": 9, "allowed": 5, "denied": {"blocked": 3, "quota_exceeded": 1}},
    "holds": {"placed": 5, "captured": 4, "released": 1, "expired": 0, "open": 0},
    "usage_events": 4,
    "stripe": {"meter_events": 2, "value": {"input-tokens": 70}},
    "overspend_nano": 0,
    "reconcile": {"differences": 0},
    "customers": {
        "cus_burst": {
            "granted_nano": 20,
            "used_nano": 20,
            "available_nano_redis": 0,
            "available_nano_ledger": 0,
        }
    },
}
SETTLED = {"input-tokens": 70}


def test_numbers_that_agree_leave_nothing_to_say():
    assert disagreements(AGREED, SETTLED) == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("requests", "total"), "requests: total"),
        (("requests", "denied", "blocked"), "requests: total"),
        (("requests", "allowed"), "holds: placed = requests allowed"),
        (("holds", "released"), "holds: placed = captured"),
        (("holds", "open"), "holds: open"),
        (("usage_events",), "usage events"),
        (("stripe", "value", "input-tokens"), "stripe: value"),
        (("overspend_nano",), "overspend"),
        (("reconcile", "differences"), "reconcile"),
        (("customers", "cus_burst", "available_nano_redis"), "cus_burst: redis"),
        (("customers", "cus_burst", "available_nano_ledger"), "cus_burst: ledger"),
        (("customers", "cus_burst", "used_nano"), "cus_burst: redis"),
    ],
)
def test_each_number_that_is_off_by_one_is_named(path: tuple[str, ...], words: str):
    numbers = copy.deepcopy(AGREED)
    part = numbers
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] += 1
    assert any(line.startswith(words) for line in disagreements(numbers, SETTLED))


def test_a_meter_that_was_settled_and_never_reported_is_named():
    assert disagreements(AGREED, SETTLED | {"output-tokens": 1}) != []


def test_the_tally_counts_each_answer_once():
    tally = Tally()
    for code in ("", "", "blocked", "quota_exceeded", "blocked"):
        tally.add(Answer(customer="c", status=200, code=code))
    assert (tally.total, tally.allowed, dict(tally.denied)) == (
        *(5, 2),
        {"blocked": 2, "quota_exceeded": 1},
    )


@pytest.mark.parametrize(
    ("body", "prompt", "completion"),
    [
        ({}, 1, 16),
        ({"messages": [{"content": "12345678"}], "max_tokens": 5}, 2, 5),
        ({"messages": [{"content": "1234"}, {"content": "56789"}], "max_tokens": 0}, 2, 0),
        ({"messages": [{}]}, 1, 16),
    ],
)
def test_the_upstream_says_what_can_be_counted_by_hand(body, prompt: int, completion: int):
    assert count_usage(body) == {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


@pytest.fixture
async def upstream():
    runner = web.AppRunner(build_upstream(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
        yield session
    await runner.cleanup()


@pytest.mark.parametrize("body", [[], 5, {"messages": 5}, {"messages": [5]}, {"max_tokens": "x"}])
async def test_the_upstream_refuses_what_is_no_chat(upstream: ClientSession, body):
    async with upstream.post("/v1/chat/completions", json=body) as answer:
        assert answer.status == 400


async def test_a_stream_tells_its_usage_only_if_asked(upstream: ClientSession):
    for options, told in ({"include_usage": True}, True), (None, False):
        body = {"stream": True, "stream_options": options, "max_tokens": 2}
        async with upstream.post("/any/prefix", json=body) as answer:
            text = await answer.text()
        assert ('"total_tokens": 3' in text) == told
        assert text.endswith("data: [DONE]\n\n")


def test_the_demo_runs_on_the_shipped_policy():
    assert (find_policy() / "20-plans.yaml").is_file()
