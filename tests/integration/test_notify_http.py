"""Signed webhooks and Slack's shape, at real receivers."""

import asyncio
import json
import re
from dataclasses import replace

import pytest
from aiohttp import web
from fixtures.notice_parts import (
    AT,
    KEY,
    SECRET,
    Clock,
    Received,
    delivery,
    notice,
    receiver,
)

from sidecar.domain.errors import ConfigError
from sidecar.domain.notices import Channel, NoticeKind
from sidecar.outbound.notify.slack import SlackChannel
from sidecar.outbound.notify.templates import NoticeTemplates
from sidecar.outbound.notify.webhook import WebhookChannel, told
from sidecar.outbound.standard_webhooks import read_signing_secret, sign
from sidecar.services.notice_ports import SendOutcome, SendVerdict

EXHAUSTED = notice(
    1,
    kind=NoticeKind.CREDIT_EXHAUSTED,
    facts={"currency": "USD"},
    amounts={"available": -1_500_000_000},
)


def webhook(url: str, *, amounts: bool = False, timeout_seconds: float = 10.0) -> WebhookChannel:
    return WebhookChannel(
        url,
        SECRET,
        clock=Clock(),
        amounts=amounts,
        timeout_seconds=timeout_seconds,
        concurrency_max=4,
    )


def slack(url: str, **options: float) -> SlackChannel:
    terms = {"timeout_seconds": 10.0, "concurrency_max": 4} | options
    return SlackChannel(url, NoticeTemplates("My AI API"), **terms)


async def send(way, what=EXHAUSTED) -> SendOutcome:
    try:
        return await way.send(delivery(what, Channel.WEBHOOK, ""), "")
    finally:
        await way.close()


async def test_a_webhook_is_signed_and_tells_the_fact_without_amounts():
    async with receiver() as (url, received):
        assert (await send(webhook(url))).verdict is SendVerdict.SENT
    (one,) = received
    assert one.is_signed()
    assert not one.is_signed(KEY[::-1])
    assert not replace(one, body=one.body + b" ").is_signed()
    assert one.message_id == delivery().notice_id
    assert abs(int(one.headers["webhook-timestamp"]) - Clock().now().timestamp()) < 300
    assert one.headers["content-type"] == "application/json"
    assert one.told == {
        "type": "credit.exhausted",
        "timestamp": AT.isoformat(),
        "data": {"customer_id": "cus_a", "facts": {"currency": "USD"}},
    }


async def test_a_webhook_tells_amounts_where_the_settings_say_so():
    async with receiver() as (url, received):
        await send(webhook(url, amounts=True))
    data = received[0].told["data"]
    assert data["amounts"] == {"available": {"amount": "-1.50", "amount_nano": "-1500000000"}}


async def test_a_repeat_bears_the_same_id_and_body_and_a_time_of_its_own():
    async with receiver() as (url, received):
        way = webhook(url)
        await way.send(delivery(EXHAUSTED, Channel.WEBHOOK, ""), "")
        await send(way)
    first, again = received
    assert (first.message_id, first.body) == (again.message_id, again.body)
    assert first.is_signed()
    assert again.is_signed()


@pytest.mark.parametrize(
    ("status", "for_webhook", "for_slack"),
    [
        (200, SendVerdict.SENT, SendVerdict.SENT),
        (204, SendVerdict.SENT, SendVerdict.SENT),
        (302, SendVerdict.RETRY, SendVerdict.RETRY),
        (400, SendVerdict.RETRY, SendVerdict.REFUSED),
        (401, SendVerdict.RETRY, SendVerdict.RETRY),
        (404, SendVerdict.RETRY, SendVerdict.REFUSED),
        (410, SendVerdict.REFUSED, SendVerdict.REFUSED),
        (429, SendVerdict.RETRY, SendVerdict.RETRY),
        (500, SendVerdict.RETRY, SendVerdict.RETRY),
        (503, SendVerdict.RETRY, SendVerdict.RETRY),
    ],
)
async def test_each_status_is_for_now_or_for_good(status, for_webhook, for_slack):
    async def answer(_: Received) -> web.Response:
        headers = {"location": "/hook"} if status == 302 else {"retry-after": "7"}
        return web.Response(status=status, headers=headers)

    async with receiver(answer) as (url, received):
        outcomes = [await send(webhook(url)), await send(slack(url))]
    # A redirection is not followed: who may hear of it stands in the settings.
    assert len(received) == 2
    assert [one.verdict for one in outcomes] == [for_webhook, for_slack]
    if status == 429:
        assert outcomes[0].retry_after_seconds == 7
    if for_webhook is not SendVerdict.SENT:
        assert str(status) in outcomes[0].detail


