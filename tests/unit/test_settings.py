"""Settings: where they come from, what is refused, and what never shows."""

import re
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import BaseModel

from sidecar.domain.errors import ConfigError
from sidecar.inbound.listen_address import TcpAddress, UnixAddress
from sidecar.settings import (
    Role,
    Settings,
    is_local,
    load_settings,
    parse_listen,
)

SECRET = "s3cret-password"
OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"
EXTERNAL = {
    "SIDECAR_REDIS_URL": "redis://r",
    "SIDECAR_POSTGRES_DSN": "postgresql://p",
    "SIDECAR_SECRET_KEYS_FILE": "/keys",
    "SIDECAR_ADMIN_TOKEN_FILE": "/admin",
}


def load(text: str = "", tmp_path: Path | None = None, **options: object) -> Settings:
    path = None
    if tmp_path is not None:
        path = tmp_path / "sidecar.yaml"
        path.write_text(text)
    return load_settings(path, **{"environment": {}} | options)


def refusal(*arguments: object, **options: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*arguments, **options)
    return str(caught.value)


def test_the_command_line_wins_over_the_environment_over_the_file_over_defaults(tmp_path: Path):
    text = "log_level: error\nshards: 8\nworkers: 1\n"
    environment = {"SIDECAR_LOG_LEVEL": "warning", "SIDECAR_SHARDS": "16", "OTHER": "x"}
    settings = load(
        text, tmp_path, environment=environment, overrides={"log_level": "debug", "roles": None}
    )
    assert (settings.log_level, settings.shards, settings.workers) == ("debug", 16, 1)
    assert settings.roles == frozenset(Role)
    assert settings.hold_ttl_seconds == 120


def test_an_empty_variable_is_none():
    assert load(environment={"SIDECAR_ROLES": "", "SIDECAR_SHARDS": ""}).shards == 64


def test_lists_may_be_written_with_commas_or_as_lists(tmp_path: Path):
    both = frozenset({Role.GATEWAY, Role.ADMIN})
    assert load(overrides={"roles": "gateway, admin"}).roles == both
    assert load("roles: [gateway, admin]\nhosts: [a, b]\n", tmp_path).hosts == ("a", "b")
    assert load(environment={"SIDECAR_HOSTS": "a, b,"}).hosts == ("a", "b")


@pytest.mark.parametrize("text", ["on", "off", "auto", "'on'", "'off'"])
def test_the_journal_is_on_or_off_in_yaml_too(tmp_path: Path, text: str):
    """A bare `on` is a truth value to YAML."""
    assert load(f"journal: {text}\n", tmp_path).journal.value == text.strip("'")


def test_a_journal_has_room_for_two_segments():
    sizes = {"SIDECAR_JOURNAL_BYTES_MAX": "2000000", "SIDECAR_JOURNAL_SEGMENT_BYTES": "1000001"}
    assert "twice journal_segment_bytes (1000001)" in refusal(environment=sizes)


@pytest.mark.parametrize("roles", ["", ",", " "])
def test_a_process_without_a_role_is_refused(roles: str):
    assert "roles" in refusal(overrides={"roles": roles})


@pytest.mark.parametrize("text", ["roles: []", "roles: null", "hosts: null", "hosts: 5"])
def test_a_list_that_is_none_is_an_error_and_no_crash(tmp_path: Path, text: str):
    assert text.partition(":")[0] in refusal(text, tmp_path)


@pytest.mark.parametrize("value", [1, 1.5, "1", True, [], {}, "x", "\0"])
@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_any_value_of_any_setting_is_taken_or_refused(name: str, value: object):
    with suppress(ConfigError):
        assert name in load_settings(environment=EXTERNAL, overrides={name: value}).model_fields_set


def test_paths_in_the_file_are_relative_to_it_and_others_are_not(tmp_path: Path):
    text = "policy_dir: policy\nadmin_token_file: /abs\n"
    settings = load(text, tmp_path, environment={"SIDECAR_DATA_DIR": "data"})
    assert settings.policy_dir == tmp_path / "policy"
    assert settings.admin_token_file == Path("/abs")
    assert settings.data_dir == Path("data")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SIDECAR_SHARD", "unknown setting 'shard'; did you mean 'shards'?"),
        ("SIDECAR_QQQQ", "unknown setting 'qqqq'; there are admin_listen"),
    ],
)
def test_an_unknown_setting_is_named_with_what_was_meant(name: str, words: str):
    message = refusal(environment={name: "5"})
    assert message.startswith(f"{name}: {words}")


