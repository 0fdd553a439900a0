"""A plan of failures, drawn from a seed or from a script."""

import random
from collections import deque
from collections.abc import Iterable, Mapping
from enum import StrEnum

METER_EVENTS_PATH = "/v1/billing/meter_events"


class Fault(StrEnum):
    """
    What goes wrong with one request.

    `commit` is the moment the request takes effect. TRUNCATE sends half of the answer's body, so
    that status and headers arrive; NOT_JSON sends a proxy's page with the status; TIMEOUT keeps
    the connection open without an answer.
    LATENCY commits late and answers: with a shorter client timeout that is a commit after the
    client has given up.
    """

    NONE = "none"
    DROP_BEFORE_COMMIT = "drop_before_commit"
    DROP_AFTER_COMMIT = "drop_after_commit"
    TRUNCATE_AFTER_COMMIT = "truncate_after_commit"
    ERROR_BEFORE_COMMIT = "error_before_commit"
    ERROR_AFTER_COMMIT = "error_after_commit"
    TIMEOUT_BEFORE_COMMIT = "timeout_before_commit"
    TIMEOUT_AFTER_COMMIT = "timeout_after_commit"
    NOT_JSON_AFTER_COMMIT = "not_json_after_commit"
    RATE_LIMIT = "rate_limit"
    LOCK_TIMEOUT = "lock_timeout"
    LATENCY = "latency"


class Faults:
    """
    Decides which request fails how: the script first, one item a request, then the dice.

    Only well-formed, authorised requests draw, so that a script meets the requests it was
    written for.

    Args:
        seed: Same seed and same order of requests, same faults. Print it when a test fails.
        probabilities: Per fault 0..1, at most 1 together.
        script: Faults of the first requests; `Fault.NONE` lets one pass.
        paths: Paths that draw; one that ends in `/` stands for all below it; None means all.
        latency_seconds: How long LATENCY waits.
        timeout_seconds: How long TIMEOUT_* waits before it closes the connection.

    Raises:
        ValueError: If the probabilities are none.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        probabilities: Mapping[Fault, float] | None = None,
        script: Iterable[Fault] = (),
        paths: frozenset[str] | None = frozenset({METER_EVENTS_PATH}),
        latency_seconds: float = 0.05,
        timeout_seconds: float = 30.0,
    ) -> None:
        chances = dict(probabilities or {})
        if any(chance < 0 for chance in chances.values()) or sum(chances.values()) > 1 + 1e-9:
            raise ValueError("probabilities of faults must be at least 0 and at most 1 together")
        self.seed = seed
        self.latency_seconds = latency_seconds
        self.timeout_seconds = timeout_seconds
        self._chances = chances
        self._script = deque(script)
        self._paths = paths
        # Repeatable dice, no secret.
        self._random = random.Random(seed)  # noqa: S311 - Faults must repeat from a seed.
        self._drawn: dict[Fault, int] = {}

    @property
    def drawn(self) -> dict[Fault, int]:
        """How often each fault was drawn, NONE included."""
        return dict(self._drawn)

    def add(self, *script: Fault) -> None:
        """Append to the script."""
        self._script.extend(script)

    def stop(self) -> None:
        """Let every later request pass: the calm after the storm in which all must settle."""
        self._script.clear()
        self._chances = {}

    def draw(self, path: str) -> Fault:
        """The fault of the next request to this path."""
        if self._paths is not None and not self._draws(path):
            return Fault.NONE
        fault = self._script.popleft() if self._script else self._roll()
        self._drawn[fault] = self._drawn.get(fault, 0) + 1
        return fault

    def _draws(self, path: str) -> bool:
        folders = tuple(item for item in self._paths or () if item.endswith("/"))
        return path in (self._paths or ()) or path.startswith(folders)

    def _roll(self) -> Fault:
        point = self._random.random()
        for fault, chance in self._chances.items():
            if point < chance:
                return fault
            point -= chance
        return Fault.NONE
