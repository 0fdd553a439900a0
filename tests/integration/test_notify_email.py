"""Email through a real SMTP server: what it says, refuses and keeps waiting for."""

import asyncio
import re
import ssl
from pathlib import Path

import pytest
from fixtures.envoy_identity import Authority
from fixtures.memory_notices import MemoryNotices
from fixtures.notice_parts import Clock, delivery, notice
from fixtures.smtp_server import PASSWORD, USER, Mailbox, smtp_server

from sidecar.domain.errors import ConfigError
from sidecar.domain.notices import Channel
from sidecar.outbound.notify.email import EmailChannel
from sidecar.outbound.notify.smtp_url import parse_smtp_url
from sidecar.outbound.notify.templates import NoticeTemplates
from sidecar.services.notice_ports import DeliveryState, SendVerdict
from sidecar.services.notice_routes import NoticeRoutes
from sidecar.services.noticing import NoticeRouter, NoticeSender, SendLimits

TO = "ada@example.com"
SENDER = "billing@example.org"


def channel(url: str, *, timeout_seconds: float = 10.0, name: str = "My AI API") -> EmailChannel:
    return EmailChannel(
        parse_smtp_url(url),
        SENDER,
        name=name,
        templates=NoticeTemplates(name),
        clock=Clock(),
        timeout_seconds=timeout_seconds,
    )


async def test_a_message_arrives_with_what_a_reader_and_a_program_need():
    mailbox = Mailbox()
    async with smtp_server(mailbox) as port:
        outcome = await channel(f"smtp://127.0.0.1:{port}").send(delivery(), TO)
    assert outcome.verdict is SendVerdict.SENT
    (message,) = mailbox.messages
    assert (mailbox.recipients, mailbox.senders) == ([TO], [SENDER])
    assert message["From"] == f"My AI API <{SENDER}>"
    assert message["To"] == TO
    assert message["Subject"] == "My AI API: 80 % of tokens used"
    assert message["Message-ID"] == f"<{delivery().notice_id}.customer@example.org>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"] is not None
    text = message.get_body(("plain",)).get_content()
    assert 'Customer cus_a has used 80 % of the quota "tokens"' in text
    assert "<p>Customer cus_a has used 80 %" in message.get_body(("html",)).get_content()


async def test_a_repeat_has_the_same_id_and_another_addressee_another():
    mailbox = Mailbox()
    async with smtp_server(mailbox) as port:
        way = channel(f"smtp://127.0.0.1:{port}")
        for target in ("customer", "customer", "operator-1"):
            await way.send(delivery(target=target), TO)
    first, again, other = (message["Message-ID"] for message in mailbox.messages)
    assert first == again != other


@pytest.mark.parametrize(
    "hostile",
    [
        "tokens\r\nBcc: eve@example.net",
        "tokens\nBcc: eve@example.net\n\nBody",
        "tokens\r\n.\r\nMAIL FROM:<eve@example.net>",
        "tokens\u2028Bcc: eve@example.net\x00\x0b\x85",
        "=?utf-8?q?tokens=0d=0aBcc:_eve@example.net?=",
    ],
)
async def test_no_fact_adds_a_header_a_recipient_or_a_message(hostile: str):
    facts = {"quota": hostile.replace("\0", ""), "subject": hostile.replace("\0", "")}
    told = notice(1, facts=dict(notice().facts) | facts)
    mailbox = Mailbox()
    async with smtp_server(mailbox) as port:
        outcome = await channel(f"smtp://127.0.0.1:{port}").send(delivery(told), TO)
    assert outcome.verdict is SendVerdict.SENT
    (message,) = mailbox.messages
    assert mailbox.recipients == [TO]
    assert message["Bcc"] is None
    assert {name.lower() for name in message} == {
        *("from", "to", "subject", "date", "message-id", "auto-submitted"),
        *("mime-version", "content-type"),
    }
    assert "\n" not in message["Subject"]


async def test_other_scripts_arrive_as_they_were():
    told = notice(1, facts=dict(notice().facts) | {"quota": "Zeichen für Anfänger 数"})
    mailbox = Mailbox()
    async with smtp_server(mailbox) as port:
        await channel(f"smtp://127.0.0.1:{port}", name="Überweisung").send(delivery(told), TO)
    (message,) = mailbox.messages
    assert message["Subject"] == "Überweisung: 80 % of Zeichen für Anfänger 数 used"
    assert "Anfänger 数" in message.get_body(("plain",)).get_content()


@pytest.mark.parametrize(
    ("command", "reply", "verdict"),
    [
        ("RCPT", "450 4.7.1 greylisted", SendVerdict.RETRY),
        ("RCPT", "451 try later", SendVerdict.RETRY),
        ("RCPT", "550 5.1.1 <ada@example.com> unknown", SendVerdict.REFUSED),
        ("RCPT", "530 5.7.0 authenticate first", SendVerdict.RETRY),
        ("MAIL", "421 closing", SendVerdict.RETRY),
        ("MAIL", "550 we know no billing@example.org", SendVerdict.RETRY),
        ("DATA", "452 4.3.1 full", SendVerdict.RETRY),
        ("DATA", "554 5.7.1 looks like spam", SendVerdict.REFUSED),
    ],
)
async def test_each_answer_of_a_server_is_for_now_or_for_good(command, reply, verdict):
    mailbox = Mailbox(replies={command: [reply]})
    async with smtp_server(mailbox) as port:
        way = channel(f"smtp://127.0.0.1:{port}")
        outcome = await way.send(delivery(), TO)
        assert outcome.verdict is verdict
        assert reply[:3] in outcome.detail
        assert "@" not in outcome.detail, "an address shows"
        assert (await way.send(delivery(), TO)).verdict is SendVerdict.SENT
    assert len(mailbox.messages) == 1


