"""`sidecar invoices` and `sidecar trace`, against a served admin API."""

import json

from fixtures.http_edges import World
from fixtures.memory_invoices import HOLD, INVOICE
from fixtures.served_admin import admin, world
from fixtures.shell import Shell, sidecar

__all__ = ["admin", "sidecar", "world"]


def test_invoices_are_listed_and_shown_with_what_is_to_be_looked_at(admin: Shell):
    header, row = admin("invoices", "list").out.splitlines()
    assert header.split()[:3] == ["id", "number", "customer_id"]
    assert row.split()[:4] == [INVOICE, "cus_1-0001", "cus_1", "closed"]
    assert json.loads(admin("invoices", "list", "--state", "void", "--json").out) == []
    shown = admin("invoices", "show", INVOICE).out
    assert "due: 20.00" in shown
    assert "look at line 1: amount_differs" in shown
    assert json.loads(admin("invoices", "show", INVOICE, "--json").out)["lines"][0]["number"] == 1
    missing = admin("invoices", "show", "inv_none")
    assert (missing.code, "there is no invoice" in missing.err) == (1, True)


def test_a_preview_is_shown_and_nothing_of_it_is_kept(admin: Shell):
    preview = json.loads(admin("invoices", "preview", "cus_2", "--json").out)
    assert (preview["id"], preview["state"], preview["due"]) == (None, "preview", "0.00")
    assert admin("invoices", "preview", "cus_nobody").code == 1


def test_a_running_period_is_not_closed_and_an_anchor_moves_it(admin: Shell, world: World):
    refused = admin("invoices", "close", "cus_1")
    assert (refused.code, "runs until" in refused.err) == (1, True)
    assert world.invoices.asked == []
    moved = json.loads(admin("invoices", "anchor", "cus_1", "2026-01-31T00:00:00Z", "--json").out)
    assert moved["anchor"] == "2026-01-31T00:00:00Z"
    assert moved["period_start"] < moved["period_end"]


def test_credit_notes_take_an_amount_or_lines_and_stop_at_what_is_left(admin: Shell):
    made = admin("invoices", "credit-note", INVOICE, "--amount", "5", "--reason", "late", "--json")
    assert json.loads(made.out)["amount"] == "5.00"
    lines = admin("invoices", "credit-note", INVOICE, "--line", "1=2.5", "--json")
    assert json.loads(lines.out)["amount_nano"] == 2_500_000_000
    assert admin("invoices", "credit-note", INVOICE, "--line", "one=2").code == 1
    assert admin("invoices", "credit-note", INVOICE, "--amount", "12.51").code == 1
    assert admin("invoices", "credit-note", INVOICE).code == 1
    void = json.loads(admin("invoices", "void", INVOICE, "--reason", "mistake", "--json").out)
    assert (void["void"], void["amount"]) == (True, "12.50")


def test_a_hold_leads_to_its_line_and_a_line_to_its_holds(admin: Shell):
    words = admin("trace", HOLD).out
    assert f"invoice   {INVOICE} line 1 (closed)" in words
    assert "report    sc1:abc (sent)" in words
    assert "chain 0 link 3" in words
    for place in (INVOICE, f"{INVOICE}/1"):
        events = json.loads(admin("trace", place, "--json").out)
        assert [one["hold_id"] for one in events] == [HOLD, HOLD]
    assert len(json.loads(admin("invoices", "events", INVOICE, 1, "--limit", 1, "--json").out)) == 1
    assert admin("trace", "f" * 40).code == 1
    assert admin("trace", "no-hold").code == 1
