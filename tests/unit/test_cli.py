"""The commands: exit codes, error texts, and what each prints where."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fixtures.shell import Ended, Shell, sidecar

from sidecar import cli
from sidecar.cli import commands
from sidecar.domain.errors import ConfigError, Conflict, InvariantViolated, StoreUnavailable

__all__ = ["sidecar"]

ROOT = Path(__file__).parents[2]
SECRET = "s3cret-password"
UPSTREAM = ("--upstream", "http://127.0.0.1:9999")


def copied_policy(folder: Path, old: str = "", new: str = "") -> Path:
    """The shipped policy with one text exchanged."""
    copy = folder / "policy"
    shutil.copytree(ROOT / "config" / "policy", copy)
    for path in copy.glob("*.yaml"):
        path.write_text(path.read_text().replace(old, new) if old else path.read_text())
    return copy


def test_the_version_is_the_installed_one(sidecar: Shell):
    ended = sidecar("version")
    assert (ended.code, ended.out) == (0, f"{importlib.metadata.version('sidecar')}\n")


def test_help_names_every_command_of_the_operators_page(sidecar: Shell):
    ended = sidecar("--help")
    page = (ROOT / "docs" / "operating.md").read_text()
    commands = page[page.index("## Commands") : page.index("Exit codes")]
    named = {words.split()[0] for words in re.findall(r"`([a-z][a-z -]+)`", commands)}
    assert len(named) >= 8
    assert ended.code == 0
    assert [name for name in named if not re.search(rf"\b{name}\b", ended.out)] == []


@pytest.mark.parametrize(
    "arguments", [(), ("nonsense",), ("config",), ("envoy",), ("version", "-x"), ("serve", "extra")]
)
def test_a_call_that_is_none_is_exit_2(sidecar: Shell, arguments: tuple[str, ...]):
    assert sidecar(*arguments).code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("shards is 0"), 2),
        (StoreUnavailable("Postgres is unavailable"), 3),
        (Conflict("the lease was lost"), 1),
        (InvariantViolated("two deciders"), 1),
    ],
)
def test_an_error_of_ours_is_a_message_and_its_exit_code(
    sidecar: Shell, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
):
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert sidecar() == Ended(code, "", f"sidecar: {error}\n")


def test_a_bug_is_not_dressed_up(sidecar: Shell, monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        raise KeyError("bug")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(sys, "argv", ["sidecar"])
    with pytest.raises(KeyError):
        cli.main()


def test_without_asserts_it_refuses_to_run():
    command = [sys.executable, "-O", "-m", "sidecar", "version"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "sidecar does not run under python -O\n"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shards": 0}, "SIDECAR_SHARDS: shards: Input should be greater than or equal to 1"),
        ({"shardz": 1}, "SIDECAR_SHARDZ: unknown setting 'shardz'; did you mean 'shards'?"),
        ({"admin_listen": "0.0.0.0:1"}, "set SIDECAR_ADMIN_TOKEN_FILE or listen on 127.0.0.1"),
    ],
)
def test_a_bad_setting_ends_every_command_before_it_does_anything(
    sidecar: Shell, settings: dict[str, object], words: str, tmp_path: Path
):
    for command in (
        ("config", "check"),
        ("doctor",),
        ("serve",),
        ("migrate",),
        ("settle", "--once"),
        ("report", "--once"),
        ("envoy", "config", *UPSTREAM),
    ):
        # The once commands play the settlement role, to which the admin listener is nothing.
        if command[0] in ("settle", "report") and "admin_listen" in settings:
            continue
        ended = sidecar(*command, **settings)
        assert (ended.code, ended.out) == (2, "")
        assert words in ended.err
    assert not (tmp_path / "data").exists()


def test_a_settings_file_that_is_not_there_is_named(sidecar: Shell, tmp_path: Path):
    ended = sidecar("config", "check", "-c", tmp_path / "absent.yaml")
    assert ended.code == 2
    assert f"{tmp_path / 'absent.yaml'}: cannot be read" in ended.err


def test_config_check_accepts_what_is_shipped_and_says_what_it_is(sidecar: Shell):
    ended = sidecar("config", "check")
    assert ended.code == 0
    assert re.fullmatch(
        r"policy [0-9a-f]{16}: 4 files, 10 rules, 6 plans, 4 meters; (\d+) of \1 tests passed\n",
        ended.out,
    )


def test_config_check_reads_the_shipped_settings_file_too(sidecar: Shell, monkeypatch):
    monkeypatch.delenv("SIDECAR_POLICY_DIR")
    assert sidecar("config", "check", "-c", ROOT / "config" / "sidecar.yaml").code == 0


def test_config_check_names_file_and_line_of_each_mistake(sidecar: Shell, tmp_path: Path):
    policy = copied_policy(tmp_path, "billing: prepaid", "biling: prepaid")
    ended = sidecar("config", "check", policy_dir=policy)
    assert (ended.code, ended.out) == (2, "")
    assert re.search(r"20-plans\.yaml:\d+:\d+: .*biling.*billing", ended.err)


def test_config_check_runs_the_rules_tests(sidecar: Shell, tmp_path: Path):
    old = "expect: {allow: true, headers: {x-quota-used: '85'}}"
    policy = copied_policy(tmp_path, old, old.replace("85", "86"))
    ended = sidecar("config", "check", policy_dir=policy)
    assert ended.code == 1
    assert re.search(r"^FAILED .*30-rules\.yaml:\d+.* warn-at-80: .*86", ended.out, re.MULTILINE)
    assert re.search(r"(\d+) of (?!\1)\d+ tests passed", ended.out)


@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_config_check_of_no_policy_is_exit_2(sidecar: Shell, tmp_path: Path, folder: str):
    (tmp_path / "empty").mkdir()
    ended = sidecar("config", "check", policy_dir=tmp_path / folder)
    assert ended.code == 2
    assert folder in ended.err


def test_envoy_config_needs_an_upstream(sidecar: Shell, tmp_path: Path):
    ended = sidecar("envoy", "config")
    assert (ended.code, ended.out) == (2, "")
    assert "--upstream is needed" in ended.err
    assert "sidecar.yaml" in ended.err


def test_envoy_config_prints_yaml_with_the_gateways_token_and_nothing_else(
    sidecar: Shell, tmp_path: Path
):
    ended = sidecar("envoy", "config", *UPSTREAM, "--listen", "127.0.0.1:12345", log_level="debug")
    assert ended.code == 0
    bootstrap = yaml.safe_load(ended.out)
    (listener,) = bootstrap["static_resources"]["listeners"]
    assert listener["address"]["socket_address"]["port_value"] == 12345
    token = (tmp_path / "data" / "gateway-token").read_text().strip()
    assert ended.out.count(token) >= 2, "for checks and for logs"
    assert token not in ended.err


def test_envoy_config_takes_the_first_token_of_a_file_with_comments(sidecar: Shell, tmp_path: Path):
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text("# rotated\n\n  new-gateway-token gateways=gateway-1\nold-gateway-token\n")
    ended = sidecar("envoy", "config", *UPSTREAM, gateway_token_file=path)
    assert ended.code == 0
    assert "new-gateway-token" in ended.out
    assert "old-gateway-token" not in ended.out
    assert "value: '#'" not in ended.out


def test_envoy_config_takes_its_defaults_from_the_settings_file(sidecar: Shell, tmp_path: Path):
    path = tmp_path / "sidecar.yaml"
    path.write_text("envoy: {upstream: 'http://10.0.0.9:8080', gateway_id: edge-7}\n")
    ended = sidecar("envoy", "config", "-c", path)
    assert ended.code == 0
    assert "10.0.0.9" in ended.out
    assert "edge-7" in ended.out
    assert "10.0.0.9" not in sidecar("envoy", "config", "-c", path, *UPSTREAM).out


def ports_of_clusters(text: str) -> dict[str, int]:
    """Where each cluster but the provider's goes."""
    clusters = yaml.safe_load(text)["static_resources"]["clusters"]
    return {
        one["name"]: endpoint["endpoint"]["address"]["socket_address"]["port_value"]
        for one in clusters
        if one["name"] in {"authz", "usage"}
        for group in one["load_assignment"]["endpoints"]
        for endpoint in group["lb_endpoints"]
    }


