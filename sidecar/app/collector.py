"""How often Python's collector of cycles looks at the objects of a process that serves."""

import gc
from typing import Final

_YOUNG: Final = 20_000
"""Objects more than were freed, until the youngest are looked at; Python's own is 700."""
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
