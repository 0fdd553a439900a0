"""What time will do: actions by the instant at which they fall due."""

import heapq
import itertools
from collections.abc import Callable

from sidecar.standins.stripe_errors import StandinFull


class Agenda:
    """
    Actions that wait for their time, the earliest first, equal ones in order of their entry.

    An action is never taken out: it looks for itself whether there is still something to do.

    Args:
        actions_max: More of them may not wait.
    """

    def __init__(self, actions_max: int) -> None:
        self._actions_max = actions_max
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, instant: int, action: Callable[[], None]) -> None:
        """Enter an action for an instant, in seconds since 1970; a past one is due at once."""
        if len(self._heap) >= self._actions_max:
            raise StandinFull("actions_max things wait for their time")
        heapq.heappush(self._heap, (instant, next(self._numbers), action))

    @property
    def next_due(self) -> int | None:
        """When the earliest action falls due, or None."""
        return self._heap[0][0] if self._heap else None

    def run_next(self) -> None:
        """Take the earliest action, whatever the time."""
        heapq.heappop(self._heap)[2]()
