"""
A policy that was replaced, freed a little at a time.

The last reference to 10,000 rules would free them in one step of 30 ms.
"""

import asyncio
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from sidecar.domain.steps import Container, emptied
from sidecar.outbound.policy_files.loader import LoadedPolicy
from sidecar.outbound.policy_files.turns import Turns

if TYPE_CHECKING:
    from sidecar.domain.policy import Policy

_SMALL: Final = 1_000
"""Entries that are freed in less than 5 ms."""
_LOOK_SECONDS: Final = 0.5
_IN_USE_SECONDS_MAX: Final = 60.0
"""A check that began with a policy ends within seconds; who keeps one longer frees it himself."""


class Remains:
    """
    The parts of one policy, kept until they are freed.

    Take it while the policy is still referred to elsewhere, and drop your own reference then.
    """

    def __init__(self, loaded: LoadedPolicy) -> None:
        """Refer to the parts, and to the policy only weakly."""
        self._policy: weakref.ref[Policy] = weakref.ref(loaded.policy)
        owners = (loaded.policy, loaded.places, loaded)
        self._parts: list[Container] = [
            *loaded.policy.containers(),
            list(loaded.policy.routes.patterns),
            *(entries for owner in owners for entries in _entries(owner)),
        ]

    @property
    def small(self) -> bool:
        """Whether they may as well be freed at once."""
        return sum(len(part) for part in self._parts) < _SMALL

    async def free(self) -> None:
        """Wait until nobody uses the policy, then free it in turns with other work."""
        waited = 0.0
        while self._policy() is not None:
            if waited >= _IN_USE_SECONDS_MAX:
                return
            await asyncio.sleep(_LOOK_SECONDS)
            waited += _LOOK_SECONDS
        await Turns().through(emptied(self._parts))


def _entries(owner: Any) -> Iterator[list[Any]]:
    for field in fields(owner):
        value = getattr(owner, field.name)
        if not field.init:
            continue
        if isinstance(value, Mapping):
            # Not the mapping itself, which others may know.
            yield list(value)
            yield list(value.values())
        elif isinstance(value, tuple):
            yield list(value)
