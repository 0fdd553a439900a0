"""The section `notify`, the mail server's URL, addresses, and who is told of what."""

import re
from pathlib import Path

import pytest
from fixtures.notice_parts import delivery, notice
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from sidecar.domain.errors import ConfigError
from sidecar.domain.notices import Channel, NoticeKind, is_address
from sidecar.outbound.notify.samples import sample_notices
from sidecar.outbound.notify.settings import NotifySettings
from sidecar.outbound.notify.smtp_url import Tls, parse_smtp_url
from sidecar.services.notice_routes import NoticeRoutes, operator_target
from sidecar.settings import load_settings

ALL = frozenset(Channel)
PAGE = (Path(__file__).parents[2] / "docs" / "notifications.md").read_text()


def settings_of(folder: Path, notify: str):
    path = folder / "sidecar.yaml"
    path.write_text(notify)
    return load_settings(path, environment={})


def targets(section: dict, told=None, *, email: str = "a@example.com", channels=ALL) -> list:
    routes = NotifySettings.model_validate(section).routes(channels)
    return sorted((to.channel.value, to.target) for to in routes.targets(told or notice(), email))


def test_the_shipped_settings_tell_nobody_and_refuse_nothing():
    routes = NotifySettings().routes(())
    assert routes.targets(notice(), "a@example.com") == []


def test_paths_of_the_section_are_relative_to_its_file(tmp_path: Path):
    text = "notify:\n  templates_dir: mine\n  webhook: {url: 'https://e.com', secret_file: key}\n"
    notify = settings_of(tmp_path, text).notify
    assert (notify.templates_dir, notify.webhook.secret_file) == (
        tmp_path / "mine",
        tmp_path / "key",
    )


@pytest.mark.parametrize(
    "section",
    [
        "{nme: x}",
        '{name: "a\\nb"}',
        "{operators: ['ops@example.com, eve@example.net']}",
        "{operators: ['Ops <ops@example.com>']}",
        "{email: {from: nobody}}",
        "{kinds: {threshold.reched: {}}}",
        "{kinds: {threshold.reached: {channels: [pager]}}}",
        "{kinds: {threshold.reached: {to: [everybody]}}}",
        "{kinds: {threshold.reached: {percents: [0]}}}",
        "{kinds: {standing.changed: {percents: [80]}}}",
        "{kinds: {credit.running_out: {at_or_below: '1'}}}",
        "{kinds: {credit.exhausted: {at_or_below: '1e3'}}}",
        "{kinds: {credit.exhausted: {within_hours: 3}}}",
        "{webhook: {timeout_seconds: 61}}",
        "{tries_max: 0}",
        "{retention_days: 100000}",
    ],
)
def test_what_would_not_be_in_force_is_refused(tmp_path: Path, section: str):
    with pytest.raises(ConfigError, match="notify"):
        settings_of(tmp_path, f"notify: {section}\n")


