"""
Process settings: environment variables over `sidecar.yaml`, fixed for the life of a process.

Policy (prices, rules, meters) is not here: it is reloaded, this is not.
"""

import difflib
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from sidecar.domain.errors import ConfigError
from sidecar.domain.invoices import LatePolicy
from sidecar.inbound import listen_address
from sidecar.inbound.listen_address import ListenAddress, TcpAddress
from sidecar.outbound.notify.settings import NotifySettings
from sidecar.settings_allotments import AllotmentSettings
from sidecar.settings_reports import ReportSettings, ReportTo, StripeDefaults

ENVIRONMENT_PREFIX = "SIDECAR_"
SETTINGS_BYTES_MAX = 1_000_000


class Role(StrEnum):
    """What a process does; any mix."""

    GATEWAY = "gateway"
    SETTLEMENT = "settlement"
    ADMIN = "admin"


class Rebuild(StrEnum):
    """Whether settlement makes shards of a Redis that lost its data anew, or people do."""

    AUTO = "auto"
    MANUAL = "manual"


class JournalMode(StrEnum):
    """Whether a gateway keeps captures on its own disk; `auto` where a folder is at hand."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class EnvoyDefaults(BaseModel):
    """Defaults of `sidecar envoy config`; its options win."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: str = "127.0.0.1:10000"
    upstream: str = ""
    authz: str = ""
    transport: str = "otlp"
    body_bytes: int = Field(default=32_768, ge=0, le=65_536)
    gateway_id: str = Field(default="gateway-1", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")


class Settings(AllotmentSettings, ReportSettings):
    """
    All settings of a process; each is `SIDECAR_<NAME>` in the environment too.

    Durations are seconds or milliseconds as the name ends; sizes are bytes or counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    roles: frozenset[Role] = Field(default=frozenset(Role), min_length=1)
    grpc_listen: str = "127.0.0.1:9001"
    grpc_fast_listen: str = "127.0.0.1:9201"
    http_listen: str = "127.0.0.1:9000"
    admin_listen: str = "127.0.0.1:9002"
    # Both may hold a password.
    redis_url: str = Field(default="", repr=False)
    redis_server: str = ""
    postgres_dsn: str = Field(default="", repr=False)
    policy_dir: Path = Path("config/policy")
    data_dir: Path | None = None
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    workers: int = Field(default=1, ge=1, le=64)
    supervisor_listen: str = "127.0.0.1:9005"

    secret_keys_file: Path | None = None
    gateway_token_file: Path | None = None
    admin_token_file: Path | None = None
    stripe_api_key_file: Path | None = None
    stripe_base_url: str = ""
    stripe_webhook_secret_file: Path | None = None
    webhook_body_bytes_max: int = Field(default=524_288, ge=1_024, le=1_048_576)
    inbox_interval_seconds: float = Field(default=0.2, gt=0, le=3_600)
    inbox_concurrency_max: int = Field(default=8, ge=1, le=1_000)
    inbox_attempts_max: int = Field(default=20, ge=1, le=100)
    inbox_retention_days: int = Field(default=35, ge=4, le=3_650)
    standing_grace_seconds: int = Field(default=259_200, ge=0, le=31_622_400)
    standing_minimum: str = Field(default="0", pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$")
    standing_interval_seconds: float = Field(default=1.0, gt=0, le=3_600)
    provider_sweep_seconds: int = Field(default=86_400, ge=60, le=604_800)
    provider_sweep_reads_max: int = Field(default=200, ge=20, le=100_000)
    # A token may stand in its query.
    top_up_url: str = Field(default="", repr=False)
    top_up_secret_file: Path | None = None
    top_up_timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    # A password may stand in it.
    smtp_url: str = Field(default="", repr=False)
    paystack_secret_file: Path | None = None
    paystack_base_url: str = ""
    webhook_provider_url: str = Field(default="", repr=False)
    webhook_provider_secret_file: Path | None = None
    webhook_provider_timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    report_to: ReportTo = ReportTo.STRIPE

    shards: int = Field(default=64, ge=1, le=1_024)
    hold_ttl_seconds: int = Field(default=120, ge=1, le=86_400)
    check_timeout_ms: int = Field(default=500, ge=50, le=30_000)
    store_timeout_ms: int = Field(default=50, ge=5, le=10_000)
    usage_store_timeout_ms: int = Field(default=2_000, ge=5, le=60_000)
    redis_connections_max: int = Field(default=64, ge=1, le=10_000)
    postgres_connections_max: int = Field(default=10, ge=2, le=1_000)
    directory_entries_max: int = Field(default=100_000, ge=1, le=10_000_000)
    directory_seconds: int = Field(default=30, ge=1, le=3_600)
    sweep_interval_seconds: float = Field(default=2.0, gt=0, le=3_600)
    reconcile_interval_seconds: float = Field(default=3_600.0, ge=10, le=604_800)
    settle_interval_seconds: float = Field(default=0.2, gt=0, le=3_600)
    settle_batch_max: int = Field(default=1_000, ge=1, le=100_000)
    lease_seconds: int = Field(default=30, ge=1, le=3_600)
    rebuild: Rebuild = Rebuild.AUTO
    invoice_grace_seconds: int = Field(default=3_600, ge=0, le=2_592_000)
    invoice_late_usage: LatePolicy = LatePolicy.NEXT_PERIOD
    invoice_from: AwareDatetime | None = None
    invoice_interval_seconds: float = Field(default=60.0, gt=0, le=86_400)
    invoice_batch_max: int = Field(default=200, ge=1, le=2_000)
    invoice_sum_seconds: float = Field(default=300.0, ge=1, le=3_600)
    report_interval_seconds: float = Field(default=5.0, gt=0, le=3_600)
    report_concurrency_max: int = Field(default=16, ge=1, le=1_000)
    catalog_objects_max: int = Field(default=10_000, ge=100, le=1_000_000)
    collect_interval_seconds: float = Field(default=5.0, gt=0, le=3_600)
    collect_concurrency_max: int = Field(default=8, ge=1, le=1_000)
    collect_attempts_max: int = Field(default=4, ge=1, le=50)
    collect_attempt_every_hours: int = Field(default=72, ge=1, le=8_760)
    collect_look_every_seconds: int = Field(default=900, ge=10, le=86_400)
    collect_due_days: int = Field(default=14, ge=0, le=366)
    policy_watch_seconds: float = Field(default=0.25, gt=0, le=3_600)
    decision_log_buffer: int = Field(default=10_000, ge=1, le=1_000_000)
    decision_stream_max: int = Field(default=5_000, ge=1, le=1_000_000)
    decision_explain_sample: float = Field(default=0.0, ge=0, le=1)
    decision_retention_days: int = Field(default=30, ge=1, le=3_650)
    journal: JournalMode = JournalMode.AUTO
    journal_dir: Path | None = None
    journal_segment_bytes: int = Field(default=16_777_216, ge=65_536, le=268_435_456)
    journal_bytes_max: int = Field(default=1_073_741_824, ge=1_048_576, le=1_099_511_627_776)
    journal_queue_max: int = Field(default=10_000, ge=1_000, le=1_000_000)
    drain_seconds: float = Field(default=10.0, ge=0, le=600)
    hosts: tuple[str, ...] = ()
    envoy: EnvoyDefaults = EnvoyDefaults()
    notify: NotifySettings = NotifySettings()
    stripe: StripeDefaults = StripeDefaults()

    @field_validator("roles", mode="before")
    @classmethod
    def _split_roles(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("journal", "grpc_fast_listen", mode="before")
    @classmethod
    def _read_switch(cls, value: Any) -> Any:
        """YAML reads a bare `on` or `off` as a truth value."""
        return ("on" if value else "off") if isinstance(value, bool) else value

    @field_validator("journal_bytes_max")
    @classmethod
    def _check_journal(cls, value: int, info: ValidationInfo) -> int:
        segment = info.data.get("journal_segment_bytes", 0)
        if value < 2 * segment:
            raise ValueError(f"must be at least twice journal_segment_bytes ({segment})")
        return value

    @field_validator("grpc_listen", "http_listen", "admin_listen", "supervisor_listen")
    @classmethod
    def _check_listen(cls, value: str) -> str:
        parse_listen(value)
        return value

    @field_validator("grpc_fast_listen")
    @classmethod
    def _check_fast_listen(cls, value: str) -> str:
        if value in {"", "off"}:
            return ""
        if not is_local(value):
            raise ValueError(
                f"{value} can be reached by others: the fast engine listens on 127.0.0.1, ::1 or "
                "a unix socket, or is off; grpc_listen takes any address"
            )
        return value

    def has(self, role: Role) -> bool:
        """Whether this process plays the role."""
        return role in self.roles

    @property
    def embedded_redis(self) -> bool:
        """Whether Sidecar starts its own Redis."""
        return not self.redis_url

    @property
    def embedded_postgres(self) -> bool:
        """Whether Sidecar starts its own Postgres: only where a role needs one."""
        return not self.postgres_dsn and bool(self.roles & {Role.SETTLEMENT, Role.ADMIN})

    @property
    def embedded(self) -> bool:
        """Whether any store is ours; then secrets are made in the data directory."""
        return self.embedded_redis or self.embedded_postgres


def _split(value: Any) -> Any:
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


def parse_listen(value: str) -> ListenAddress:
    """
    Read a listen address; unlike a listener's own, it must name its host.

    Raises:
        ValueError: If it is none.
    """
    try:
        address = listen_address.parse_listen(value)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    if isinstance(address, TcpAddress) and not address.host:
        raise ValueError(f"listen address {value!r} names no host; write 0.0.0.0 for all of them")
    return address


def is_local(value: str) -> bool:
    """Whether a listen address is a unix socket or on the loopback interface."""
    return listen_address.is_private(parse_listen(value))


def load_settings(
    path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """
    Read settings: overrides (command line), then environment, then the file, then defaults.

    Args:
        path: A `sidecar.yaml`; relative paths inside it are relative to its folder.
        environment: Defaults to the process's own.
        overrides: Values from the command line; None values are left out.

    Raises:
        ConfigError: With each problem: what was found, where, and what is allowed.
    """
    values, origins = _gather(
        path, os.environ if environment is None else environment, overrides or {}
    )
    problems = [
        f"{origins[name]}: {_unknown(name)}" for name in values if name not in Settings.model_fields
    ]
    known = {name: value for name, value in values.items() if name in Settings.model_fields}
    try:
        settings = Settings.model_validate(known)
    except ValidationError as error:
        problems += [
            f"{origins.get(str(item['loc'][0]), 'settings')}: "
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_input=False)
        ]
        raise ConfigError("\n".join(problems)) from error
    if problems:
        raise ConfigError("\n".join(problems))
    check_exposure(settings)
    return settings


def _gather(
    path: Path | None, environment: Mapping[str, str], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Each setting's winning value, and where it came from."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if path is not None:
        for name, value in _read_file(path).items():
            values[name] = _relative(name, value, path.parent)
            origins[name] = str(path)
    for variable, text in environment.items():
        if variable.startswith(ENVIRONMENT_PREFIX) and text:
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            values[name], origins[name] = text, variable
    for name, value in overrides.items():
        if value is not None:
            values[name], origins[name] = value, "the command line"
    return values, origins


def check_exposure(settings: Settings) -> None:
    """
    Refuse a listener beyond this machine without its secret.

    Raises:
        ConfigError: Names the listener and the setting that is missing.
    """
    exposed = {
        "grpc_listen": (Role.GATEWAY, "gateway_token_file"),
        "http_listen": (Role.GATEWAY, "gateway_token_file"),
        "admin_listen": (Role.ADMIN, "admin_token_file"),
    }
    problems = []
    for listener, (role, secret) in exposed.items():
        address = getattr(settings, listener)
        if settings.has(role) and not is_local(address) and getattr(settings, secret) is None:
            problems.append(
                f"{listener} is {address}, which others can reach: set "
                f"{ENVIRONMENT_PREFIX}{secret.upper()} or listen on 127.0.0.1 or a unix socket"
            )
    admin_is_bare = settings.has(Role.ADMIN) and settings.admin_token_file is None
    if admin_is_bare and not settings.embedded:
        problems.append(
            "the admin role needs SIDECAR_ADMIN_TOKEN_FILE when it has a Redis and a "
            "Postgres of its own"
        )
    if not settings.embedded_redis and settings.secret_keys_file is None:
        # Processes that share a Redis must hash credentials and sign tokens alike.
        problems.append("SIDECAR_SECRET_KEYS_FILE is needed with an external Redis")
    if problems:
        raise ConfigError("\n".join(problems))


def _read_file(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > SETTINGS_BYTES_MAX:
        raise ConfigError(f"{path}: larger than {SETTINGS_BYTES_MAX} bytes")
    try:
        data = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_yaml_problem(error)}") from None
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"{path}: must be a mapping of setting names to values")
    return data


def _yaml_problem(error: yaml.YAMLError) -> str:
    """Where and what, without the line itself: a URL with a password may stand in it."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f":{error.problem_mark.line + 1}: not YAML: {error.problem}"
    return ": not YAML"


def _relative(name: str, value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _relative(str(key), inner, folder) for key, inner in value.items()}
    is_path = name.endswith(("_file", "_dir"))
    if is_path and isinstance(value, str) and not Path(value).is_absolute():
        return folder / value
    return value


def _unknown(name: str) -> str:
    known = sorted(Settings.model_fields)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
    return f"unknown setting {name!r}; {hint}"
