"""`sidecar credits`, against a served admin API."""

import json

import pytest
from fixtures.http_edges import World
from fixtures.served_admin import admin, world
from fixtures.shell import Shell, sidecar

__all__ = ["admin", "sidecar", "world"]

pytestmark = pytest.mark.parametrize("admin", ["tcp"], indirect=True)


def made(admin: Shell) -> None:
    arguments = ("--plan", "prepaid", "--overdraft", "1")
    assert admin("customers", "create", "cus_1", *arguments).code == 0


def test_credit_is_given_listed_taken_back_and_told(admin: Shell):
    made(admin)
    options = ("--promotional", "--priority", 7, "--meter", "input-tokens", "--json")
    given = json.loads(admin("credits", "grant", "cus_1", "10", *options).out)
    assert (given["kind"], given["priority"], given["meters"]) == (
        "promotional",
        7,
        ["input-tokens"],
    )
    assert json.loads(admin("credits", "show", "cus_1", given["id"], "--json").out) == given
    assert json.loads(admin("credits", "list", "cus_1", "--json").out) == [given]
    (live,) = json.loads(admin("credits", "list", "cus_1", "--live", "--json").out)
    assert (live["id"], live["free"]) == (given["id"], "10.00")
    assert admin("credits", "list", "cus_1", "--live").out.split()[-1] == "input-tokens"
    for verb, amount in (("void", "1"), ("refund", "2"), ("dispute", "3")):
        taken = admin("credits", verb, "cus_1", given["id"], "--amount", amount, "--reason", "r")
        assert (taken.code, f"withdrawn: {amount}.00\n" in taken.out) == (0, True), taken
    assert len(admin("credits", "withdrawals", "cus_1").out.splitlines()) == 4
    balance = json.loads(admin("credits", "balance", "cus_1", "--json").out)
    assert [balance[name] for name in ("granted", "voided", "overdraft", "available")] == [
        *("10.00", "6.00", "1.00", "5.00")
    ]


def test_a_refusal_is_exit_1_and_says_what_is_free(admin: Shell, world: World):
    made(admin)
    given = json.loads(admin("credits", "grant", "cus_1", "10", "--json").out)
    world.state.accounts["cus_1"].used = 9_000_000_000
    ended = admin("credits", "void", "cus_1", given["id"], "--amount", "2")
    assert (ended.code, ended.out) == (1, "")
    assert "1.00 of it is free" in ended.err
    assert admin("credits", "grant", "cus_1", "-5").code != 0
    scientific = admin("credits", "grant", "cus_1", "1e3")
    assert (scientific.code, 'must be a decimal such as "12.50"' in scientific.err) == (1, True)
    unsaid = admin("credits", "dispute", "cus_1", given["id"])
    assert (unsaid.code, "--amount" in unsaid.err) == (2, True)
    assert admin("credits", "grant", "cus_1", "5", "--meter", "nope").code == 1
    world.state.away = True
    assert admin("credits", "balance", "cus_1").code == 3


def test_a_top_up_counts_once(admin: Shell, world: World):
    made(admin)
    for _ in range(2):
        assert admin("credits", "top-up", "cus_1", "5", "--reference", "pi_1").code == 0
    other = admin("credits", "top-up", "cus_1", "6", "--reference", "pi_1")
    assert (other.code, "amount was 5.00, is 6.00" in other.err) == (1, True)
    assert world.state.accounts["cus_1"].granted == 5_000_000_000


def test_schedules_and_rules_are_kept(admin: Shell):
    made(admin)
    options = ("--starts-at", "2026-02-01T00:00:00Z", "--rollover-max", "5", "--json")
    first = json.loads(admin("credits", "schedules", "create", "cus_1", "20", *options).out)
    assert (first["unit"], first["rollover"]["max"]) == ("month", "5.00")
    assert first["id"] in admin("credits", "schedules", "list", "cus_1").out
    alone = (*options[:2], "--rollover-min", "5")
    refused = admin("credits", "schedules", "create", "cus_1", "20", *alone)
    assert (refused.code, "--rollover-max" in refused.err) == (2, True)
    ended = admin("credits", "schedules", "end", "cus_1", first["id"])
    assert "next_start: -\n" in ended.out
    rule = ("--threshold", "1", "--amount", "5")
    assert admin("credits", "auto-top-up", "set", "cus_1", *rule).code == 0
    shown = json.loads(admin("credits", "auto-top-up", "show", "cus_1", "--json").out)
    assert (shown["amount"], shown["attempts"]) == ("5.00", [])
    assert [admin("credits", "auto-top-up", "off", "cus_1").code for _ in range(2)] == [0, 1]


def test_an_overdraft_is_changed_alone(admin: Shell):
    made(admin)
    changed = json.loads(admin("customers", "update", "cus_1", "--overdraft", "3", "--json").out)
    assert (changed["overdraft"], changed["plan"]) == ("3.00", "prepaid")
    assert admin("customers", "update", "cus_1").code == 1
