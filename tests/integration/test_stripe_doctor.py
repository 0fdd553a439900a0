"""What `doctor` finds at Stripe, asked with calls that change nothing."""

import pytest

from sidecar.outbound.stripe.client import StripeConnection, key_livemode, missing_scope
from sidecar.outbound.stripe.probing import StripeDoctor
from sidecar.services.stripe_events import ENDPOINT_EVENTS
from sidecar.standins.stripe import StripeStandin

KEY = "rk_test_doctor"
READS = (
    *("rak_billing_meter_read", "rak_customer_read", "rak_invoice_read", "rak_subscription_read"),
    *("rak_event_read", "rak_webhook_read"),
)
WRITES = (
    *("rak_billing_meter_event_write", "rak_billing_meter_event_adjustment_write"),
    "rak_checkout_session_write",
)


@pytest.fixture
def standin() -> StripeStandin:
    return StripeStandin()


async def look(standin, key=KEY, **options):
    async with standin.serving() as url:
        connection = StripeConnection(key, base_url=url)
        found = await StripeDoctor(connection).look(
            **({"creates": False, "tops_up": False} | options)
        )
        await connection.close()
    return {one.what: one for one in found}


async def test_a_key_that_lacks_scopes_is_told_which(standin):
    standin.add_restricted_key(KEY, *READS[1:], *WRITES[1:])
    found = await look(standin)
    assert not found["scopes"].ok
    for scope in (READS[0], WRITES[0]):
        assert scope in found["scopes"].detail
    assert WRITES[1] not in found["scopes"].detail
    assert KEY not in found["scopes"].detail


async def test_what_is_not_used_needs_no_scope(standin):
    standin.add_restricted_key(KEY, *READS, *WRITES)
    assert (await look(standin))["scopes"].ok
    more = await look(standin, creates=True, tops_up=True)
    assert "rak_customer_write" in more["scopes"].detail


async def test_looking_changes_nothing(standin):
    await look(standin, "sk_test_all", creates=True, tops_up=True)
    assert standin.meter_events == ()
    found = await look(standin, "sk_test_all")
    assert found["scopes"].ok
    assert found["stripe"].detail == "mode test: nobody pays"


async def test_a_wrong_key_is_all_that_is_said(standin):
    found = await look(standin, "sk_live_of_another_account")
    assert list(found) == ["stripe"]
    assert found["stripe"].detail == "the key is refused (401)"


async def test_a_stripe_that_does_not_answer_is_a_finding():
    connection = StripeConnection("sk_test_x", base_url="http://127.0.0.1:1", timeout_seconds=1.0)
    (found,) = await StripeDoctor(connection).look(creates=False, tops_up=False)
    await connection.close()
    assert not found.ok


async def test_endpoints_must_cover_the_events(standin):
    assert "no enabled endpoint" in (await look(standin, "sk_test_all"))["webhooks"].detail
    async with standin.serving() as url:
        connection = StripeConnection("sk_test_all", base_url=url)
        endpoint = await connection.client.v1.webhook_endpoints.create_async(
            {"url": "https://example.test/hook", "enabled_events": list(ENDPOINT_EVENTS[1:])}
        )
        await connection.close()
    found = (await look(standin, "sk_test_all"))["webhooks"]
    assert found.detail == f"no endpoint has {ENDPOINT_EVENTS[0]}"
    async with standin.serving() as url:
        connection = StripeConnection("sk_test_all", base_url=url)
        await connection.client.v1.webhook_endpoints.update_async(
            endpoint.id, {"enabled_events": list(ENDPOINT_EVENTS)}
        )
        await connection.close()
    assert (await look(standin, "sk_test_all"))["webhooks"].ok


async def test_the_grace_says_what_can_be_read(standin):
    detail = (await look(standin, "sk_test_all"))["grace"].detail
    assert "usage that comes later is on no invoice" in detail


@pytest.mark.parametrize(
    ("key", "live"),
    [("sk_live_1", True), ("rk_live_1", True), ("rk_test_1", False), ("other", None)],
)
def test_a_keys_mode_is_in_its_beginning(key, live):
    assert key_livemode(key) is live


def test_only_scopes_are_kept_of_a_403():
    text = "The key 'rk_test_abc***wxyz' needs 'rak_customer_write', or rak_event_read."
    assert missing_scope(text) == "rak_customer_write rak_event_read"
    assert missing_scope("nothing") == ""
