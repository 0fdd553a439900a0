"""
A small upstream that answers like OpenAI's chat completions: JSON and SSE, with `usage`.

It says what it used, so the demo can be counted by hand: the prompt costs one token for each
four characters (at least one), the completion as many tokens as `max_tokens` allows.
"""

import asyncio
import json
from contextlib import suppress
from typing import Any

from aiohttp import web

MODEL = "gpt-4o-mini"
DEFAULT_COMPLETION_TOKENS = 16
CHUNKS_MAX = 8
"""Text is told in few chunks however many tokens it counts: the demo is about the counts."""
CHARACTERS_PER_TOKEN = 4
_CHUNK_PAUSE = 0.02


def build_upstream() -> web.Application:
    """The application; serves any path under /, as gateways rewrite prefixes."""
    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_post("/{path:.*}", _complete)
    return app


def count_usage(body: dict[str, Any]) -> dict[str, int]:
    """The `usage` object of an answer to this request body."""
    text = "".join(str(message.get("content", "")) for message in body.get("messages", []))
    prompt = max(1, len(text) // CHARACTERS_PER_TOKEN)
    completion = int(body.get("max_tokens", DEFAULT_COMPLETION_TOKENS))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


async def _complete(request: web.Request) -> web.StreamResponse:
    try:
        body = await request.json()
        usage = count_usage(body)
    except (ValueError, AttributeError, TypeError):
        return web.json_response({"error": {"message": "not a chat request"}}, status=400)
    if body.get("stream"):
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        # A client that hangs up is part of the story.
        with suppress(ConnectionResetError):
            await _stream(response, body, usage)
        return response
    return web.json_response(
        {
            "id": "chatcmpl-demo",
            "object": "chat.completion",
            "model": body.get("model", MODEL),
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hello from the demo."},
                    "finish_reason": "stop",
                }
            ],
            "usage": usage,
        }
    )


async def _stream(
    response: web.StreamResponse, body: dict[str, Any], usage: dict[str, int]
) -> None:
    options = body.get("stream_options") or {}
    # A body that asks for it is told slowly, so that a client has time to leave.
    pause = 1.0 if body.get("user") == "slow" else _CHUNK_PAUSE
    for _ in range(min(CHUNKS_MAX, usage["completion_tokens"])):
        await _send(response, _chunk(body, [{"index": 0, "delta": {"content": "Hello "}}], None))
        await asyncio.sleep(pause)
    if options.get("include_usage"):
        await _send(response, _chunk(body, [], usage))
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()


def _chunk(
    body: dict[str, Any], choices: list[Any], usage: dict[str, int] | None
) -> dict[str, Any]:
    return {
        "id": "chatcmpl-demo",
        "object": "chat.completion.chunk",
        "model": body.get("model", MODEL),
        "choices": choices,
        "usage": usage,
    }


async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
