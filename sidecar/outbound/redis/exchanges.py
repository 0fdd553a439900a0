"""Around each exchange with Redis: how long it took, and its errors in our words."""

import time
from functools import lru_cache
from typing import Self

from prometheus_client import Histogram
from redis.exceptions import AskError, RedisError, ResponseError

from sidecar import telemetry
from sidecar.domain.errors import StoreUnavailable
from sidecar.outbound.redis.errors import StoreDamaged

_ERROR_CHARS_MAX = 200


class Exchange:
    """Around one exchange: observes it under its name, and gives its errors our words."""

    __slots__ = ("_call", "_started", "failed")

    def __init__(self, call: str) -> None:
        """`call` is a script's name or its (first) command's; empty if it is not observed."""
        self._call = call
        self.failed = False
        """Whether a part of it has failed, though it has not raised."""

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: object
    ) -> None:
        if self._call:
            outcome = "ok" if error is None and not self.failed else "unavailable"
            _observer(self._call, outcome).observe(time.perf_counter() - self._started)
        if error is not None:
            ours = translate(error)
            if ours is not None:
                raise ours from error


@lru_cache(maxsize=256)
def _observer(call: str, outcome: str) -> Histogram:
    """Looked up once: finding a metric by its labels costs more than observing."""
    return telemetry.STORE_CALL_DURATION.labels("redis", call, outcome)


def translate(error: BaseException) -> StoreUnavailable | None:
    """What a driver's error is to callers; None for what is none of a driver's."""
    if isinstance(error, TimeoutError):
        return StoreUnavailable("redis gave no answer in time")
    if isinstance(error, AskError):
        return StoreUnavailable(
            "redis is a node of a cluster; redis_url must be redis+cluster://HOST:PORT,HOST:PORT"
        )
    if isinstance(error, ResponseError):
        words = str(error)[:_ERROR_CHARS_MAX]
        if "WRONGTYPE" in words:
            return StoreDamaged("redis: a key of ours has another type")
        return StoreUnavailable(f"redis refused: {words}")
    if isinstance(error, RedisError | OSError):
        return StoreUnavailable(f"redis: {str(error)[:_ERROR_CHARS_MAX]}")
    return None
