"""
What an HTTP server costs before anything of ours runs: `aiohttp`, or `raw` asyncio.

Both take a whole request with its body and answer the same bytes; `raw` understands no more than
this load sends, so it is what a server of our own could cost at least. Run by path.
"""

import asyncio
import re
import sys

import uvloop
from aiohttp import web

BODY = b'{"allow":true,"hold":{"id":"' + b"0" * 40 + b'","token":"' + b"t" * 380 + b'"}}'
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: "
    + str(len(BODY)).encode()
    + b"\r\n\r\n"
    + BODY
)


class Raw(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.left = transport, b""

    def data_received(self, data):
        data = self.left + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            found = LENGTH.search(data, 0, end + 2)
            whole = end + 4 + (int(found[1]) if found else 0)
            if len(data) < whole:
                break
            data = data[whole:]
            self.transport.write(ANSWER)
        self.left = data


async def answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=BODY, content_type="application/json", charset="utf-8")


async def main() -> None:
    loop = asyncio.get_running_loop()
    if sys.argv[1] == "raw":
        server = await loop.create_server(Raw, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
    else:
        app = web.Application()
        app.router.add_post("/v1/check", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
    print(f"127.0.0.1:{port}", flush=True)  # noqa: T201  Read by who started it.
    await loop.run_in_executor(None, sys.stdin.read)


uvloop.run(main())