async def test_a_server_that_greylists_gets_the_message_once_it_takes_it():
    memory, mailbox = MemoryNotices(Clock()), Mailbox(replies={"RCPT": ["450 later"] * 3})
    memory.emails["cus_a"] = TO
    routes = NoticeRoutes(channels=frozenset({Channel.EMAIL}))
    await memory.put(notice())
    router = NoticeRouter(record=memory, routes=routes, retention_days=1, poll_seconds=1)
    await router.route_once()
    async with smtp_server(mailbox) as port:
        sender = NoticeSender(
            Channel.EMAIL,
            channel(f"smtp://127.0.0.1:{port}"),
            record=memory,
            routes=routes,
            owner="one",
            limits=SendLimits(retry_seconds_first=0.001, retry_seconds_max=0.001),
        )
        for _ in range(10):
            await sender.send_once()
            await asyncio.sleep(0.002)
    ((stored,),) = [one.deliveries for one in memory.stored.values()]
    assert (stored.state, stored.attempts) == (DeliveryState.SENT, 4)
    assert len(mailbox.messages) == 1


async def test_a_connection_that_breaks_after_the_message_was_taken_does_not_unsend_it():
    """The server takes the message and drops the line before its word: the id tells the repeat."""
    mailbox = Mailbox(replies={"DATA": [None, "drop"]})
    async with smtp_server(mailbox) as port:
        way = channel(f"smtp://127.0.0.1:{port}")
        assert (await way.send(delivery(), TO)).verdict is SendVerdict.RETRY
        assert (await way.send(delivery(), TO)).verdict is SendVerdict.SENT
    first, second = mailbox.messages
    assert first["Message-ID"] == second["Message-ID"]


@pytest.mark.parametrize("greeting", [b"", b"220 slow\r\n", b"nonsense\r\n", b"554 no\r\n"])
async def test_a_server_that_says_nothing_or_nonsense_is_left_in_time(greeting: bytes):
    gone = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await writer.drain()
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        way = channel(f"smtp://127.0.0.1:{port}", timeout_seconds=0.2)
        outcome = await asyncio.wait_for(way.send(delivery(), TO), 30)
    finally:
        gone.set()
        server.close()
        await server.wait_closed()
    assert outcome.verdict is SendVerdict.RETRY


async def test_nobody_listening_is_tried_again():
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    outcome = await channel(f"smtp://127.0.0.1:{port}").send(delivery(), TO)
    assert outcome.verdict is SendVerdict.RETRY


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "mail")


def server_context(authority: Authority) -> ssl.SSLContext:
    path = authority.issue("mail", dns="localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path.with_suffix(".pem"), path.with_suffix(".key"))
    return context


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
async def test_a_login_travels_encrypted_and_the_password_shows_nowhere(authority, scheme: str):
    mailbox, options = Mailbox(), f"ca_file={authority.path}"
    options += "" if scheme == "smtps" else "&starttls=required"
    implicit = scheme == "smtps"
    async with smtp_server(
        mailbox, tls=server_context(authority), implicit=implicit, login=True
    ) as port:
        way = channel(f"{scheme}://{USER}:{PASSWORD}@localhost:{port}?{options}")
        outcome = await way.send(delivery(), TO)
        assert outcome.verdict is SendVerdict.SENT, outcome.detail
        wrong = channel(f"{scheme}://{USER}:wrong@localhost:{port}?{options}")
        refused = await wrong.send(delivery(), TO)
    assert mailbox.encrypted == [True]
    assert len(mailbox.logins) == 1
    assert refused.verdict is SendVerdict.RETRY
    assert "login" in refused.detail
    for thing in (way, outcome, refused, way._server):
        assert PASSWORD not in repr(thing)


async def test_a_certificate_of_another_authority_is_not_believed(authority, tmp_path: Path):
    mailbox, other = Mailbox(), Authority(tmp_path, "other")
    async with smtp_server(mailbox, tls=server_context(authority)) as port:
        for options in (f"ca_file={other.path}", "starttls=required"):
            query = options if "starttls" in options else f"{options}&starttls=required"
            outcome = await channel(f"smtp://localhost:{port}?{query}").send(delivery(), TO)
            assert outcome.verdict is SendVerdict.RETRY
    assert mailbox.messages == []


async def test_a_server_without_starttls_is_told_nothing_where_it_is_required():
    mailbox = Mailbox()
    async with smtp_server(mailbox) as port:
        way = channel(f"smtp://localhost:{port}?starttls=required")
        assert (await way.send(delivery(), TO)).verdict is SendVerdict.RETRY
    assert mailbox.messages == []


def test_certificates_that_are_none_are_refused_at_the_start(tmp_path: Path):
    (tmp_path / "ca.pem").write_text("none")
    with pytest.raises(ConfigError, match=re.escape("ca.pem")):
        channel(f"smtps://mail.example.com?ca_file={tmp_path / 'ca.pem'}")