def test_every_problem_is_told_at_once_and_where_it_stands(tmp_path: Path):
    message = refusal("shardz: 5\nshards: 0\n", tmp_path, environment={"SIDECAR_LOG_LEVEL": "loud"})
    lines = message.splitlines()
    assert len(lines) == 3
    file = str(tmp_path / "sidecar.yaml")
    assert {line.partition(":")[0] for line in lines} == {file, "SIDECAR_LOG_LEVEL"}
    assert "did you mean 'shards'?" in lines[0]


@pytest.mark.parametrize(
    "text", ["[1, 2]", "5", "1: x", "a: [", "\x00", "a: !!python/object:os.system {}", "x: *a"]
)
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path: Path, text: str):
    assert str(tmp_path / "sidecar.yaml") in refusal(text, tmp_path)


def test_an_empty_file_is_all_defaults(tmp_path: Path):
    assert load("# nothing\n", tmp_path) == load()


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "absent.yaml", environment={})
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path, environment={})
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match="larger than"):
        load_settings(big, environment={})


@pytest.mark.parametrize(
    "text",
    [
        f"redis_url: redis://:{SECRET}@host: x\n",
        f"postgres_dsn: [postgresql://u:{SECRET}@h\n",
        f"postgres_dsn: [postgresql://u:{SECRET}@h]\n",
        f"redis_url: {{a: {SECRET}}}\n",
        f'redis_url: "{SECRET}\\q"\n',
        f"redis_url: {SECRET}\nshards: x\n",
    ],
)
def test_an_error_never_quotes_a_line_that_may_hold_a_password(tmp_path: Path, text: str):
    with pytest.raises(ConfigError) as caught:
        load(text, tmp_path)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__
    if "not YAML" in str(caught.value):
        assert re.search(r"sidecar\.yaml:\d+: not YAML: ", str(caught.value))


def test_passwords_in_urls_never_show():
    settings = Settings(redis_url=f"redis://:{SECRET}@h", postgres_dsn=f"postgresql://u:{SECRET}@h")
    assert SECRET not in f"{settings} {settings!r}"


@pytest.mark.parametrize(
    ("text", "parsed", "local"),
    [
        ("127.0.0.1:0", TcpAddress("127.0.0.1", 0), True),
        ("127.8.8.8:1", TcpAddress("127.8.8.8", 1), True),
        ("localhost:65535", TcpAddress("localhost", 65_535), True),
        ("[::1]:9", TcpAddress("::1", 9), True),
        ("unix:/run/s.sock", UnixAddress(Path("/run/s.sock")), True),
        ("0.0.0.0:9", TcpAddress("0.0.0.0", 9), False),
        ("[::]:9", TcpAddress("::", 9), False),
        ("10.0.0.1:9", TcpAddress("10.0.0.1", 9), False),
        ("localhost.evil.test:9", TcpAddress("localhost.evil.test", 9), False),
        ("127.0.0.1.evil.test:9", TcpAddress("127.0.0.1.evil.test", 9), False),
    ],
)
def test_a_listen_address_is_read_and_known_to_be_local_or_not(text, parsed, local):
    assert parse_listen(text) == parsed
    assert is_local(text) is local


@pytest.mark.parametrize(
    "text", ["", ":9", "host", "host:", "host:x", "h:65536", "h:-1", "h:²", "unix:"]
)
def test_what_is_no_listen_address_is_refused(text: str):
    with pytest.raises(ValueError, match="listen address"):
        parse_listen(text)
    if text:
        assert "listen address" in refusal(environment={"SIDECAR_HTTP_LISTEN": text})


@pytest.mark.parametrize(
    ("listener", "secret"),
    [
        ("grpc_listen", "GATEWAY_TOKEN_FILE"),
        ("http_listen", "GATEWAY_TOKEN_FILE"),
        ("admin_listen", "ADMIN_TOKEN_FILE"),
    ],
)
def test_a_listener_that_others_can_reach_needs_its_secret(listener: str, secret: str):
    variable = f"SIDECAR_{listener.upper()}"
    message = refusal(environment={variable: "0.0.0.0:9"})
    assert f"{listener} is 0.0.0.0:9, which others can reach" in message
    assert f"SIDECAR_{secret}" in message
    load(environment={variable: "0.0.0.0:9", f"SIDECAR_{secret}": "/token"})


