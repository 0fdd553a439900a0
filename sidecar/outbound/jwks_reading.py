"""Where key sets come from: an https URL, http on this machine, or a file."""

import asyncio
import stat
from pathlib import Path

import aiohttp

JWKS_BYTES_MAX = 262_144
_OK = 200


class KeySetError(Exception):
    """A key set cannot be used; the text is safe to log."""


async def read_key_set(session: aiohttp.ClientSession, where: str) -> bytes:
    """
    The bytes at a URL or in a file, bounded.

    Raises:
        KeySetError: If they cannot be had.
    """
    if where.startswith("/"):
        return await asyncio.to_thread(_read_file, Path(where))
    try:
        # A redirect could lead to http or into our own network; the operator names the place.
        async with session.get(where, allow_redirects=False) as response:
            if response.status != _OK:
                raise KeySetError(f"it answered {response.status}; expected 200")
            return await _read_body(response)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise KeySetError(f"it cannot be reached: {type(error).__name__}") from error


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    # By pieces: a compressed answer may be far larger than what was sent of it.
    async for piece in response.content.iter_chunked(65_536):
        data += piece
        if len(data) > JWKS_BYTES_MAX:
            raise KeySetError(f"it is larger than {JWKS_BYTES_MAX} bytes")
    return bytes(data)


def _read_file(path: Path) -> bytes:
    try:
        # A pipe or device would block or never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise KeySetError("it is not a regular file")
        with path.open("rb") as file:
            return file.read(JWKS_BYTES_MAX + 1)
    except OSError as error:
        raise KeySetError(f"it cannot be read: {error.strerror}") from error
