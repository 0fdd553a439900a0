"""What `doctor` finds of notification routes: asked at a real mail server, with nothing sent."""

import ssl
from pathlib import Path

import pytest
from fixtures.envoy_identity import Authority
from fixtures.smtp_server import PASSWORD, USER, Mailbox, smtp_server

from sidecar.app.looking import look_at_notices
from sidecar.settings import Settings

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def settings(folder: Path, notify: dict[str, object], **changes: object) -> Settings:
    notify = {"email": {"from": "billing@example.org", "timeout_seconds": 5}} | notify
    if "smtp_url" not in changes:
        notify.pop("email")
    return Settings(data_dir=folder / "data", notify=notify, **changes)


async def look(made: Settings) -> dict[str, tuple[bool, str]]:
    return {one.what: (one.ok, one.detail) for one in await look_at_notices(made)}


async def test_a_mail_server_is_logged_in_at_and_is_sent_nothing(tmp_path):
    mailbox = Mailbox()
    async with smtp_server(mailbox) as port:
        url = f"smtp://127.0.0.1:{port}"
        found = await look(settings(tmp_path, {"operators": ["ops@example.com"]}, smtp_url=url))
    assert found == {"email": (True, f"127.0.0.1:{port} takes our mail; nothing was sent")}
    assert mailbox.messages == []
    assert mailbox.recipients == []


async def test_a_login_that_is_refused_and_a_server_that_is_away_are_told(tmp_path):
    mailbox, authority = Mailbox(), Authority(tmp_path, "mail")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    path = authority.issue("mail", dns="localhost")
    tls.load_cert_chain(path.with_suffix(".pem"), path.with_suffix(".key"))
    notify = {"operators": ["ops@example.com"]}
    for user, password, ok in ((USER, PASSWORD, True), (USER, "wrong-password", False)):
        async with smtp_server(mailbox, tls=tls, implicit=True, login=True) as port:
            url = f"smtps://{user}:{password}@localhost:{port}?ca_file={authority.path}"
            (found,) = (await look(settings(tmp_path, notify, smtp_url=url))).values()
        assert found[0] is ok, found
        assert password not in found[1]
    assert "refuses the login" in found[1]
    assert mailbox.messages == []
    away = f"smtp://127.0.0.1:{port}"
    (found,) = (await look(settings(tmp_path, notify, smtp_url=away))).values()
    assert found[0] is False
    assert f"127.0.0.1:{port}" in found[1]


async def test_nobody_to_tell_by_email_is_said(tmp_path):
    async with smtp_server(Mailbox()) as port:
        found = await look(settings(tmp_path, {}, smtp_url=f"smtp://127.0.0.1:{port}"))
    assert found["notices"] == (
        True,
        "notify.operators names nobody: operators are told nothing by email",
    )


@pytest.mark.parametrize(
    ("url", "secret", "ok"),
    [
        ("https://hooks.example.com/sidecar", SECRET, True),
        ("http://hooks.example.com/sidecar", SECRET, False),
        ("https://hooks.example.com/sidecar", "whsec_short", False),
    ],
)
async def test_a_webhooks_url_and_secret_are_read_and_nothing_is_posted(tmp_path, url, secret, ok):
    (tmp_path / "secret").write_text(secret)
    notify = {"webhook": {"url": url, "secret_file": str(tmp_path / "secret")}}
    found = await look(settings(tmp_path, notify))
    assert [one for one, _ in found.values()] == [ok]
    assert secret not in str(found)


async def test_templates_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "invoice.closed.txt").write_text("{{ nothing_such }}")
    found = await look(settings(tmp_path, {"templates_dir": str(tmp_path)}))
    assert found["templates"][0] is False
    assert "invoice.closed.txt:1" in found["templates"][1]


async def test_without_a_channel_there_is_nothing_to_look_at(tmp_path):
    assert await look(settings(tmp_path, {})) == {}