def test_a_url_with_a_password_does_not_show():
    settings = load_settings(
        environment={"SIDECAR_SMTP_URL": "smtps://me:mail-password@mail.example.com"}
    )
    assert "mail-password" not in repr(settings)
    server = parse_smtp_url(settings.smtp_url)
    assert server.password == "mail-password"
    assert "mail-password" not in repr(server)


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("smtp://mail.example.com", "mail.example.com", 587, Tls.STARTTLS),
        ("smtp://mail.example.com:25?starttls=off", "mail.example.com", 25, Tls.NONE),
        ("smtps://mail.example.com", "mail.example.com", 465, Tls.IMPLICIT),
        ("smtp://localhost:1025", "localhost", 1025, Tls.NONE),
        ("smtp://127.0.0.1", "127.0.0.1", 587, Tls.NONE),
        ("smtp://[::1]:2525/?starttls=required", "::1", 2525, Tls.STARTTLS),
        ("smtp://me%40example.com:a%2Fb@localhost", "localhost", 587, Tls.NONE),
    ],
)
def test_a_servers_url_is_encrypted_unless_the_server_is_this_machine(url, host, port, tls):
    server = parse_smtp_url(url)
    assert (server.host, server.port, server.tls) == (host, port, tls)
    if "%40" in url:
        assert (server.username, server.password) == ("me@example.com", "a/b")


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("", ""),
        ("mail.example.com:587", ""),
        ("http://mail.example.com", ""),
        ("smtp://", ""),
        ("smtp://mail.example.com/inbox", ""),
        ("smtp://mail.example.com:port", ""),
        ("smtp://mail.example.com?starttls=maybe", ""),
        ("smtp://mail.example.com?startls=off", ""),
        ("smtp://mail.example.com?starttls", ""),
        ("smtps://mail.example.com?starttls=required", ""),
        ("smtp://me:hidden@mail.example.com?starttls=off", ""),
        ("smtp://me@mail.example.com?starttls=off", "hidden"),
        ("smtp://me:hidden@mail.example.com", "hidden"),
        ("smtp://:hidden@mail.example.com", ""),
        ("smtp://mail.example.com", "hidden"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_unseen(url: str, password: str):
    with pytest.raises(ConfigError) as caught:
        parse_smtp_url(url, password=password)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["a@b.co", "first.last+tag@sub.example.com", "x@localhost", "o'neil_{}@xn--bcher-kva.example"],
)
def test_a_plain_address_is_one(text: str):
    assert is_address(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "@b.co", "a@", "a@b@c.co", "a b@c.co", "a@b.co ", "a@b.co\n", "\na@b.co"),
        *("a@b.co, c@d.co", "a@b.co;c@d.co", "<a@b.co>", "A <a@b.co>", '"a"@b.co', "a@[1.2.3.4]"),
        *(".a@b.co", "a..b@c.co", "a.@b.co", "a@-b.co", "a@b-.co", "a@b..co", "ü@b.co", "a@ü.co"),
        *("a" * 65 + "@b.co", "a@" + "b" * 64 + ".co", "a@" + ("b" * 60 + ".") * 5 + "co"),
        *("a@b.co\r\nBcc: c@d.co", "a@b.co\0", "a(comment)@b.co", "٣@b.co"),
    ],
)
def test_what_is_not_one_plain_address_is_none(text: str):
    assert not is_address(text)


@given(st.text(max_size=60))
def test_no_address_holds_what_a_header_or_a_list_is_made_of(text: str):
    if is_address(text):
        assert not set(text) & set(' \t\r\n\0,;:<>()[]\\"')
        assert text.isascii()


def test_customers_and_operators_are_told_and_each_operator_apart():
    section = {"operators": ["ops@example.com", "two@example.com", "ops@example.com"]}
    ops, two = operator_target("ops@example.com"), operator_target("two@example.com")
    assert targets(section) == sorted(
        [("email", "customer"), ("email", ops), ("email", two), ("slack", ""), ("webhook", "")]
    )
    assert "ops" not in ops.removeprefix("operator-")
    assert ("email", "customer") not in targets(section, email="")


@pytest.mark.parametrize(
    ("kind", "customer_id", "told"),
    [
        (NoticeKind.CREDIT_EXHAUSTED, "cus_a", True),
        (NoticeKind.STANDING_CHANGED, "cus_a", True),
        (NoticeKind.INVOICE_CLOSED, "cus_a", True),
        (NoticeKind.PAYMENT_FAILED, "cus_a", True),
        (NoticeKind.ORPHANS_EXCEEDED, "cus_a", False),
        (NoticeKind.DISPUTE_OPENED, "cus_a", False),
        (NoticeKind.REPORT_FAILED, "", False),
        (NoticeKind.CREDIT_EXHAUSTED, "", False),
    ],
)
def test_a_customer_hears_of_their_own_matters_alone(kind, customer_id, told):
    found = targets({}, notice(1, kind=kind, customer_id=customer_id), channels={Channel.EMAIL})
    assert (("email", "customer") in found) is told


