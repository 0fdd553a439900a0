"""Notices over the admin API and the `sidecar notify` commands."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import pytest
from fixtures.http_edges import ADMIN_TOKEN, World, calling
from fixtures.notice_parts import SECRET, notice
from fixtures.served_admin import admin, world
from fixtures.shell import Shell, sidecar

from sidecar.domain.notices import Channel
from sidecar.services.notice_ports import DeliveryState, Target

__all__ = ["admin", "sidecar", "world"]


async def put(world: World, count: int = 1, *, failed: bool = False) -> None:
    record = world.noticed
    told = [notice(number, amounts={"available": 2**60}) for number in range(count)]
    await record.put(*told)
    found = await record.unrouted(email_label="email", limit=99)
    await record.route([(one, [Target(channel=Channel.WEBHOOK)]) for one in found])
    if failed:
        for one in await record.claim(
            "w", Channel.WEBHOOK, email_label="email", limit=99, lease_seconds=60
        ):
            await record.finish(
                "w", one, state=DeliveryState.FAILED, detail="it answered 410", retry_seconds=0
            )


async def test_notices_are_listed_with_what_became_of_them(world: World):
    await put(world, failed=True)
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        reply = await call("GET", "/api/v1/notices")
    assert reply.status == 200
    (item,) = reply.body["items"]
    assert item["kind"] == "threshold.reached"
    assert item["amounts_nano"] == {"available": str(2**60)}
    assert item["routed"] is True
    (delivery,) = item["deliveries"]
    assert (delivery["channel"], delivery["state"]) == ("webhook", "failed")
    assert delivery["detail"] == "it answered 410"
    assert delivery["finished_at"].endswith("Z")


async def test_pages_go_on_where_the_last_one_ended(world: World):
    await put(world, 5)
    seen, after = [], ""
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        for _ in range(9):
            page = (await call("GET", f"/api/v1/notices?limit=2{after}")).body
            seen += [item["id"] for item in page["items"]]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        of_nobody = await call("GET", "/api/v1/notices?customer_id=cus_z")
        sent = await call("GET", "/api/v1/notices?state=sent")
    assert len(seen) == len(set(seen)) == 5
    assert of_nobody.body["items"] == sent.body["items"] == []


async def test_a_retry_makes_failed_deliveries_pending_and_an_unknown_notice_is_none(world: World):
    await put(world, failed=True)
    (notice_id,) = world.noticed.stored
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        reply = await call("POST", f"/api/v1/notices/{notice_id}/retry")
        unknown = await call("POST", f"/api/v1/notices/ntc_{'0' * 32}/retry")
    assert reply.status == 200
    assert reply.body["deliveries"][0]["state"] == "pending"
    assert unknown.status == 404


@pytest.mark.parametrize(
    "query", ["after=x", "after=0", "after=9999999999999999999", "state=lost", "limit=0", "kind=x"]
)
async def test_a_query_that_is_none_is_refused(world: World, query: str):
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        assert (await call("GET", f"/api/v1/notices?{query}")).status == 400


async def test_nobody_without_a_token_reads_notices(world: World):
    async with calling(world.admin()) as call:
        assert (await call("GET", "/api/v1/notices")).status == 401
        assert (await call("POST", "/api/v1/notices/ntc_1/retry")).status == 401


def test_the_commands_list_and_retry(admin: Shell, world: World):
    asyncio.run(put(world, 3, failed=True))
    listed = admin("notify", "list", "--state", "failed")
    header, *rows = listed.out.splitlines()
    assert header.split()[:3] == ["id", "kind", "customer_id"]
    assert len(rows) == 3
    assert all("webhook" in row and "failed" in row for row in rows)
    items = json.loads(admin("notify", "list", "--limit", 2, "--json").out)
    assert len(items) == 2
    again = json.loads(admin("notify", "retry", items[0]["id"], "--json").out)
    assert again["deliveries"][0]["state"] == "pending"
    assert admin("notify", "retry", "ntc_" + "0" * 32).code == 1
    assert admin("notify", "list", "--state", "lost").code == 2


class Hook:
    """A receiver of webhooks on a thread of its own, since the commands run a loop themselves."""

    def __init__(self, status: int = 204) -> None:
        hook = self
        self.bodies: list[dict] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Not on standard error, which the test looks at."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def settings_file(folder: Path, text: str) -> Path:
    (folder / "secret").write_text(SECRET)
    path = folder / "sidecar.yaml"
    path.write_text(text)
    return path


def test_a_test_tells_what_each_channel_says(sidecar: Shell, tmp_path: Path):
    with Hook() as good, Hook(status=500) as bad:
        (tmp_path / "slack").write_text(f"{bad.url}")
        path = settings_file(
            tmp_path,
            f"notify:\n  webhook: {{url: '{good.url}', secret_file: secret}}\n"
            "  slack: {url_file: slack}\n",
        )
        both = sidecar("notify", "test", "-c", path)
        alone = sidecar("notify", "test", "-c", path, "--channel", "webhook")
        kind = sidecar(
            "notify",
            "test",
            "-c",
            path,
            *("--channel", "webhook"),
            *("--kind", "credit.running_out"),
        )
    assert both.code == 1
    assert both.out.splitlines() == [
        "ok   webhook   sent",
        "FAIL slack     the receiver answered 500",
    ]
    assert (alone.code, kind.code) == (0, 0)
    assert [body["type"] for body in good.bodies] == [
        "notify.test",
        "notify.test",
        "credit.running_out",
    ]
    assert SECRET not in both.out + both.err


def test_a_test_shows_where_a_template_is_wrong(sidecar: Shell, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "standing.changed.txt").write_text("fine\n{{ facts.gone }}")
    with Hook() as hook:
        path = settings_file(
            tmp_path,
            "notify:\n  templates_dir: mine\n"
            f"  webhook: {{url: '{hook.url}', secret_file: secret}}\n",
        )
        ended = sidecar("notify", "test", "-c", path)
    assert ended.code == 1
    assert f"{tmp_path / 'mine' / 'standing.changed.txt'}:2" in ended.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "no channel is set up"),
        ("notify: {webhook: {url: 'https://e.com/'}}", "secret_file"),
        ("notify: {email: {from: a@b.co}}", "smtp_url"),
        ("smtp_url: smtp://localhost", "notify.email.from"),
        ("{smtp_url: smtp://localhost, notify: {email: {from: a@b.co}}}", "operators"),
    ],
)
def test_what_is_missing_is_said(sidecar: Shell, tmp_path: Path, text: str, words: str):
    ended = sidecar("notify", "test", "-c", settings_file(tmp_path, text))
    assert ended.code == 2
    assert words in ended.err
