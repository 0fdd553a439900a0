"""A gRPC engine with a handler that does nothing, in a process of its own. Run by path."""

import asyncio
import sys

import uvloop

from sidecar.inbound.grpc.engine import Call, UnaryMethod
from sidecar.inbound.grpc.fast.engine import FastEngine
from sidecar.inbound.grpc.grpcio_engine import GrpcioEngine

CHECK = "/envoy.service.auth.v3.Authorization/Check"


async def answer(_data: bytes, call: Call) -> bytes:
    """Read what every check reads of its metadata, and allow."""
    call.text("x-sidecar-gateway")
    call.text("x-sidecar-token")
    return b"\x0a\x00"


async def main() -> None:
    engine_class = {"fast": FastEngine, "grpcio": GrpcioEngine}[sys.argv[1]]
    engine = engine_class([UnaryMethod(CHECK, answer)], listen="127.0.0.1:0")
    print(await engine.start(), flush=True)  # noqa: T201  Read by who started it.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await engine.stop(1)


uvloop.run(main())
