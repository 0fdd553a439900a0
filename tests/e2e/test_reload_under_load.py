"""A policy of 10,000 rules comes into force under load: no check is dropped or late."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from fixtures.stack import REPOSITORY, Stack

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

LANGUAGE = REPOSITORY / "tests" / "data" / "policies" / "language"
RULES = 10_000
CALLERS = 4


def many_rules(version: int) -> str:
    """So many blocks of routes that nobody asks for, and a header that tells the version."""
    blocks = [
        {
            "name": f"closed-{number}",
            "template": "block",
            "match": {"routes": [f"^/closed/{number}/"], "methods": ["POST"]},
            "customers": {"labels": {"cohort": f"c{number}"}, "except": ["cus_internal"]},
            "deny": {"status": 403, "body": {"error": "closed", "by": "{{rule.name}}"}},
        }
        for number in range(RULES)
    ]
    told = {"name": "told", "template": "headers", "warn": {"headers": {"x-version": str(version)}}}
    return json.dumps({"rules": [told, *blocks]})


async def test_a_large_reload_drops_and_delays_no_check(
    make_stack: Callable[..., Awaitable[Stack]], tmp_path: Path
):
    folder = tmp_path / "policy"
    shutil.copytree(LANGUAGE, folder)
    (folder / "many.yaml").write_text(many_rules(1))
    # The product's own deadline: a check that takes longer is answered 503 and counted.
    stack = await make_stack(
        settings={"SIDECAR_POLICY_DIR": str(folder), "SIDECAR_CHECK_TIMEOUT_MS": "1000"}
    )
    key = await stack.customer("cus_steady", "postpaid")
    answers: list[tuple[int, str]] = []
    done = asyncio.Event()

    async def call() -> None:
        while not done.is_set():
            status, headers, _ = await stack.ask(key)
            answers.append((status, headers.get("x-version", "")))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CALLERS):
            tasks.create_task(call())
        (folder / "many.yaml").write_text(many_rules(2))

        async def in_force() -> bool:
            return bool(answers) and answers[-1][1] == "2"

        await stack.until(in_force, "the new policy is in force")
        done.set()
    assert {status for status, _ in answers} == {200}
    assert {version for _, version in answers} == {"1", "2"}
    assert await stack.metric("sidecar_checks_total", decision="error") == 0