@pytest.mark.parametrize(
    ("arguments", "settings", "ports"),
    [
        ((), {}, (9201, 9201)),
        (("--transport", "als"), {}, (9201, 9001)),
        (("--transport", "both"), {}, (9201, 9001)),
        ((), {"grpc_fast_listen": "off"}, (9001, 9001)),
        (("--authz", "127.0.0.1:9555", "--transport", "als"), {}, (9555, 9555)),
        ((), {"grpc_listen": "0.0.0.0:9001"}, (9001, 9001)),
    ],
)
def test_envoy_calls_the_fast_engine_for_what_it_serves_on_one_machine(
    sidecar: Shell, tmp_path: Path, arguments, settings, ports
):
    if "grpc_listen" in settings:
        token = tmp_path / "token"
        token.touch(mode=0o600)
        token.write_text("a-gateway-token\n")
        settings = settings | {"gateway_token_file": token}
    ended = sidecar("envoy", "config", *UPSTREAM, *arguments, **settings)
    assert ended.code == 0, ended.err
    assert ports_of_clusters(ended.out) == dict(zip(("authz", "usage"), ports, strict=True))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--transport", "pigeon"), "expected one of otlp, als, both"),
        (("--body-bytes", "-1"), "body bytes -1"),
        (("--body-bytes", "100000000"), "body bytes 100000000"),
        (("--body-bytes", "many"), "body-bytes"),
        (("--listen", "nowhere"), "address 'nowhere'"),
        (("--upstream", "ftp://x"), "upstream 'ftp://x'"),
        (("--upstream", f"http://u:{SECRET}@h"), "user or password is not allowed"),
        (("--authz", "x"), "address 'x'"),
        (("--admin", "example.test:1"), "admin"),
    ],
)
def test_envoy_config_refuses_what_envoy_could_not_use(
    sidecar: Shell, arguments: tuple[str, ...], words: str
):
    ended = sidecar("envoy", "config", *UPSTREAM, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert words.lower() in ended.err.lower()
    assert SECRET not in ended.err


def test_a_data_directory_that_cannot_be_made_is_a_message(sidecar: Shell, tmp_path: Path):
    (tmp_path / "file").touch()
    ended = sidecar("envoy", "config", *UPSTREAM, data_dir=tmp_path / "file" / "data")
    assert ended.code == 2
    assert "set SIDECAR_DATA_DIR" in ended.err


@pytest.mark.parametrize("command", ["settle", "report"])
def test_a_round_is_asked_for_by_once(sidecar: Shell, command: str):
    ended = sidecar(command)
    assert (ended.code, ended.out) == (2, "")
    assert "--once" in ended.err


@pytest.mark.parametrize(
    ("dsn", "code", "words"),
    [
        ("", 2, "SIDECAR_POSTGRES_DSN is not set"),
        (f"mysql://u:{SECRET}@h/d", 2, "refuses this role or DSN"),
        (f"postgresql://u:{SECRET}@127.0.0.1:1/d", 3, "Postgres is unavailable"),
    ],
)
def test_migrate_says_why_it_cannot(sidecar: Shell, dsn: str, code: int, words: str):
    ended = sidecar("migrate", postgres_dsn=dsn)
    assert (ended.code, ended.out) == (code, "")
    assert words in ended.err
    assert SECRET not in ended.err


def test_doctor_finds_every_program_that_this_machine_has(sidecar: Shell):
    ended = sidecar("doctor", "--servers-only")
    assert ended.code == 0
    found = re.findall(r"^ok   (\w+) +(.+)$", ended.out, re.MULTILINE)
    assert [what for what, _ in found] == ["python", "redis", "postgres", "envoy"]
    assert all(detail for _, detail in found)


def test_doctor_says_what_is_missing_and_how_to_mend_it(sidecar: Shell, tmp_path: Path):
    ended = sidecar("doctor", redis_server="/no/redis", policy_dir=tmp_path / "absent")
    assert ended.code == 1
    lines = dict(re.findall(r"^(?:ok  |MISS) (\w+) +(.+)$", ended.out, re.MULTILINE))
    assert "MISS redis" in ended.out
    assert "Install one: " in lines["redis"]
    assert "MISS policy" in ended.out
    assert "absent" in lines["policy"]


def test_doctor_asks_external_stores_and_never_shows_their_passwords(sidecar: Shell):
    ended = sidecar(
        "doctor",
        redis_url=f"redis://:{SECRET}@127.0.0.1:1",
        postgres_dsn=f"postgresql://u:{SECRET}@127.0.0.1:1/d",
        secret_keys_file="/keys",
        admin_token_file="/admin",
    )
    assert ended.code == 1
    assert re.search(r"^MISS redis ", ended.out, re.MULTILINE)
    assert re.search(r"^MISS postgres ", ended.out, re.MULTILINE)
    assert SECRET not in ended.out + ended.err


def test_doctor_names_a_plan_that_subscriptions_give_and_the_policy_lacks(
    sidecar: Shell, tmp_path: Path
):
    file = tmp_path / "sidecar.yaml"
    file.write_text("stripe: {plans: {price_1: gold}, ended_plan: free}\n")
    ended = sidecar("doctor", "--config", str(file))
    assert re.search(r"^MISS plans +stripe.plans.price_1 is 'gold'", ended.out, re.MULTILINE)
    file.write_text("stripe: {plans: {price_1: prepaid}}\n")
    ended = sidecar("doctor", "--config", str(file))
    assert re.search(r"^ok   plans +subscriptions give prepaid$", ended.out, re.MULTILINE)


def test_doctor_names_the_form_of_a_redis_url_that_is_none(sidecar: Shell):
    ended = sidecar(
        *("doctor",),
        redis_url=f"http://:{SECRET}@h",
        secret_keys_file="/keys",
        admin_token_file="/admin",
        roles="gateway",
    )
    assert ended.code == 1
    assert "redis_url must be redis://HOST:PORT/DB" in ended.out
    assert SECRET not in ended.out + ended.err


def test_serve_names_a_role_that_there_is_not(sidecar: Shell):
    ended = sidecar("serve", "--roles", "waiter")
    assert ended.code == 2
    assert "the command line: roles" in ended.err
    assert "'gateway', 'settlement' or 'admin'" in ended.err


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_server_that_comes_without_the_other_commands_reads_its_line_as_they_do(
    sidecar: Shell, command: str, monkeypatch: pytest.MonkeyPatch
):
    lines = [(command, "--help"), (command, "--nonsense"), (command, "extra")]
    alone = [sidecar(*line) for line in lines]
    assert [ended.code for ended in alone] == [0, 2, 2]
    assert "--config" in alone[0].out
    monkeypatch.setattr(cli, "app", commands.app)
    assert [sidecar(*line) for line in lines] == alone
