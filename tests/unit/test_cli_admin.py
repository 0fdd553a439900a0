"""`sidecar customers` and `sidecar credentials`, against a served admin API."""

import asyncio
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiohttp
import pytest
from fixtures.http_edges import World, calling
from fixtures.served_admin import admin, world
from fixtures.shell import Shell, sidecar

from sidecar.outbound.admin_api import AdminApi

__all__ = ["admin", "sidecar", "world"]

SECRET = re.compile(r"sk_secret_\d+")


def made(admin: Shell) -> None:
    assert admin("customers", "create", "cus_1", "--plan", "prepaid").code == 0


def ids(admin: Shell) -> list[str]:
    return [item["id"] for item in json.loads(admin("credentials", "list", "cus_1", "--json").out)]


def test_a_customer_is_created_listed_and_shown(admin: Shell):
    arguments = ("--plan", "prepaid", "--label", "region=eu", "--label", "a=b=c")
    created = admin("customers", "create", "cus_1", *arguments, "--json")
    assert (created.code, created.err) == (0, "")
    assert json.loads(created.out)["labels"] == {"region": "eu", "a": "b=c"}
    listed = admin("customers", "list")
    header, row = listed.out.splitlines()
    assert header.split()[:3] == ["id", "plan", "currency"]
    assert row.split()[:5] == ["cus_1", "prepaid", "USD", "-", "a=b=c,region=eu"]
    assert [item["id"] for item in json.loads(admin("customers", "list", "--json").out)] == [
        "cus_1"
    ]
    shown = json.loads(admin("customers", "show", "cus_1", "--json").out)
    assert (shown["balance"]["available"], shown["standing"]["standing"]) == ("0.00", "good")
    assert "plan: prepaid" in admin("customers", "show", "cus_1").out


def test_a_list_goes_on_over_pages_up_to_its_limit(admin: Shell):
    for number in range(5):
        admin("customers", "create", f"cus_{number}", "--plan", "prepaid")
    assert len(json.loads(admin("customers", "list", "--limit", 3, "--json").out)) == 3
    assert admin("customers", "list", "--limit", 0).code == 2


def test_a_plan_is_changed_and_the_rest_stays(admin: Shell, world: World):
    arguments = ("--plan", "prepaid", "--label", "a=1", "--stripe-customer", "cus_S")
    admin("customers", "create", "cus_1", *arguments)
    changed = json.loads(admin("customers", "set-plan", "cus_1", "postpaid", "--json").out)
    assert (changed["plan"], changed["labels"], changed["stripe_customer_id"]) == (
        "postpaid",
        {"a": "1"},
        "cus_S",
    )
    refused = admin("customers", "set-plan", "cus_1", "gold")
    assert (refused.code, refused.out) == (1, "")
    assert "it has postpaid, prepaid" in refused.err


def test_a_customer_is_erased(admin: Shell, world: World):
    assert (
        admin("customers", "create", "cus_1", "--plan", "prepaid", "--label", "who=ada").code == 0
    )
    ended = admin("customers", "erase", "cus_1")
    assert (ended.code, "labels: -" in ended.out) == (0, True)
    assert dict(world.state.accounts["cus_1"].customer.labels) == {}
    assert admin("customers", "erase", "cus_9").code == 1


def test_a_standing_is_set_with_what_invoices_say(admin: Shell, world: World):
    made(admin)
    arguments = ("--overdue-since", "2026-01-01T00:00:00Z", "--overdue-amount", "12.50")
    ended = admin("customers", "set-standing", "cus_1", "grace", *arguments, "--disputed")
    assert ended.code == 0
    assert "overdue_amount: 12.50\n" in ended.out
    assert "disputed: yes\n" in ended.out
    assert world.state.accounts["cus_1"].standing.overdue_nano == 12_500_000_000
    assert admin("customers", "set-standing", "cus_1", "bad").code == 1


def test_a_secret_is_printed_once_by_issue_and_rotate_and_on_stdout_only(
    admin: Shell, world: World
):
    made(admin)
    issued = admin("credentials", "issue", "cus_1", "--team", "t", "--user", "u", "--name", "ci")
    (old_id,) = ids(admin)
    rotated = admin("credentials", "rotate", old_id, "--overlap", "2h")
    seen = [SECRET.findall(ended.out) for ended in (issued, rotated)]
    assert [len(found) for found in seen] == [1, 1]
    assert seen[0] != seen[1]
    assert (issued.err, rotated.err) == ("", "")
    listed = admin("credentials", "list", "cus_1")
    assert not SECRET.search(listed.out)
    assert re.search(
        rf"^{old_id} +expiring +2026-01-31T14:00:00Z +t +u +ci ", listed.out, re.MULTILINE
    )


