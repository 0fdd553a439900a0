"""Key sets from real places: a server that rotates, goes away and misbehaves, and files."""

import asyncio
import gzip
import os
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, web
from fixtures.stack import free_port
from fixtures.tokens import ISSUER, Signer, key_set

from sidecar.domain.identity import JwtSource
from sidecar.outbound import jwks
from sidecar.outbound.jwks import JwksVerifier
from sidecar.outbound.jwks_reading import JWKS_BYTES_MAX, KeySetError, read_key_set
from sidecar.services.token_ports import KeysAway, TokenRefused

OLD, NEW = Signer("old", "EC"), Signer("new", "EC")


class Issuer:
    def __init__(self):
        self.data = key_set(OLD)
        self.asked = Counter()

    async def handle(self, request):
        self.asked[request.path] += 1
        match request.path:
            case "/keys":
                return web.Response(body=self.data, content_type="text/plain")
            case "/moved":
                raise web.HTTPFound("/keys")
            case "/bomb":
                packed = gzip.compress(b" " * (JWKS_BYTES_MAX * 20))
                return web.Response(body=packed, headers={"content-encoding": "gzip"})
            case "/slow":
                await asyncio.sleep(60)
        raise web.HTTPInternalServerError


@asynccontextmanager
async def serving(issuer, port=0):
    app = web.Application()
    app.router.add_get("/{path:.*}", issuer.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running(verifier):
    stop = asyncio.Event()
    task = asyncio.create_task(verifier.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def until(probe, seconds=20.0):
    async with asyncio.timeout(seconds):
        while not probe():  # noqa: ASYNC110  There is no event to wait for.
            await asyncio.sleep(0.02)


def source_at(where):
    return JwtSource(issuer=ISSUER, jwks=where, algorithms=("ES256",))


@pytest.fixture
def hasty(monkeypatch):
    """The same rules, in shorter times."""
    monkeypatch.setattr(jwks, "PAUSE_SECONDS", 0.5)
    monkeypatch.setattr(jwks, "_TICK_SECONDS", 0.1)


async def test_a_rotation_is_followed_and_an_outage_survived(hasty, monkeypatch):
    issuer, port = Issuer(), free_port()
    source = source_at(f"http://127.0.0.1:{port}/keys")
    verifier = JwksVerifier(lambda: [source.jwks])

    def is_good(signer):
        return isinstance(verifier.verify(source, signer.token()), dict)

    async with running(verifier):
        # The issuer is away at the start: nothing is believed, and nothing breaks.
        await asyncio.sleep(0.3)
        assert verifier.verify(source, OLD.token()) == KeysAway()
        async with serving(issuer, port):
            await until(lambda: is_good(OLD))
            issuer.data = key_set(OLD, NEW)
            assert isinstance(verifier.verify(source, NEW.token()), TokenRefused)
            await until(lambda: is_good(NEW))
            assert is_good(OLD)
        # It goes away while keys are due: those at hand serve.
        monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.0)
        await asyncio.sleep(1.2)
        assert is_good(NEW)
        monkeypatch.setattr(jwks, "STALE_SECONDS", 0.5)
        assert verifier.verify(source, NEW.token()) == KeysAway()
        async with serving(issuer, port):
            await until(lambda: is_good(NEW))


async def test_a_flood_of_unknown_keys_does_not_reach_the_issuer(hasty):
    issuer = Issuer()
    async with serving(issuer) as address:
        source = source_at(f"{address}/keys")
        verifier = JwksVerifier(lambda: [source.jwks])
        async with running(verifier):
            await until(lambda: isinstance(verifier.verify(source, OLD.token()), dict))
            tokens = [OLD.token(headers={"kid": f"guess-{n}"}) for n in range(200)]
            before = issuer.asked["/keys"]
            loop = asyncio.get_running_loop()
            began = loop.time()
            while loop.time() - began < 2.0:
                for token in tokens:
                    verifier.verify(source, token)
                await asyncio.sleep(0.01)
            seconds = loop.time() - began
        assert 1 <= issuer.asked["/keys"] - before <= seconds / 0.5 + 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/moved", "it answered 302; expected 200"),
        ("/missing", "it answered 500; expected 200"),
        ("/bomb", "larger than"),
    ],
)
async def test_what_misbehaves_is_told_and_not_followed(path, message):
    issuer = Issuer()
    async with serving(issuer) as address, ClientSession() as session:
        with pytest.raises(KeySetError, match=message):
            await read_key_set(session, address + path)
    assert issuer.asked["/keys"] == 0


async def test_a_server_that_is_away_or_hangs_is_told_without_its_address():
    from aiohttp import ClientTimeout  # noqa: PLC0415  Only here a wait is cut.

    async with ClientSession(timeout=ClientTimeout(total=0.3)) as session:
        with pytest.raises(KeySetError, match="cannot be reached: ClientConnectorError"):
            await read_key_set(session, f"http://127.0.0.1:{free_port()}/keys")
        async with serving(Issuer()) as address:
            with pytest.raises(KeySetError, match="cannot be reached: "):
                await read_key_set(session, f"{address}/slow")


async def test_a_file_is_read_and_read_again(hasty, monkeypatch, tmp_path):
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.0)
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(OLD))
    source = source_at(str(path))
    verifier = JwksVerifier(lambda: [source.jwks])
    async with running(verifier):
        await until(lambda: isinstance(verifier.verify(source, OLD.token()), dict))
        path.write_bytes(key_set(NEW))
        await until(lambda: isinstance(verifier.verify(source, NEW.token()), dict))


async def test_what_is_no_file_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KeySetError, match="not a regular file"):
        await read_key_set(None, str(tmp_path / "pipe"))
    with pytest.raises(KeySetError, match="No such file"):
        await read_key_set(None, str(tmp_path / "missing"))


async def test_it_stops_while_the_issuer_hangs():
    async with serving(Issuer()) as address:
        verifier = JwksVerifier(lambda: [f"{address}/slow"])
        task = asyncio.create_task(verifier.run(asyncio.Event()))
        await asyncio.sleep(0.2)
        task.cancel()
        ended, _ = await asyncio.wait({task}, timeout=5)
        assert ended == {task}
        assert task.cancelled()
