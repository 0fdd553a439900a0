"""Long work on a loop that serves: some of it, then the others' turn."""

import asyncio
import time
from typing import Final, TypeVar

from sidecar.domain.steps import Steps

STRETCH_SECONDS: Final = 0.001
"""
Of work without a break. A check takes several turns of the loop, and each may wait for one such.
"""
PAUSE_SECONDS: Final = 0.001
"""Between two stretches, so that whoever serves has half of the processor at least."""

T = TypeVar("T")


class Turns:
    """Tells a piece of work when to pause; ask between any two of its steps."""

    def __init__(self) -> None:
        """Begin with a whole stretch."""
        self._until = time.perf_counter() + STRETCH_SECONDS

    async def next(self) -> None:
        """Go on at once, or after the others had their turn if the stretch is used up."""
        if time.perf_counter() < self._until:
            return
        await asyncio.sleep(PAUSE_SECONDS)
        self._until = time.perf_counter() + STRETCH_SECONDS

    async def through(self, steps: Steps[T]) -> T:
        """Take all steps; what came of them."""
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # StopIteration has no types.
            if time.perf_counter() >= self._until:
                await self.next()