def test_a_kind_may_be_off_on_some_channels_for_some_people_and_some_percentages():
    def kinds(**terms: object) -> dict:
        return {"operators": ["ops@example.com"], "kinds": {"threshold.reached": terms}}

    assert targets(kinds(enabled=False)) == []
    assert targets(kinds(channels=["slack"])) == [("slack", "")]
    assert targets(kinds(channels=["slack"]), channels={Channel.EMAIL}) == []
    assert targets(kinds(channels=["email"], to=["customer"])) == [("email", "customer")]
    assert targets(kinds(percents=[80, 100])) != []
    assert targets(kinds(percents=[100])) == []
    other = notice(1, kind=NoticeKind.STANDING_CHANGED)
    assert targets(kinds(enabled=False), other) != []


def test_a_limit_of_a_kind_reaches_its_source():
    section = {
        "kinds": {
            "credit.exhausted": {"at_or_below": "2.50"},
            "credit.running_out": {"within_hours": 24},
        }
    }
    limits = NotifySettings.model_validate(section).credit_limits()
    assert (limits.floor_nano, limits.within_seconds) == (2_500_000_000, 86_400)


@given(st.floats(0.1, 60), st.floats(0.1, 60), st.floats(0.1, 60))
def test_no_attempt_outlives_its_lease(email: float, webhook: float, slack: float):
    section = {
        "email": {"timeout_seconds": email},
        "webhook": {"timeout_seconds": webhook},
        "slack": {"timeout_seconds": slack},
    }
    limits = NotifySettings.model_validate(section).send_limits()
    assert max(email, webhook, slack) <= limits.attempt_seconds_max < limits.lease_seconds - 5


def test_an_address_is_found_again_by_its_target_or_is_gone():
    routes = NoticeRoutes(channels=ALL, operators=("ops@example.com",))
    assert routes.address(delivery(target=operator_target("ops@example.com"))) == "ops@example.com"
    assert routes.address(delivery(target=operator_target("gone@example.com"))) is None
    assert routes.address(delivery(target="customer")) is None


def test_the_page_names_every_key_with_its_default():
    section = PAGE[PAGE.index("| Key of `notify` |") : PAGE.index("## Kinds")]
    rows = re.findall(r"^\| (`[^|]*) \|([^|]*)\|", section, re.MULTILINE)
    stated: dict[str, str] = {}
    for names, defaults in rows:
        keys = re.findall(r"`([a-z_.]+)`", names)
        values = [one.strip() for one in defaults.split(",")]
        stated |= dict(zip(keys, values if len(values) == len(keys) else values * 9, strict=False))
    shipped = NotifySettings()
    known = {}
    for name in NotifySettings.model_fields:
        value = getattr(shipped, name)
        parts = type(value).model_fields if isinstance(value, BaseModel) else {}
        known |= {
            f"{name}.{field.alias or part}": getattr(value, part) for part, field in parts.items()
        }
        if not parts:
            known[name] = value
    assert stated.keys() == known.keys()
    for name, value in known.items():
        if value not in (None, "", (), {}):
            said = stated[name]
            assert said.lower() == str(value).lower() or float(said) == value, name


def test_the_page_names_every_kind_and_its_example_loads(tmp_path: Path):
    kinds = PAGE[PAGE.index("## Kinds") : PAGE.index("## What")]
    named = set(re.findall(r"`([a-z]+\.[a-z_]+)`", kinds))
    assert named == set(NoticeKind) - {NoticeKind.NOTIFY_TEST}
    (example,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert settings_of(tmp_path, example).notify.operators == ("ops@example.com",)


def test_the_facts_that_the_page_lists_are_those_that_sources_give():
    section = PAGE[PAGE.index("| Facts | Of |") : PAGE.index("## Templates")]
    listed: dict[str, set[str]] = {}
    for facts, kinds in re.findall(r"^\| (.*`.*) \| (`.*`) \|$", section, re.MULTILINE):
        names = set(re.findall(r"`([a-z_]+)`", facts))
        listed |= dict.fromkeys(re.findall(r"`([a-z]+\.[a-z_]+)`", kinds), names)
    for kind, sample in sample_notices(notice().occurred_at).items():
        if kind is not NoticeKind.NOTIFY_TEST:
            assert listed[kind.value] == {*sample.facts, *sample.amounts}, kind
