"""Where the parts of a policy stand in its files, for those that tell people of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where parts other than rules stand, as file:line; patterns where they stand first."""

    plans: Mapping[str, str] = field(default_factory=dict)
    meters: Mapping[str, str] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)
    estimates: Sequence[str] = ()
    free: Sequence[str] = ()


NO_PLACES = Places()
"""Of a policy that came from no file."""
