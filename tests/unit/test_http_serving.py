import asyncio
import socket
import stat
from pathlib import Path

import aiohttp
import pytest
from fixtures.http_edges import World, calling

from sidecar.domain.errors import ConfigError
from sidecar.inbound.http.finishing import Finishing
from sidecar.inbound.http.listening import hosts_answered, serve
from sidecar.inbound.listen_address import TcpAddress, UnixAddress, is_private, parse_listen


@pytest.mark.parametrize(
    ("text", "address", "private"),
    [
        ("127.0.0.1:9000", TcpAddress("127.0.0.1", 9000), True),
        ("127.8.8.8:0", TcpAddress("127.8.8.8", 0), True),
        ("localhost:9000", TcpAddress("localhost", 9000), True),
        ("[::1]:9000", TcpAddress("::1", 9000), True),
        ("[::]:9000", TcpAddress("::", 9000), False),
        ("0.0.0.0:9000", TcpAddress("0.0.0.0", 9000), False),
        (":9000", TcpAddress("", 9000), False),
        ("sidecar.example:9000", TcpAddress("sidecar.example", 9000), False),
        ("unix:/run/x.sock", UnixAddress(Path("/run/x.sock")), True),
    ],
)
def test_a_listen_address_is_read_and_known_to_be_private_or_not(
    text: str,
    address: object,
    private: bool,  # noqa: FBT001  A row of a table, named by its head.
):
    assert parse_listen(text) == address
    assert is_private(address) is private
    assert parse_listen(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "9000",
        "localhost",
        "host:",
        "host:70000",
        "::1:9000",
        "[x]:1",
        "[1.2.3.4]:1",
        "unix:",
        "a b:1",
        "unix:" + "x" * 108,
        "http://localhost:9000",
        "host:٣",
    ],
)
def test_what_is_no_listen_address_is_refused(text: str):
    with pytest.raises(ConfigError):
        parse_listen(text)


def test_host_names_are_known_on_loopback_and_where_the_operator_names_them():
    none: frozenset[str] = frozenset()
    loopback = hosts_answered(parse_listen("127.0.0.2:1"), frozenset({"Side.Car"}))
    assert loopback == {"localhost", "127.0.0.1", "::1", "127.0.0.2", "side.car"}
    assert hosts_answered(parse_listen("unix:/x"), none) is None
    assert hosts_answered(parse_listen("0.0.0.0:1"), none) is None
    assert hosts_answered(parse_listen("10.0.0.1:1"), frozenset({"pay"})) == {"10.0.0.1", "pay"}


def test_a_gateway_that_others_can_reach_needs_tokens():
    with pytest.raises(ConfigError, match="without a gateway token file"):
        World().gateway(listen="0.0.0.0:9000", tokens="")
    World().gateway(listen="0.0.0.0:9000")
    World().gateway(listen="127.0.0.1:9000", tokens="")


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:0"])
async def test_the_actual_port_is_told(listen: str):
    async with serve(World().gateway(), listen) as address:
        host, _, port = address.rpartition(":")
        assert int(port) > 0
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        await writer.wait_closed()


async def test_a_port_in_use_is_a_configuration_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1:"):
            async with serve(World().gateway(), f"127.0.0.1:{taken.getsockname()[1]}"):
                pass


async def test_a_unix_socket_is_for_owner_and_group_and_gone_afterwards(tmp_path: Path):
    path = tmp_path / "s.sock"
    listen = f"unix:{path}"
    async with calling(World().gateway(listen=listen), listen=listen) as call:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert (await call("GET", "/healthz", headers={"Host": "any"})).status == 200
    assert not path.exists()


async def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path):
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listen = f"unix:{path}"
    async with calling(World().gateway(listen=listen), listen=listen) as call:
        assert (await call("GET", "/healthz")).status == 200


async def test_a_socket_in_use_and_a_file_are_left_alone(tmp_path: Path):
    path = tmp_path / "s.sock"
    listen = f"unix:{path}"
    async with calling(World().gateway(listen=listen), listen=listen) as call:
        with pytest.raises(ConfigError, match="another process listens there"):
            async with serve(World().gateway(listen=listen), listen):
                pass
        assert (await call("GET", "/healthz")).status == 200
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="is no socket"):
        async with serve(World().gateway(), f"unix:{file}"):
            pass
    assert file.read_text() == "mine"


async def test_a_request_in_progress_ends_before_serving_does():
    world = World()
    key = await world.customer()
    reached, gate = asyncio.Event(), asyncio.Event()
    check = world.checks.check

    async def slow(request: object) -> object:
        reached.set()
        await gate.wait()
        return await check(request)

    world.checks.check = slow
    body = {"method": "POST", "path": "/ai/chat", "headers": {"x-api-key": key}}
    async with aiohttp.ClientSession() as session:
        async with serve(world.gateway(), "127.0.0.1:0", shutdown_seconds=10) as address:
            asking = asyncio.create_task(session.post(f"http://{address}/v1/check", json=body))
            await reached.wait()
            asyncio.get_running_loop().call_later(0.05, gate.set)
        async with await asking as response:
            assert (await response.json())["allow"] is True


async def test_work_that_nobody_awaits_is_waited_for_at_the_end_and_then_cancelled():
    finishing, done = Finishing(), []

    async def short() -> None:
        await asyncio.sleep(0.01)
        done.append("short")

    async def endless() -> None:
        await asyncio.Event().wait()

    async def failing() -> None:
        raise RuntimeError("logged, not raised")

    finishing.leave(short())
    finishing.leave(failing())
    stuck = finishing.start(endless())
    await finishing.drain(0.2)
    assert done == ["short"]
    assert stuck.cancelled()


async def test_work_goes_on_when_its_caller_is_cancelled():
    finishing, gate, done = Finishing(), asyncio.Event(), []

    async def work() -> None:
        await gate.wait()
        done.append(1)

    caller = asyncio.create_task(finishing.run(work()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert caller.cancelled()
    gate.set()
    await finishing.drain(1)
    assert done == [1]
