"""Python's collector of cycles: kept from a policy that is being loaded, and calm otherwise."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_LARGE: Final = 100_000
"""Objects from which on looking at them would hold up checks for tens of milliseconds."""
_YOUNG: Final = 100_000
"""
Objects more than were freed, until the youngest are looked at; Python's own is 700. More than live
in settlement's batches at a time, and so few that a look takes no more than three milliseconds.
"""
_LATER: Final = 20
"""Looks at the younger ones, until the older ones are looked at, too; Python's own is 10."""


def calm_collector() -> None:
    """
    Look for cycles seldom, and never again among what the process began with.

    Nearly all objects here are freed by their reference counts. A batch of settlement is tens of
    thousands of objects that all live until its commit: with Python's own thresholds the collector
    went through them, and through every module, again and again; that was a third of settlement's
    time. Call it once, when the modules are loaded and before work begins: it takes tens of
    milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _LATER, _LATER)


def freeze_start() -> None:
    """
    Never look at what a start has made: modules that were imported late, stores, listeners.

    Call it once a process serves. It takes no time, and what of it dies in a cycle is not freed.
    """
    gc.freeze()


@contextmanager
def quiet_collector() -> Iterator[None]:
    """
    Load a policy without looking for cycles, which it has none of.

    A large policy is a million objects on its way in. The collector would look at them again
    and again, each time for up to seconds in which no check is answered; two thirds of a load
    were that. What a large policy leaves is also taken out of the collector's sight: it is freed
    by its reference counts. So is all else that is alive at that moment; what of it dies in a
    cycle later is not freed, which is why this is left to loads that are large.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    before = gc.get_count()[0]
    try:
        yield
    finally:
        if gc.get_count()[0] - before > _LARGE:
            gc.freeze()
        gc.enable()