@pytest.mark.parametrize("after", ["-1", "soon", "1e9", "99999999999", "٣", "1.5"])
async def test_a_time_to_wait_that_is_none_is_left_out(after: str):
    async def answer(_: Received) -> web.Response:
        return web.Response(status=429, headers={"retry-after": after})

    async with receiver(answer) as (url, _):
        assert (await send(webhook(url))).retry_after_seconds == 0


async def test_a_receiver_that_does_not_answer_is_left_in_time_and_its_url_never_shows():
    stuck = asyncio.Event()

    async def answer(_: Received) -> web.Response:
        await stuck.wait()
        return web.Response()

    async with receiver(answer) as (url, received):
        secret_url = f"{url}?token=hook-token-of-tests"
        way = webhook(secret_url, timeout_seconds=0.2)
        outcome = await asyncio.wait_for(send(way), 30)
        assert outcome.verdict is SendVerdict.RETRY
        assert "hook-token" not in outcome.detail + repr(way)
        stuck.set()
    assert len(received) == 1
    assert (await send(webhook("http://127.0.0.1:1/hook"))).verdict is SendVerdict.RETRY


async def test_an_answer_without_end_is_not_read():
    async def answer(_: Received) -> web.Response:
        return web.Response(body=b"x" * 50_000_000)

    async with receiver(answer) as (url, _):
        assert (await asyncio.wait_for(send(webhook(url)), 30)).verdict is SendVerdict.SENT


async def test_slack_gets_one_text_in_its_own_markup():
    async with receiver() as (url, received):
        assert (await send(slack(url))).verdict is SendVerdict.SENT
    (one,) = received
    assert set(one.told) == {"text"}
    heading, text = one.told["text"].splitlines()
    assert heading == "*My AI API: credit is used up (cus_a)*"
    assert text.startswith("The credit of customer cus_a is used up.")
    assert "1.5" not in one.told["text"]


@pytest.mark.parametrize(
    "hostile", ["<!channel>", "<https://example.net|click>", "a & b < c > d", "&lt;!here&gt;"]
)
async def test_no_fact_is_a_command_or_a_link_in_slack(hostile: str):
    facts = dict(notice().facts) | {"quota": hostile}
    async with receiver() as (url, received):
        await send(slack(url), notice(1, facts=facts))
    text = received[0].told["text"]
    assert not re.search(r"[<>]", text)
    assert not re.search(r"&(?!amp;|lt;|gt;)", text)
    assert hostile.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in text


async def test_a_long_text_is_cut_for_slack_and_no_escape_in_two():
    for length in range(20):
        facts = dict(notice().facts) | {"quota": "x" * length + "<" * 480}
        templates = NoticeTemplates("n" * 100)
        text = templates.slack(notice(1, facts=facts))
        assert len(text) <= 3_000
        assert not re.search(r"&(?!amp;|lt;|gt;)", text)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://example.com/hook",
        "ftp://127.0.0.1/",
        "https://user:hidden@example.com/",
        "https://[::1",
        "https://example.com:port/hidden",
    ],
)
async def test_a_url_that_would_leak_is_refused_unseen(url: str):
    for make in (webhook, slack):
        with pytest.raises(ConfigError) as caught:
            make(url)
        assert "hidden" not in str(caught.value)


async def test_a_signature_is_the_one_of_the_specification():
    """Its own example: https://github.com/standard-webhooks/standard-webhooks, libraries/."""
    key = read_signing_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", setting="x")
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_body_is_json_in_ascii():
    body = json.dumps(told(notice(1, facts={"quota": "ü\u2028"}), amounts=True))
    assert body.isascii()
