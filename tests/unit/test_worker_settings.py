"""Where workers listen, and which settings they can share."""

from pathlib import Path

import pytest

from sidecar.app.worker_settings import check_workers, gateway_addresses, settings_of_worker
from sidecar.domain.errors import ConfigError
from sidecar.settings import Role, Settings

GOOD = {
    "roles": {Role.GATEWAY},
    "workers": 3,
    "redis_url": "redis://127.0.0.1:6379",
    "grpc_listen": "127.0.0.1:9100",
    "grpc_fast_listen": "unix:/run/sidecar/fast",
    "http_listen": "127.0.0.1:9000",
}


def settings(**changes) -> Settings:
    return Settings.model_validate(GOOD | changes)


def test_ports_count_up_and_paths_end_in_the_number():
    check_workers(settings())
    workers = [settings_of_worker(settings(), number) for number in range(3)]
    assert [one.grpc_listen for one in workers] == [f"127.0.0.1:910{n}" for n in range(3)]
    assert [one.grpc_fast_listen for one in workers] == [
        f"unix:/run/sidecar/fast.{n}" for n in range(3)
    ]
    assert {one.http_listen for one in workers} == {"127.0.0.1:9000"}
    assert {one.workers for one in workers} == {1}


def test_a_journal_and_an_http_socket_belong_to_one_worker_each():
    given = settings(
        journal="on", journal_dir=Path("/var/journal"), http_listen="unix:/run/sidecar/http"
    )
    workers = [settings_of_worker(given, number) for number in range(3)]
    assert [one.journal_dir for one in workers] == [
        Path(f"/var/journal/worker-{n}") for n in range(3)
    ]
    assert [one.http_listen for one in workers] == [f"unix:/run/sidecar/http.{n}" for n in range(3)]


def test_a_balancer_is_told_every_worker():
    assert gateway_addresses(settings(), "127.0.0.1:9100") == [
        f"127.0.0.1:910{n}" for n in range(3)
    ]
    assert gateway_addresses(settings(workers=1), "127.0.0.1:9100") == ["127.0.0.1:9100"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"roles": set(Role)}, "roles is admin, gateway, settlement"),
        ({"redis_url": ""}, "needs SIDECAR_REDIS_URL"),
        ({"grpc_listen": "127.0.0.1:0"}, "its port must be named"),
        ({"grpc_listen": "127.0.0.1:65534"}, "beyond 65535"),
        ({"grpc_listen": "127.0.0.1:8998"}, "both listen on 127.0.0.1:9000"),
        ({"supervisor_listen": "127.0.0.1:9000"}, "both listen on 127.0.0.1:9000"),
        (
            {"grpc_fast_listen": "127.0.0.1:9102"},
            "grpc_listen and grpc_fast_listen would both listen on 127.0.0.1:9102",
        ),
    ],
)
def test_what_workers_cannot_share_is_refused(changes, words):
    with pytest.raises(ConfigError) as refused:
        check_workers(settings(**changes))
    assert words in str(refused.value)
