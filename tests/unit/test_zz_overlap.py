"""Repro: a check that Envoy asks again while the first try is still under way."""
import asyncio
from fixtures.grpc_edges import *
from fixtures.http_edges import World

async def test_overlap():
    world = World(); await add_customer(world)
    handler = check_handler(world)
    raw = check_request().SerializeToString()
    world.state.gate.clear()                        # the store is slow
    first = asyncio.create_task(handler.check(raw, call_with()))
    await asyncio.sleep(0.01)
    first.cancel()                                  # Envoy's stream is reset ...
    await asyncio.gather(first, return_exceptions=True)
    second = asyncio.create_task(handler.check(raw, call_with()))   # ... and Envoy asks again
    await asyncio.sleep(0.01)
    world.state.gate.set()
    assert allows(await second)
    await asyncio.sleep(0.05)
    print("held", world.held())
    assert world.held() == CHECK_NANO, "the hold of an allowed request was given back"