def test_a_credential_is_revoked_and_again(admin: Shell):
    made(admin)
    admin("credentials", "issue", "cus_1")
    (credential_id,) = ids(admin)
    for _ in range(2):
        ended = admin("credentials", "revoke", credential_id)
        assert ended.code == 0
        assert "state: revoked\n" in ended.out
    conflict = admin("credentials", "rotate", credential_id)
    assert (conflict.code, conflict.out) == (1, "")
    assert "issue another" in conflict.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("customers", "show", "cus_9"), 1, "there is no customer 'cus_9'"),
        (("credentials", "list", "a/b"), 1, "customer_id"),
        (("credentials", "revoke", "crd_9"), 1, "there is no credential 'crd_9'"),
        (("credentials", "rotate", "crd_9", "--overlap", "31d"), 1, "at most 30d"),
        (("customers", "create", "cus_9", "--plan", "x", "--label", "a"), 1, "NAME=VALUE"),
        (("customers", "create", "cus_9"), 2, "--plan"),
        (("customers", "list", "--wide"), 2, "--wide"),
        (("credentials",), 2, ""),
    ],
)
def test_what_cannot_be_is_a_message_and_an_exit_code(admin: Shell, arguments, code, words):
    ended = admin(*arguments)
    assert ended.code == code
    assert words in ended.err
    assert "Traceback" not in ended.err


def test_a_token_that_is_refused_is_a_configuration_error_that_shows_none(
    admin: Shell, tmp_path: Path
):
    path = tmp_path / "other-token"
    path.write_text("wrong-token-of-tests\n")
    ended = admin("customers", "list", admin_token_file=path)
    assert (ended.code, ended.out) == (2, "")
    assert "refuses the call" in ended.err
    assert "wrong-token" not in ended.err


def test_a_store_that_is_away_is_exit_3(admin: Shell, world: World):
    world.record.away = True
    ended = admin("customers", "list")
    assert (ended.code, ended.out) == (3, "")
    assert "a store did not answer" in ended.err


@pytest.mark.parametrize("address", ["127.0.0.1:1", "unix:/nonexistent/admin.sock"])
def test_nobody_at_the_address_is_exit_3_and_says_what_to_look_at(
    sidecar: Shell, tmp_path: Path, address: str
):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "admin-token").write_text("admin-token-of-tests\n")
    ended = sidecar("customers", "list", admin_listen=address)
    assert (ended.code, ended.out) == (3, "")
    assert address in ended.err
    assert "sidecar serve" in ended.err


def test_without_a_token_the_way_to_one_is_named_and_none_is_made(sidecar: Shell, tmp_path: Path):
    ended = sidecar("credentials", "list", "cus_1")
    assert ended.code == 2
    assert "SIDECAR_ADMIN_TOKEN_FILE" in ended.err
    assert not (tmp_path / "data").exists()


def test_a_port_that_only_serve_knows_is_refused(sidecar: Shell):
    ended = sidecar("customers", "list", admin_listen="127.0.0.1:0")
    assert ended.code == 2
    assert "name the port" in ended.err


@pytest.mark.parametrize("answer", ["<html>", "[]", "", "null"])
def test_what_is_not_our_api_is_said_to_be_none(sidecar: Shell, tmp_path: Path, answer: str):
    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    (tmp_path / "token").write_text("admin-token-of-tests\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever).start()
        ended = sidecar(
            *("customers", "list"),
            admin_listen=f"127.0.0.1:{server.server_port}",
            admin_token_file=tmp_path / "token",
        )
        server.shutdown()
    assert ended.code == 3
    assert "is not Sidecar's admin API" in ended.err


async def test_the_client_never_shows_its_token():
    api = AdminApi("127.0.0.1:1", "admin-token-of-tests")
    assert "admin-token" not in repr(api)
    async with api:
        assert isinstance(api._session, aiohttp.ClientSession)


def test_holds_in_flight_are_listed(admin: Shell, world: World):
    body = {"method": "POST", "path": "/ai/chat"}

    async def check() -> None:
        keys = [await world.customer(name) for name in ("cus_1", "cus_2")]
        async with calling(world.gateway()) as call:
            for key in keys:
                await call("POST", "/v1/check", json=body | {"headers": {"x-api-key": key}})

    asyncio.run(check())
    header, *rows = admin("holds", "list").out.splitlines()
    assert header.split()[:5] == ["id", "customer_id", "amount", "currency", "bound"]
    assert sorted(row.split()[1] for row in rows) == ["cus_1", "cus_2"]
    assert {row.split()[2] for row in rows} == {"0.0001"}
    only = json.loads(admin("holds", "list", "--customer", "cus_2", "--json").out)
    assert [(hold["customer_id"], hold["state"]) for hold in only] == [("cus_2", "open")]
    assert len(json.loads(admin("holds", "list", "--limit", 1, "--json").out)) == 1
    nobody = admin("holds", "list", "--customer", "cus_9")
    assert (nobody.code, nobody.out) == (1, "")
