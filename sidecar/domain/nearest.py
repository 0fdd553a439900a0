"""Words for a name that does not exist: the nearest one that does, and what is allowed."""

from collections.abc import Iterable
from difflib import get_close_matches

_SHOWN_MAX = 30
_CLOSENESS = 0.6
_COMPARED_MAX = 2_000


def nearest(found: str, allowed: Iterable[str]) -> str | None:
    """The allowed name most like `found`, if one is like it at all."""
    # Comparing is quadratic in the names' lengths; a huge policy is compared in part.
    names = sorted(allowed)[:_COMPARED_MAX]
    close = get_close_matches(found[:100], names, n=1, cutoff=_CLOSENESS)
    return close[0] if close else None


def name_list(allowed: Iterable[str]) -> str:
    """Names for a message, sorted and bounded."""
    names = sorted(allowed)
    if not names:
        return "none"
    hidden = len(names) - _SHOWN_MAX
    shown = ", ".join(names[:_SHOWN_MAX])
    return f"{shown} and {hidden} more" if hidden > 0 else shown


def unknown(kind: str, found: str, allowed: Iterable[str], *, label: str = "allowed") -> str:
    """A whole message: unknown `kind`, the nearest name, all allowed ones."""
    names = [str(name) for name in allowed]  # Plain, so that an enum reads as its word.
    close = nearest(found, names)
    hint = f" did you mean {close!r}?" if close else ""
    return f"unknown {kind} {found[:80]!r};{hint} {label}: {name_list(names)}"
