"""With the policy that the records come from, replay takes each decision as it was taken."""

import os
import time
from collections import Counter

import pytest
from fixtures.replay_world import SECRET, World, make_policy

from sidecar.domain.decision_records import DecisionRecord, decode_record, encode_record
from sidecar.domain.replaying import How, Replay

DECISIONS = int(os.environ.get("SIDECAR_REPLAY_DECISIONS", "5000"))
SEED = int(os.environ.get("SIDECAR_REPLAY_SEED", "20260131"))
CODES = {
    "",
    "blocked",
    "in_flight_limit",
    "invalid_request",
    "invoice_overdue",
    "no_available_credits",
    "not_entitled",
    "quota_exceeded",
    "rate_limited",
    "spend_cap_exceeded",
    "unidentified",
    "unknown_credential",
}


@pytest.mark.timeout(1_200)
def test_an_unchanged_policy_reproduces_every_decision():
    started = time.monotonic()
    replay, codes, sizes = Replay(make_policy()), Counter(), []
    decisions = 0
    for event in World(SEED).events(10**9):
        if not isinstance(event, DecisionRecord):
            replay.take_usage(event)
            continue
        encoded = encode_record(event)
        assert SECRET.encode() not in encoded
        sizes.append(len(encoded))
        outcome = replay.take_record(decode_record(encoded))
        assert outcome.how in (How.REPRODUCED, How.KEPT), f"seed {SEED}: {outcome}"
        assert outcome.was == outcome.now, f"seed {SEED}: {outcome}"
        codes[event.code] += 1
        decisions += 1
        if decisions == DECISIONS:
            break
    report = replay.report
    assert report.reproduced + report.kept == report.decisions == DECISIONS
    assert report.headers_changed == report.to_deny == report.to_allow == 0
    assert report.revenue_changes() == []
    assert set(codes) >= CODES
    sizes.sort()
    print(  # noqa: T201  `make soak` shows it.
        f"{DECISIONS} decisions, {report.usage_events} usage events, {report.kept} kept, "
        f"{time.monotonic() - started:.0f} s; a record has {sum(sizes) // len(sizes)} bytes on "
        f"average, {sizes[len(sizes) * 99 // 100]} at the 99th percentile"
    )


def test_every_customers_state_ends_as_it_is_recorded():
    replay = Replay(make_policy())
    for event in World(SEED + 1).events(2_000):
        if isinstance(event, DecisionRecord):
            replay.take_record(event)
        else:
            replay.take_usage(event)
    assert {state.more_nano for state in replay._states.values()} == {0}
    assert all(state.was == state.now for state in replay._states.values())
