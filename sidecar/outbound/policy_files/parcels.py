"""
A loaded policy in small parcels, for the way from the process that compiled it.

To unpickle 10,000 rules in one go takes 0.2 s, in which nobody else has a turn. So each long part
is sent some entries at a time, and what follows from them all is worked out in steps.
"""

import copyreg
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import fields
from io import BytesIO
from struct import Struct
from typing import Any, Final

import re2

from sidecar.domain.errors import ConfigError
from sidecar.domain.expression_variables import VariableTable, known_table
from sidecar.domain.matching import RouteSet
from sidecar.domain.policy import Policy
from sidecar.domain.steps import Steps
from sidecar.outbound.policy_files.loader import LoadedPolicy
from sidecar.outbound.policy_files.texts import compile_pattern
from sidecar.services.policy_places import Places

LENGTH: Final = Struct(">I")
"""Goes before each parcel; a length of 0 says that there are no more."""
_PARCEL_BYTES: Final = 4_096
"""Of a parcel of several entries: about a tenth of a millisecond of rules, one of conditions."""
_PROBLEMS: Final = "problems"
_POLICY, _PLACES, _LOADED = "policy", "places", "loaded"


def pack(loaded: LoadedPolicy) -> Iterator[bytes]:
    """Take a loaded policy apart into parcels, whose order does not matter."""
    owners: dict[str, Policy | Places | LoadedPolicy] = {
        _POLICY: loaded.policy,
        _PLACES: loaded.places,
        _LOADED: loaded,
    }
    for owner, of in owners.items():
        for field in fields(of):
            value = getattr(of, field.name)
            if field.init and value is not loaded.policy and value is not loaded.places:
                yield from _parcels((owner, field.name), value)


def pack_problems(error: ConfigError) -> bytes:
    """A parcel that tells why there is no policy."""
    return pickle.dumps((_PROBLEMS, str(error)))


class Unpacking:
    """A policy on its way in, put together from its parcels."""

    def __init__(self) -> None:
        """Have nothing yet."""
        self._parts: dict[str, dict[str, Any]] = {_POLICY: {}, _PLACES: {}, _LOADED: {}}

    def add(self, parcel: bytes) -> None:
        """
        Take a parcel.

        Raises:
            ConfigError: It tells that there is no policy, and why.
        """
        name, content = pickle.loads(parcel)  # noqa: S301  Packed by a process of our own.
        if name == _PROBLEMS:
            raise ConfigError(content)
        owner, field = name
        parts = self._parts[owner]
        if isinstance(content, list):
            parts.setdefault(field, []).extend(content)
        elif isinstance(content, dict):
            parts.setdefault(field, {}).update(content)
        else:
            parts[field] = content

    def loaded(self) -> Steps[LoadedPolicy]:
        """Put the policy together, once all parcels are in."""
        parts = {owner: _whole(part) for owner, part in self._parts.items()}
        self._parts.clear()
        routes = yield from RouteSet.in_steps(parts[_POLICY].pop("routes"))
        policy = yield from Policy.in_steps(routes=routes, **parts[_POLICY])
        return LoadedPolicy(policy=policy, places=Places(**parts[_PLACES]), **parts[_LOADED])


def _whole(parts: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in parts.items()
    }


def _parcels(name: tuple[str, str], value: object) -> Iterator[bytes]:
    if isinstance(value, RouteSet):
        value = value.groups
    if isinstance(value, Mapping):
        yield from _some_at_a_time(name, list(value.items()), dict)
    elif isinstance(value, tuple):
        yield from _some_at_a_time(name, list(value), list)
    else:
        yield _pickled((name, value))


def _some_at_a_time(name: tuple[str, str], entries: list[Any], kind: type) -> Iterator[bytes]:
    """As many entries a parcel as it has room for, at least one; one parcel if there are none."""
    begin, count = 0, 1
    while True:
        parcel = _pickled((name, kind(entries[begin : begin + count])))
        fitting = count * _PARCEL_BYTES // len(parcel)
        if len(parcel) > _PARCEL_BYTES and count > 1:
            count = max(1, min(fitting, count - 1))
            continue
        yield parcel
        begin += count
        if begin >= len(entries):
            return
        count = max(1, min(fitting, 2 * count))


def _pickled(content: object) -> bytes:
    written = BytesIO()
    pickler = pickle.Pickler(written, protocol=pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = _REDUCERS
    pickler.dump(content)
    return written.getvalue()


def _reduce_pattern(pattern: Any) -> tuple[Any, ...]:
    return compile_pattern, (pattern.pattern,)


def _reduce_table(table: VariableTable) -> tuple[Any, ...]:
    return known_table, (table.name,)


_REDUCERS: Final = copyreg.dispatch_table | {
    # By its text: with all of RE2's options it would be ten times as long.
    type(re2.compile("")): _reduce_pattern,
    VariableTable: _reduce_table,
}
