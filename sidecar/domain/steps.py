"""
Work in steps: a generator that yields wherever others may have their turn.

What a policy knows of its rules takes tenths of a second to work out if they are many. Whoever
serves meanwhile runs it in turns; whoever does not, at once.
"""

from collections.abc import Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
Container = dict[Any, Any] | set[Any] | list[Any]
Steps = Generator[None, None, T]
"""Yields between short steps, and returns what came of them."""


def at_once(steps: Steps[T]) -> T:
    """Take all steps, one after the other; what came of them."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # StopIteration has no types.


def emptied(containers: Iterable[Container]) -> Steps[None]:
    """Empty containers, and so free what only they refer to, an entry at a time."""
    for container in containers:
        take = container.popitem if isinstance(container, dict) else container.pop
        while container:
            take()
            yield
