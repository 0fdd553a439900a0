"""Python's collector of cycles, kept from a policy that is being loaded."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_LARGE = 100_000
"""Objects from which on looking at them would hold up checks for tens of milliseconds."""


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
