"""`sidecar reports` over a served admin API."""

import json

import pytest
from fixtures.memory_settlements import settlement
from fixtures.served_admin import admin, world
from fixtures.shell import Shell, sidecar

from sidecar.services.control_ports import ReportState

__all__ = ["admin", "sidecar", "world"]

pytestmark = pytest.mark.parametrize("admin", ["tcp"], indirect=True)


def test_reports_are_listed_by_state(admin: Shell, world):
    world.settlements.add(settlement(1), settlement(2, state=ReportState.SENT))
    ended = admin("reports", "list", "--state", "failed", "--json")
    assert ended.code == 0, ended.err
    assert [item["number"] for item in json.loads(ended.out)] == [1]
    assert "no_meter" in admin("reports", "list").out


def test_one_or_all_of_a_code_are_sent_again(admin: Shell, world):
    world.settlements.add(*(settlement(number) for number in range(1, 4)))
    world.settlements.add(settlement(4, error_code="archived_meter"))
    assert admin("reports", "retry", "1").code == 0
    ended = admin("reports", "retry", "--code", "no_meter")
    assert ended.out == "2 are sent again\n"
    states = {number: row.state for number, row in world.settlements.rows.items()}
    assert states[4] is ReportState.FAILED
    assert {states[number] for number in (1, 2, 3)} == {ReportState.PENDING}


def test_a_refusal_is_exit_1(admin: Shell, world):
    world.settlements.add(settlement(1, uncounted=False))
    ended = admin("reports", "retry", "1")
    assert ended.code == 1
    assert "may have been counted" in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["reports", "retry"],
        ["reports", "retry", "1", "--code", "x"],
        ["reports", "reconcile", "--correct"],
    ],
)
def test_half_an_order_is_refused(admin: Shell, arguments):
    assert admin(*arguments).code == 1


def test_comparisons_are_listed_and_a_key_is_asked_for(admin: Shell):
    assert admin("reports", "reconciliations").code == 0
    assert admin("reports", "reconcile").code == 2
