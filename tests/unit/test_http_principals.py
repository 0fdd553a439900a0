from pathlib import Path

import pytest

from sidecar.domain.errors import ConfigError
from sidecar.inbound.principals import (
    AdminPrincipal,
    bearer_token,
    load_admin_tokens,
    load_gateway_tokens,
    parse_admin_tokens,
    parse_gateway_tokens,
)
from sidecar.services.hold_terms import MeterPrincipal

TOKEN = "a-secret-token-1"


def test_a_lone_token_speaks_for_all_gateways_and_customers_but_not_for_unheld_usage():
    assert parse_gateway_tokens(TOKEN).find(TOKEN) == MeterPrincipal(name="gateway")


def test_options_bound_what_a_token_may_speak_for():
    line = f"{TOKEN}  name=kong gateways=eu,us customers=cus_1,cus_2 usage:unheld"
    assert parse_gateway_tokens(line).find(TOKEN) == MeterPrincipal(
        name="kong",
        gateways=frozenset({"eu", "us"}),
        customers=frozenset({"cus_1", "cus_2"}),
        may_send_unheld=True,
    )


def test_several_lines_are_valid_at_once_and_comments_are_skipped():
    tokens = parse_gateway_tokens(f"# old and new\n\n{TOKEN} name=kong\nnew-token-22 name=kong\n")
    assert len(tokens) == 2
    assert tokens.find(TOKEN) == tokens.find("new-token-22") == MeterPrincipal(name="kong")


@pytest.mark.parametrize("presented", ["", "a-secret-token-", "A-SECRET-TOKEN-1", TOKEN + " ", "é"])
def test_what_is_no_token_finds_nobody(presented: str):
    assert parse_gateway_tokens(TOKEN).find(presented) is None


def test_an_octet_that_is_not_utf_8_finds_nobody():
    assert parse_gateway_tokens(TOKEN).find("\udcff") is None


def test_admin_tokens_have_a_name_that_rotation_keeps():
    tokens = parse_admin_tokens(f"{TOKEN}\nnew-token-22\nops-token-333 name=ops")
    assert tokens.find(TOKEN) == tokens.find("new-token-22") == AdminPrincipal(name="admin")
    assert tokens.find("ops-token-333") == AdminPrincipal(name="ops")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no token"),
        ("# only a comment", "holds no token"),
        ("short", ":1: a token has 8 to 512"),
        ("\n" + "x" * 513, ":2: a token has 8 to 512"),
        (f"{TOKEN} gateway=eu", ":1: an option cannot be used; allowed: name=NAME, gateways="),
        (f"{TOKEN} gateways=", ":1: an option cannot be used"),
        (f"{TOKEN} gateways=eu,", ":1: an option cannot be used"),
        (f"{TOKEN} name=a,b", ":1: an option cannot be used"),
        (f"{TOKEN} usage:all", ":1: an option cannot be used"),
        (f"{TOKEN}\n{TOKEN} name=b", ":2: this token stands in an earlier line too"),
        ("\n".join(f"token-number-{n}" for n in range(101)), "at most 100 tokens"),
    ],
)
def test_a_bad_gateway_token_file_says_where_and_never_shows_a_token(text: str, message: str):
    with pytest.raises(ConfigError) as caught:
        parse_gateway_tokens(text, source="/etc/tokens")
    assert message in str(caught.value)
    assert str(caught.value).startswith("/etc/tokens:")
    assert TOKEN not in str(caught.value)


def test_an_admin_token_takes_no_scopes():
    with pytest.raises(ConfigError, match=r"allowed: name=NAME$"):
        parse_admin_tokens(f"{TOKEN} usage:unheld")


def test_files_are_read_and_their_faults_named(tmp_path: Path):
    path = tmp_path / "tokens"
    path.write_text(TOKEN + "\r\n")
    assert load_gateway_tokens(path).find(TOKEN) is not None
    assert load_admin_tokens(path).find(TOKEN) is not None
    with pytest.raises(ConfigError, match="cannot be read"):
        load_gateway_tokens(tmp_path / "absent")
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(ConfigError, match="ASCII only"):
        load_admin_tokens(path)
    path.write_bytes(b"x" * 70_000)
    with pytest.raises(ConfigError, match="at most 65536 bytes"):
        load_admin_tokens(path)


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", None),
        ("Bearer", None),
        ("abc", None),
        ("Bearer " + "x" * 513, None),
    ],
)
def test_a_bearer_value_is_read(value: str, token: str | None):
    assert bearer_token(value) == token
