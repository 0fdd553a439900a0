import json

import pytest

from sidecar.domain.decisions import Deny, DenyReason
from sidecar.inbound.denials import DENIALS, word_denial

STATUS = {
    "unidentified": 401,
    "unknown_credential": 401,
    "no_available_credits": 402,
    "invoice_overdue": 402,
    "spend_cap_exceeded": 402,
    "not_entitled": 403,
    "blocked": 403,
    "unknown_model": 403,
    "quota_exceeded": 429,
    "rate_limited": 429,
    "in_flight_limit": 429,
    "invalid_request": 400,
    "store_unavailable": 503,
}


def deny(reason: DenyReason = DenyReason.BLOCKED, **changes: object) -> Deny:
    return Deny(decision_id="dec_1", reason=reason, rule="some-rule", **changes)


def test_each_deny_reason_has_its_row_and_no_row_is_left_over():
    assert set(DENIALS) == set(DenyReason)
    assert {reason.value: int(words.status) for reason, words in DENIALS.items()} == STATUS


@pytest.mark.parametrize("reason", list(DenyReason))
def test_a_denial_is_a_problem_with_code_rule_and_reference(reason: DenyReason):
    answer = word_denial(deny(reason))
    assert answer.status == STATUS[reason.value]
    assert answer.headers["content-type"] == "application/problem+json"
    body = json.loads(answer.body_bytes())
    assert body["code"] == reason.value
    assert body["type"] == f"urn:sidecar:problem:{reason.value}"
    assert body["status"] == answer.status
    assert (body["rule"], body["reference"]) == ("some-rule", "dec_1")
    assert body["title"]
    assert body["detail"]


def test_no_default_wording_holds_a_digit_and_with_it_an_amount():
    words = " ".join(f"{row.title} {row.detail}" for row in DENIALS.values())
    assert not any(character.isdigit() for character in words)


def test_a_decisions_own_detail_comes_first():
    assert word_denial(deny(detail="no such route")).body["detail"] == "no such route"


def test_a_rule_sets_status_headers_and_body():
    answer = word_denial(
        deny(status=418, headers={"X-Credit": "0"}, body={"error": "teapot", "n": [1]})
    )
    assert answer.status == 418
    assert answer.headers == {"content-type": "application/json", "x-credit": "0"}
    assert answer.body_bytes() == b'{"error":"teapot","n":[1]}'


def test_a_status_that_a_rule_sets_is_never_replaced():
    assert word_denial(deny(status=0)).status == 0


def test_a_rules_status_stands_in_the_problem_too():
    assert word_denial(deny(status=418)).body["status"] == 418


def test_a_rules_header_replaces_the_default_whatever_its_case():
    headers = word_denial(deny(headers={"Content-Type": "text/x"})).headers
    assert headers == {"content-type": "text/x"}


def test_retry_after_stands_only_where_waiting_helps():
    assert "retry-after" not in word_denial(deny(DenyReason.QUOTA_EXCEEDED)).headers
    timed = deny(DenyReason.QUOTA_EXCEEDED, retry_after_seconds=17)
    assert word_denial(timed).headers["retry-after"] == "17"
    assert word_denial(deny(DenyReason.STORE_UNAVAILABLE)).headers["retry-after"] == "1"


def test_a_401_says_how_to_authenticate():
    assert word_denial(deny(DenyReason.UNIDENTIFIED)).headers["www-authenticate"] == "Bearer"
    assert "www-authenticate" not in word_denial(deny()).headers