def test_the_fast_listener_can_be_switched_off_and_is_for_this_machine_only(tmp_path: Path):
    assert load(environment={"SIDECAR_GRPC_FAST_LISTEN": "off"}).grpc_fast_listen == ""
    file = tmp_path / "sidecar.yaml"
    file.write_text("grpc_fast_listen: off\n")
    assert load_settings(file, environment={}).grpc_fast_listen == ""
    for address in ("127.0.0.1:9003", "[::1]:9003", "unix:/run/sidecar/fast.sock"):
        assert load(environment={"SIDECAR_GRPC_FAST_LISTEN": address}).grpc_fast_listen == address
    message = refusal(environment={"SIDECAR_GRPC_FAST_LISTEN": "0.0.0.0:9003"})
    assert "grpc_fast_listen" in message
    assert "can be reached by others" in message


def test_a_listener_of_a_role_that_is_not_played_needs_nothing():
    loaded = load(environment={"SIDECAR_ADMIN_LISTEN": "0.0.0.0:9"}, overrides={"roles": "gateway"})
    assert loaded.admin_listen == "0.0.0.0:9"


def test_with_stores_of_its_own_the_admin_role_always_needs_its_token():
    load(environment=EXTERNAL)
    for missing, words in (
        ("SIDECAR_ADMIN_TOKEN_FILE", "SIDECAR_ADMIN_TOKEN_FILE"),
        ("SIDECAR_SECRET_KEYS_FILE", "SIDECAR_SECRET_KEYS_FILE"),
    ):
        without = {name: value for name, value in EXTERNAL.items() if name != missing}
        assert words in refusal(environment=without)


def test_only_the_roles_that_need_postgres_start_one():
    assert not load(overrides={"roles": "gateway"}).embedded_postgres
    assert load(overrides={"roles": "settlement"}).embedded_postgres
    assert load(overrides={"roles": "gateway"}).embedded
    environment = {"SIDECAR_REDIS_URL": "redis://r", "SIDECAR_SECRET_KEYS_FILE": "/k"}
    assert not load(environment=environment, overrides={"roles": "gateway"}).embedded


def test_settings_are_fixed_for_the_life_of_a_process():
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.shards = 5


def table() -> dict[str, str]:
    """The operator's table of settings: name to default."""
    page = OPERATING.read_text()
    settings = page[page.index("## Settings") : page.index("## Commands")]
    rows = re.findall(r"^\| `([a-z_]+)` \|([^|]*)\|", settings, re.MULTILINE)
    return {name: default.strip() for name, default in rows}


def test_the_operators_table_names_real_settings_with_their_defaults():
    rows = table()
    assert len(rows) >= 18
    assert rows.keys() <= Settings.model_fields.keys()
    defaults = Settings()
    for name, stated in rows.items():
        found = getattr(defaults, name)
        words = {"", "see below", "made if embedded", "Stripe's own", "Paystack's own"}
        if name == "roles":
            assert set(stated.split(",")) == {role.value for role in found}
        elif isinstance(found, BaseModel):  # A section; its own page has what is in it.
            assert (found, stated) == (type(found)(), ""), name
        elif stated not in words:
            assert f"{found:g}" if isinstance(found, float) else str(found) == stated, name
        else:
            assert not found, name


def test_every_variable_that_the_operators_page_names_exists():
    named = set(re.findall(r"SIDECAR_([A-Z_]+[A-Z])", OPERATING.read_text()))
    assert {name.lower() for name in named} <= Settings.model_fields.keys()


def test_the_example_file_is_what_the_defaults_are_and_its_hints_are_real_settings():
    example = OPERATING.parents[1] / "config" / "sidecar.yaml"
    settings = load_settings(example, environment={})
    assert settings.policy_dir.is_dir()
    assert settings.model_copy(update={"policy_dir": Settings().policy_dir}) == Settings()
    hints = set(re.findall(r"^# ([a-z_]+): ", example.read_text(), re.MULTILINE))
    assert len(hints) >= 7
    assert hints <= Settings.model_fields.keys()
